//! What to add so that what was refused is refused no more: no entry is wider than what was asked
//! for, and there are as few as that leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::record::Direction;
use super::table::{Destination, Row};
use crate::events::{DNS, OTHER, is_name};
use crate::network::{Allowed, DnsPolicy, Network, Policy, PortRange, Protocol, merged, permits};
use crate::special::{self, Class};
use crate::text::InstanceName;

/// From how many addresses of one name on a CIDR is said to be a poor likeness of the name.
const MANY: usize = 3;
/// How many of something a note lists.
const SHOWN: usize = 4;

/// What to add to the declaration of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The instance.
    pub instance: InstanceName,
    /// For `network.outbound.allowCidrs`, each with what it is for.
    pub allow: Vec<(Allowed, String)>,
    /// For `network.dns.allowNames`.
    pub names: Vec<String>,
    /// What else there is to know, one sentence or two each.
    pub notes: Vec<String>,
}

/// Judges the rows of one instance. `network` is what is installed, if that is known; `answers` is
/// what names gave.
pub fn suggest(
    instance: &InstanceName,
    rows: &[(&Destination, &Row)],
    network: Option<&Network>,
    answers: &[(IpAddr, String)],
) -> Suggestion {
    let mut judge = Judge {
        network,
        wanted: BTreeMap::new(),
        answers: BTreeMap::new(),
        names: BTreeSet::new(),
        notes: Vec::new(),
    };
    for (destination, row) in rows {
        judge.row(destination, row);
    }
    judge.unanswered();
    judge.policy();
    judge.many_addresses(rows, answers);
    let allow = judge.entries(rows);
    let Judge { names, notes, .. } = judge;
    Suggestion { instance: instance.clone(), allow, names: names.into_iter().collect(), notes }
}

struct Judge<'a> {
    network: Option<&'a Network>,
    wanted: BTreeMap<IpAddr, BTreeSet<(Protocol, u16)>>,
    /// Addresses that were taken out of answers, with the names that gave them.
    answers: BTreeMap<IpAddr, String>,
    names: BTreeSet<String>,
    notes: Vec<String>,
}

