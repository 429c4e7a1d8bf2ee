//! What an agent could try against its namespace, and what comes of it. Each attack is also run where
//! the defence is not, as root in a namespace without rules, and must get through there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use instances_lab::{Agent, HOST, Internet, Machine, fleet, progress, unavailable};

use crate::dns::resolvers;
use crate::view::{SOON, done, sh, wait_until_served};

const SPEC: &str = r#"
[instances.open]
directory = "/srv/open"
listen.port = 4113

[instances.free]
directory = "/srv/free"
listen.port = 4114
network.outbound.policy = "unrestricted"

[instances.other]
directory = "/srv/other"
listen.port = 4115
"#;

/// The attacker with the policy that most have, and the one with the widest there is.
const ATTACKERS: [&str; 2] = ["open", "free"];
const PRELUDE: &str = include_str!("attacks.py");

/// One attack, as a bash script that prints `BREACH` if it gets through.
#[derive(Clone, Copy)]
struct Attack {
    name: &'static str,
    script: &'static str,
    /// Why there is nothing to see where the defence is not.
    no_control: Option<&'static str>,
    /// Whether `unrestricted` means to let it through.
    restricted: bool,
}

const fn shell(name: &'static str, script: &'static str) -> Attack {
    Attack { name, script, no_control: None, restricted: true }
}

/// The same in Python, with [`PRELUDE`].
macro_rules! python {
    ($name:literal, $code:literal) => {
        shell($name, concat!("python3 - <<'END'\nfrom attacks import *\n", $code, "\nEND"))
    };
}

/// An attack that stops with the kernel, too, for this reason.
const fn nowhere(attack: Attack, why: &'static str) -> Attack {
    Attack { no_control: Some(why), ..attack }
}

/// A destination that is like others where everything is allowed.
const fn restricted(attack: Attack) -> Attack {
    Attack { restricted: false, ..attack }
}

