//! What was refused is told, with what to add; and what is added is reachable, while the agent goes on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use instances_lab::{ADDRESSES, Agent, Internet, Machine, fleet, unavailable};
use serde_json::{Value, json};
use toml::Table;

use crate::dns::resolvers;
use crate::policies::{REACH, reach};
use crate::view::{SOON, apply, done, engine, pid, wait_until_served};

const SPEC: &str = r#"
[instances.listed]
directory = "/srv/listed"
listen.port = 4110
network.outbound.policy = "allow-list"
network.outbound.allowCidrs = [{ cidr = "1.1.1.1/32", ports = [443], protocol = "tcp" }]
network.dns.allowNames = ["good.example.org"]

[instances.open]
directory = "/srv/open"
listen.port = 4111

[instances.closed]
directory = "/srv/closed"
listen.port = 4112
network.outbound.policy = "none"
"#;

const INSTANCES: [&str; 3] = ["listed", "open", "closed"];

/// Refused under each policy, so many times each.
const TRIED: &[(&str, &str, &str, u16, u64)] = &[
    ("listed", "tcp", "1.1.1.1", 8080, 3),
    ("listed", "tcp", "2001:4860:4860::8888", 443, 2),
    ("listed", "udp", "8.8.8.8", 443, 5),
    ("listed", "udp", "8.8.8.8", 8080, 1),
    ("listed", "udp", "2606:4700::1111", 443, 4),
    ("open", "tcp", "10.1.2.3", 443, 3),
    ("open", "udp", "192.168.7.7", 8080, 2),
    ("open", "tcp", "fd00:ec2::254", 443, 1),
    ("closed", "tcp", "1.1.1.1", 443, 3),
    ("closed", "udp", "10.1.2.3", 53, 2),
    ("closed", "tcp", "2606:4700::1111", 443, 4),
    ("closed", "udp", "fd00:ec2::254", 80, 1),
];

/// Tries everything as often as the command line says, in one process.
const TRY: &str = "
import socket, sys
for word in sys.argv[1:]:
    kind, address, port, count = word.split()
    for _ in range(int(count)):
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM) as one:
            one.settimeout(2)
            try:
                if kind == 'tcp':
                    one.connect((address, int(port)))
                else:
                    one.sendto(b'ping', (address, int(port)))
            except OSError:
                pass
";

fn internet(machine: &Machine) -> Internet<'_> {
    let mut internet = Internet::attach(machine, true).unwrap();
    for address in ADDRESSES {
        let address: IpAddr = address.parse().unwrap();
        for port in [443, 8080] {
            internet.greet(SocketAddr::new(address, port)).unwrap();
            internet.echo(SocketAddr::new(address, port)).unwrap();
        }
    }
    internet
}

fn blocked(machine: &Machine, arguments: &str) -> Value {
    let output = engine(machine, &format!("blocked {arguments}"));
    serde_json::from_str(&output.ok().unwrap()).unwrap()
}

/// The row of a destination, if there is one.
fn row<'a>(
    report: &'a Value,
    instance: &str,
    kind: &str,
    address: &str,
    port: u16,
) -> Option<&'a Value> {
    let rows = report["blocked"].as_array()?;
    rows.iter().find(|row| {
        row["instance"] == instance
            && row["protocol"] == kind
            && row["address"] == address
            && row["port"] == port
    })
}

/// Adds a suggestion to a specification, list by list, as a human would.
fn add(spec: &mut Table, suggested: &Table) {
    for (key, value) in suggested {
        match (spec.get_mut(key), value) {
            (Some(toml::Value::Table(there)), toml::Value::Table(more)) => add(there, more),
            (Some(toml::Value::Array(there)), toml::Value::Array(more)) => {
                there.extend(more.iter().cloned());
            }
            (there, more) => {
                assert_eq!(there, None, "{key} is there already");
                spec.insert(key.clone(), more.clone());
            }
        }
    }
}