impl Judge<'_> {
    fn row(&mut self, destination: &Destination, row: &Row) {
        if destination.direction == Direction::In {
            let from = destination.address.map_or_else(String::new, |ip| format!(" from {ip}"));
            self.note(format!(
                "What came in{from} is refused whatever is listed: only answers may."
            ));
            return;
        }
        match (destination.protocol.as_str(), destination.address, destination.port) {
            (DNS, None, _) => self.name(destination.question.as_deref()),
            (DNS, Some(address), _) => self.answer(address, &row.names),
            (OTHER, ..) => self.note(format!(
                "{} packets went to more destinations than are told apart: a scan, or something that \
                 tries every address.",
                row.count
            )),
            (_, None, _) => {}
            (protocol, Some(address), port) => {
                let known = match protocol {
                    "tcp" => Some(Protocol::Tcp),
                    "udp" => Some(Protocol::Udp),
                    _ => None,
                };
                self.packets(address, protocol, known, port);
            }
        }
    }

    fn name(&mut self, name: Option<&str>) {
        let Some(name) = name else { return };
        // The installed list may be newer than the refusal.
        let listed = self.network.is_some_and(|network| {
            network.dns.names.iter().any(|one| match one.strip_prefix('*') {
                Some(end) => name.ends_with(end) && name.len() > end.len(),
                None => one == name,
            })
        });
        if listed {
            return;
        }
        if is_name(name) {
            self.names.insert(name.to_owned());
        } else {
            self.note(format!("`{name}` is no name of a host: nothing can be listed for it."));
        }
    }

    /// An address that was taken out of an answer. No packet goes there before it is listed, so a port
    /// is known only where something tried the address without the name.
    fn answer(&mut self, address: IpAddr, names: &BTreeSet<String>) {
        let (net, names) = (IpNet::from(address), list(names));
        if self.network.is_some_and(|network| permits(network, address)) {
            return;
        }
        if let Some(special) = special::of(&net)
            && special.class == Class::Nowhere
        {
            self.note(format!(
                "{names} gave the address {address} ({}), which cannot be listed.",
                special.what
            ));
            return;
        }
        self.answers.insert(address, names);
    }

    /// What is listed for answers whose addresses nothing tried to reach.
    fn unanswered(&mut self) {
        for (address, names) in std::mem::take(&mut self.answers) {
            if self.wanted.contains_key(&address) {
                continue;
            }
            let net = IpNet::from(address);
            self.note(format!(
                "{names} gave the address {address}, which no entry allows, so there was no answer, and no \
                 packet has told a port yet: `allowCidrs = [\"{net}\"]` opens every port of it, \
                 `{{ cidr = \"{net}\", ports = […], protocol = \"tcp\" }}` those that you know to be meant. \
                 Where a CDN is behind the name, the address serves other sites too, and the name moves to \
                 others."
            ));
        }
    }

    fn packets(
        &mut self,
        address: IpAddr,
        word: &str,
        protocol: Option<Protocol>,
        port: Option<u16>,
    ) {
        let net = IpNet::from(address);
        let special = special::of(&net);
        if let Some(special) = special
            && special.class == Class::Nowhere
        {
            self.note(format!("{address} ({}) cannot be listed.", special.what));
            return;
        }
        if self.network.is_some_and(|network| allows(network, address, protocol, port)) {
            return;
        }
        if special.is_none() && self.is(Policy::Internet) {
            self.note(format!(
                "{address} is on the internet, which the policy `internet` allows: it is an address of \
                 this host itself, which no entry opens, or it was refused under an earlier policy."
            ));
            return;
        }
        let (Some(protocol), Some(port)) = (protocol, port) else {
            self.note(format!(
                "{word} to {address}{}: only a whole address can be listed for that, \
                 `allowCidrs = [\"{net}\"]`, and this opens every protocol and port of it.",
                if protocol.is_some() { ", in fragments that tell no port" } else { "" }
            ));
            return;
        };
        if let Some(special) = special {
            let more = match special.class {
                Class::Delicate => "; read what it hands out before you list it",
                Class::Nowhere | Class::Plain => {
                    "; if it is one of this host's own addresses, no entry opens it"
                }
            };
            self.note(format!("{address} is one of {}{more}.", special.what));
        }
        self.wanted.entry(address).or_default().insert((protocol, port));
    }

    fn is(&self, policy: Policy) -> bool {
        self.network.is_some_and(|network| network.policy == policy)
    }

    /// A list that would not be looked at is no suggestion.
    fn policy(&mut self) {
        let open = self.network.is_some_and(|network| {
            network.policy.has_link() && network.dns.policy == DnsPolicy::Open
        });
        if open && !self.names.is_empty() {
            let names = list(&std::mem::take(&mut self.names));
            self.note(format!(
                "{names}: with `network.dns.policy = \"open\"` every name is resolved but those of the local \
                 network, and no list is looked at. Use the address of such a name, in `allowCidrs`; or write \
                 `network.dns.policy = \"names\"`, and list it and every other name in `allowNames`."
            ));
        }
        if self.is(Policy::None) && (!self.wanted.is_empty() || !self.names.is_empty()) {
            self.note(
                "The policy is `none`, with which nothing can be listed: write \
                 `network.outbound.policy = \"allow-list\"` as well."
                    .to_owned(),
            );
        }
        let named = self.network.is_some_and(|network| network.dns.policy == DnsPolicy::Names);
        if named && !self.names.is_empty() {
            self.note(
                "A name that is listed is resolved; its addresses are refused until they are listed too."
                    .to_owned(),
            );
        }
    }

    /// An address stands for a name only where the name has few of them.
    fn many_addresses(&mut self, rows: &[(&Destination, &Row)], answers: &[(IpAddr, String)]) {
        let mut addresses: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        for (address, name) in answers {
            addresses.entry(name).or_default().insert(*address);
        }
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for (destination, row) in rows {
            let Some(address) = destination.address else { continue };
            for name in &row.names {
                addresses.entry(name).or_default().insert(address);
                if self.wanted.contains_key(&address) {
                    wanted.insert(name);
                }
            }
        }
        for name in wanted {
            let all = addresses.remove(name).unwrap_or_default();
            if all.len() < MANY {
                continue;
            }
            let missing = all.iter().filter(|address| !self.wanted.contains_key(address)).count();
            let few: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
            let dots = if all.len() > SHOWN { ", …" } else { "" };
            let mut words = format!(
                "{name} gave {} addresses ({}{dots}), as names behind a CDN do. An entry for one of them \
                 also opens every other site at that address, and the name will move to addresses that \
                 are not listed",
                all.len(),
                few.join(", ")
            );
            if missing > 0 {
                let _ = write!(words, "; {missing} of them were not tried and are not in the list");
            }
            self.note(words + ".");
        }
    }

    /// As few entries as say exactly what is wanted.
    fn entries(&self, rows: &[(&Destination, &Row)]) -> Vec<(Allowed, String)> {
        let mut entries = Vec::new();
        for (address, ports) in &self.wanted {
            let of = |wanted: Protocol| {
                let ports = ports.iter().filter(|(protocol, _)| *protocol == wanted);
                PortRange::merged(
                    ports.map(|(_, port)| PortRange { first: *port, last: *port }).collect(),
                )
            };
            let (tcp, udp) = (of(Protocol::Tcp), of(Protocol::Udp));
            let cidr = IpNet::from(*address);
            if tcp == udp {
                entries.push(Allowed { cidr, protocol: None, ports: tcp });
                continue;
            }
            for (protocol, ports) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
                if !ports.is_empty() {
                    entries.push(Allowed { cidr, protocol: Some(protocol), ports });
                }
            }
        }
        let purpose = |entry: &Allowed| {
            let (mut names, mut count) = (BTreeSet::new(), 0_u64);
            for (destination, row) in rows {
                let protocol =
                    entry.protocol.is_none_or(|one| one.as_str() == destination.protocol);
                let inside = destination.address.is_some_and(|ip| entry.cidr.contains(&ip));
                if !inside || destination.direction != Direction::Out {
                    continue;
                }
                if protocol || destination.protocol == DNS {
                    names.extend(row.names.iter().cloned());
                }
                if protocol {
                    count = count.saturating_add(row.count);
                }
            }
            match names.len() {
                0 => format!("refused {count} times"),
                _ => format!("{}, refused {count} times", list(&names)),
            }
        };
        merged(entries).into_iter().map(|entry| (entry.clone(), purpose(&entry))).collect()
    }

    fn note(&mut self, words: String) {
        if !self.notes.contains(&words) {
            self.notes.push(words);
        }
    }
}

