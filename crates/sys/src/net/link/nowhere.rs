//! What a namespace without a link has in its place: a way that leads nowhere.
//!
//! Without any route the kernel refuses before a rule sees the packet, and nobody is told what was
//! tried. So the default routes lead to an interface whose other end is in the same namespace, and down.
//! The rules refuse what would leave through it, and record it; without them the kernel would drop it there.
//!
//! A `dummy` would be simpler, but not every kernel has that; this kind every link is made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};

use super::super::route::Route;
use super::super::{Error, namespace, sysctl};
use super::end::{End, failed, settle_ipv6};
use super::ends::Pair;
use super::remove;

/// The end that packets are sent to, and the one that is down.
const ENDS: [&str; 2] = ["none0", "none1"];

/// Sources that nobody can answer to: the dummy addresses of RFC 7600 and RFC 9780.
const SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 1)),
];

const MTU: u32 = 1500;

/// Makes the way, or what is missing of it.
pub(in super::super) fn make(namespace: BorrowedFd<'_>) -> Result<(), Error> {
    namespace::inside(namespace, || {
        let [near, far] = ENDS;
        let route = Route::open().map_err(failed("make", near))?;
        let find = |name| route.link(name).map_err(failed("find", name));
        let whole = || {
            let (Some(near), Some(far)) = (find(near)?, find(far)?) else { return Ok(None) };
            Ok((near.peer == Some(far.index) && !far.up).then_some(near))
        };
        let link = if let Some(link) = whole()? {
            link
        } else {
            take_away(&route)?;
            let create = RouteNetlinkMessage::NewLink(pair());
            route.change(create, NLM_F_CREATE | NLM_F_EXCL).map_err(failed("make", near))?;
            let missing = || failed("find", near)(std::io::ErrorKind::NotFound.into());
            whole()?.ok_or_else(missing)?
        };
        let v6 = sysctl::exists("net/ipv6/conf/all");
        if v6 {
            // Where a refusal comes back; a link without IPv6 had it switched off for others.
            sysctl::ensure("net/ipv6/conf/lo/disable_ipv6", "0")?;
        }
        settle_ipv6(near, v6)?;
        let sources = SOURCES.into_iter().filter(|source| v6 || source.is_ipv4());
        let pairs: Vec<_> = sources
            .map(|source| {
                let prefix = if source.is_ipv4() { 32 } else { 128 };
                (Pair { host: source, inside: source }, prefix)
            })
            .collect();
        let end = End { route: &route, link: &link, pairs: &pairs, other: [0; 6], mtu: MTU };
        end.remove_addresses()?;
        for (pair, prefix) in &pairs {
            end.add_address(pair.host, *prefix)?;
        }
        end.set_up()?;
        for (pair, _) in &pairs {
            end.add_default_route(pair.host, None)?;
        }
        Ok(())
    })
}

/// Takes it away before a link comes, whose routes are others.
pub(in super::super) fn unmake(namespace: BorrowedFd<'_>) -> Result<(), Error> {
    namespace::inside(namespace, || {
        let [near, _] = ENDS;
        take_away(&Route::open().map_err(failed("remove", near))?)
    })
}

/// With one end goes the other.
fn take_away(route: &Route) -> Result<(), Error> {
    for name in ENDS {
        if let Some(link) = route.link(name).map_err(failed("find", name))? {
            remove(route, &link)?;
        }
    }
    Ok(())
}

fn pair() -> LinkMessage {
    let [near, far] = ENDS.map(|name| {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(MTU)];
        message
    });
    let mut whole = near;
    whole.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
    ]));
    whole
}
