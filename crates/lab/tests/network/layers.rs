//! What holds on the host where a namespace's table is gone, and what that table alone holds. Each
//! attack is seen to succeed once the one rule against it is taken out.

use std::time::Duration;

use instances_lab::{Agent, HOST, Internet, Machine, fleet, unavailable};

use crate::view::{SOON, done, sh, wait_until_served};

const SPEC: &str = "[instances.open]\ndirectory = \"/srv/open\"\nlisten.port = 4116\n";
const SITES: [&str; 2] = ["1.1.1.1", "2606:4700::1111"];
const INSIDE: &str = "nsenter --net=/run/netns/opencode-open";

const PRELUDE: &str = include_str!("attacks.py");
/// Sends packets that belong to no connection.
const BARE: &str = include_str!("bare.py");

/// A container with a published port, as container engines publish them.
const CONTAINER: &str = "
ip netns add container
ip link add cont0 type veth peer name cont1 netns container
ip addr add 10.88.0.1/24 dev cont0
ip addr add fd88::1/64 dev cont0 nodad
ip link set cont0 up
ip -n container link set lo up
ip -n container addr add 10.88.0.2/24 dev cont1
ip -n container addr add fd88::2/64 dev cont1 nodad
ip -n container link set cont1 up
ip -n container route add default via 10.88.0.1
ip -n container -6 route add default via fd88::1
sysctl -q net.ipv4.conf.cont0.forwarding=1 net.ipv6.conf.all.forwarding=1
systemd-run -q --unit=container ip netns exec container socat -t5 TCP6-LISTEN:80,fork,reuseaddr,ipv6only=0 SYSTEM:'echo published'
nft -f - <<'END'
table inet containers {
  chain prerouting {
    type nat hook prerouting priority dstnat
    fib daddr type local tcp dport 8080 dnat ip to 10.88.0.2:80
    fib daddr type local tcp dport 8080 dnat ip6 to [fd88::2]:80
    meta nfproto ipv4 tcp dport 8081 dnat ip to 10.88.0.2:80
  }
}
END
";

/// A first hop that the policy allows, and a way on to a place that it refuses. The agent can ask for the
/// first of these; for the others the kernel wants a capability.
const SOURCE_ROUTES: &str = "
hop = socket.inet_pton(V6, ALLOWED6)
sends('fd00:ec2::254', 443, (41, 57, bytes((0, 4, 4, 1, 1, 0, 0, 0)) + bytes(16) + hop))
hop = socket.inet_aton(ALLOWED4)
sends('10.1.2.3', 443, (0, 4, bytes((131, 7, 4)) + hop + bytes(1)))
# By a socket's option a strict one would have to begin with a neighbour.
route = bytes((137, 7, 4)) + socket.inet_aton('10.1.2.3') + bytes(1)
header = struct.pack('!BBHHHBBH4s4s', 0x47, 0, 0, 0, 0, 9, 17, 0, bytes(4), hop)
try:
    with socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(header + route + bytes(8), (ALLOWED4, 0))
        breach()
except OSError as error:
    tells(error)
";

/// Counts those on the host, where the kernel itself may drop them next.
const LOOK: &str = "
nft -f - <<'END'
table inet looked {
  chain prerouting {
    type filter hook prerouting priority raw
    iifname oc-* rt type 4 counter
    iifname oc-* ip option lsrr exists counter
    iifname oc-* ip option ssrr exists counter
  }
}
END
";

#[test]
fn what_one_layer_lets_through_another_holds() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("layers", SPEC, &["/srv/open"]).unwrap();
    let mut internet = Internet::attach(&machine, true).unwrap();
    for site in SITES {
        internet.greet((site.parse::<std::net::IpAddr>().unwrap(), 443).into()).unwrap();
    }
    machine.put("/srv/open/attacks.py", PRELUDE, 0o644).unwrap();
    machine.put("/root/bare.py", BARE, 0o644).unwrap();
    done(&machine, "apply");
    wait_until_served(&machine, "open", SOON);
    source_routes_are_refused(&machine);
    // From here on nobody puts back what is taken out.
    sh(&machine, "systemctl stop opencode-host@addresses");
    sh(&machine, &format!("{INSIDE} nft delete table inet opencode"));
    nothing_without_a_connection_leaves(&machine, &internet);
    published_ports_are_not_reached(&machine);
}

/// Takes the rules with these words out of a chain; there must be some.
fn take_out(machine: &Machine, place: &str, chain: &str, words: &str) {
    let listed = sh(machine, &format!("{place} nft -a list chain inet {chain}"));
    let rules: Vec<_> = listed.lines().filter(|line| line.contains(words)).collect();
    assert!(!rules.is_empty(), "{words}: {listed}");
    for rule in rules {
        let (_, handle) = rule.rsplit_once(" # handle ").unwrap();
        sh(machine, &format!("{place} nft delete rule inet {chain} handle {handle}"));
    }
}

fn reload(machine: &Machine) {
    sh(machine, "systemctl reload opencode-net@open");
}

