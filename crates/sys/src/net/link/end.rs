//! One end of a link, in the namespace that it is in: both are made alike.

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::super::Error;
use super::super::route::{Link, Route};
use super::super::sysctl;
use super::ends::Pair;
use super::outside::{local, lookup};

/// What an end gets.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) route: &'a Route,
    pub(super) link: &'a Link,
    /// Its own addresses as `host`, the other end's as `inside`.
    pub(super) pairs: &'a [(Pair<IpAddr>, u8)],
    /// The other end's hardware address.
    pub(super) other: [u8; 6],
    pub(super) mtu: u32,
}

/// Nobody but us gives this interface an address or a route: no router, no link-local address.
/// Without IPv6 there is none at all on it.
pub(super) fn settle_ipv6(link: &str, v6: bool) -> Result<(), Error> {
    if !sysctl::exists("net/ipv6/conf/all") {
        return Ok(());
    }
    // addr_gen_mode 1 is "none".
    for (setting, value) in
        [("accept_ra", "0"), ("autoconf", "0"), ("accept_redirects", "0"), ("addr_gen_mode", "1")]
    {
        sysctl::ensure(&format!("net/ipv6/conf/{link}/{setting}"), value)?;
    }
    let disabled = if v6 { "0" } else { "1" };
    sysctl::ensure(&format!("net/ipv6/conf/{link}/disable_ipv6"), disabled).map(drop)
}

impl End<'_> {
    /// Gives it its addresses, and sets it up.
    pub(super) fn configure(&self) -> Result<(), Error> {
        self.remove_addresses()?;
        for (pair, prefix) in self.pairs {
            self.add_address(pair.host, *prefix)?;
        }
        self.set_up()?;
        for (pair, _) in self.pairs {
            self.add_neighbour(pair.inside)?;
        }
        for (pair, _) in self.pairs {
            // The kernel takes a new IPv6 address for its own some moments later.
            let own = || Ok(lookup(self.route, pair.host)?.as_ref().is_some_and(is_local));
            patiently(own).map_err(self.failed("see the address of"))?;
        }
        Ok(())
    }

    /// Sends everything that is not on the link to the other end.
    pub(super) fn add_default_routes(&self) -> Result<(), Error> {
        for (pair, _) in self.pairs {
            self.add_default_route(pair.inside, Some(pair.inside))?;
        }
        Ok(())
    }

    /// The default route of an address's family; without a gateway everybody would be on the link.
    pub(super) fn add_default_route(
        &self,
        like: IpAddr,
        gateway: Option<IpAddr>,
    ) -> Result<(), Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(like);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        let far = gateway.is_some() || like.is_ipv6();
        message.header.scope = if far { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(self.link.index)];
        message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        self.make(RouteNetlinkMessage::NewRoute(message), "add the default route of")
    }

    /// Removes what was there and is not wanted any more: another pool's, or somebody else's.
    pub(super) fn remove_addresses(&self) -> Result<(), Error> {
        let failed = self.failed("list the addresses of");
        for message in self.route.addresses().map_err(failed)? {
            let wanted = local(&message).is_some_and(|ip| {
                self.pairs
                    .iter()
                    .any(|(pair, prefix)| (pair.host, *prefix) == (ip, message.header.prefix_len))
            });
            if message.header.index == self.link.index && !wanted {
                let request = RouteNetlinkMessage::DelAddress(message);
                self.route.change(request, 0).map_err(self.failed("remove an address of"))?;
            }
        }
        Ok(())
    }

    pub(super) fn add_address(&self, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = prefix;
        message.header.scope = AddressScope::Universe;
        message.header.index = self.link.index;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        if ip.is_ipv6() {
            // Nobody else is on the link, so the address need not wait until nobody objects.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.make(RouteNetlinkMessage::NewAddress(message), "add an address to")
    }

    /// Tells who has the other end's address, so that nobody is asked.
    fn add_neighbour(&self, ip: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = self.link.index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            NeighbourAttribute::Destination(ip.into()),
            NeighbourAttribute::LinkLayerAddress(self.other.to_vec()),
        ];
        self.make(RouteNetlinkMessage::NewNeighbour(message), "tell the neighbour of")
    }

    pub(super) fn set_up(&self) -> Result<(), Error> {
        if self.link.up && self.link.mtu == self.mtu {
            return Ok(());
        }
        let mut message = LinkMessage::default();
        message.header.index = self.link.index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Mtu(self.mtu));
        self.route.change(RouteNetlinkMessage::SetLink(message), 0).map_err(self.failed("set up"))
    }

    /// Makes it, or changes what there is.
    fn make(&self, message: RouteNetlinkMessage, action: &'static str) -> Result<(), Error> {
        self.route.change(message, NLM_F_CREATE | NLM_F_REPLACE).map_err(self.failed(action))
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> Error {
        failed(action, &self.link.name)
    }
}

fn is_local(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local
}

/// Waits for what the kernel does some time after it was asked to. That it takes longer than two
/// seconds is no reason to fail: it will still be done.
pub(super) fn patiently(ready: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    for _ in 0..200 {
        if ready()? {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

pub(super) fn failed(action: &'static str, link: &str) -> impl Fn(io::Error) -> Error {
    let link = link.to_owned();
    move |source| Error::Link { action, link: link.clone(), source }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
