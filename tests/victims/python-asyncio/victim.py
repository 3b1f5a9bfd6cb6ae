#!/usr/bin/env python3
"""The victim in Python, asynchronous: asyncio streams on epoll. The contract is in ../README.md."""

import asyncio
import errno
import os
import re
import socket
import stat as st
import sys
from urllib.parse import urlsplit

NAME = "python-asyncio"


def show(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]


async def talk(reader, writer):
    peer = show(writer.get_extra_info("peername"))
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, version = head.split("\r\n", 1)[0].split()
            length = re.search(r"(?im)^content-length: *(\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            close = version == "HTTP/1.0" or re.search(r"(?im)^connection: *close", head)
            body = f'{{"lang":"{NAME}","peer":"{peer}","method":"{method}","path":"{path}"}}'
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: {NAME}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n{body}".encode()
            )
            await writer.drain()
            if close:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client is gone
    finally:
        writer.close()


async def serve(port):
    server = await asyncio.start_server(talk, "0.0.0.0", int(port))
    print("listening", port, flush=True)
    await server.serve_forever()


async def get(url):
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    # 1.0, so that the answer ends with the connection and is never chunked
    writer.write(f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    print(head.split()[1].decode(), flush=True)
    sys.stdout.buffer.write(body)


async def resolve(name):
    for info in await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM):
        print(info[4][0])


async def connect(host, port):
    _, writer = await asyncio.open_connection(host, int(port))
    print("ok", show(writer.get_extra_info("sockname")), "->", show(writer.get_extra_info("peername")))
    writer.close()


def read(path):
    with open(path, "rb") as source:
        return source.read()


# asyncio has no file API; a worker thread is its usual way.
async def file(path):
    sys.stdout.buffer.write(await asyncio.to_thread(read, path))


async def ls(path):
    for name in sorted(await asyncio.to_thread(os.listdir, os.fsencode(path))):
        sys.stdout.buffer.write(name + b"\n")


async def stat(path):
    info = await asyncio.to_thread(os.stat, path)
    kind = {st.S_IFREG: "file", st.S_IFDIR: "dir", st.S_IFLNK: "link"}.get(st.S_IFMT(info.st_mode), "other")
    print(f"{info.st_size} {st.S_IMODE(info.st_mode):04o} {kind}")


def error_name(error):
    if isinstance(error, socket.gaierror):
        return "EAI_AGAIN" if error.errno == socket.EAI_AGAIN else "NXDOMAIN"
    number = error.errno
    if number is None:  # asyncio joins the errors of several addresses into one text
        numbers = re.findall(r"\[Errno (\d+)\]", str(error))
        number = int(numbers[-1]) if numbers else None
    return errno.errorcode.get(number, str(error))


def main():
    commands = {f.__name__: f for f in (serve, get, resolve, connect, file, ls, stat)}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        print("usage: victim", " | ".join(commands), file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(commands[sys.argv[1]](*sys.argv[2:]))
    except OSError as error:
        print("error", error_name(error))
        sys.exit(1)


main()
