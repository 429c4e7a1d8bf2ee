"""Raw system calls for the attacks; a call says BREACH unless it is refused."""

import ctypes
import errno
import mmap
import os
import socket
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    """The result, or minus the error number."""
    ctypes.set_errno(0)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *wide)
    return -ctypes.get_errno() if result == -1 else result


def name(result):
    return errno.errorcode.get(-result, str(result)) if result < 0 else str(result)


def succeeds(number, *arguments):
    """For calls that an unprivileged process may not make with success."""
    result = call(number, *arguments)
    print(name(result))
    if result >= 0:
        print("BREACH")


def reached(number, *arguments):
    """For calls that are too dangerous to succeed: with senseless arguments the kernel complains
    about those, and only the filter or a missing capability answers EPERM. A kernel that has no
    such call complains as well."""
    result = call(number, *arguments)
    print(name(result))
    if -result not in (errno.EPERM, errno.EACCES):
        print("BREACH")


def opens_socket(family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol)
        print("BREACH")
    except OSError as error:
        print(error)


def hears(address, port, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    """Prints what a server there says, over UDP after a greeting."""
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(3)
            s.connect((address, port))
            print("connected")
            if kind == socket.SOCK_DGRAM:
                s.sendall(b"hello\n")
            print(s.recv(100).decode())
    except OSError as error:
        print(error)


def unix(path, kind=socket.SOCK_STREAM):
    """Whether a socket takes a connection."""
    try:
        with socket.socket(socket.AF_UNIX, kind) as s:
            s.settimeout(3)
            s.connect(path)
            print("BREACH")
    except OSError as error:
        print(error)


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text, "/run/systemd/notify")
    # The manager asks who sent it when it reads it.
    time.sleep(0.5)



def calls_as_32_bit():
    """getpid() through the other architecture's entry, which a filter for this one does not see."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53 b8 14000000 cd80 5b c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid():
        print("BREACH")
