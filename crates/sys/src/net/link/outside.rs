//! What the host is at this moment: its way to the internet, and the addresses it holds.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::iter::once;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use instances_core::nft::{LINK_PREFIX, host_address};
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::Parseable as _;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::super::route::{Link, Route};
use super::super::sysctl::{self, Changed};
use super::super::{Error, route};

/// A root name server of each family, to ask the kernel which way the internet is. Nothing is sent.
///
/// Asked like this, and not for a route called default, the kernel also says the way of a host that
/// has two halves of one, or another table for it, as VPNs do.
const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];

/// What a link has when nothing says otherwise.
const ETHERNET: u32 = 1500;

/// The one switch of kernels that have none for each link.
const ALL_V6: &str = "net/ipv6/conf/all/forwarding";

/// IPv6 does not work below.
const MTU_V6: u32 = 1280;

/// The host as a link needs to know it.
#[derive(Debug)]
pub(super) struct Outside {
    /// The interfaces that the internet is behind, by family.
    ways: [Option<Way>; 2],
    /// The interfaces that other destinations are behind, by family.
    more: [BTreeSet<String>; 2],
    /// Addresses of the host with the networks they are in, without those of links.
    addresses: Vec<IpNet>,
}

/// The interface that a destination is behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    link: String,
    mtu: u32,
}

impl Outside {
    pub(super) fn observe(route: &Route, destinations: &[IpAddr]) -> io::Result<Self> {
        let [v4, v6] = INTERNET;
        let ways = [way(route, v4)?, way(route, v6)?];
        let mut more = [BTreeSet::new(), BTreeSet::new()];
        for to in destinations {
            let [v4, v6] = &mut more;
            let links = if to.is_ipv4() { v4 } else { v6 };
            links.extend(way(route, *to)?.map(|way| way.link));
        }
        let links = route.links()?.into_iter();
        let ours = links.filter(|link| link.name.starts_with(LINK_PREFIX)).map(|link| link.index);
        let ours: HashSet<u32> = ours.collect();
        let addresses = route.addresses()?;
        let addresses = addresses.iter().filter(|address| !ours.contains(&address.header.index));
        Ok(Self { ways, more, addresses: addresses.filter_map(network).collect() })
    }

    /// Whether instances can have IPv6.
    pub(super) fn v6(&self) -> bool {
        let [_, v6] = &self.ways;
        v6.as_ref().is_some_and(|way| way.mtu >= MTU_V6)
    }

    /// The largest packet that needs no fragments on any way out.
    pub(super) fn mtu(&self) -> u32 {
        let [v4, v6] = &self.ways;
        let ways = [v4.as_ref(), v6.as_ref().filter(|_| self.v6())];
        ways.into_iter().flatten().map(|way| way.mtu).min().unwrap_or(ETHERNET)
    }

