"""Packets of no connection, past every table of the namespace that they are sent in."""

import socket
import struct
import sys

FIN, SYN, RST, ACK = 1, 2, 4, 16


def checksum(data):
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(source, to, flags, sound):
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    header = struct.pack("!HHIIBBHHH", 40000 + flags, 443, 1, 1, 5 << 4, flags, 1000, 0, 0)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, to)
    pseudo = ends + struct.pack("!II" if family == socket.AF_INET6 else "!HH", 6, len(header))
    right = checksum(pseudo + header)
    return header[:16] + struct.pack("!H", right if sound else right ^ 0x5555) + header[18:]


for source, to in zip(sys.argv[1::2], sys.argv[2::2]):
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        for flags in (FIN | ACK, RST | ACK, SYN | ACK, 0, FIN | SYN):
            raw.sendto(segment(source, to, flags, True), (to, 0))
        raw.sendto(segment(source, to, ACK, False), (to, 0))
