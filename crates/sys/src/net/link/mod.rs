//! The link of an instance: a pair of interfaces, one in its namespace and one on the host.
//!
//! Invariant: a link exists only in a namespace that holds its policy, and only while the host's table
//! and routing rules for it are in force. So everything else is made before it, and it goes first.

mod end;
mod ends;
mod guard;
mod host;
pub(super) mod nowhere;
mod outside;
mod records;
mod refresh;

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use instances_core::layout::NETWORK_ROOT;
use instances_core::nft::{LINK_PREFIX, host_addresses};
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};

use super::route::{Link, Route};
use super::sysctl::{self, Changed};
use super::{Error, Step, namespace};
use end::{End, failed};
pub(super) use ends::host_end;
use ends::{Ends, INSIDE, Pair};
use host::Host;
use outside::Outside;
use records::{Records, Store};
pub(super) use refresh::{Known, look};

/// The host's own addresses that no instance may reach.
pub(super) fn held() -> Result<Vec<IpAddr>, Error> {
    let outside = Route::open().and_then(|route| Outside::observe(&route, &[]));
    let outside = outside.map_err(failed("look at the host's addresses", "any"))?;
    Ok(outside.held().iter().map(IpNet::addr).collect())
}

/// What the link needs of the kernel's settings, and what is off of it by now: the same that a start turns on.
pub(super) fn off(host_end: &str, destinations: &[IpAddr]) -> Result<Vec<String>, Error> {
    let outside = Route::open().and_then(|route| Outside::observe(&route, destinations));
    outside.map_err(failed("look at the routes and addresses around", host_end))?.off(host_end)
}

/// A link as it should be.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    name: &'a InstanceName,
    nft: &'a Path,
    host_end: String,
    hardware: Pair<[u8; 6]>,
    outside: Outside,
    records: Records,
    ends: Ends,
}

impl<'a> Wanted<'a> {
    /// Looks at the host, and records which addresses the link has.
    pub(super) fn new(
        name: &'a InstanceName,
        pool: Ipv4Net,
        nft: &'a Path,
        destinations: &[IpAddr],
    ) -> Result<Self, Error> {
        let host_end = ends::host_end(name.as_str());
        let look = || Outside::observe(&Route::open()?, destinations);
        let outside =
            look().map_err(failed("look at the routes and addresses around", &host_end))?;
        outside.require_free(pool)?;
        let records = Store::open(Path::new(NETWORK_ROOT))?.allocate(name, pool)?;
        // Just allocated, so it has a record; the error is for a reader of this code.
        let ends = records.ends(name.as_str()).ok_or(Error::PoolTooSmall { pool })?;
        let hardware = ends::hardware(name.as_str());
        Ok(Self { name, nft, host_end, hardware, outside, records, ends })
    }

    /// What fills the sets of the policy that belong to the host.
    pub(super) fn rules(&self) -> String {
        elements(self.outside.held(), self.ends.pool, &self.records)
    }

