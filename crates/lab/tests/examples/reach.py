# Connects to each ADDRESS:PORT or path, and prints what it says first, `connected`, or the error.
import errno, socket, sys

for to in sys.argv[1:]:
    local = to.startswith("/")
    client = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
    client.settimeout(5)
    try:
        address, _, port = to.rpartition(":")
        client.connect(to if local else (address, int(port)))
        client.settimeout(3)
        try:
            print(client.recv(64).decode().strip() or "closed")
        except TimeoutError:
            print("connected")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
