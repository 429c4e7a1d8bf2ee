"""One tenant's agent: tries everything against the others at once and until its time is over, and keeps a
service of its own, which nobody else may answer for. Says BREACH for whatever succeeds, and at the end how
often each thing was tried. `tenant.json` says who is who."""

import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

NAME = sys.argv[1]
STAGE = json.load(open(sys.argv[2]))
END = time.monotonic() + float(sys.argv[3])
# Where no tenant's sandbox is around: nothing is starved, and no service is kept.
OUTSIDE = len(sys.argv) > 4
OTHERS = {name: other for name, other in STAGE.items() if name != NAME}
PORT = 7000
TRIED = {}
BREACHES = set()
LOCK = threading.Lock()
SOCK_TIME = 1


def tried(kind, count=1):
    with LOCK:
        TRIED[kind] = TRIED.get(kind, 0) + count


def breach(kind, *what):
    with LOCK:
        BREACHES.add(f"{kind}: {' '.join(map(str, what))}")


def attempt(kind, body, *arguments):
    """For what says by an error that it is refused."""
    tried(kind)
    try:
        body(*arguments)
    except (OSError, ValueError):
        return
    breach(kind, body.__name__, *arguments)


def places(other, victim):
    yield f"/srv/{other}"
    yield f"/var/lib/opencode/instance-state/{other}"
    for pid in victim["pids"]:
        yield f"/proc/{pid}/root/srv/{other}"
        yield f"/proc/{pid}/cwd"


def read(other, victim):
    files = [f"{place}/canary" for place in places(other, victim)]
    files += [f"/proc/{pid}/environ" for pid in victim["pids"]]
    files += [f"{d}/tenant-{other}" for d in ("/tmp", "/var/tmp", "/dev/shm", "/run")]
    files += [f"/var/lib/opencode/instance-auth/{other}/password"]
    for file in files:
        tried("read")
        try:
            with open(file, "rb") as opened:
                data = opened.read(1 << 20)
        except OSError:
            continue
        if f"canary-{other}".encode() in data or file.endswith("password"):
            breach("read", file)
    tried("list")
    for place in ("/srv", "/var/lib/opencode/instance-state", "/etc/opencode-instances"):
        try:
            if other in os.listdir(place):
                breach("list", place, other)
        except OSError:
            pass


def plant(path):
    with open(path, "w") as opened:
        opened.write("planted")


def write(other, victim):
    for place in places(other, victim):
        attempt("write", plant, f"{place}/planted")
        # In a place that is not there, nothing can be made either.
        attempt("write", os.mkdir, f"{place}/planted.d")
    for place in (f"/srv/{other}", f"/var/lib/opencode/instance-state/{other}"):
        attempt("write", os.makedirs, place)


def signals(other, victim):
    for pid in victim["pids"]:
        attempt("signal", os.kill, pid, signal.SIGCONT)
        attempt("signal", os.pidfd_open, pid)
        attempt("signal", os.setpriority, os.PRIO_PROCESS, pid, 19)
        attempt("signal", os.sched_setaffinity, pid, {0})
    attempt("signal", os.setpriority, os.PRIO_USER, victim["uid"], 19)


def connect(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(SOCK_TIME)
        s.connect((host, port))


def connects(other, victim):
    for host in victim["addresses"]:
        for port in (4096, PORT, victim["port"]):
            attempt("connect", connect, host, port)
    for host in STAGE[NAME]["host"] + ["127.0.0.1", "::1"]:
        attempt("connect", connect, host, victim["port"])


def abstract(name):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(SOCK_TIME)
        s.connect("\0" + name)


def unix(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(SOCK_TIME)
        s.connect(path)


def notify(path, text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), path)


def bind(host, port, kind):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind((host, port))


def pretend(host, target):
    """A datagram with the other's address as its source; the kernel lets anybody bind to that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.setsockopt(*((socket.IPPROTO_IPV6, 78, 1) if ":" in host else (socket.IPPROTO_IP, 15, 1)))
        s.bind((host, 0))
        s.sendto(b"from the other", (target, 53))


def impersonate(other, victim):
    attempt("abstract", abstract, f"tenant-{other}")
    for path in ("/run/dbus/system_bus_socket", "/run/systemd/private"):
        attempt("bus", unix, path, socket.SOCK_STREAM)
    for path in ("/run/systemd/notify", "\0/run/systemd/notify"):
        attempt("notify", notify, path, f"STATUS=owned by {NAME}\nMAINPID={os.getpid()}")
    for path in ("/run/systemd/journal/socket", "/run/systemd/journal/dev-log", "/dev/log"):
        text = f"SYSLOG_IDENTIFIER=opencode-{other}\nMESSAGE=forged-by-{NAME}\n"
        attempt("journal", notify, path, text)
    for host in victim["addresses"]:
        attempt("address", bind, host, 4096, socket.SOCK_STREAM)
        attempt("address", pretend, host, "1.1.1.1" if ":" not in host else "2606:4700::1111")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        attempt("resolver", bind, "127.0.0.53", 53, kind)


def lookup(other, _victim):
    """A name of the other's, for which somebody would have to answer."""
    for name in (other, f"opencode-{other}", f"{other}.local"):
        tried("lookup")
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(name, None)}
        except OSError:
            continue
        if found & set(OTHERS[other]["addresses"]):
            breach("lookup", name, *found)


