//! Addresses that are no place on the internet: what the policy `internet` refuses.
//!
//! The ranges are data, each with its reason. Sources: the IANA registries of special-purpose
//! addresses (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>), of multicast addresses, and of the
//! IPv6 address space, which delegates `2000::/3` alone; and the documents of clouds, whose
//! metadata services hand out keys.
//!
//! Where IANA calls a small part of a range globally reachable (anycast addresses of protocols in
//! `192.0.0.0/24` and `2001::/23`), the whole range is refused all the same: no agent needs them. What
//! IANA lists as globally reachable outside such a range (AS112, AMT) is not special here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use Class::{Delicate, Nowhere, Plain};

/// What listing a range would mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No place that a namespace could reach, or should: never listed.
    Nowhere,
    /// Listed by somebody who knows what it opens.
    Delicate,
    /// Somebody's own network, or nobody's.
    Plain,
}

/// A range and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// The range.
    pub net: IpNet,
    /// What listing it would mean.
    pub class: Class,
    /// What it is for, as in `this opens WHAT`.
    pub what: &'static str,
}

macro_rules! v4 {
    ($a:literal $b:literal $c:literal $d:literal / $len:literal) => {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new($a, $b, $c, $d), $len))
    };
}

macro_rules! v6 {
    ($a:literal $b:literal $c:literal $d:literal $e:literal $f:literal / $len:literal) => {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new($a, $b, $c, $d, $e, $f, 0, 0), $len))
    };
}

/// Addresses of clouds' metadata services that lie outside every other range.
const AZURE: &str = "Azure's metadata and platform service";

/// Every range, IPv4 first. They may be nested: the more specific one says more.
pub const SPECIAL: &[Special] = &[
    Special { net: v4!(0 0 0 0 / 8), class: Nowhere, what: "this network" },
    Special { net: v4!(10 0 0 0 / 8), class: Plain, what: "private networks" },
    Special {
        net: v4!(100 64 0 0 / 10),
        class: Delicate,
        what: "the network behind a carrier's NAT",
    },
    Special {
        net: v4!(100 100 100 200 / 32),
        class: Delicate,
        what: "Alibaba Cloud's metadata service",
    },
    Special { net: v4!(127 0 0 0 / 8), class: Nowhere, what: "loopback" },
    Special { net: v4!(168 63 129 16 / 32), class: Delicate, what: AZURE },
    Special { net: v4!(169 254 0 0 / 16), class: Nowhere, what: "link-local addresses" },
    Special {
        net: v4!(169 254 169 254 / 32),
        class: Delicate,
        what: "the metadata service of most clouds",
    },
    Special { net: v4!(172 16 0 0 / 12), class: Plain, what: "private networks" },
    Special { net: v4!(192 0 0 0 / 24), class: Delicate, what: "addresses of protocols" },
    Special {
        net: v4!(192 0 0 192 / 32),
        class: Delicate,
        what: "Oracle Cloud's metadata service",
    },
    Special { net: v4!(192 0 2 0 / 24), class: Plain, what: "documentation" },
    Special { net: v4!(192 88 99 0 / 24), class: Delicate, what: "relays to 6to4" },
    Special { net: v4!(192 168 0 0 / 16), class: Plain, what: "private networks" },
    Special { net: v4!(198 18 0 0 / 15), class: Delicate, what: "benchmarks of networks" },
    Special { net: v4!(198 51 100 0 / 24), class: Plain, what: "documentation" },
    Special { net: v4!(203 0 113 0 / 24), class: Plain, what: "documentation" },
    Special { net: v4!(224 0 0 0 / 4), class: Nowhere, what: "multicast" },
    Special { net: v4!(240 0 0 0 / 4), class: Delicate, what: "reserved addresses" },
    Special { net: v4!(255 255 255 255 / 32), class: Nowhere, what: "broadcast" },
    // `::/3` holds the unspecified address, loopback and every form that carries an IPv4 address.
    Special {
        net: v6!(0 0 0 0 0 0 / 3),
        class: Delicate,
        what: "addresses that nobody is delegated",
    },
    Special {
        net: v6!(0 0 0 0 0 0 / 96),
        class: Nowhere,
        what: "loopback and IPv4-compatible addresses",
    },
    Special {
        net: v6!(0 0 0 0 0 0xffff / 96),
        class: Nowhere,
        what: "IPv4 addresses in IPv6 form",
    },
    Special {
        net: v6!(0x64 0xff9b 0 0 0 0 / 96),
        class: Delicate,
        what: "IPv4 addresses through NAT64",
    },
    Special {
        net: v6!(0x64 0xff9b 1 0 0 0 / 48),
        class: Delicate,
        what: "IPv4 addresses through a local NAT64",
    },
    Special { net: v6!(0x100 0 0 0 0 0 / 64), class: Delicate, what: "the discard prefix" },
    Special { net: v6!(0x2001 0 0 0 0 0 / 23), class: Delicate, what: "addresses of protocols" },
    Special {
        net: v6!(0x2001 0 0 0 0 0 / 32),
        class: Delicate,
        what: "IPv4 addresses through Teredo",
    },
    Special { net: v6!(0x2001 0xdb8 0 0 0 0 / 32), class: Plain, what: "documentation" },
    Special {
        net: v6!(0x2002 0 0 0 0 0 / 16),
        class: Delicate,
        what: "IPv4 addresses through 6to4",
    },
    Special { net: v6!(0x3fff 0 0 0 0 0 / 20), class: Plain, what: "documentation" },
    Special {
        net: v6!(0x4000 0 0 0 0 0 / 2),
        class: Delicate,
        what: "addresses that nobody is delegated",
    },
    Special { net: v6!(0x5f00 0 0 0 0 0 / 16), class: Delicate, what: "segment routing" },
    Special {
        net: v6!(0x8000 0 0 0 0 0 / 1),
        class: Delicate,
        what: "addresses that nobody is delegated",
    },
    Special { net: v6!(0xfc00 0 0 0 0 0 / 7), class: Plain, what: "private networks" },
    Special {
        net: v6!(0xfd00 0xec2 0 0 0 0 / 32),
        class: Delicate,
        what: "Amazon's metadata service",
    },
    Special {
        net: v6!(0xfd20 0xce 0 0 0 0 / 32),
        class: Delicate,
        what: "Google Cloud's metadata service",
    },
    Special { net: v6!(0xfe80 0 0 0 0 0 / 10), class: Nowhere, what: "link-local addresses" },
    Special { net: v6!(0xfec0 0 0 0 0 0 / 10), class: Plain, what: "private networks" },
    Special { net: v6!(0xff00 0 0 0 0 0 / 8), class: Nowhere, what: "multicast" },
];

