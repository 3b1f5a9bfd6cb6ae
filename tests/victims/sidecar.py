#!/usr/bin/python3
"""sidecar.py MODE ...: what a service mesh puts beside an application, as small as it can be, and the application for it.

  app PORT NAME    an HTTP server: answers with NAME, who asked, and the headers it was asked with, as JSON
  istio            a sidecar: inbound on 15006, outbound on 15001; dials the application from 127.0.0.6
  linkerd          a sidecar: inbound on 4143, outbound on 4140; dials the application from the pod's own address
  ambient          the node's proxy inside of the pod: inbound on 15006, outbound on 15001; dials the application from the client's
                   own address with the mark 0x539

A proxy reads the head of one request of each connection, adds the header `x-sidecar: in` or `out`, and carries bytes from then on.
Who sees the header looks behind the proxy. It needs redirected connections: where to they went is SO_ORIGINAL_DST.
"""
import json, socket, struct, sys, threading

SO_ORIGINAL_DST, IP_TRANSPARENT, MARK = 80, 19, 0x539


def app(port, name):
    def serve(client, peer):
        while head := read_head(client):
            headers = [line.decode() for line in head.split(b"\r\n")[1:] if line]
            body = json.dumps({"served_by": name, "peer": peer[0], "headers": headers}).encode()
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        client.close()

    listen(port, serve)


def read_head(client):
    """The head of a request with its empty line; nothing at the end of the stream. No request of these tests has a body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def proxy(port, word, dial):
    def serve(client, peer):
        address = client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        server = (socket.inet_ntoa(address[4:8]), struct.unpack("!H", address[2:4])[0])
        if server[1] == port:
            client.close()
            return
        upstream = dial(peer, server)
        head = read_head(client)
        first, rest = head.split(b"\r\n", 1)
        upstream.sendall(first + b"\r\nx-sidecar: %s\r\n" % word + rest)
        threading.Thread(target=carry, args=(client, upstream), daemon=True).start()
        carry(upstream, client)

    return threading.Thread(target=listen, args=(port, serve))


def carry(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def listen(port, serve):
    server = socket.create_server(("0.0.0.0", port))
    while True:
        client, peer = server.accept()
        threading.Thread(target=quietly, args=(serve, client, peer), daemon=True).start()


def quietly(serve, client, peer):
    try:
        serve(client, peer)
    except OSError:
        client.close()


def dial_plainly(_peer, server):
    return socket.create_connection(server)


def dial_from_own_address(_peer, server):
    return socket.create_connection(server, source_address=("127.0.0.6", 0))


def dial_as_the_client(peer, server):
    upstream = marked()
    upstream.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    upstream.bind((peer[0], 0))
    upstream.connect(server)
    return upstream


def dial_marked(_peer, server):
    upstream = marked()
    upstream.connect(server)
    return upstream


def marked():
    upstream = socket.socket()
    upstream.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    return upstream


MESHES = {
    "istio": ((15006, dial_from_own_address), (15001, dial_plainly)),
    "linkerd": ((4143, dial_plainly), (4140, dial_plainly)),
    "ambient": ((15006, dial_as_the_client), (15001, dial_marked)),
}

if sys.argv[1] == "app":
    app(int(sys.argv[2]), sys.argv[3])
else:
    (inbound, dial_in), (outbound, dial_out) = MESHES[sys.argv[1]]
    for thread in (proxy(inbound, b"in", dial_in), proxy(outbound, b"out", dial_out)):
        thread.start()
