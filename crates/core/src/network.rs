//! What an instance may reach: the declared network, as the services beside it read it.
//!
//! It is rendered as JSON to `network.json` below the instance's configuration. The rules that the
//! kernel holds are made from the same value, in [`crate::nft`].

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::format::{Unreadable, parse};
use crate::special;

/// The version of the file that this program writes and reads.
const VERSION: u32 = 1;

/// How far an instance reaches on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Everything that is globally routable.
    #[default]
    Internet,
    /// What is listed, and nothing else.
    AllowList,
    /// Nothing: there is no link.
    None,
    /// Everything but the host itself and other instances.
    Unrestricted,
}

impl Policy {
    /// All policies, in the order of the reference.
    pub const ALL: [Self; 4] = [Self::Internet, Self::AllowList, Self::None, Self::Unrestricted];
    /// Their words, in the same order.
    pub const WORDS: &'static [&'static str] = &["internet", "allow-list", "none", "unrestricted"];

    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::AllowList => "allow-list",
            Self::None => "none",
            Self::Unrestricted => "unrestricted",
        }
    }

    /// Whether the namespace has a link to the outside.
    pub fn has_link(self) -> bool {
        self != Self::None
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
    /// Their words, in the same order.
    pub const WORDS: &'static [&'static str] = &["tcp", "udp"];

    /// As it is typed, and as nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// Ports sorted, with those that overlap or touch made one.
    #[must_use]
    pub fn merged(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort_unstable();
        let mut merged: Vec<Self> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// An entry of `network.outbound.allowCidrs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allowed {
    /// The destinations.
    pub cidr: IpNet,
    /// TCP or UDP alone; without it both if `ports` says something, and everything if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// These ports alone, sorted and merged; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
}

impl Allowed {
    /// Whether it allows the whole address: every protocol, ICMP too.
    pub fn is_whole(&self) -> bool {
        self.protocol.is_none() && self.ports.is_empty()
    }
}

/// Which names an instance may resolve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsPolicy {
    /// Every name.
    #[default]
    Open,
    /// Those that are listed. A resolver that forwards any name is a way out.
    Names,
}

impl DnsPolicy {
    /// The words, in the order of the reference.
    pub const WORDS: &'static [&'static str] = &["open", "names"];

    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Names => "names",
        }
    }
}

/// Names and who may ask for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Whether every name is resolved.
    pub policy: DnsPolicy,
    /// Names in lower case without a final dot, sorted; `*.example.org` is every name below
    /// `example.org`, and not that one itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// The network of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// How far it reaches.
    pub policy: Policy,
    /// What it reaches in addition (`internet`) or alone (`allow-list`), sorted and merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allowed>,
    /// Which names it resolves.
    pub dns: Dns,
    /// Ports of the host's loopback that appear on its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<u16>,
}

impl Network {
    /// The file's text.
    pub fn render(&self) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            version: u32,
            #[serde(flatten)]
            network: &'a Network,
        }
        // Names, numbers and words always serialise.
        let text = Versioned { version: VERSION, network: self };
        serde_json::to_string_pretty(&text).unwrap_or_default() + "\n"
    }

    /// Reads the file's text.
    ///
    /// # Errors
    ///
    /// When it is no network, or of a newer program.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        parse(text, VERSION)
    }

    /// An address of each range that is allowed: the host forwards to where they are too.
    pub fn destinations(&self) -> Vec<IpAddr> {
        self.allow.iter().map(|allowed| allowed.cidr.network()).collect()
    }

    /// Whether there is a resolver in the namespace.
    pub fn has_dns(&self) -> bool {
        self.policy.has_link()
    }
}

/// Whether the policy could ever allow a packet to this address, on any port.
///
/// The host's own addresses and those of other instances are refused on top of this, at run time.
pub fn permits(network: &Network, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let listed = || network.allow.iter().any(|allowed| allowed.cidr.contains(&ip));
    match network.policy {
        Policy::Internet => special::globally_routable(ip) || listed(),
        Policy::AllowList => listed(),
        Policy::None => false,
        Policy::Unrestricted => true,
    }
}

