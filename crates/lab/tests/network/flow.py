# Holds a TCP connection and a UDP stream to every address of the command line open, says something
# again and again on each, and writes what came back of it to a file.
#
# flow.py FILE PORT ADDRESS...
import errno, json, os, selectors, socket, sys, time

file, port, addresses = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
flows, ended, came = {}, {}, {}
for address in addresses:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in ("tcp", "udp"):
        one = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        one.settimeout(3)
        name = f"{kind} {address}"
        came[name] = 0
        try:
            one.connect((address, port))
            one.setblocking(False)
            flows[name] = one
        except OSError as error:
            ended[name] = errno.errorcode.get(error.errno, str(error))

written = 0
while True:
    for name, one in list(flows.items()):
        try:
            one.send(b"x")
            while answer := one.recv(4096):
                came[name] += len(answer)
        except BlockingIOError:
            pass
        except OSError as error:
            ended.setdefault(name, errno.errorcode.get(error.errno, str(error)))
            # A datagram socket goes on: whether it is cut is for the rules to say.
            if name.startswith("tcp"):
                del flows[name]
    time.sleep(0.01)
    if time.monotonic() - written > 0.05:
        written = time.monotonic()
        with open(file + ".new", "w") as out:
            json.dump({"pid": os.getpid(), "came": came, "ended": ended}, out)
        os.rename(file + ".new", file)
