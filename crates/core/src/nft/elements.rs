//! The elements of interval sets: disjoint and sorted, as the kernel takes them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::network::{Allowed, PortRange, Protocol};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Four,
    Six,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::Four, Self::Six];

    /// In front of `daddr`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Four => "ip",
            Self::Six => "ip6",
        }
    }

    /// The type of a set's elements.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Four => "ipv4_addr",
            Self::Six => "ipv6_addr",
        }
    }

    /// At the end of a set's name.
    pub(super) fn digit(self) -> char {
        match self {
            Self::Four => '4',
            Self::Six => '6',
        }
    }

    /// The set of what the host holds.
    pub(super) fn host(self) -> &'static str {
        let [four, six] = super::HOST_SETS;
        match self {
            Self::Four => four,
            Self::Six => six,
        }
    }

    /// What is no single place outside: never reached, whatever is listed. Without this, a wide range or
    /// `unrestricted` would have packets for groups and for the link itself leave.
    pub(super) fn nowhere(self) -> &'static str {
        match self {
            Self::Four => "{ 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 }",
            Self::Six => "{ ::/96, ::ffff:0:0/96, fe80::/10, ff00::/8 }",
        }
    }

    /// Whether an address is one of it.
    pub(super) fn has(self, ip: &IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::Four)
    }

    fn holds(self, net: &IpNet) -> bool {
        self.has(&net.addr())
    }

    fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::Four => Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Self::Six => Ipv6Addr::from(bits).into(),
        }
    }
}

/// Networks of one family, with those that overlap or touch made one.
pub(super) fn addresses(nets: impl Iterator<Item = IpNet>, family: Family) -> Vec<String> {
    let nets: Vec<IpNet> = nets.filter(|net| family.holds(net)).collect();
    let mut merged = IpNet::aggregate(&nets);
    merged.sort_unstable();
    merged.iter().map(network).collect()
}

/// A network as nft lists it: without the length of a single address.
fn network(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// Destinations with their protocols and ports, as `ADDRESSES . PROTOCOL . PORTS`.
///
/// The kernel refuses concatenated intervals that overlap. So the addresses are cut where any network
/// begins or ends, each piece gets the ports of every network around it, and pieces side by side with
/// the same ports become one again.
pub(super) fn ports<'a>(entries: impl Iterator<Item = &'a Allowed>, family: Family) -> Vec<String> {
    let mut by_protocol: BTreeMap<Protocol, BTreeMap<(u128, u128), Vec<PortRange>>> =
        BTreeMap::new();
    for entry in entries.filter(|entry| family.holds(&entry.cidr)) {
        let any = [PortRange::ANY];
        let wanted = if entry.ports.is_empty() { &any[..] } else { &entry.ports };
        // Wider networks first where they begin together: by the end, from the last.
        let (first, last) = bounds(&entry.cidr);
        for protocol in Protocol::ALL {
            if entry.protocol.is_none_or(|only| only == protocol) {
                let nets = by_protocol.entry(protocol).or_default();
                nets.entry((first, u128::MAX - last)).or_default().extend(wanted);
            }
        }
    }
    let mut elements = Vec::new();
    for (protocol, nets) in by_protocol {
        let nets = nets.into_iter().map(|((first, end), ports)| (first, u128::MAX - end, ports));
        for piece in pieces(nets) {
            let range = interval(&piece, family);
            for ports in &piece.ports {
                elements.push(format!("{range} . {} . {ports}", protocol.as_str()));
            }
        }
    }
    elements
}

/// Addresses from the first to the last, which have the same ports.
#[derive(Debug, PartialEq)]
struct Piece {
    first: u128,
    last: u128,
    ports: Vec<PortRange>,
}

/// Cuts networks, sorted by their beginning and wider ones first, into disjoint pieces. Of two networks
/// one holds the other or they share nothing, so those around a place are a stack.
fn pieces(nets: impl Iterator<Item = (u128, u128, Vec<PortRange>)>) -> Vec<Piece> {
    let mut cut = Cut::default();
    for (first, last, ports) in nets {
        cut.close_before(Some(first));
        let around = cut.around.last().map(|around| around.ports.clone()).unwrap_or_default();
        if !cut.around.is_empty() && cut.next.is_some_and(|next| next < first) {
            cut.push(first - 1, around.clone());
        }
        let ports = PortRange::merged([around, ports].concat());
        cut.around.push(Piece { first, last, ports });
        cut.next = Some(first);
    }
    cut.close_before(None);
    cut.done
}

#[derive(Default)]
struct Cut {
    done: Vec<Piece>,
    /// The networks around the current place, the innermost last.
    around: Vec<Piece>,
    /// The first address that is in no piece yet; none after the last address of all.
    next: Option<u128>,
}

impl Cut {
    /// Ends the networks that end before `place`, or all of them.
    fn close_before(&mut self, place: Option<u128>) {
        while let Some(inner) = self.around.pop_if(|one| place.is_none_or(|at| one.last < at)) {
            if self.next.is_some_and(|next| next <= inner.last) {
                self.push(inner.last, inner.ports);
            }
        }
    }

    /// The piece from the next address to `last`.
    fn push(&mut self, last: u128, ports: Vec<PortRange>) {
        let Some(first) = self.next else { return };
        self.next = last.checked_add(1);
        match self.done.last_mut() {
            Some(before) if before.last.checked_add(1) == Some(first) && before.ports == ports => {
                before.last = last;
            }
            _ => self.done.push(Piece { first, last, ports }),
        }
    }
}