/// `HOSTEND4`, `OTHER4` and so on stand for addresses of the machine.
const ATTACKS: &[Attack] = &[
    // The table, the routes, the link.
    shell("list the table", "nft list table inet opencode && echo BREACH"),
    shell("flush the table", "nft flush table inet opencode && echo BREACH"),
    shell("a rule of its own", "nft insert rule inet opencode output accept && echo BREACH"),
    shell("another table", "nft add table inet mine && echo BREACH"),
    shell("list routes", "ip route | grep default && echo BREACH"),
    shell("a route of its own", "ip route add 10.9.9.9 dev lo && echo BREACH"),
    shell("another address", "ip addr add 9.9.0.77/32 dev eth0 && echo BREACH"),
    shell("a link of its own", "ip link add own0 type veth peer name own1 && echo BREACH"),
    shell("a tunnel", "ip link add own2 type ipip local 127.0.0.1 remote 1.1.1.1 && echo BREACH; ip tuntap add own3 mode tun && echo BREACH"),
    shell("become root of a new user namespace", "unshare -Ur true && echo BREACH"),
    shell("a network namespace of its own", "unshare -Urn true && echo BREACH"),
    shell("read what conntrack knows", "conntrack -L && echo BREACH"),
    python!("answer for any address", "writes('/proc/sys/net/ipv4/conf/eth0/proxy_arp', '1')"),
    python!("let loopback out", "writes('/proc/sys/net/ipv4/conf/eth0/route_localnet', '1')"),
    python!("take router advertisements", "writes('/proc/sys/net/ipv6/conf/eth0/accept_ra', '2')"),
    python!("forward", "writes('/proc/sys/net/ipv4/ip_forward', '1')"),
    // Sockets that make packets themselves.
    python!("a raw socket", "opens(V4, socket.SOCK_RAW, socket.IPPROTO_RAW)"),
    python!("a raw IPv6 socket", "opens(V6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)"),
    python!("a packet socket", "opens(socket.AF_PACKET, socket.SOCK_RAW, 3)"),
    python!("a cooked packet socket", "opens(socket.AF_PACKET, socket.SOCK_DGRAM, 3)"),
    python!("route netlink", "opens(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    python!("netfilter netlink", "opens(socket.AF_NETLINK, socket.SOCK_RAW, 12)"),
    python!(
        "a router advertisement",
        "with socket.socket(V6, socket.SOCK_RAW, 58) as one:
    one.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255)
    one.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0), ('ff02::1%eth0', 0))
    breach()"
    ),
    python!(
        "a neighbour advertisement",
        "with socket.socket(V6, socket.SOCK_RAW, 58) as one:
    one.setsockopt(41, socket.IPV6_UNICAST_HOPS, 255)
    one.sendto(struct.pack('!BBHI', 136, 0, 0, 0x20000000) + socket.inet_pton(V6, '2a00:9900::2'), ('fe80::1%eth0', 0))
    breach()"
    ),
    nowhere(
        python!(
            "one through a socket for pings",
            "for kind in (133, 134, 135, 136, 137, 143, 1, 3):
    try:
        with socket.socket(V6, socket.SOCK_DGRAM, 58) as one:
            one.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255)
            one.sendto(struct.pack('!BBHBBHII', kind, 0, 0, 64, 0, 1800, 0, 0), ('ff02::1%eth0', 0))
            breach()
    except OSError as error:
        tells(error)"
        ),
        "such a socket sends echo requests alone",
    ),
    // Sources that are not its own.
    python!("IP_TRANSPARENT", "sets(V4, 0, 19, 1)"),
    python!("IPV6_TRANSPARENT", "sets(V6, 41, 75, 1)"),
    python!("a mark", "sets(V4, socket.SOL_SOCKET, socket.SO_MARK, 0x6f63)"),
    python!("a high priority", "sets(V4, socket.SOL_SOCKET, socket.SO_PRIORITY, 7)"),
    python!("another source", "sends(ALLOWED4, 443, (0, 19, 1), source='9.9.0.77')"),
    python!("another IPv6 source", "sends(ALLOWED6, 443, (41, 78, 1), source='2a00:9900::77')"),
    python!("the other's source", "sends(ALLOWED6, 443, (41, 78, 1), source='OTHER6')"),
    python!("the host's source", "sends(ALLOWED6, 443, (41, 78, 1), source='2a00:9900::2')"),
    nowhere(
        python!("another source without asking for it", "sends(ALLOWED4, 443, (0, 15, 1), source='9.9.0.77')"),
        "the kernel has no such route for IPv4",
    ),
    python!(
        "another IPv6 source beside the data",
        "with udp((41, 78, 1), family=V6) as one:
    info = socket.inet_pton(V6, '2a00:9900::77') + struct.pack('I', 0)
    one.sendmsg([b'attack'], [(41, 50, info)], 0, (ALLOWED6, 443))
    breach()"
    ),
    // Ways around the destination.
    python!("the host's address through the link", "sends('9.9.0.2', 53, (1, 25, b'eth0'))"),
    python!("the host's end of the link", "sends('HOSTEND4', 53); sends('HOSTEND6', 53)"),
    python!("a link-local address", "sends('fe80::1%eth0', 53)"),
    python!("the other instance", "sends('OTHER4', 53); sends('OTHER6', 53)"),
    python!("any address of the pool", "sends('10.219.255.1', 53)"),
    nowhere(
        python!("loopback through the link", "sends('127.0.0.1', 53, (1, 25, b'eth0')); sends('127.0.0.53', 53, (1, 5, 1), (1, 25, b'eth0'))"),
        "the kernel takes those for strange itself",
    ),
    python!("everybody on the link", "sends('255.255.255.255', 67, (1, 6, 1), (1, 25, b'eth0'))"),
    python!("a group", "sends('224.0.0.251', 5353); sends('239.1.2.3', 1900, (0, 33, 1))"),
    python!("an IPv6 group", "sends('ff02::1%eth0', 5353); sends('ff02::fb%eth0', 5353); sends('ff0e::1', 5353, (41, 18, 255))"),
    python!("the host's address, mapped", "sends('::ffff:9.9.0.2', 53)"),
    restricted(python!("a private address, mapped", "sends('::ffff:10.1.2.3', 443)")),
    restricted(python!("the metadata address, mapped", "sends('::ffff:169.254.169.254', 80)")),
    nowhere(
        python!("a private address, compatible", "sends('::10.1.2.3', 443)"),
        "a namespace without rules has no route for some of these",
    ),
    restricted(python!("a private address behind 6to4", "sends('2002:a01:203::1', 443)")),
    restricted(python!("one behind NAT64", "sends('64:ff9b::a01:203', 443); sends('64:ff9b:1::a01:203', 443)")),
    restricted(python!("one behind Teredo", "sends('2001:0:a01:203::1', 443)")),
    nowhere(
        python!("no address", "sends('0.0.0.1', 443)"),
        "the kernel has no such destination",
    ),
    restricted(python!("a short life", "[sends('10.1.2.3', 33434 + life, (0, 2, life)) for life in (1, 2, 3, 255)]")),
    restricted(python!("a short IPv6 life", "[sends('fd00:ec2::254', 443, (41, 16, life)) for life in (1, 2, 255)]")),
    restricted(python!("in fragments", "with udp((0, 10, 0)) as one: one.sendto(b'x' * 20000, ('10.1.2.3', 443)); breach()")),
    restricted(python!(
        "data with the first packet",
        "with socket.socket(V4, socket.SOCK_STREAM) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 2, 0))
    one.sendto(b'attack', socket.MSG_FASTOPEN, ('10.1.2.3', 443)); breach()"
    )),
    restricted(python!(
        "a source route over a private address",
        "options = bytes((131, 7, 4)) + socket.inet_aton('10.1.2.3') + bytes(1)
sends(ALLOWED4, 443, (0, 4, options))"
    )),
    // Last, because nothing would work after them.
    shell("delete the route", "ip route del default && echo BREACH"),
    shell("take the link down", "ip link set eth0 down && echo BREACH"),
];

