# The host's resolvers: answers what its table has, and writes down every question as it came.
#
# resolver.py LOG ADDRESS...
import json, socket, struct, sys, threading

NAMES = {
    "good.example.org": ["1.1.1.1", "2606:4700::1111"],
    "a.deep.example.org": ["1.1.1.1"],
    "other.example.net": ["8.8.8.8", "2001:4860:4860::8888"],
    "mixed.example.org": ["10.1.2.3", "1.1.1.1", "fd00:ec2::254", "2606:4700::1111"],
    "rebind.example.org": [
        "10.1.2.3", "127.0.0.1", "169.254.169.254", "192.168.7.7", "0.0.0.0", "10.219.0.1", "224.0.0.1",
        "::ffff:10.1.2.3", "::ffff:127.0.0.1", "::1", "fd00:ec2::254", "fe80::1", "64:ff9b::a01:203", "2002:a01:203::1",
        "ff02::1",
    ],
    "large.example.org": [f"1.1.1.{number}" for number in range(100)],
}
log = open(sys.argv[1], "a", buffering=1)


def question(message):
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += length + 1
    kind, = struct.unpack_from("!H", message, at + 1)
    return ".".join(labels), kind, message[12 : at + 5]


def answer(resolver, transport, message, room):
    name, kind, asked = question(message)
    log.write(json.dumps({"resolver": resolver, "over": transport, "name": name, "type": kind, "raw": message.hex()}) + "\n")
    known = NAMES.get(name.lower())
    records = []
    for address in known or []:
        six = ":" in address
        if kind == (28 if six else 1):
            data = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address)
            records.append(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data)
    whole = b"".join(records)
    flags = 0x8180 if known else 0x8183
    if 12 + len(asked) + len(whole) > room:
        return message[:2] + struct.pack("!HHHHH", flags | 0x0200, 1, 0, 0, 0) + asked
    return message[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + asked + whole


def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((address, 53))
        while True:
            message, sender = one.recvfrom(4096)
            one.sendto(answer(address, "udp", message, 512), sender)


def tcp(address):
    with socket.create_server((address, 53)) as listener:
        while True:
            client, _ = listener.accept()
            with client, client.makefile("rwb") as stream:
                while length := stream.read(2):
                    message = stream.read(struct.unpack("!H", length)[0])
                    said = answer(address, "tcp", message, 65535)
                    stream.write(struct.pack("!H", len(said)) + said)
                    stream.flush()


for address in sys.argv[2:]:
    threading.Thread(target=udp, args=(address,)).start()
    threading.Thread(target=tcp, args=(address,)).start()