fn bounds(net: &IpNet) -> (u128, u128) {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    (bits(net.network()), bits(net.broadcast()))
}

/// A network where the piece is one, otherwise from the first to the last.
fn interval(piece: &Piece, family: Family) -> String {
    let (first, last) = (family.address(piece.first), family.address(piece.last));
    let width = if family == Family::Four { 32 } else { 128 };
    let free = (piece.first ^ piece.last).count_ones();
    let len = u8::try_from(width - free).unwrap_or(0);
    match IpNet::new(first, len) {
        Ok(net) if net.network() == first && net.broadcast() == last => network(&net),
        _ => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, addresses, ports};
    use crate::network::{Allowed, PortRange, Protocol};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn entry(cidr: &str, protocol: Option<Protocol>, ranges: &[(u16, u16)]) -> Allowed {
        let ports = ranges.iter().map(|&(first, last)| PortRange { first, last }).collect();
        Allowed { cidr: cidr.parse().unwrap(), protocol, ports }
    }

    #[test]
    fn networks_are_merged_and_sorted() {
        let nets = ["10.1.0.0/16", "10.0.0.0/16", "192.0.2.1/32", "10.0.7.0/24", "::/0"];
        let nets: Vec<ipnet::IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        assert_eq!(addresses(nets.iter().copied(), Family::Four), ["10.0.0.0/15", "192.0.2.1"]);
        assert_eq!(addresses(nets.into_iter(), Family::Six), ["::/0"]);
    }

    #[test]
    fn overlapping_networks_with_ports_are_cut() {
        let tcp = Some(Protocol::Tcp);
        let entries = [
            entry("10.0.0.0/8", tcp, &[(443, 443)]),
            entry("10.1.0.0/16", tcp, &[(80, 80), (440, 450)]),
            entry("10.1.0.0/16", Some(Protocol::Udp), &[]),
            entry("192.0.2.1/32", None, &[(53, 53)]),
            entry("2001:db8::/32", tcp, &[(1, 1)]),
        ];
        let expected = [
            "10.0.0.0/16 . tcp . 443",
            "10.1.0.0/16 . tcp . 80",
            "10.1.0.0/16 . tcp . 440-450",
            "10.2.0.0-10.255.255.255 . tcp . 443",
            "192.0.2.1 . tcp . 53",
            "10.1.0.0/16 . udp . 0-65535",
            "192.0.2.1 . udp . 53",
        ];
        assert_eq!(ports(entries.iter(), Family::Four), expected);
        assert_eq!(ports(entries.iter(), Family::Six), ["2001:db8::/32 . tcp . 1"]);
    }

    #[test]
    fn the_whole_of_both_families_fits() {
        let all = [entry("::/0", None, &[]), entry("ffff::/16", None, &[(1, 2)])];
        assert_eq!(
            ports(all.iter(), Family::Six),
            ["::/0 . tcp . 0-65535", "::/0 . udp . 0-65535"]
        );
        let all =
            [entry("0.0.0.0/0", None, &[(1, 1)]), entry("255.255.255.255/32", None, &[(2, 2)])];
        assert_eq!(
            ports(all[..].iter(), Family::Four)[..2],
            ["0.0.0.0-255.255.255.254 . tcp . 1", "255.255.255.255 . tcp . 1-2"]
        );
    }

    fn read(element: &str) -> (u32, u32, u16, u16) {
        let mut parts = element.split(" . ");
        let addresses = parts.next().unwrap();
        let numbers = parts.nth(1).unwrap();
        let (first, last) = match (addresses.split_once('-'), addresses.contains('/')) {
            (Some((a, b)), _) => (a.parse().unwrap(), b.parse().unwrap()),
            (None, true) => {
                let net: ipnet::Ipv4Net = addresses.parse().unwrap();
                (net.network(), net.broadcast())
            }
            (None, false) => (addresses.parse().unwrap(), addresses.parse::<Ipv4Addr>().unwrap()),
        };
        let (low, high) = numbers.split_once('-').unwrap_or((numbers, numbers));
        (first.into(), last.into(), low.parse().unwrap(), high.parse().unwrap())
    }

    proptest! {
        /// No two elements overlap, and together they are exactly what was listed.
        #[test]
        fn elements_are_disjoint_and_complete(
            typed in prop::collection::vec((0u32..16, 28u8..=32, 0u16..6, 0u16..3), 0..12),
        ) {
            let entries: Vec<Allowed> = typed.iter().map(|&(address, len, first, more)| {
                let net = ipnet::Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | address), len).unwrap();
                Allowed {
                    cidr: net.trunc().into(),
                    protocol: Some(Protocol::Tcp),
                    ports: vec![PortRange { first, last: first + more }],
                }
            }).collect();
            let elements: Vec<_> = ports(entries.iter(), Family::Four).iter().map(|e| read(e)).collect();
            for address in 0x0a00_0000u32..0x0a00_0010 {
                for port in 0u16..9 {
                    let ip = std::net::IpAddr::from(Ipv4Addr::from(address));
                    let wanted = entries.iter().any(|e| {
                        e.cidr.contains(&ip) && e.ports.iter().any(|p| (p.first..=p.last).contains(&port))
                    });
                    let held = elements.iter().filter(|(a, b, c, d)| {
                        (*a..=*b).contains(&address) && (*c..=*d).contains(&port)
                    }).count();
                    prop_assert_eq!(held, usize::from(wanted));
                }
            }
        }
    }
}
