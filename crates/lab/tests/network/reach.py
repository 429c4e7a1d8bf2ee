# Tries every target of the command line, "KIND ADDRESS PORT", all at once, and prints what came of each.
import concurrent.futures, errno, json, socket, struct, sys


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def attempt(kind, address, port):
    try:
        if kind == "tcp":
            with socket.create_connection((address, port), 10) as connection:
                connection.settimeout(10)
                return "reached" if connection.recv(64) == b"the internet" else "nothing"
        if kind == "udp":
            with socket.socket(family(address), socket.SOCK_DGRAM) as one:
                one.settimeout(10)
                one.connect((address, port))
                one.send(b"ping")
                return "reached" if one.recv(64) == b"ping" else "nothing"
        echo, protocol = (8, socket.IPPROTO_ICMP) if family(address) == socket.AF_INET else (128, socket.IPPROTO_ICMPV6)
        with socket.socket(family(address), socket.SOCK_DGRAM, protocol) as one:
            one.settimeout(10)
            one.connect((address, 0))
            one.send(struct.pack("!BBHHH", echo, 0, 0, 1, 1) + b"ping")
            return "reached" if one.recv(64)[8:] == b"ping" else "nothing"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


targets = [target.split() for target in sys.argv[1:]]
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    answers = pool.map(lambda one: attempt(one[0], one[1], int(one[2])), targets)
    print(json.dumps(list(answers)))
