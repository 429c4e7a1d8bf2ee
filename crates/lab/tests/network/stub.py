# Tries every target of the command line, "KIND ADDRESS PORT", and says of each what came of it.
import errno, socket, sys

QUESTION = b"\0\7\1\0\0\1\0\0\0\0\0\0\4good\7example\3org\0\0\1\0\1"


def attempt(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as one:
        one.settimeout(10)
        try:
            one.connect((address, port))
            if kind == "udp":
                one.send(QUESTION)
                one.recv(512)
            return "reached"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))


for target in sys.argv[1:]:
    kind, address, port = target.split()
    print(attempt(kind, address, int(port)))