fn boot() -> Machine {
    let machine = fleet::boot("attacks", SPEC, &["/srv/open", "/srv/free", "/srv/other"]).unwrap();
    resolvers(&machine);
    machine
}

/// A namespace like an instance's, without rules.
const BARE: &str = "
ip netns add bare
ip link add bare0 type veth peer name eth0 netns bare
ip addr add 198.18.0.0/31 dev bare0
ip addr add fd11::/127 dev bare0 nodad
ip link set bare0 up
ip -n bare link set lo up
ip -n bare addr add 198.18.0.1/31 dev eth0
ip -n bare addr add fd11::1/127 dev eth0 nodad
ip -n bare link set eth0 up
ip -n bare route add default via 198.18.0.0
ip -n bare route add default via fd11::
ip -n bare route add 10.1.2.3 via 198.18.0.0
ip netns exec bare nft 'add table inet opencode; add chain inet opencode output'
ip -n internet route add 198.18.0.0/31 via 9.9.0.2
sysctl -q net.ipv4.conf.bare0.forwarding=1 net.ipv4.conf.wan0.forwarding=1
ip netns exec bare sysctl -q net.ipv4.ping_group_range='0 2147483647'
sleep 2
";

/// What stands for addresses of the machine.
fn addresses(machine: &Machine) -> BTreeMap<&'static str, String> {
    let first = |script: &str| sh(machine, &format!("{script} | head -n 1"));
    let of = |instance: &str, family: &str| {
        first(&format!(
            "ip -n opencode-{instance} -{family} -o addr show dev eth0 scope global | sed 's/.* inet6\\? \\([^/ ]*\\).*/\\1/'"
        ))
    };
    let gateway = |family: &str| {
        first(&format!(
            "ip -n opencode-open -{family} route show default | sed 's/.*via \\([^ ]*\\).*/\\1/'"
        ))
    };
    let all = BTreeMap::from([
        ("HOSTEND4", gateway("4")),
        ("HOSTEND6", gateway("6")),
        ("OTHER4", of("other", "4")),
        ("OTHER6", of("other", "6")),
    ]);
    for (word, address) in &all {
        assert!(address.parse::<IpAddr>().is_ok(), "{word}: {address:?}");
    }
    all
}