    /// What must hold in the namespace before anything is in it that could be linked.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        if !sysctl::exists("net/ipv6/conf/all") {
            return Ok(());
        }
        let v6 = self.outside.v6();
        end::settle_ipv6("default", v6)?;
        sysctl::ensure("net/ipv6/conf/all/disable_ipv6", if v6 { "0" } else { "1" })?;
        // That was for every interface; programs may talk to themselves.
        sysctl::ensure("net/ipv6/conf/lo/disable_ipv6", "0").map(drop)
    }

    /// Makes the link, or what is missing of it. Whatever flows through it goes on flowing.
    pub(super) fn raise(
        &self,
        namespace: BorrowedFd<'_>,
        progress: &(dyn Fn(Step) + Sync),
    ) -> Result<Vec<Changed>, Error> {
        let store = Store::open(Path::new(NETWORK_ROOT))?;
        let route = Route::open().map_err(failed("make", &self.host_end))?;
        let host = Host::observe(&route, &store.read()?, Some(self.name.as_str()))?;
        host.guard(&route)?;
        progress(Step::Guarded);
        // An address that came since the policy was loaded; one that comes now waits for the lock.
        let held = Outside::observe(&route, &[]).map(|now| now.held());
        let held = held.map_err(failed("look at the addresses around", &self.host_end))?;
        if held != self.outside.held() {
            let text = elements(held, self.ends.pool, &self.records);
            refresh::fill(self.nft, self.name.as_str(), namespace, &text)?;
        }
        host.load(self.nft)?;
        progress(Step::HostReady);
        let link = self.pair(&route, namespace)?;
        progress(Step::LinkMade);
        let v6 = self.outside.v6();
        end::settle_ipv6(&self.host_end, v6)?;
        let (mtu, pairs) = (self.outside.mtu(), self.ends.pairs(v6));
        let other = self.hardware.inside;
        End { route: &route, link: &link, pairs: &pairs, other, mtu }.configure()?;
        progress(Step::HostEndUp);
        namespace::inside(namespace, || self.configure_inside(v6, mtu))?;
        // Until then the first packets would be lost.
        end::patiently(|| Ok(route.link(&self.host_end)?.is_some_and(|link| link.running)))
            .map_err(failed("find", &self.host_end))?;
        progress(Step::LinkUp);
        let changed = self.outside.forward(&self.host_end)?;
        progress(Step::Forwarding);
        Ok(changed)
    }

    fn configure_inside(&self, v6: bool, mtu: u32) -> Result<(), Error> {
        let route = Route::open().map_err(failed("configure", INSIDE))?;
        let link = route.link(INSIDE).map_err(failed("find", INSIDE))?.unwrap_or_default();
        end::settle_ipv6(INSIDE, v6)?;
        let pairs: Vec<_> =
            self.ends.pairs(v6).into_iter().map(|(pair, prefix)| (pair.turned(), prefix)).collect();
        let end = End { route: &route, link: &link, pairs: &pairs, other: self.hardware.host, mtu };
        end.configure()?;
        end.add_default_routes()?;
        if v6 { Ok(()) } else { require_no_ipv6(&route, &link) }
    }

    /// The host's end of the pair whose other end is in the namespace.
    fn pair(&self, route: &Route, namespace: BorrowedFd<'_>) -> Result<Link, Error> {
        let find = || route.link(&self.host_end).map_err(failed("find", &self.host_end));
        let inner = namespace::inside(namespace, || {
            let route = Route::open().map_err(failed("find", INSIDE))?;
            route.link(INSIDE).map_err(failed("find", INSIDE))
        })?;
        if let Some(link) = find()? {
            require_own(&link, self.hardware.host)?;
            if let Some(inner) = &inner
                && inner.hardware == self.hardware.inside
                && (inner.peer, link.peer) == (Some(link.index), Some(inner.index))
            {
                return Ok(link);
            }
            // Its other end is in a namespace that nobody can name any more.
            remove(route, &link)?;
        }
        if inner.is_some_and(|inner| inner.hardware != self.hardware.inside) {
            return Err(Error::ForeignLink {
                link: INSIDE.to_owned(),
                place: "in the namespace",
                remedy: format!("ip -n opencode-{} link delete {INSIDE}", self.name),
            });
        }
        let create = RouteNetlinkMessage::NewLink(self.veth(namespace));
        route.change(create, NLM_F_CREATE | NLM_F_EXCL).map_err(failed("make", &self.host_end))?;
        find()?.ok_or_else(|| failed("find", &self.host_end)(std::io::ErrorKind::NotFound.into()))
    }

    /// Both ends at once, each where it belongs: the inner one is never on the host.
    fn veth(&self, namespace: BorrowedFd<'_>) -> LinkMessage {
        let mtu = LinkAttribute::Mtu(self.outside.mtu());
        let mut inner = LinkMessage::default();
        inner.attributes = vec![
            LinkAttribute::IfName(INSIDE.to_owned()),
            LinkAttribute::Address(self.hardware.inside.to_vec()),
            mtu.clone(),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ];
        let mut outer = LinkMessage::default();
        outer.attributes = vec![
            LinkAttribute::IfName(self.host_end.clone()),
            LinkAttribute::Address(self.hardware.host.to_vec()),
            mtu,
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        outer
    }
}

/// What is there of a link, for whoever only looks.
#[derive(Debug)]
pub(super) struct Standing {
    /// The link, while both ends are there.
    pub(super) link: Option<super::Link>,
    /// What [`Wanted::rules`] would say by now; nothing for an instance that never had a link.
    pub(super) held: Option<String>,
}

/// Looks at a link from both sides. Makes no record.
pub(super) fn standing(name: &InstanceName, namespace: BorrowedFd<'_>) -> Result<Standing, Error> {
    let nothing = Standing { link: None, held: None };
    if !Path::new(NETWORK_ROOT).exists() {
        return Ok(nothing);
    }
    let host_end = ends::host_end(name.as_str());
    let records = Store::open(Path::new(NETWORK_ROOT))?.read()?;
    let Some(ends) = records.ends(name.as_str()) else { return Ok(nothing) };
    let failed = || failed("look at", &host_end);
    let route = Route::open().map_err(failed())?;
    let mut held = Outside::observe(&route, &[]).map_err(failed())?.held();
    held.push(ends.pool.into());
    held.push(records.ula().into());
    let present = route.link(&host_end).map_err(failed())?.is_some();
    let inside = namespace::inside(namespace, || {
        let route = Route::open().map_err(failed())?;
        route.addresses().map_err(failed())
    })?;
    let inside: Vec<IpAddr> = inside.iter().filter_map(outside::local).collect();
    let pairs = ends.pairs(true).into_iter().map(|(pair, _)| pair);
    let addresses: Vec<_> = pairs
        .filter(|pair| inside.contains(&pair.inside))
        .map(|pair| super::Addresses { host: pair.host, inside: pair.inside })
        .collect();
    let link = (present && !addresses.is_empty()).then(|| super::Link {
        host_end: host_end.clone(),
        inside: INSIDE,
        addresses,
    });
    Ok(Standing { link, held: Some(host_addresses(&held)) })
}