/// Whether an address is one of a host on the internet.
///
/// An IPv4 address in IPv6's mapped form is judged as what a socket makes of it: the IPv4 address.
pub fn globally_routable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !SPECIAL.iter().any(|special| special.net.contains(&ip))
}

/// The most specific range that holds the whole of `net`.
pub fn of(net: &IpNet) -> Option<&'static Special> {
    let holding = SPECIAL.iter().filter(|special| special.net.contains(net));
    holding.max_by_key(|special| special.net.prefix_len())
}

/// The ranges that `net` holds, wholly; not those that hold it.
pub fn within(net: &IpNet) -> impl Iterator<Item = &'static Special> {
    SPECIAL.iter().filter(move |special| net.contains(&special.net) && special.net != *net)
}

#[cfg(test)]
mod tests {
    use super::{SPECIAL, globally_routable, of};

    #[test]
    fn every_range_is_written_as_its_network() {
        for special in SPECIAL {
            assert_eq!(special.net, special.net.trunc(), "{special:?}");
        }
    }

    #[test]
    fn knows_the_internet_from_everything_else() {
        let routable = |text: &str| globally_routable(text.parse().unwrap());
        for open in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.15",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.31.196.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2000::",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2003::1",
            "2620:4f:8000::1",
            "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(routable(open), "{open}");
        }
        for closed in [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.251",
            "239.255.255.250",
            "255.255.255.255",
            "::",
            "::1",
            "::1.1.1.1",
            "::ffff:10.0.0.1",
            "::ffff:0:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "9000::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!routable(closed), "{closed}");
        }
    }

    #[test]
    fn the_most_specific_range_speaks() {
        let what = |text: &str| of(&text.parse().unwrap()).map(|special| special.what);
        assert_eq!(what("169.254.169.254/32"), Some("the metadata service of most clouds"));
        assert_eq!(what("169.254.0.0/16"), Some("link-local addresses"));
        assert_eq!(what("::1/128"), Some("loopback and IPv4-compatible addresses"));
        assert_eq!(what("0.0.0.0/0"), None);
        assert_eq!(what("8.8.8.0/24"), None);
    }
}