/// One script of all attacks, each announced and each with its own end.
fn script(addresses: &BTreeMap<&'static str, String>, of: impl Fn(&Attack) -> bool) -> String {
    let mut script = "export PYTHONPATH=/srv/PLACE\n".to_owned();
    for attack in ATTACKS.iter().filter(|attack| of(attack)) {
        script += &format!("echo \"== {}\"\n(\n{}\n) 2>&1; echo $?\n", attack.name, attack.script);
    }
    addresses.iter().fold(script, |script, (word, address)| script.replace(word, address))
}

/// What each attack printed.
fn outcomes(said: &str) -> BTreeMap<String, String> {
    let parts = said.split("== ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.map(|(name, output)| (name.to_owned(), output.to_owned())).collect()
}

fn run(
    machine: &Machine,
    place: &str,
    script: &str,
    command: impl Fn(&str) -> String,
) -> BTreeMap<String, String> {
    machine.put(format!("/srv/{place}/attacks.py"), PRELUDE, 0o644).unwrap();
    let script = script.replace("PLACE", place);
    machine.put(format!("/srv/{place}/attacks.sh"), script, 0o644).unwrap();
    outcomes(&command(&format!("bash /srv/{place}/attacks.sh </dev/null")))
}

#[test]
fn no_attack_gets_through_and_each_would_without_the_defence() {
    if unavailable() {
        return;
    }
    let machine = boot();
    let mut internet = Internet::attach(&machine, true).unwrap();
    internet.greet("10.1.2.3:443".parse().unwrap()).unwrap();
    done(&machine, "apply");
    for instance in ["open", "free", "other"] {
        wait_until_served(&machine, instance, SOON);
    }
    let addresses = addresses(&machine);
    internet.forget().unwrap();
    let mut wrong = Vec::new();
    for attacker in ATTACKERS {
        let script = script(&addresses, |attack| attacker == "open" || attack.restricted);
        let agent = Agent::connect(&machine, attacker).unwrap();
        let outcomes = run(&machine, attacker, &script, |command| agent.shell(command).unwrap());
        for attack in ATTACKS.iter().filter(|attack| attacker == "open" || attack.restricted) {
            match outcomes.get(attack.name) {
                Some(output) if !output.contains("BREACH") && !output.trim().is_empty() => {}
                output => wrong.push(format!("{attacker}: {}: {output:?}", attack.name)),
            }
        }
    }
    for ((address, protocol), count) in internet.packets().unwrap() {
        let text = address.to_string();
        if !["9.9.0.", "2a00:9900:", "ff02:", "fe80:", "1.1.1.1", "2606:4700::1111"]
            .iter()
            .any(|own| text.starts_with(own))
        {
            wrong.push(format!("{count} packets of protocol {protocol} came to {text}"));
        }
    }
    for source in internet.sources().unwrap() {
        let text = source.to_string();
        if !HOST.contains(&text.as_str()) && !text.starts_with("fe80:") && text != "::" {
            wrong.push(format!("packets came from {text}"));
        }
    }
    sh(&machine, BARE);
    let script = script(&addresses, |attack| attack.no_control.is_none());
    let outcomes = run(&machine, "other", &script, |command| {
        let output =
            machine.run_for(fleet::PATIENCE, ["ip", "netns", "exec", "bare", "sh", "-c", command]);
        output.unwrap().stdout
    });
    for attack in ATTACKS.iter().filter(|attack| attack.no_control.is_none()) {
        if !outcomes.get(attack.name).is_some_and(|output| output.contains("BREACH")) {
            wrong.push(format!(
                "without the defence: {}: {:?}",
                attack.name,
                outcomes.get(attack.name)
            ));
        }
    }
    for attack in ATTACKS {
        if let Some(why) = attack.no_control {
            progress::say(&format!("no control for `{}`: {why}", attack.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        machine
            .sh("ip netns exec opencode-open nft list chain inet opencode output")
            .unwrap()
            .success()
    );
}
