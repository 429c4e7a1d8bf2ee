//! What the host has for all links together: its table and its routing rules.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use instances_core::layout::NFT_HOST_TABLE;
use instances_core::nft::{
    HostLink, INNER_SETS, LINK_PREFIX, LINK_SETS, STUB_SETS, Stubs, dormant, end_masquerade,
    host_elements, host_table, one_stub, remove, wake,
};
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use ipnet::{IpNet, Ipv4Net};

use super::super::nft::{self, Failure};
use super::super::policy::Listing;
use super::super::route::Route;
use super::super::{Error, namespace, sysctl};
use super::end::failed;
use super::records::Records;
use super::{ends, guard};
use crate::dns::resolvers;
use crate::userdb;

/// Made anew from the links that exist.
#[derive(Debug)]
pub(super) struct Host {
    /// Whose links they are, in their order.
    pub(super) names: Vec<String>,
    links: Vec<HostLink>,
    /// The addresses inside of all that are recorded in the pools of these links: the kernel may still translate
    /// answers to one that has no link any more.
    inner: Vec<IpAddr>,
    sources: Vec<IpNet>,
    /// Whose stubs may run, with a link or without.
    recorded: Vec<String>,
    pub(super) resolvers: Vec<IpAddr>,
}

/// How the host's table was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    AsItShouldBe,
    /// Another stub runs, the host has other resolvers, or a record came or went.
    Outdated,
    /// Somebody removed or changed it.
    Other,
}

