//! The network of the host and of the other instance.

use crate::catalogue::{Group, Red, Weak, attack, python, steal};
use crate::files::CANARY;

const NETWORK: Red = Red::With(Weak::Network);
const CALLS: Red = Red::With(Weak::Calls);
const ROOT: Red = Red::With(Weak::Root);

pub(crate) const REACHING: Group = Group {
    name: "reaching",
    attacks: &[
        steal(
            "the other server over 127.0.0.1",
            NETWORK,
            "connected",
            python!("hears('127.0.0.1', 4102)"),
        ),
        steal(
            "a service of the host over 127.0.0.1",
            NETWORK,
            CANARY,
            python!("hears('127.0.0.1', 4555)"),
        ),
        steal("one over 127.1.2.3", NETWORK, CANARY, python!("hears('127.1.2.3', 4555)")),
        steal("one over 0.0.0.0", NETWORK, CANARY, python!("hears('0.0.0.0', 4555)")),
        steal("one over ::1", NETWORK, CANARY, python!("hears('::1', 4555, socket.AF_INET6)")),
        steal(
            "one over a mapped address",
            NETWORK,
            CANARY,
            python!("hears('::ffff:127.0.0.1', 4555, socket.AF_INET6)"),
        ),
        steal("one over the host's address", NETWORK, CANARY, python!("hears('192.0.2.10', 4555)")),
        steal(
            "one over the host's IPv6 address",
            NETWORK,
            CANARY,
            python!("hears('2001:db8::10', 4555, socket.AF_INET6)"),
        ),
        steal(
            "one over UDP",
            NETWORK,
            CANARY,
            python!("hears('192.0.2.10', 4556, kind=socket.SOCK_DGRAM)"),
        ),
        steal(
            "an abstract socket of the host",
            NETWORK,
            CANARY,
            python!(
                "hears_abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
try:
    hears_abstract.connect(b'\\0the-host')
    print(hears_abstract.recv(100).decode())
except OSError as error:
    print(error)"
            ),
        ),
        steal("see the host's links", NETWORK, "test0", "cat /proc/self/net/dev"),
        steal(
            "see the host's links in /sys",
            Red::With(Weak::Files),
            "test0",
            "ls /sys/class/net /sys/devices/virtual/net",
        ),
        steal(
            "find any link of the host in /sys",
            Red::With(Weak::Files),
            "test0",
            "find /sys -maxdepth 6 -path '*/net/*' -name test0",
        ),
        steal(
            "see the host's sockets",
            NETWORK,
            // 4555 of the host, in the kernel's notation.
            ":11CB ",
            "cat /proc/self/net/tcp",
        ),
        attack(
            "enter the other's namespace by its name",
            Red::AsRoot,
            "nsenter --net=/run/netns/opencode-billing true && echo BREACH",
        ),
        attack(
            "enter the supervisor's namespace",
            ROOT,
            "nsenter --net=/proc/1/ns/net true && echo BREACH",
        ),
        attack(
            "hold a socket of another namespace",
            Red::Nowhere("no socket is passed to the unit"),
            python!(
                "import glob
own = socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8)
for path in glob.glob('/proc/[0-9]*/fd/*'):
    try:
        if not os.readlink(path).startswith('socket:'):
            continue
        _, _, pid, _, fd = path.split('/')
        handle = os.pidfd_open(int(pid))
        copy = call(438, handle, int(fd), 0)
        if copy < 0:
            continue
        s = socket.socket(fileno=copy)
        if s.family in (socket.AF_INET, socket.AF_INET6):
            if s.getsockopt(socket.SOL_SOCKET, 71, 8) != own:
                print('BREACH', path)
    except OSError as error:
        print(path, error)"
            ),
        ),
    ],
};

pub(crate) const SOCKETS: Group = Group {
    name: "sockets",
    attacks: &[
        attack("a raw socket", ROOT, python!("opens_socket(socket.AF_INET, socket.SOCK_RAW, 1)")),
        attack(
            "a raw IPv6 socket",
            ROOT,
            python!("opens_socket(socket.AF_INET6, socket.SOCK_RAW, 58)"),
        ),
        attack("a packet socket", ROOT, python!("opens_socket(socket.AF_PACKET, socket.SOCK_RAW)")),
        attack(
            "a route socket",
            CALLS,
            python!("opens_socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
        ),
        attack(
            "a netfilter socket",
            CALLS,
            python!("opens_socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)"),
        ),
        attack(
            "a uevent socket",
            CALLS,
            python!("opens_socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)"),
        ),
        attack(
            "a socket to the hypervisor",
            CALLS,
            python!("opens_socket(40, socket.SOCK_STREAM)"),
        ),
        attack(
            "a socket for ciphers",
            Red::Nowhere("the kernels of test hosts have none"),
            python!("opens_socket(38, socket.SOCK_SEQPACKET)"),
        ),
        attack("a socket through io_uring", CALLS, python!("reached(425, 0, None)")),
        steal(
            "read the policy",
            Red::AsRoot,
            "table",
            "nft list ruleset; ip netns exec opencode-website nft list ruleset",
        ),
        attack("flush the policy", Red::AsRoot, "nft flush ruleset && echo BREACH"),
        attack(
            "add a link",
            Red::AsRoot,
            "ip link add evil0 type veth peer name evil1 && echo BREACH; ip link del evil0",
        ),
        attack(
            "add an address",
            Red::AsRoot,
            "ip address add 198.51.100.9/32 dev lo && echo BREACH; ip address del 198.51.100.9/32 dev lo",
        ),
        attack(
            "own the network from a new user namespace",
            CALLS,
            "unshare --user --map-root-user --net ip link set lo up && echo BREACH",
        ),
        attack(
            "change the namespace's tunables",
            Red::AsRoot,
            "echo 64 >/proc/sys/net/ipv4/ip_default_ttl && echo BREACH",
        ),
    ],
};
