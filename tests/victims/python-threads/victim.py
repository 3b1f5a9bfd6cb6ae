#!/usr/bin/env python3
"""The victim in Python, blocking: http.server's threads, urllib, socket. The contract is in ../README.md."""

import errno
import os
import shutil
import socket
import socketserver
import stat as st
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "python-threads"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    wbufsize = -1  # head and body in one segment

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        peer = "%s:%d" % self.client_address
        body = f'{{"lang":"{NAME}","peer":"{peer}","method":"{self.command}","path":"{self.path}"}}'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Victim", NAME)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # HTTPServer's own also looks up the name of the machine: slow, and a DNS event that no test asked for.
    server_bind = socketserver.TCPServer.server_bind


def serve(port):
    server = Server(("0.0.0.0", int(port)), Handler)
    print("listening", port, flush=True)
    server.serve_forever()


def get(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        response = opener.open(url)
    except urllib.error.HTTPError as error:  # a status of 400 and more: still an answer
        response = error
    print(response.status, flush=True)
    shutil.copyfileobj(response, sys.stdout.buffer)


def resolve(name):
    for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
        print(info[4][0])


def show(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]


def connect(host, port):
    with socket.create_connection((host, int(port))) as sock:
        print("ok", show(sock.getsockname()), "->", show(sock.getpeername()))


def file(path):
    with open(path, "rb") as source:
        shutil.copyfileobj(source, sys.stdout.buffer)


def ls(path):
    for name in sorted(os.listdir(os.fsencode(path))):
        sys.stdout.buffer.write(name + b"\n")


def stat(path):
    info = os.stat(path)
    kind = {st.S_IFREG: "file", st.S_IFDIR: "dir", st.S_IFLNK: "link"}.get(st.S_IFMT(info.st_mode), "other")
    print(f"{info.st_size} {st.S_IMODE(info.st_mode):04o} {kind}")


def error_name(error):
    error = getattr(error, "reason", error)  # urllib wraps the cause
    if isinstance(error, socket.gaierror):
        return "EAI_AGAIN" if error.errno == socket.EAI_AGAIN else "NXDOMAIN"
    return errno.errorcode.get(getattr(error, "errno", None), str(error))


def main():
    commands = {f.__name__: f for f in (serve, get, resolve, connect, file, ls, stat)}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        print("usage: victim", " | ".join(commands), file=sys.stderr)
        sys.exit(2)
    try:
        commands[sys.argv[1]](*sys.argv[2:])
    except OSError as error:
        print("error", error_name(error))
        sys.exit(1)


main()
