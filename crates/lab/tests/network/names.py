# A resolver: the address of each "NAME=ADDRESS" of the command line, and no such name for any other.
import socket, struct, sys

known = {}
for pair in sys.argv[1:]:
    name, _, address = pair.partition("=")
    known.setdefault(name, []).append(address)
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("1.1.1.1", 53))
while True:
    query, client = one.recvfrom(2048)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = struct.unpack("!H", question[-4:-2])[0]
    addresses = known.get(".".join(labels).lower())
    answers = [address for address in addresses or [] if kind == 1]
    head = query[:2] + struct.pack("!HHHHH", 0x8180 if addresses else 0x8183, 1, len(answers), 0, 0)
    body = b"".join(
        struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address) for address in answers
    )
    one.sendto(head + question + body, client)