    /// What no instance may reach because the host itself is there.
    pub(super) fn held(&self) -> Vec<IpNet> {
        let held = |net: &IpNet| match net.addr() {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        let own = self.addresses.iter().filter(|net| held(net));
        let mut all: Vec<IpNet> = own.map(|net| host_address(net.addr())).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The interfaces that the internet is behind, by family.
    pub(super) fn into_ways(self) -> [Option<Way>; 2] {
        self.ways
    }

    /// Refuses a pool that the host has another use for.
    pub(super) fn require_free(&self, pool: Ipv4Net) -> Result<(), Error> {
        let pool_net = IpNet::V4(pool);
        let taken = |net: &&IpNet| net.contains(&pool_net) || pool_net.contains(*net);
        match self.addresses.iter().find(taken) {
            Some(net) => Err(Error::PoolTaken { pool, address: *net }),
            None => Ok(()),
        }
    }

    /// Every interface that answers come from, by family.
    fn links(&self) -> [BTreeSet<&str>; 2] {
        let ([v4, v6], [more4, more6]) = (&self.ways, &self.more);
        [(v4, more4), (v6, more6)].map(|(way, more)| {
            let way = way.as_ref().map(|way| way.link.as_str());
            // Loopback forwards nothing: an address of the host's own is refused anyway.
            let all = way.into_iter().chain(more.iter().map(String::as_str));
            all.filter(|link| *link != "lo" && !link.starts_with(LINK_PREFIX)).collect()
        })
    }

    /// Lets the kernel forward between the host's end of a link and the way out; says what it changed
    /// on other interfaces than the link.
    ///
    /// Only for the interfaces that need it. For IPv6 the kernel can do that since 6.17; before,
    /// there is one switch for all, and with it the host would lose the routes that routers announce,
    /// unless it is told to go on listening (`accept_ra=2`).
    pub(super) fn forward(&self, host_end: &str) -> Result<Vec<Changed>, Error> {
        let mut changed = Vec::new();
        sysctl::ensure(&forwarding(host_end), "1")?;
        let [v4, _] = self.links();
        for link in v4 {
            changed.extend(sysctl::ensure(&forwarding(link), "1")?);
            changed.extend(believe_marks(link)?);
        }
        let switches = self.switches_v6(host_end)?;
        if switches == [ALL_V6] {
            for link in sysctl::names("net/ipv6/conf")? {
                let accept = format!("net/ipv6/conf/{link}/accept_ra");
                if !link.starts_with(LINK_PREFIX) && sysctl::read(&accept)? == "1" {
                    changed.extend(sysctl::ensure(&accept, "2")?);
                }
            }
        }
        for setting in switches {
            let own = setting == force(host_end);
            changed.extend(sysctl::ensure(&setting, "1")?.filter(|_| !own));
        }
        Ok(changed)
    }

    /// What has to be 1 for IPv6 to be forwarded; nothing where the host forwards all of it, or has none.
    fn switches_v6(&self, host_end: &str) -> Result<Vec<String>, Error> {
        if !self.v6() || sysctl::read(ALL_V6)? == "1" {
            return Ok(Vec::new());
        }
        if !sysctl::exists(&force(host_end)) {
            return Ok(vec![ALL_V6.to_owned()]);
        }
        let [_, v6] = self.links();
        Ok(once(host_end).chain(v6).map(force).collect())
    }

    /// What of all that is off by now.
    pub(super) fn off(&self, host_end: &str) -> Result<Vec<String>, Error> {
        let [v4, _] = self.links();
        let mut needed: Vec<String> =
            once(host_end).chain(v4.iter().copied()).map(forwarding).collect();
        for link in v4 {
            if filters(link)? && sysctl::read(&src_valid_mark("all"))? != "1" {
                needed.push(src_valid_mark(link));
            }
        }
        needed.extend(self.switches_v6(host_end)?);
        let mut off = Vec::new();
        for setting in needed {
            if sysctl::read(&setting)? == "0" {
                off.push(setting);
            }
        }
        Ok(off)
    }
}

fn forwarding(link: &str) -> String {
    format!("net/ipv4/conf/{link}/forwarding")
}

fn force(link: &str) -> String {
    format!("net/ipv6/conf/{link}/force_forwarding")
}

fn src_valid_mark(link: &str) -> String {
    format!("net/ipv4/conf/{link}/src_valid_mark")
}

/// Whether there is a reverse path filter: the kernel takes the stricter one of both.
fn filters(link: &str) -> Result<bool, Error> {
    for link in ["all", link] {
        if sysctl::read(&format!("net/ipv4/conf/{link}/rp_filter"))? != "0" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets the reverse path filter look at marks.
///
/// It asks how an answer would go in the other direction, and that packet is refused without its
/// mark. On interfaces without `rp_filter` this changes nothing; it may get one later.
fn believe_marks(link: &str) -> Result<Option<Changed>, Error> {
    if sysctl::read(&src_valid_mark("all"))? == "1" {
        return Ok(None);
    }
    sysctl::ensure(&src_valid_mark(link), "1")
}

/// The route that a packet to this address takes; `None` when there is none, or one that refuses.
pub(super) fn lookup(route: &Route, to: IpAddr) -> io::Result<Option<RouteMessage>> {
    let mut message = RouteMessage::default();
    let v4 = to.is_ipv4();
    message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = if v4 { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(to.into()));
    let bodies = match route.ask(RouteNetlinkMessage::GetRoute(message)) {
        // Also what routes say that refuse: prohibit, blackhole. And a kernel without IPv6.
        Err(error)
            if error.raw_os_error().map(Errno::from_raw_os_error).is_some_and(|errno| {
                [
                    Errno::NETUNREACH,
                    Errno::HOSTUNREACH,
                    Errno::ACCESS,
                    Errno::INVAL,
                    Errno::AFNOSUPPORT,
                    Errno::OPNOTSUPP,
                ]
                .contains(&errno)
            }) =>
        {
            return Ok(None);
        }
        answer => answer?,
    };
    bodies.first().map(|body| RouteMessage::parse(body).map_err(route::unreadable)).transpose()
}

/// The way to an address, when it is somewhere else.
fn way(route: &Route, to: IpAddr) -> io::Result<Option<Way>> {
    let Some(found) = lookup(route, to)?.filter(|found| found.header.kind == RouteType::Unicast)
    else {
        return Ok(None);
    };
    let index = found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let Some(Link { name, mtu, .. }) =
        index.map(|index| route.link_at(index)).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let metric = found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    Ok(Some(Way { link: name, mtu: metric.map_or(mtu, |metric| metric.min(mtu)) }))
}

/// The address itself, for both kinds of links: on one between two points `IFA_ADDRESS` is the peer's.
pub(super) fn local(message: &AddressMessage) -> Option<IpAddr> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    of(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    })
    .or_else(|| {
        of(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

fn network(message: &AddressMessage) -> Option<IpNet> {
    IpNet::new(local(message)?, message.header.prefix_len).ok()
}

#[cfg(test)]
mod tests {
    use super::{Outside, Way};
    use ipnet::IpNet;

    fn outside(v4: Option<u32>, v6: Option<u32>, addresses: &[&str]) -> Outside {
        let way = |mtu: Option<u32>| mtu.map(|mtu| Way { link: "eth7".to_owned(), mtu });
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Outside { ways: [way(v4), way(v6)], more: Default::default(), addresses }
    }

    #[test]
    fn the_smallest_way_decides() {
        assert_eq!(outside(None, None, &[]).mtu(), 1500);
        assert_eq!(outside(Some(9000), None, &[]).mtu(), 9000);
        assert_eq!(outside(Some(1500), Some(1420), &[]).mtu(), 1420);
        // Too small for IPv6, which therefore is not there.
        let small = outside(Some(1500), Some(1000), &[]);
        assert_eq!((small.mtu(), small.v6()), (1500, false));
        assert!(outside(None, Some(1280), &[]).v6());
    }

    #[test]
    fn what_the_host_holds_is_each_address_alone() {
        let host = outside(
            None,
            None,
            &["127.0.0.1/8", "192.0.2.7/24", "fe80::1/64", "2001:db8::7/64", "::1/128"],
        );
        let held: Vec<String> = host.held().iter().map(IpNet::to_string).collect();
        assert_eq!(held, ["192.0.2.7/32", "2001:db8::7/128"]);
    }

    #[test]
    fn a_pool_that_is_in_use_is_refused() {
        let host = outside(None, None, &["10.1.2.3/8", "192.0.2.7/24"]);
        for (pool, free) in [
            ("10.219.0.0/16", false),
            ("192.0.0.0/16", false),
            ("192.0.2.0/28", false),
            ("172.20.0.0/16", true),
        ] {
            assert_eq!(host.require_free(pool.parse().unwrap()).is_ok(), free, "{pool}");
        }
        let message = host.require_free("10.219.0.0/16".parse().unwrap()).unwrap_err().to_string();
        assert!(message.contains("10.1.2.3/8") && message.contains("network.pool"), "{message}");
    }
}
