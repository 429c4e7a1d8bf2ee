//! What the two ends of a link are called, and which addresses they have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use instances_core::nft::LINK_PREFIX;
use instances_core::plan::digest;
use ipnet::Ipv4Net;

/// The inner end, in every namespace.
pub(super) const INSIDE: &str = "eth0";

/// The addresses of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// Where the IPv4 addresses are from.
    pub(super) pool: Ipv4Net,
    /// A /31.
    pub(super) v4: Pair<Ipv4Addr>,
    /// A /127, used only while the host has IPv6.
    pub(super) v6: Pair<Ipv6Addr>,
}

/// The same thing of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair<T> {
    pub(super) host: T,
    pub(super) inside: T,
}

impl Ends {
    /// Each family's addresses with their prefix length.
    pub(super) fn pairs(&self, v6: bool) -> Vec<(Pair<IpAddr>, u8)> {
        let mut pairs = vec![(self.v4.map(IpAddr::V4), 31)];
        if v6 {
            pairs.push((self.v6.map(IpAddr::V6), 127));
        }
        pairs
    }
}

impl<T: Copy> Pair<T> {
    fn map<U>(self, with: impl Fn(T) -> U) -> Pair<U> {
        Pair { host: with(self.host), inside: with(self.inside) }
    }

    /// The same link, seen from the other end.
    pub(super) fn turned(self) -> Self {
        Self { host: self.inside, inside: self.host }
    }
}

/// The name of the end on the host: as long as a name may be.
pub(in crate::net) fn host_end(name: &str) -> String {
    let head: String = digest(name.as_bytes()).chars().take(12).collect();
    format!("{LINK_PREFIX}{head}")
}

/// The hardware addresses, which follow from the name.
///
/// Fixed, so that each end knows the other's without asking: nothing on the link ever answers for
/// an address. And set from the first moment, or udev would give others.
pub(super) fn hardware(name: &str) -> Pair<[u8; 6]> {
    let digest = digest(name.as_bytes());
    let mut digits =
        digest.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok());
    let mut byte = || digits.next().unwrap_or(0) << 4 | digits.next().unwrap_or(0);
    let mut address = |first| [first, byte(), byte(), byte(), byte(), byte()];
    // Both are locally administered, and no group's.
    Pair { host: address(0x02), inside: address(0x06) }
}

#[cfg(test)]
mod tests {
    use super::{hardware, host_end};

    #[test]
    fn names_fit_and_differ() {
        let longest = host_end("a-name-of-22-character");
        assert_eq!(longest.len(), 15);
        assert!(longest.starts_with("oc-"));
        assert_ne!(host_end("foo"), host_end("foo2"));
        assert_eq!(host_end("foo"), host_end("foo"));
    }

    #[test]
    fn hardware_addresses_are_local_and_differ() {
        let foo = hardware("foo");
        assert_ne!(foo.host, foo.inside);
        assert_ne!(foo, hardware("bar"));
        assert_ne!(foo.host[1..], [0; 5]);
        for address in [foo.host, foo.inside] {
            assert_eq!(address[0] & 0b11, 0b10);
        }
    }
}