/// The TOML of a suggestion: what stands before the same in another language.
fn suggested(machine: &Machine, instance: &str) -> Table {
    let text = engine(machine, &format!("blocked {instance} --suggest")).ok().unwrap();
    let toml = text.split("# The same for").next().unwrap();
    toml.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn targets(instance: &str) -> Vec<String> {
    let tried = TRIED.iter().filter(|tried| tried.0 == instance);
    tried.map(|(_, kind, address, port, _)| format!("{kind} {address} {port}")).collect()
}

#[test]
fn what_was_refused_is_one_line_away_from_being_allowed() {
    if unavailable() {
        return;
    }
    let machine =
        fleet::boot("refusals", SPEC, &["/srv/listed", "/srv/open", "/srv/closed"]).unwrap();
    resolvers(&machine);
    let _internet = internet(&machine);
    done(&machine, "apply");
    for instance in INSTANCES {
        machine.put(format!("/srv/{instance}/try.py"), TRY, 0o644).unwrap();
        machine.put(format!("/srv/{instance}/reach.py"), REACH, 0o644).unwrap();
        wait_until_served(&machine, instance, SOON);
    }
    let agents = INSTANCES.map(|instance| pid(&machine, instance));
    // So that the address has a name, and one name is refused.
    let ask =
        "getent hosts good.example.org; getent hosts other.example.net; getent hosts 'x y'; true";
    Agent::connect(&machine, "listed").unwrap().shell(ask).unwrap();
    for instance in INSTANCES {
        let tried = TRIED.iter().filter(|tried| tried.0 == instance);
        let words: Vec<String> = tried
            .map(|(_, kind, address, port, count)| format!("'{kind} {address} {port} {count}'"))
            .collect();
        let command = format!("python3 /srv/{instance}/try.py {}", words.join(" "));
        assert_eq!(Agent::connect(&machine, instance).unwrap().shell(&command).unwrap(), "");
    }
    everything_is_recorded(&machine);
    let mut spec: Table = SPEC.parse().unwrap();
    for instance in ["listed", "open"] {
        let suggested = suggested(&machine, instance);
        assert!(suggested.contains_key("instances"), "{suggested}");
        add(&mut spec, &suggested);
    }
    apply(&machine, &spec.to_string());
    for instance in ["listed", "open"] {
        let targets = targets(instance);
        let answers = reach(&machine, instance, &targets);
        assert!(
            answers.iter().all(|answer| answer == "reached"),
            "{instance}: {targets:?} {answers:?}\n{spec}"
        );
    }
    // No wider than what was tried.
    let beside = [
        "tcp 8.8.8.8 443",
        "tcp 2606:4700::1111 443",
        "udp 1.1.1.1 8080",
        "tcp 2001:4860:4860::8888 8080",
    ];
    let answers = reach(&machine, "listed", &beside.map(str::to_owned));
    assert!(answers.iter().all(|answer| answer != "reached"), "{answers:?}");
    let answers =
        reach(&machine, "open", &["tcp 10.1.2.3 8080".to_owned(), "udp 10.1.2.3 443".to_owned()]);
    assert!(answers.iter().all(|answer| answer != "reached"), "{answers:?}");
    let name =
        Agent::connect(&machine, "listed").unwrap().shell("dig +short other.example.net").unwrap();
    assert_eq!(name.trim(), "8.8.8.8");
    assert_eq!(INSTANCES.map(|instance| pid(&machine, instance)), agents, "an agent was restarted");
    // What is allowed by now is suggested no more.
    let left = suggested(&machine, "listed").to_string();
    assert!(!left.contains("other.example.net") && !left.contains("5 times"), "{left}");
}

fn everything_is_recorded(machine: &Machine) {
    let all = |report: &Value| {
        TRIED.iter().all(|(instance, kind, address, port, count)| {
            row(report, instance, kind, address, *port)
                .is_some_and(|row| row["count"].as_u64() >= Some(*count))
        })
    };
    let recorded =
        machine.wait_until("everything is recorded", Duration::from_secs(20), |machine| {
            Ok(all(&blocked(machine, "--json")))
        });
    let report = blocked(machine, "--json");
    recorded.unwrap_or_else(|error| panic!("{error:#}\n{report:#}"));
    for (instance, kind, address, port, count) in TRIED {
        let row = row(&report, instance, kind, address, *port).unwrap();
        assert_eq!(row["count"], *count, "{row}");
        let policy = match *instance {
            "listed" => "allow-list",
            "closed" => "none",
            _ => "internet",
        };
        assert_eq!((&row["policy"], &row["direction"]), (&json!(policy), &json!("out")), "{row}");
        let names = if *address == "1.1.1.1" && *instance == "listed" {
            json!(["good.example.org"])
        } else {
            json!([])
        };
        assert_eq!(row["names"], names, "{row}");
    }
    let rows = report["blocked"].as_array().unwrap();
    let name = rows
        .iter()
        .find(|row| row["protocol"] == "dns" && row["names"] == json!(["other.example.net"]));
    assert!(name.is_some_and(|row| row["count"].as_u64() > Some(0)), "{report:#}");
    assert_eq!(report["lost"], json!([]));
    let table = engine(machine, "blocked").ok().unwrap();
    for word in ["good.example.org", "2001:4860:4860::8888", "other.example.net", "192.168.7.7"] {
        assert!(table.contains(word), "{word}\n{table}");
    }
}
