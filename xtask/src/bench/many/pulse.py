#!/usr/bin/python3 -SE
# How long a question to systemd takes, and a process that does nothing, over and over, with the moment of each.
import os, sys, time


def wait(*argv):
    begin = time.monotonic()
    os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)
    return time.monotonic() - begin


with open(sys.argv[1], "w", buffering=1) as beats:
    while True:
        moment = time.monotonic()
        answer = wait("/usr/bin/systemctl", "show", "--property=Version")
        process = wait("/bin/true")
        print(moment, answer, process, file=beats)
        time.sleep(0.1)