fn allows(network: &Network, ip: IpAddr, protocol: Option<Protocol>, port: Option<u16>) -> bool {
    network.allow.iter().any(|entry| {
        let protocols = entry.is_whole()
            || protocol.is_some() && entry.protocol.is_none_or(|one| Some(one) == protocol);
        let ports = entry.ports.is_empty()
            || port.is_some_and(|port| {
                entry.ports.iter().any(|range| (range.first..=range.last).contains(&port))
            });
        entry.cidr.contains(&ip) && protocols && ports
    })
}

fn list(names: &BTreeSet<String>) -> String {
    let few: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    few.join(", ") + if names.len() > SHOWN { ", …" } else { "" }
}

impl Suggestion {
    /// Whether there is nothing to add and nothing to say.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.names.is_empty() && self.notes.is_empty()
    }

    /// For `instances.toml`. With dotted keys, which go beside those that are there; a table of its
    /// own would be a second one.
    pub fn toml(&self) -> String {
        let mut text = format!("[instances.{}]\n", self.instance);
        if !self.allow.is_empty() {
            text += "network.outbound.allowCidrs = [\n";
            for (entry, purpose) in &self.allow {
                let _ = writeln!(text, "  {},  # {purpose}", Written { entry, nix: false });
            }
            text += "]\n";
        }
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
            let _ = writeln!(text, "network.dns.allowNames = [{}]", names.join(", "));
        }
        text
    }

    /// For a configuration of NixOS.
    pub fn nix(&self) -> String {
        let at = format!("services.opencode.instances.\"{}\".network", self.instance);
        let mut text = String::new();
        if !self.allow.is_empty() {
            let _ = writeln!(text, "{at}.outbound.allowCidrs = [");
            for (entry, purpose) in &self.allow {
                let _ = writeln!(text, "  {} # {purpose}", Written { entry, nix: true });
            }
            text += "];\n";
        }
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
            let _ = writeln!(text, "{at}.dns.allowNames = [ {} ];", names.join(" "));
        }
        text
    }
}

