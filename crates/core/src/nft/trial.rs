//! Tables that use everything that those of instances and of the host use, to see on any host whether the
//! kernel takes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{HostLink, LINK_PREFIX, Stubs, host_addresses, host_table, namespace_table};
use crate::network::{Allowed, Network, Policy, PortRange, Protocol};

/// The kernel's modules that the tables need. What they need themselves comes with them.
pub const MODULES: [&str; 9] = [
    "nf_tables",
    "nfnetlink_log",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_reject_inet",
];

/// Addresses for documentation: allowed whole, and on one port.
const ALLOWED: [[IpAddr; 2]; 2] = [
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))],
    [
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    ],
];

/// The table of a namespace and the host's, by the renderers that make the real ones.
pub fn trial() -> [String; 2] {
    let allow = ALLOWED.iter().flat_map(|[whole, narrow]| {
        let ports = vec![PortRange { first: 80, last: 443 }];
        let whole = Allowed { cidr: IpNet::from(*whole), protocol: None, ports: Vec::new() };
        [whole, Allowed { cidr: IpNet::from(*narrow), protocol: Some(Protocol::Tcp), ports }]
    });
    let network =
        Network { policy: Policy::Internet, allow: allow.collect(), ..Network::default() };
    let addresses: Vec<IpAddr> = ALLOWED.iter().map(|[one, _]| *one).collect();
    let held: Vec<IpNet> = addresses.iter().copied().map(IpNet::from).collect();
    let link = HostLink { host_end: format!("{LINK_PREFIX}trial"), addresses: addresses.clone() };
    let stubs = Stubs { users: vec![1], resolvers: addresses.clone() };
    let host = host_table(&[link], &addresses, &stubs);
    [namespace_table("trial", &network) + &host_addresses(&held), host]
}

#[cfg(test)]
mod tests {
    use super::super::{HOST_SETS, INNER_SETS, LINK_SETS, STUB_SETS, deny_all, set};
    use super::*;

    /// What a table asks of nft and of the kernel: its words, without names, numbers and comments.
    fn words(text: &str) -> impl Iterator<Item = &str> {
        let lines = text.lines().map(|line| line.split("comment \"").next().unwrap_or_default());
        let words = lines.flat_map(str::split_whitespace);
        words.filter(|word| word.chars().all(|c| c.is_ascii_lowercase()))
    }

    #[test]
    fn nothing_is_used_that_is_not_tried() {
        let tried = trial().concat();
        for policy in Policy::ALL {
            let network = Network { policy, ..Network::default() };
            for text in [namespace_table("trial", &network), deny_all("trial")] {
                for word in words(&text) {
                    assert!(words(&tried).any(|one| one == word), "{policy}: {word}");
                }
            }
        }
        for part in ["log prefix", "limit rate", "fib ", "ct direction", "masquerade", "reject"] {
            assert!(tried.contains(part), "{part}");
        }
    }

    #[test]
    fn every_set_has_elements() {
        let tried = trial().concat();
        for name in [&LINK_SETS[..], &INNER_SETS, &STUB_SETS].concat() {
            let empty = set(name, "", &[]);
            let head = empty.lines().next().unwrap();
            let body = tried.split(head).nth(1).unwrap().split("\t}").next().unwrap();
            assert!(body.contains("elements = {"), "{name}");
        }
        for name in HOST_SETS {
            assert!(tried.contains(&format!("add element inet opencode {name} {{")), "{name}");
        }
        for name in ["allow4", "allow6", "allow4_ports", "allow6_ports", "special4", "special6"] {
            assert!(tried.contains(&format!("@{name}")), "{name}");
        }
    }
}
