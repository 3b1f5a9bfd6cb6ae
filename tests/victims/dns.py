#!/usr/bin/env python3
"""A name server for tests: dns.py ADDRESS PORT NAME=IP[,IP]...

UDP only, A records only. A known name without the asked type gets an empty answer, any other name NXDOMAIN.
"""

import ipaddress
import socket
import struct
import sys


def question(query):
    """The name in lower case, its type, and where the question ends."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    return ".".join(labels), struct.unpack_from("!H", query, at + 1)[0], at + 5


def answer(query, names):
    name, kind, end = question(query)
    addresses = names.get(name, []) if kind == 1 else []
    flags = 0x8580 if name in names else 0x8583  # authoritative; the last digit is the rcode
    head = query[:2] + struct.pack("!5H", flags, 1, len(addresses), 0, 0)
    records = (struct.pack("!3HIH", 0xC00C, 1, 1, 60, 4) + address.packed for address in addresses)
    return head + query[12:end] + b"".join(records)


def main():
    names = {}
    for pair in sys.argv[3:]:
        name, _, addresses = pair.partition("=")
        names[name] = [ipaddress.IPv4Address(address) for address in addresses.split(",")]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((sys.argv[1], int(sys.argv[2])))
    print("listening", sys.argv[2], flush=True)
    while True:
        query, client = sock.recvfrom(4096)
        sock.sendto(answer(query, names), client)


main()
