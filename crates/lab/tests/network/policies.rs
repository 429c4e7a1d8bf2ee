//! Every policy against every kind of destination, over TCP, UDP and ICMP, IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use instances_lab::{ADDRESSES, Agent, HOST, Internet, Machine, fleet, unavailable};

use crate::view::{SOON, done, wait_until_served};

const SPEC: &str = r#"
[instances.open]
directory = "/srv/open"
listen.port = 4101

[instances.listed]
directory = "/srv/listed"
listen.port = 4102
[instances.listed.network.outbound]
policy = "allow-list"
allowCidrs = ["1.1.1.0/24", "2606:4700::/32", "10.1.2.3/32", { cidr = "8.8.8.8/32", ports = [443], protocol = "tcp" }]

[instances.closed]
directory = "/srv/closed"
listen.port = 4103
[instances.closed.network.outbound]
policy = "none"

[instances.free]
directory = "/srv/free"
listen.port = 4104
[instances.free.network.outbound]
policy = "unrestricted"
"#;

const INSTANCES: [&str; 4] = ["open", "listed", "closed", "free"];
const PROJECTS: [&str; 4] = ["/srv/open", "/srv/listed", "/srv/closed", "/srv/free"];
const PORTS: [u16; 2] = [443, 8080];
pub(crate) const REACH: &str = include_str!("reach.py");

/// A machine on an internet that answers everything, with an instance for each policy.
pub(crate) fn boot(name: &str) -> Machine {
    let machine = fleet::boot(name, SPEC, &PROJECTS).unwrap();
    for project in PROJECTS {
        machine.put(format!("{project}/reach.py"), REACH, 0o644).unwrap();
    }
    machine
}

pub(crate) fn internet(machine: &Machine, ipv6: bool) -> Internet<'_> {
    let mut internet = Internet::attach(machine, ipv6).unwrap();
    for address in ADDRESSES.iter().filter(|address| ipv6 || !address.contains(':')) {
        let address: IpAddr = address.parse().unwrap();
        for port in PORTS {
            internet.greet(SocketAddr::new(address, port)).unwrap();
            internet.echo(SocketAddr::new(address, port)).unwrap();
        }
    }
    internet
}