fn source_routes_are_refused(machine: &Machine) {
    sh(machine, LOOK);
    let script = format!("from attacks import *\n{SOURCE_ROUTES}");
    machine.put("/srv/open/routes.py", script, 0o644).unwrap();
    let words = |said: &str| said.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let attack = || words(&sh(machine, &format!("{INSIDE} python3 /srv/open/routes.py")));
    let agent = || {
        words(
            &Agent::connect(machine, "open").unwrap().shell("python3 /srv/open/routes.py").unwrap(),
        )
    };
    assert_eq!(agent(), ["EPERM"; 3]);
    let passed = || -> Vec<bool> {
        let listed = sh(machine, "nft list chain inet looked prerouting");
        let counters = listed.lines().filter(|line| line.contains("counter"));
        counters.map(|line| !line.contains("packets 0 ")).collect()
    };
    assert_eq!(attack(), ["EPERM"; 3]);
    assert_eq!(passed(), [false; 3]);
    for (chain, words) in [("out6", "exthdr rt"), ("options", "lsrr"), ("options", "ssrr")] {
        take_out(machine, INSIDE, &format!("opencode {chain}"), words);
    }
    assert_eq!(agent(), ["BREACH", "EPERM", "EPERM"]);
    assert_eq!(attack(), ["BREACH"; 3]);
    assert_eq!(passed(), [true; 3]);
    reload(machine);
    assert_eq!(attack(), ["EPERM"; 3]);
}

/// Such packets would not be masqueraded.
fn nothing_without_a_connection_leaves(machine: &Machine, internet: &Internet<'_>) {
    let own = |family: &str| {
        let list = "addr show dev eth0 scope global";
        let text = sh(machine, &format!("ip -n opencode-open -{family} -o {list}"));
        let address = text.split_whitespace().find(|word| word.contains('/')).unwrap();
        address.split('/').next().unwrap().to_owned()
    };
    let (own4, own6) = (own("4"), own("6"));
    let [site4, site6] = SITES;
    // Whether any came, from each of its addresses.
    let arrives = || {
        internet.forget().unwrap();
        let send = format!("{INSIDE} python3 /root/bare.py {own4} {site4} {own6} {site6}");
        sh(machine, &send);
        std::thread::sleep(Duration::from_millis(300));
        let sources: Vec<_> = internet.sources().unwrap().iter().map(ToString::to_string).collect();
        let to = |site: &str| {
            let came = internet.packets().unwrap();
            came.contains_key(&(site.parse().unwrap(), 6))
        };
        // Under another address would be as bad.
        let came = SITES.map(to);
        let [four, six] = [&own4, &own6].map(|own| sources.contains(own));
        assert_eq!(came, [four, six], "{sources:?}");
        [four, six]
    };
    let untrack = |machine: &Machine| {
        let table = "table inet untrack { chain prerouting { type filter hook prerouting priority raw; tcp dport 443 notrack; }; }";
        sh(machine, &format!("nft '{table}'"));
    };
    let rule = "ct state invalid,untracked";
    assert_eq!(arrives(), [false; 2]);
    untrack(machine);
    assert_eq!(arrives(), [false; 2]);
    take_out(machine, "", "opencode_host outward", rule);
    assert_eq!(arrives(), [false; 2], "nothing leaves with an inner address");
    take_out(machine, "", "opencode_host untranslated", "@inner");
    assert_eq!(arrives(), [true; 2], "untracked, without the rules");
    sh(machine, "nft delete table inet untrack");
    assert_eq!(arrives(), [true; 2], "invalid, without the rules");
    // A connection leaves all the same, and under the host's address.
    reload(machine);
    internet.forget().unwrap();
    for site in SITES {
        let site = if site.contains(':') { format!("[{site}]") } else { site.to_owned() };
        let hello = sh(machine, &format!("{INSIDE} socat -t5 -T5 - TCP:{site}:443 </dev/null"));
        assert_eq!(hello, "the internet");
    }
    let sources: Vec<_> = internet.sources().unwrap().iter().map(ToString::to_string).collect();
    assert!(HOST.iter().all(|own| sources.contains(&(*own).to_owned())), "{sources:?}");
    sh(machine, &format!("{INSIDE} nft delete table inet opencode"));
}

fn published_ports_are_not_reached(machine: &Machine) {
    sh(machine, CONTAINER);
    let published = |place: &str, to: &str| {
        let connect = format!("{place} socat -t5 -T5 - TCP:{to},connect-timeout=5 </dev/null");
        machine.sh(&connect).unwrap().stdout.contains("published")
    };
    let from_outside = |to: &str| published("ip netns exec internet", to);
    let host = ["9.9.0.2:8080", "[2a00:9900::2]:8080", "9.9.0.2:8081"];
    machine
        .wait_until("the container is published", SOON, |_| {
            Ok(host.iter().all(|to| from_outside(to)))
        })
        .unwrap();
    let reached = || host.map(|to| published(INSIDE, to));
    assert_eq!(reached(), [false; 3]);
    take_out(machine, "", "opencode_host way", "fib daddr type");
    assert_eq!(reached(), [true; 3], "without the rule");
    reload(machine);
    assert_eq!(reached(), [false; 3]);
}