def loop(body):
    while time.monotonic() < END:
        for other, victim in OTHERS.items():
            body(other, victim)


# What is starved is the host, which the others are on. Bounded where nothing else bounds it.


def forks():
    """No more than the machine's owner can bear: there may be no controller for tasks."""
    while time.monotonic() < END:
        children = []
        try:
            for _ in range(100):
                children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ))
                tried("forks")
        except OSError:
            pass
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def memory():
    while time.monotonic() < END:
        kept = bytearray(os.urandom(4096)) * (64 << 8)
        tried("memory", len(kept) >> 20)
        time.sleep(0.1)
        del kept


def descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    while time.monotonic() < END:
        kept = []
        try:
            for _ in range(5000):
                kept.extend(socket.socketpair())
        except OSError:
            pass
        tried("descriptors", len(kept))
        for one in kept:
            one.close()


def fill():
    while time.monotonic() < END:
        for place in ("/tmp/full", "/dev/shm/full"):
            try:
                with open(place, "wb") as opened:
                    for _ in range(64):
                        opened.write(bytes(1 << 20))
                        tried("disk")
            except OSError:
                pass
            finally:
                os.unlink(place)


def spin():
    while time.monotonic() < END:
        for _ in range(100000):
            pass
        tried("spin")


def refusals():
    while time.monotonic() < END:
        with socket.socket() as s:
            s.settimeout(SOCK_TIME)
            host = f"10.{random.randrange(256)}.{random.randrange(256)}.1"
            attempt("refusals", s.connect, (host, random.randrange(1, 65536)))


def names():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        while time.monotonic() < END:
            label = os.urandom(8).hex().encode()
            query = struct.pack(">HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0)
            query += bytes([len(label)]) + label + b"\x07example\0" + struct.pack(">HH", 1, 1)
            try:
                s.sendto(query, ("127.0.0.53", 53))
            except OSError:
                pass
            tried("names")


def lines():
    """Into what the server logs to, as if it were the others."""
    server = subprocess.run(["pgrep", "-xo", "opencode"], capture_output=True, text=True).stdout.strip()
    text = "".join(f"<0>SYSLOG_IDENTIFIER=opencode-{other} forged-by-{NAME}\n" for other in OTHERS)
    while time.monotonic() < END:
        with open(f"/proc/{server}/fd/2", "w") as opened:
            opened.write(text * 50)
        tried("lines", 50 * len(OTHERS))


# What a tenant keeps: whoever asks it must get this tenant's answer.


def answer(listener):
    while True:
        try:
            client, _ = listener.accept()
            client.sendall(f"canary-{NAME}".encode())
            client.close()
        except OSError:
            pass


def serve():
    for family, address in (
        (socket.AF_INET6, ("::", PORT)),
        (socket.AF_UNIX, f"\0tenant-{NAME}"),
    ):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
    for place in ("/tmp", "/dev/shm"):
        with open(f"{place}/tenant-{NAME}", "w") as opened:
            opened.write(f"canary-{NAME}")


def hear(family, address):
    with socket.socket(family) as s:
        s.settimeout(10)
        s.connect(address)
        return s.recv(100).decode()


def watch():
    """The own services are one's own all the time, and so are the own files."""
    while time.monotonic() < END:
        heard = [
            hear(socket.AF_INET, ("127.0.0.1", PORT)),
            hear(socket.AF_UNIX, f"\0tenant-{NAME}"),
        ]
        for place in ("/tmp", "/dev/shm"):
            with open(f"{place}/tenant-{NAME}") as opened:
                heard.append(opened.read())
        tried("watch")
        for word in heard:
            if word != f"canary-{NAME}":
                breach("watch", word)
        time.sleep(0.05)


TARGETED = (read, write, signals, connects, impersonate, lookup)
# In a process each, so that none holds up the others.
STARVING = (forks, memory, descriptors, fill, spin, refusals, names, lines)


def starve(body):
    """The tries and breaches of a child come back through a pipe."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        error = None
        try:
            body()
        except BaseException as failed:
            error = repr(failed)
        with os.fdopen(theirs, "w") as pipe:
            json.dump([TRIED, sorted(BREACHES), error], pipe)
        os._exit(0)
    os.close(theirs)
    return body.__name__, os.fdopen(ours)


FAILED = {}
children = [] if OUTSIDE else [starve(body) for body in STARVING]
if OUTSIDE:
    for other, victim in OTHERS.items():
        for body in TARGETED:
            body(other, victim)
else:
    serve()
    bodies = [(loop, body) for body in TARGETED] + [(watch,)]

    def guarded(body, *arguments):
        try:
            body(*arguments)
        except BaseException as failed:
            FAILED[arguments[0].__name__ if arguments else body.__name__] = repr(failed)

    threads = [threading.Thread(target=guarded, args=one) for one in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
for kind, pipe in children:
    counts, found, error = json.load(pipe)
    for one, count in counts.items():
        tried(one, count)
    BREACHES.update(found)
    if error:
        FAILED[kind] = error
print(json.dumps({"tried": TRIED, "breaches": sorted(f"BREACH {one}" for one in BREACHES), "failed": FAILED}))