/// What an agent's shell reaches.
pub(crate) fn reach(machine: &Machine, instance: &str, targets: &[String]) -> Vec<String> {
    let agent = Agent::connect(machine, instance).unwrap();
    let words: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    let said =
        agent.shell(&format!("python3 /srv/{instance}/reach.py {}", words.join(" "))).unwrap();
    serde_json::from_str(said.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{said}"))
}

/// Whether a policy lets a destination through.
fn wanted(instance: &str, kind: &str, address: &str, port: u16) -> bool {
    let global = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888"];
    match instance {
        "free" => true,
        "open" => global.contains(&address),
        "listed" => match address {
            "1.1.1.1" | "2606:4700::1111" | "10.1.2.3" => true,
            "8.8.8.8" => kind == "tcp" && port == 443,
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn every_policy_refuses_what_it_does_not_name() {
    if unavailable() {
        return;
    }
    let machine = boot("policies");
    let internet = internet(&machine, true);
    done(&machine, "apply");
    let mut targets = Vec::new();
    for address in ADDRESSES {
        for port in PORTS {
            targets.push(("tcp", *address, port));
            targets.push(("udp", *address, port));
        }
        targets.push(("icmp", *address, 0));
    }
    let words: Vec<String> =
        targets.iter().map(|(kind, address, port)| format!("{kind} {address} {port}")).collect();
    let mut wrong = Vec::new();
    for instance in INSTANCES {
        wait_until_served(&machine, instance, SOON);
        internet.forget().unwrap();
        let answers = reach(&machine, instance, &words);
        let arrived = internet.packets().unwrap();
        for ((kind, address, port), answer) in targets.iter().zip(&answers) {
            let wanted = wanted(instance, kind, address, *port);
            // Refused at once, and never silently.
            let as_wanted = if wanted {
                answer == "reached"
            } else {
                answer != "reached" && answer != "silence"
            };
            if !as_wanted {
                wrong.push(format!("{instance}: {kind} {address} {port}: {answer}"));
            }
        }
        // An address that is allowed for nothing saw no packet.
        for ((address, protocol), count) in arrived {
            let text = address.to_string();
            let allowed = targets.iter().any(|(kind, to, port)| {
                let number = match *kind {
                    "tcp" => 6,
                    "udp" => 17,
                    _ if address.is_ipv4() => 1,
                    _ => 58,
                };
                **to == text && number == protocol && wanted(instance, kind, to, *port)
            });
            let own = text.starts_with("9.9.0.")
                || text.starts_with("2a00:9900:")
                || text.starts_with("ff02:")
                || text.starts_with("fe80:");
            if !allowed && !own {
                wrong.push(format!(
                    "{instance}: {count} packets of protocol {protocol} came to {address}"
                ));
            }
        }
        let sources = internet.sources().unwrap();
        let foreign: Vec<_> =
            sources.iter().filter(|one| !HOST.contains(&one.to_string().as_str())).collect();
        let foreign: Vec<_> =
            foreign.into_iter().filter(|one| !one.to_string().starts_with("fe80:")).collect();
        if !foreign.is_empty() {
            wrong.push(format!("{instance}: packets came from {foreign:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    neither_the_host_nor_another_instance(&machine);
}

/// What is bound on the host and inside, at every address that leads there.
fn neither_the_host_nor_another_instance(machine: &Machine) {
    let listener = "systemd-run -q --unit=bait socat TCP6-LISTEN:7000,fork,reuseaddr,ipv6only=0 SYSTEM:'printf \"the internet\"'";
    machine.sh(listener).unwrap().ok().unwrap();
    let bait = "(socat TCP6-LISTEN:7000,fork,reuseaddr,ipv6only=0 SYSTEM:'printf \"the internet\"' </dev/null >/dev/null 2>&1 &) ; sleep 0.5";
    let addresses = machine.sh("ip -br addr").unwrap().ok().unwrap();
    Agent::connect(machine, "free").unwrap().shell(bait).unwrap();
    let other = machine.sh("ip -n opencode-free -br addr").unwrap().ok().unwrap();
    let of = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().filter(|word| word.contains('/'));
        let addresses = words.filter_map(|word| word.split(['/', '%']).next());
        addresses
            .filter(|word| word.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback()))
            .map(str::to_owned)
            .collect()
    };
    let host = of(&addresses);
    let inside = of(&other);
    assert!(host.len() > 4 && inside.len() > 1, "{addresses}\n{other}");
    for instance in INSTANCES {
        let mut targets: Vec<String> = Vec::new();
        targets.extend(
            host.iter().filter(|one| !one.starts_with("fe80")).map(|one| format!("tcp {one} 7000")),
        );
        targets.extend(
            ["tcp 127.0.0.1 7000", "tcp ::1 7000"]
                .map(str::to_owned)
                .iter()
                .filter(|_| instance != "free")
                .cloned(),
        );
        if instance != "free" {
            targets.extend(
                inside
                    .iter()
                    .filter(|one| !one.starts_with("fe80"))
                    .map(|one| format!("tcp {one} 7000")),
            );
        }
        let answers = reach(machine, instance, &targets);
        let reached: Vec<_> =
            targets.iter().zip(&answers).filter(|(_, answer)| *answer == "reached").collect();
        assert!(reached.is_empty(), "{instance}: {reached:?}");
    }
    // From the host into an instance, past the listener.
    for address in inside.iter().filter(|one| !one.starts_with("fe80")) {
        let address: IpAddr = address.parse().unwrap();
        let connect = || {
            std::net::TcpStream::connect_timeout(
                &SocketAddr::new(address, 7000),
                Duration::from_secs(1),
            )
        };
        assert!(machine.in_netns(connect).unwrap().is_err(), "{address}");
    }
}
