"""A UDP echo server (RFC 862) that names its host: the answer is "NAME " and the datagram.

Listens on the wildcard address and answers from the address that was asked (IP_PKTINFO, IPV6_PKTINFO), as a server
behind a VIP must. Usage: udp-echo.py PORT NAME
"""

import socket
import struct
import sys

IP_PKTINFO = 8  # linux/in.h; not in Python's socket module before 3.14

port, name = int(sys.argv[1]), sys.argv[2].encode()

# One socket for both families: an IPv4 client shows up as ::ffff:a.b.c.d, and its packet info as a mapped address.
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
server.bind(("::", port))

while True:
    data, ancillary, _, client = server.recvmsg(65535, 256)
    asked = None
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            asked = value[:16]
    if asked is None:
        continue
    if asked.startswith(b"\0" * 10 + b"\xff\xff"):
        # struct in_pktinfo: interface (any), source address, destination (ignored).
        answer_from = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, asked[12:], asked[12:]))
    else:
        # struct in6_pktinfo: source address, interface (any).
        answer_from = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, asked + struct.pack("=I", 0))
    try:
        server.sendmsg([name, b" ", data], [answer_from], 0, client)
    except OSError as error:
        print(f"to {client}: {error}", file=sys.stderr, flush=True)