impl Host {
    /// The links that are there, and the one of `coming`.
    pub(super) fn observe(
        route: &Route,
        records: &Records,
        coming: Option<&str>,
    ) -> Result<Self, Error> {
        let present = route.links().map_err(failed("list links beside", LINK_PREFIX))?;
        let present: HashSet<String> = present.into_iter().map(|link| link.name).collect();
        let (mut names, mut links, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let mut pools: Vec<Ipv4Net> = Vec::new();
        for name in records.names() {
            let host_end = ends::host_end(name);
            let Some(ends) = records.ends(name) else { continue };
            let addresses =
                ends.pairs(true).iter().map(|(pair, _)| pair.inside).collect::<Vec<_>>();
            all.push((ends.pool, addresses.clone()));
            if coming != Some(name) && !present.contains(&host_end) {
                continue;
            }
            pools.push(ends.pool);
            names.push(name.to_owned());
            links.push(HostLink { host_end, addresses });
        }
        pools.sort_unstable();
        pools.dedup();
        let in_use = all.into_iter().filter(|(pool, _)| pools.contains(pool));
        let inner = in_use.flat_map(|(_, addresses)| addresses).collect();
        let mut sources: Vec<IpNet> = pools.into_iter().map(IpNet::V4).collect();
        if !links.is_empty() && sysctl::exists("net/ipv6/conf/all") {
            sources.push(records.ula().into());
        }
        let recorded = records.names().map(str::to_owned).collect();
        Ok(Self { names, links, inner, sources, recorded, resolvers: resolvers::all() })
    }

    pub(super) fn guard(&self, route: &Route) -> Result<(), Error> {
        guard::ensure(route, &self.sources)
            .map_err(failed("set the routing rules for", LINK_PREFIX))
    }

    /// Loads the table, or takes it away where there is no link. One that is as it should be is not touched,
    /// and keeps its counters.
    pub(super) fn load(&self, nft: &Path) -> Result<Found, Error> {
        let run = |action, arguments: &[&str], text: &str| {
            nft::run(nft, arguments, text).map_err(|failure| told(action, nft, failure))
        };
        let pass = |text: &str| run("load", &["-f", "-"], text).map(drop);
        let list = |table: &str| {
            let bytes = run("list", &["-j", "list", "table", "inet", table], "")?;
            Listing::parse(&bytes).map_err(|source| Error::Listing { nft: nft.to_owned(), source })
        };
        if self.links.is_empty() {
            nft::tidy(nft, NFT_HOST_TABLE, &pass)?;
            // First it translates no late answers any more, and then it drops none. It may be gone already.
            let _ = nft::run(nft, &["-f", "-"], &end_masquerade());
            nft::withdraw(NFT_HOST_TABLE, &|text| run("remove", &["-f", "-"], text).map(drop))?;
            return Ok(Found::AsItShouldBe);
        }
        let stubs = self.stubs()?;
        let text = host_table(&self.links, &self.inner, &stubs);
        // A failure is what a missing table is.
        let Ok(found) = list(NFT_HOST_TABLE) else {
            // Asleep first: it would translate late answers before it drops them.
            let asleep = wake(NFT_HOST_TABLE) + &dormant(&text, NFT_HOST_TABLE, NFT_HOST_TABLE);
            pass(&(asleep + &remove(&nft::next(NFT_HOST_TABLE))))?;
            pass(&wake(NFT_HOST_TABLE))?;
            return Ok(Found::Other);
        };
        let (_, expected) = namespace::fresh(|| {
            pass(&text)?;
            list(NFT_HOST_TABLE)
        })?;
        if found == expected {
            nft::tidy(nft, NFT_HOST_TABLE, &pass)?;
            return Ok(Found::AsItShouldBe);
        }
        let apart = |sets: &[&str]| found.without(sets) == expected.without(sets);
        let follow = [&INNER_SETS[..], &STUB_SETS].concat();
        let was = if apart(&follow) { Found::Outdated } else { Found::Other };
        // Mostly a link has come: its sets have too little, and nothing that is in force need be replaced.
        if apart(&[&LINK_SETS[..], &follow].concat()) {
            pass(&host_elements(&self.links, &self.inner, &stubs))?;
            if list(NFT_HOST_TABLE)? == expected {
                nft::tidy(nft, NFT_HOST_TABLE, &pass)?;
                return Ok(was);
            }
        }
        nft::replace(NFT_HOST_TABLE, &text, &pass, &|next| {
            let same = list(next)?.renamed(next, NFT_HOST_TABLE) == expected;
            if same { Ok(()) } else { Err(Error::OtherHostTable) }
        })?;
        Ok(was)
    }

    fn stubs(&self) -> Result<Stubs, Error> {
        let users = stub_users(self.recorded.iter().map(String::as_str))?;
        Ok(Stubs { users, resolvers: self.resolvers.clone() })
    }

    /// Adds one stub to those that the table confines; loads all of it where that is not possible.
    pub(super) fn confine(&self, nft: &Path, user: u32) -> Result<(), Error> {
        match nft::run(nft, &["-f", "-"], &one_stub(user)) {
            Ok(_) => Ok(()),
            Err(_) => self.load(nft).map(drop),
        }
    }

    /// Puts the table back where it is not as it should be.
    pub(super) fn heal(&self, nft: &Path) -> Result<Found, Error> {
        if self.links.is_empty() { Ok(Found::AsItShouldBe) } else { self.load(nft) }
    }
}

/// The users of the stubs of these instances, while those start or run.
fn stub_users<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<u32>, Error> {
    let users = userdb::dynamic_users(Path::new(userdb::SOCKET)).map_err(Error::Users)?;
    let users: HashMap<String, u32> = users.into_iter().collect();
    let names = names.filter_map(|name| InstanceName::new(name).ok());
    Ok(names.filter_map(|name| users.get(&Names(&name).dns_user()).copied()).collect())
}

/// The user of one stub.
pub(super) fn stub_user(name: &InstanceName) -> Result<Option<u32>, Error> {
    userdb::dynamic_user(Path::new(userdb::SOCKET), &Names(name).dns_user()).map_err(Error::Users)
}

fn told(action: &'static str, nft: &Path, failure: Failure) -> Error {
    match failure {
        Failure::Start(source) => Error::StartNft { nft: nft.to_owned(), source },
        Failure::Refused { status, stderr } => Error::HostTable { action, status, stderr },
    }
}