/// Sees to it that the stub of an instance, which is about to start, reaches the host's resolvers alone.
pub(super) fn confine_stub(name: &InstanceName, nft: &Path) -> Result<(), Error> {
    // Under the lock under which the table is made: nobody who did not see this user makes it later.
    let store = Store::open(Path::new(NETWORK_ROOT))?;
    let Some(user) = host::stub_user(name)? else {
        let user = Names(name).dns_user();
        return Err(Error::NoStub { name: name.to_string(), user });
    };
    let route = Route::open().map_err(failed("look at", LINK_PREFIX))?;
    let host = Host::observe(&route, &store.read()?, None)?;
    if !host.names.iter().any(|linked| linked == name.as_str()) {
        // Without links there is no table to add it to.
        return Err(Error::NoLink { name: name.to_string() });
    }
    host.confine(nft, user)
}

/// Takes the link away, and what only it needed. Without `nft` the host's table keeps its address,
/// which nobody can send from any more. Everything is tried; the errors are returned together.
pub(super) fn lower(name: &InstanceName, nft: Option<&Path>) -> Vec<Error> {
    let host_end = ends::host_end(name.as_str());
    let directory = Path::new(NETWORK_ROOT);
    let mut errors = Vec::new();
    let mut attempt = |result: Result<(), Error>| errors.extend(result.err());
    let route = match Route::open() {
        Ok(route) => route,
        Err(source) => return vec![failed("remove", &host_end)(source)],
    };
    // Where there is none, there never was a link.
    let store = directory.exists().then(|| Store::open(directory));
    attempt(remove_own(&route, &host_end, ends::hardware(name.as_str()).host));
    match store {
        None => {}
        Some(Err(error)) => attempt(Err(error)),
        Some(Ok(store)) => match store.read().and_then(|read| Host::observe(&route, &read, None)) {
            Err(error) => attempt(Err(error)),
            Ok(host) => {
                if let Some(nft) = nft {
                    attempt(host.load(nft).map(drop));
                }
                attempt(host.guard(&route));
            }
        },
    }
    errors
}

fn remove_own(route: &Route, host_end: &str, hardware: [u8; 6]) -> Result<(), Error> {
    match route.link(host_end).map_err(failed("find", host_end))? {
        None => Ok(()),
        Some(link) => require_own(&link, hardware).and_then(|()| remove(route, &link)),
    }
}

fn remove(route: &Route, link: &Link) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    match route.change(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Ok(())
        }
        done => done.map_err(failed("remove", &link.name)),
    }
}

fn require_own(link: &Link, hardware: [u8; 6]) -> Result<(), Error> {
    if link.hardware == hardware {
        return Ok(());
    }
    let remedy = format!("ip link delete {}", link.name);
    Err(Error::ForeignLink { link: link.name.clone(), place: "on the host", remedy })
}

fn require_no_ipv6(route: &Route, link: &Link) -> Result<(), Error> {
    let addresses = route.addresses().map_err(failed("list the addresses of", INSIDE))?;
    let left = addresses.iter().filter(|address| address.header.index == link.index);
    match left.filter_map(outside::local).find(IpAddr::is_ipv6) {
        Some(address) => Err(Error::Ipv6Left { address }),
        None => Ok(()),
    }
}

/// What fills the sets of a policy that belong to the host.
fn elements(mut held: Vec<IpNet>, pool: Ipv4Net, records: &Records) -> String {
    held.push(pool.into());
    held.push(records.ula().into());
    host_addresses(&held)
}

/// Forgets the places of everybody who is neither among `kept` nor linked, and returns whom.
pub(super) fn forget(kept: &[&InstanceName]) -> Result<Vec<String>, Error> {
    let directory = Path::new(NETWORK_ROOT);
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let store = Store::open(directory)?;
    let route = Route::open().map_err(failed("list links beside", LINK_PREFIX))?;
    let present = route.links().map_err(failed("list links beside", LINK_PREFIX))?;
    store.forget(|name| {
        let end = ends::host_end(name);
        kept.iter().all(|one| one.as_str() != name) && present.iter().all(|link| link.name != end)
    })
}