/// An entry in one of the two languages.
struct Written<'a> {
    entry: &'a Allowed,
    nix: bool,
}

impl std::fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Allowed { cidr, protocol, ports } = self.entry;
        let ports: Vec<String> =
            ports
                .iter()
                .map(|range| {
                    if range.first == range.last {
                        range.to_string()
                    } else {
                        format!("\"{range}\"")
                    }
                })
                .collect();
        let (end, between) = if self.nix { (";", " ") } else { ("", ", ") };
        let mut fields = vec![format!("cidr = \"{cidr}\"{end}")];
        if !ports.is_empty() {
            let ports = ports.join(between);
            let ports = if self.nix { format!("[ {ports} ]") } else { format!("[{ports}]") };
            fields.push(format!("ports = {ports}{end}"));
        }
        if let Some(protocol) = protocol {
            fields.push(format!("protocol = \"{}\"{end}", protocol.as_str()));
        }
        write!(f, "{{ {} }}", fields.join(if self.nix { " " } else { ", " }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Entry, Refusal};
    use super::super::table::Table;
    use super::*;
    use crate::diagnostic::Diagnostics;
    use crate::lower::lower;
    use crate::network::Dns;
    use crate::{node, raw};

    fn refusal(protocol: &str, address: &str, port: u16, name: &str) -> Refusal {
        Refusal {
            instance: web(),
            direction: Direction::Out,
            protocol: protocol.to_owned(),
            address: address.parse().ok(),
            port: Some(port).filter(|port| *port != 0),
            icmp_type: None,
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            policy: None,
            count: 2,
            first: 1,
            last: 1,
        }
    }

    fn web() -> InstanceName {
        InstanceName::new("web").unwrap()
    }

    fn network(policy: Policy) -> Network {
        let dns = Dns { policy: DnsPolicy::Names, names: vec!["*.example.net".to_owned()] };
        Network { policy, dns, ..Network::default() }
    }

    fn of(refusals: Vec<Refusal>, network: Option<&Network>) -> Suggestion {
        let mut table = Table::default();
        for one in refusals {
            table.add(Entry::Refused(one));
        }
        suggest(&web(), &table.rows(), network, &[])
    }

    #[test]
    fn entries_are_few_and_exact() {
        let suggestion = of(
            vec![
                refusal("tcp", "1.1.1.0", 443, "one.example"),
                refusal("tcp", "1.1.1.1", 443, ""),
                refusal("tcp", "9.9.9.9", 80, ""),
                refusal("tcp", "9.9.9.9", 443, ""),
                refusal("udp", "9.9.9.9", 443, ""),
                refusal("tcp", "8.8.8.8", 53, ""),
                refusal("udp", "8.8.8.8", 53, ""),
                refusal("tcp", "2606:4700::1", 8000, ""),
                refusal("tcp", "2606:4700::1", 8001, ""),
                refusal("dns", "", 0, "api.example.org"),
                refusal("dns", "", 0, "www.example.net"),
            ],
            Some(&network(Policy::AllowList)),
        );
        let toml = "\
[instances.web]
network.outbound.allowCidrs = [
  { cidr = \"1.1.1.0/31\", ports = [443], protocol = \"tcp\" },  # one.example, refused 4 times
  { cidr = \"8.8.8.8/32\", ports = [53] },  # refused 4 times
  { cidr = \"9.9.9.9/32\", ports = [80, 443], protocol = \"tcp\" },  # refused 4 times
  { cidr = \"9.9.9.9/32\", ports = [443], protocol = \"udp\" },  # refused 2 times
  { cidr = \"2606:4700::1/128\", ports = [\"8000-8001\"], protocol = \"tcp\" },  # refused 4 times
]
network.dns.allowNames = [\"api.example.org\"]
";
        assert_eq!(suggestion.toml(), toml);
        let nix = suggestion.nix();
        let line = "  { cidr = \"9.9.9.9/32\"; ports = [ 80 443 ]; protocol = \"tcp\"; } # refused 4 times\n";
        assert!(nix.contains(line), "{nix}");
        assert!(
            nix.starts_with("services.opencode.instances.\"web\".network.outbound.allowCidrs = [")
        );
        assert!(nix.ends_with("network.dns.allowNames = [ \"api.example.org\" ];\n"), "{nix}");
    }

    #[test]
    fn what_is_suggested_is_accepted() {
        let suggestion = of(
            vec![
                refusal("tcp", "1.1.1.1", 443, "one.example"),
                refusal("udp", "2606:4700::1", 8000, ""),
                refusal("dns", "", 0, "_api.example.org"),
            ],
            None,
        );
        let text = format!(
            "{}directory = \"/srv/web\"\nnetwork.outbound.policy = \"allow-list\"\n",
            suggestion.toml()
        );
        let mut diagnostics = Diagnostics::default();
        let node = node::parse(&text, node::Format::Toml, &mut diagnostics).unwrap();
        let spec = lower(&raw::decode(&node, &mut diagnostics), &mut diagnostics);
        let network = &spec.instances[0].network;
        let wanted: Vec<Allowed> = suggestion.allow.into_iter().map(|(entry, _)| entry).collect();
        assert_eq!((network.allow.clone(), &network.dns.names), (wanted, &suggestion.names));
        let found: Vec<_> = diagnostics.iter().map(|one| format!("{one:?}")).collect();
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn what_is_allowed_by_now_is_not_suggested() {
        let entry = |cidr: &str, ports: &[u16], protocol| Allowed {
            cidr: cidr.parse().unwrap(),
            protocol,
            ports: ports.iter().map(|port| PortRange { first: *port, last: *port }).collect(),
        };
        let mut network = network(Policy::AllowList);
        network.allow =
            vec![entry("1.1.1.0/24", &[443], Some(Protocol::Tcp)), entry("9.9.9.9/32", &[], None)];
        let left = of(
            vec![
                refusal("tcp", "1.1.1.7", 443, ""),
                refusal("icmp", "9.9.9.9", 0, ""),
                refusal("udp", "1.1.1.7", 443, ""),
                refusal("tcp", "1.1.1.7", 80, ""),
            ],
            Some(&network),
        );
        let left: Vec<String> =
            left.allow.iter().map(|(entry, _)| Written { entry, nix: false }.to_string()).collect();
        assert_eq!(
            left,
            [
                "{ cidr = \"1.1.1.7/32\", ports = [80], protocol = \"tcp\" }",
                "{ cidr = \"1.1.1.7/32\", ports = [443], protocol = \"udp\" }",
            ]
        );
    }

    #[test]
    fn what_cannot_be_listed_or_means_more_is_said() {
        let noted = |refusals: Vec<Refusal>, policy| of(refusals, Some(&network(policy)));
        for (one, policy, entries, words) in [
            (
                refusal("icmp", "1.1.1.1", 0, ""),
                Policy::AllowList,
                0,
                "opens every protocol and port",
            ),
            (refusal("udp", "1.1.1.1", 0, ""), Policy::AllowList, 0, "fragments that tell no port"),
            (refusal("udp", "224.0.0.251", 5353, ""), Policy::AllowList, 0, "cannot be listed"),
            (refusal("tcp", "1.1.1.1", 443, ""), Policy::Internet, 0, "of this host itself"),
            (refusal("tcp", "192.168.1.20", 443, ""), Policy::Internet, 1, "no entry opens it"),
            (refusal("tcp", "169.254.169.254", 80, ""), Policy::Internet, 1, "hands out"),
            (refusal("tcp", "1.1.1.1", 443, ""), Policy::None, 1, "allow-list"),
            (refusal("dns", "", 0, "a\\u{20}b"), Policy::AllowList, 0, "no name of a host"),
            (refusal("dns", "10.0.0.1", 0, "evil.example"), Policy::Internet, 0, "10.0.0.1"),
            (
                refusal("dns", "127.0.0.1", 0, "evil.example"),
                Policy::Internet,
                0,
                "cannot be listed",
            ),
            (
                refusal("dns", "9.9.9.9", 0, "cdn.example"),
                Policy::AllowList,
                0,
                "no packet has told a port",
            ),
            (refusal("other", "", 0, ""), Policy::AllowList, 0, "more destinations"),
        ] {
            let suggestion = noted(vec![one.clone()], policy);
            assert_eq!(suggestion.allow.len(), entries, "{one:?}");
            assert!(suggestion.notes.iter().any(|note| note.contains(words)), "{suggestion:?}");
        }
        let inwards = Refusal { direction: Direction::In, ..refusal("tcp", "1.1.1.1", 443, "") };
        let suggestion = noted(vec![inwards], Policy::AllowList);
        assert!(suggestion.allow.is_empty() && suggestion.notes[0].contains("came in"));
    }

    #[test]
    fn a_port_is_one_that_was_tried() {
        let network = network(Policy::AllowList);
        let answer = || refusal("dns", "9.9.9.9", 0, "one.example");
        let tried = of(vec![answer(), refusal("tcp", "9.9.9.9", 8443, "")], Some(&network));
        let entry =
            "{ cidr = \"9.9.9.9/32\", ports = [8443], protocol = \"tcp\" },  # one.example, ";
        assert!(tried.toml().contains(entry), "{}", tried.toml());
        assert_eq!(tried.notes, [""; 0]);
        let untried = of(vec![answer()], Some(&network));
        let [note] = untried.notes.as_slice() else { panic!("{:?}", untried.notes) };
        assert!(note.contains("[\"9.9.9.9/32\"]") && !note.contains("443"), "{note}");
        // And none once it is listed, whatever for.
        let listed = Allowed {
            cidr: "9.9.9.0/24".parse().unwrap(),
            protocol: Some(Protocol::Udp),
            ports: vec![PortRange { first: 1, last: 1 }],
        };
        let network = Network { allow: vec![listed], ..network };
        assert!(of(vec![answer()], Some(&network)).is_empty());
    }

    #[test]
    fn no_list_is_suggested_that_would_be_refused() {
        for policy in [Policy::Internet, Policy::AllowList] {
            let network = Network { dns: Dns::default(), ..network(policy) };
            let suggestion = of(vec![refusal("dns", "", 0, "nas.lan")], Some(&network));
            assert_eq!(suggestion.names, [""; 0]);
            let [note] = suggestion.notes.as_slice() else { panic!("{:?}", suggestion.notes) };
            assert!(note.starts_with("nas.lan: ") && note.contains("\"names\""), "{note}");
        }
    }

    #[test]
    fn a_name_with_many_addresses_is_no_address() {
        let answers: Vec<(IpAddr, String)> = (1..=6)
            .map(|last| (IpAddr::from([1, 1, 1, last]), "cdn.example".to_owned()))
            .chain([(IpAddr::from([9, 9, 9, 9]), "one.example".to_owned())])
            .collect();
        let mut table = Table::default();
        table.add(Entry::Refused(refusal("tcp", "1.1.1.1", 443, "cdn.example")));
        table.add(Entry::Refused(refusal("tcp", "9.9.9.9", 443, "one.example")));
        let network = network(Policy::AllowList);
        let suggestion = suggest(&web(), &table.rows(), Some(&network), &answers);
        assert_eq!(suggestion.allow.len(), 2);
        let [note] = suggestion.notes.as_slice() else { panic!("{:?}", suggestion.notes) };
        assert!(note.starts_with("cdn.example gave 6 addresses (1.1.1.1, 1.1.1.2, "), "{note}");
        assert!(note.contains("5 of them were not tried"), "{note}");
    }
}
