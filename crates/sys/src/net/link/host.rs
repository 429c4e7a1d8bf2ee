//! What the host has for all links together: its table and its routing rules.

use std::path::Path;

use instances_core::layout::NFT_HOST_TABLE;
use instances_core::nft::{HostLink, LINK_PREFIX, host_table};
use ipnet::{IpNet, Ipv4Net};

use super::super::nft::{self, Failure};
use super::super::policy::Listing;
use super::super::route::Route;
use super::super::{Error, namespace, sysctl};
use super::end::failed;
use super::records::Records;
use super::{ends, guard};

/// Made anew from the links that exist.
#[derive(Debug)]
pub(super) struct Host {
    /// Whose links they are, in their order.
    pub(super) names: Vec<String>,
    links: Vec<HostLink>,
    sources: Vec<IpNet>,
}

impl Host {
    /// The links that are there, and the one of `coming`.
    pub(super) fn observe(
        route: &Route,
        records: &Records,
        coming: Option<&str>,
    ) -> Result<Self, Error> {
        let present = route.links().map_err(failed("list links beside", LINK_PREFIX))?;
        let (mut names, mut links) = (Vec::new(), Vec::new());
        let mut pools: Vec<Ipv4Net> = Vec::new();
        for name in records.names() {
            let host_end = ends::host_end(name);
            let Some(ends) = records.ends(name) else { continue };
            if coming != Some(name) && !present.iter().any(|link| link.name == host_end) {
                continue;
            }
            pools.push(ends.pool);
            let addresses = ends.pairs(true).iter().map(|(pair, _)| pair.inside).collect();
            names.push(name.to_owned());
            links.push(HostLink { host_end, addresses });
        }
        pools.sort_unstable();
        pools.dedup();
        let mut sources: Vec<IpNet> = pools.into_iter().map(IpNet::V4).collect();
        if !links.is_empty() && sysctl::exists("net/ipv6/conf/all") {
            sources.push(records.ula().into());
        }
        Ok(Self { names, links, sources })
    }

    pub(super) fn guard(&self, route: &Route) -> Result<(), Error> {
        guard::ensure(route, &self.sources)
            .map_err(failed("set the routing rules for", LINK_PREFIX))
    }

    pub(super) fn load(&self, nft: &Path) -> Result<(), Error> {
        let (action, text) = if self.links.is_empty() {
            // Declared first, so that deleting it succeeds when there is none.
            ("remove", format!("table inet {NFT_HOST_TABLE}\ndelete table inet {NFT_HOST_TABLE}\n"))
        } else {
            ("load", host_table(&self.links))
        };
        nft::run(nft, &["-f", "-"], &text).map(drop).map_err(|failure| told(action, nft, failure))
    }

    /// Puts the table back where somebody removed or changed it; false where it is as it should be,
    /// with its counters.
    pub(super) fn heal(&self, nft: &Path) -> Result<bool, Error> {
        if self.links.is_empty() {
            return Ok(false);
        }
        let list = || nft::run(nft, &["-j", "list", "table", "inet", NFT_HOST_TABLE], "");
        let parse = |bytes: &[u8]| {
            Listing::parse(bytes).map_err(|source| Error::Listing { nft: nft.to_owned(), source })
        };
        let (_, expected) = namespace::fresh(|| {
            self.load(nft)?;
            parse(&list().map_err(|failure| told("list", nft, failure))?)
        })?;
        // A failure is what a missing table is.
        if let Ok(found) = list()
            && parse(&found)? == expected
        {
            return Ok(false);
        }
        self.load(nft).map(|()| true)
    }
}

fn told(action: &'static str, nft: &Path, failure: Failure) -> Error {
    match failure {
        Failure::Start(source) => Error::StartNft { nft: nft.to_owned(), source },
        Failure::Refused { status, stderr } => Error::HostTable { action, status, stderr },
    }
}
