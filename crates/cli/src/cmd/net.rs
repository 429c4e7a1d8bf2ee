//! `net NAME`: what an instance may reach, in words, and whether that is in force.

use std::path::Path;

use instances_core::facts::HostFacts;
use instances_core::layout::{NFT_HOST_TABLE, NFT_TABLE};
use instances_core::network::{Allowed, DnsPolicy, Network, Policy};
use instances_core::units::Names;
use instances_sys::files::Root;
use instances_sys::installed::{self, Record};
use instances_sys::net::{self, Link, Look, Request, Rules};
use serde_json::json;

use super::Outcome;
use crate::args::{self, Net};
use crate::exit::Exit;
use crate::{out, spec};

pub(crate) fn run(args: Net) -> Outcome {
    if let Some(change) = args.change {
        return super::unit::net(change);
    }
    let root = Root::new("/".as_ref());
    let record = installed::instance(&root, &args.name.unwrap_or_default())?;
    let Some(network) = record.network(&root)? else {
        let path = Names(&record.name).network();
        return Err(format!("{path} is missing; `opencode-instances apply` writes it").into());
    };
    let facts = spec::facts(&args::Host { systemd: None, facts: None })?;
    let looked = net::can_look().then(|| look(&record, &network, &facts));
    let looked = looked.transpose()?;
    let commands = commands(&record);
    if args.json.json {
        out::json(&json!({
            "version": 1,
            "name": record.name,
            "network": network,
            "listen": record.listen,
            "inForce": looked,
            "commands": commands,
        }));
    } else {
        out::table(&rows(&record, &network, looked.as_ref(), &commands));
    }
    let wrong = looked.is_some_and(|looked| !holds(&network, &looked));
    Ok(if wrong { Exit::Finding } else { Exit::Done })
}

fn look(record: &Record, network: &Network, facts: &HostFacts) -> Result<Look, net::Error> {
    net::look(&Request {
        name: &record.name,
        rules: Path::new(&Names(&record.name).rules()),
        nft: Path::new(facts.nft.as_str()),
        linked: network.policy.has_link(),
    })
}

/// Whether what is in force is what was declared. A namespace that is not there reaches nothing.
fn holds(network: &Network, looked: &Look) -> bool {
    match looked.rules {
        Rules::NoNamespace => true,
        Rules::AsDeclared => network.policy.has_link() == looked.link.is_some() && second(looked),
        Rules::OtherHostAddresses | Rules::Other | Rules::Missing => false,
    }
}

/// Whether a link has the host's table.
fn second(looked: &Look) -> bool {
    looked.link.is_none() || looked.host_table
}

/// The commands that show the live rules.
fn commands(record: &Record) -> [String; 2] {
    [
        format!("ip netns exec opencode-{} nft list table inet {NFT_TABLE}", record.name),
        format!("nft list table inet {NFT_HOST_TABLE}"),
    ]
}

type Rows = Vec<Vec<String>>;

/// Each fact with its lines.
fn rows(record: &Record, network: &Network, looked: Option<&Look>, commands: &[String; 2]) -> Rows {
    let ports = network.host_ports.iter();
    let ports = ports.map(|port| format!("127.0.0.1:{port} inside is that of the host's loopback"));
    let facts: [(&str, Vec<String>); 8] = [
        ("policy", vec![format!("{}: {}", network.policy, meaning(network.policy))]),
        ("allowed", network.allow.iter().map(allowed).collect()),
        ("names", names(network)),
        ("host ports", ports.collect()),
        ("listener", vec![format!("{}, the one way in", record.listen)]),
        ("link", link(network, looked)),
        ("rules", in_force(record, looked)),
        ("to see them", commands.to_vec()),
    ];
    let mut rows = Rows::new();
    for (what, lines) in facts {
        let lines = if lines.is_empty() { vec!["none".to_owned()] } else { lines };
        for (at, line) in lines.into_iter().enumerate() {
            rows.push(vec![if at == 0 { what.to_owned() } else { String::new() }, line]);
        }
    }
    rows
}

fn meaning(policy: Policy) -> &'static str {
    match policy {
        Policy::Internet => "everything that is globally routable, and what is allowed beside it",
        Policy::AllowList => "what is allowed, and nothing else",
        Policy::None => "nothing; there is no link",
        Policy::Unrestricted => "everything but the host and other instances",
    }
}

fn allowed(one: &Allowed) -> String {
    let ports: Vec<String> = one.ports.iter().map(ToString::to_string).collect();
    let protocol = one.protocol.map(instances_core::network::Protocol::as_str);
    match (protocol, ports.is_empty()) {
        (None, true) => format!("{}, whole", one.cidr),
        (None, false) => format!("{}, tcp and udp, ports {}", one.cidr, ports.join(", ")),
        (Some(protocol), true) => format!("{}, {protocol}, all ports", one.cidr),
        (Some(protocol), false) => format!("{}, {protocol}, ports {}", one.cidr, ports.join(", ")),
    }
}

fn names(network: &Network) -> Vec<String> {
    if !network.has_dns() {
        return vec!["none are resolved".to_owned()];
    }
    match network.dns.policy {
        DnsPolicy::Open => vec!["all are resolved, by the host's resolvers".to_owned()],
        DnsPolicy::Names if network.dns.names.is_empty() => vec!["none are resolved".to_owned()],
        DnsPolicy::Names => {
            vec![format!("these alone are resolved: {}", network.dns.names.join(", "))]
        }
    }
}

fn link(network: &Network, looked: Option<&Look>) -> Vec<String> {
    let Some(looked) = looked else { return vec![UNKNOWN.to_owned()] };
    match &looked.link {
        Some(Link { host_end, inside, addresses }) => {
            let line = |one: &net::Addresses| {
                format!("{host_end} {} on the host, {inside} {} inside", one.host, one.inside)
            };
            addresses.iter().map(line).collect()
        }
        None if looked.rules == Rules::NoNamespace => vec!["not made: it does not run".to_owned()],
        None if network.policy.has_link() => vec!["missing, although it was declared".to_owned()],
        None => Vec::new(),
    }
}

const UNKNOWN: &str = "only root can look";

fn in_force(record: &Record, looked: Option<&Look>) -> Vec<String> {
    let Some(looked) = looked else { return vec![UNKNOWN.to_owned()] };
    let mend = format!("`systemctl reload {}` loads them", Names(&record.name).net());
    let inside = match looked.rules {
        Rules::AsDeclared => "in the namespace: loaded as declared".to_owned(),
        Rules::OtherHostAddresses => {
            format!("in the namespace: loaded, with other addresses of the host; {mend}")
        }
        Rules::Other => format!("in the namespace: NOT those that were declared; {mend}"),
        Rules::Missing => format!("in the namespace: NONE are loaded; {mend}"),
        Rules::NoNamespace => "in the namespace: there is none, the instance is down".to_owned(),
    };
    let host = match (looked.host_table, second(looked)) {
        (true, _) => "on the host: the table is there".to_owned(),
        (false, true) => "on the host: no table, and this instance needs none".to_owned(),
        (false, false) => format!("on the host: NO table, so that nothing leaves; {mend}"),
    };
    vec![inside, host]
}
