"""What attacks have in common: one that gets through says so."""

import errno
import os
import socket
import struct
import subprocess

V4, V6 = socket.AF_INET, socket.AF_INET6
ALLOWED4, ALLOWED6 = "1.1.1.1", "2606:4700::1111"


def breach():
    print("BREACH")


def tells(error):
    print(errno.errorcode.get(error.errno, error))


def udp(*options, family=V4):
    one = socket.socket(family, socket.SOCK_DGRAM)
    for option in options:
        one.setsockopt(*option)
    return one


def sends(address, port=443, *options, source=None):
    """Whether a datagram leaves, from a socket with these options."""
    family = V6 if ":" in address else V4
    try:
        with udp(*options, family=family) as one:
            if source:
                one.bind((source, 0))
            one.sendto(b"attack", (address, port))
            breach()
    except OSError as error:
        tells(error)


def sets(family, *option):
    try:
        udp(option, family=family)
        breach()
    except OSError as error:
        tells(error)


def opens(*kind):
    try:
        socket.socket(*kind)
        breach()
    except OSError as error:
        tells(error)


def writes(path, text):
    try:
        with open(path, "w") as file:
            file.write(text)
        breach()
    except OSError as error:
        tells(error)