/// Entries sorted, with duplicates gone and destinations that overlap or touch made one wherever
/// they are allowed the same.
#[must_use]
pub fn merged(mut entries: Vec<Allowed>) -> Vec<Allowed> {
    entries.sort_unstable_by(|a, b| (&a.protocol, &a.ports).cmp(&(&b.protocol, &b.ports)));
    let same = |a: &Allowed, b: &Allowed| a.protocol == b.protocol && a.ports == b.ports;
    let mut all: Vec<Allowed> = Vec::with_capacity(entries.len());
    for group in entries.chunk_by(same) {
        let cidrs: Vec<IpNet> = group.iter().map(|entry| entry.cidr).collect();
        let Some(model) = group.first() else { continue };
        let one = |cidr| Allowed { cidr, ..model.clone() };
        all.extend(IpNet::aggregate(&cidrs).into_iter().map(one));
    }
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::{Allowed, Dns, Network, Policy, PortRange, Protocol, merged, permits};

    fn whole(cidr: &str) -> Allowed {
        Allowed { cidr: cidr.parse().unwrap(), protocol: None, ports: Vec::new() }
    }

    fn port(cidr: &str, port: u16) -> Allowed {
        let ports = vec![PortRange { first: port, last: port }];
        Allowed { ports, protocol: Some(Protocol::Tcp), ..whole(cidr) }
    }

    #[test]
    fn entries_are_merged_where_they_allow_the_same() {
        let typed = vec![
            whole("10.1.0.0/16"),
            port("10.0.0.0/9", 443),
            whole("10.0.0.0/16"),
            whole("10.1.0.0/16"),
            port("10.128.0.0/9", 443),
            port("10.0.0.0/8", 22),
            whole("2001:db8::/32"),
        ];
        let expected = [
            whole("10.0.0.0/15"),
            port("10.0.0.0/8", 22),
            port("10.0.0.0/8", 443),
            whole("2001:db8::/32"),
        ];
        let mut found = merged(typed);
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn ports_are_merged() {
        let range = |first, last| PortRange { first, last };
        let typed = vec![range(443, 443), range(8000, 8100), range(444, 500), range(8050, 9000)];
        assert_eq!(PortRange::merged(typed), [range(443, 500), range(8000, 9000)]);
        assert_eq!(PortRange::merged(vec![PortRange::ANY, range(65535, 65535)]), [PortRange::ANY]);
    }

    #[test]
    fn permits_what_a_policy_could_allow() {
        let permits = |policy, allow: &[Allowed], ip: &str| {
            let network = Network { policy, allow: allow.to_vec(), ..Network::default() };
            permits(&network, ip.parse().unwrap())
        };
        let lan = [port("192.168.1.0/24", 443)];
        assert!(permits(Policy::Internet, &[], "1.1.1.1"));
        assert!(!permits(Policy::Internet, &[], "192.168.1.1"));
        assert!(permits(Policy::Internet, &lan, "192.168.1.1"));
        assert!(permits(Policy::Internet, &lan, "::ffff:192.168.1.1"));
        assert!(!permits(Policy::Internet, &[], "64:ff9b::192.168.1.1"));
        assert!(!permits(Policy::AllowList, &lan, "1.1.1.1"));
        assert!(permits(Policy::AllowList, &lan, "192.168.1.1"));
        assert!(!permits(Policy::None, &[], "1.1.1.1"));
        assert!(permits(Policy::Unrestricted, &[], "169.254.169.254"));
    }

    #[test]
    fn is_written_and_read_back() {
        let network = Network {
            policy: Policy::AllowList,
            allow: vec![whole("10.0.0.0/8"), port("2001:db8::/32", 443)],
            dns: Dns { policy: super::DnsPolicy::Names, names: vec!["*.example.org".to_owned()] },
            host_ports: vec![11434],
        };
        let text = serde_json::to_string(&network).unwrap();
        assert_eq!(
            text,
            r#"{"policy":"allow-list","allow":[{"cidr":"10.0.0.0/8"},{"cidr":"2001:db8::/32","protocol":"tcp","ports":[{"first":443,"last":443}]}],"dns":{"policy":"names","names":["*.example.org"]},"hostPorts":[11434]}"#
        );
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), network);
        let rendered = network.render();
        assert!(rendered.starts_with("{\n  \"version\": 1,\n  \"policy\""), "{rendered}");
        assert_eq!(Network::parse(rendered.as_bytes()).unwrap(), network);
        let newer = rendered.replace("\"version\": 1", "\"version\": 2");
        assert!(Network::parse(newer.as_bytes()).is_err());
        let minimal = r#"{"policy":"internet","dns":{"policy":"open"}}"#;
        assert_eq!(Network::parse(minimal.as_bytes()).unwrap(), Network::default());
    }
}
