//! What changes around links while they are there: the host's addresses, the rules that other programs
//! remove, the way out, the host's resolvers.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use instances_core::layout::{NETNS_DIR, NETWORK_ROOT, NFT_TABLE};
use instances_core::nft::{LINK_PREFIX, wake};
use ipnet::IpNet;

use super::super::nft::{self, Failure};
use super::super::pin::{self, Place};
use super::super::route::Route;
use super::super::{Error, namespace};
use super::elements;
use super::end::failed;
use super::host::{Found, Host};
use super::outside::{Outside, Way};
use super::records::Store;

/// What the last look has brought everywhere.
#[derive(Debug, Default)]
pub(in super::super) struct Known {
    held: Option<Vec<IpNet>>,
    ways: Option<[Option<Way>; 2]>,
    resolvers: Option<Vec<IpAddr>>,
}

/// What a look found, and therefore did.
#[derive(Debug, Default)]
pub(in super::super) struct Look {
    /// The host's table was not as it should be, and is again.
    pub(in super::super) healed: bool,
    /// The host has other resolvers, and the stubs may ask those now.
    pub(in super::super) resolvers: Option<Vec<IpAddr>>,
    /// In how many namespaces the host's addresses were brought up to date.
    pub(in super::super) filled: usize,
    /// Whose links are there.
    pub(in super::super) links: Vec<String>,
    /// Whether they were made for another way out than there is now.
    pub(in super::super) outdated: bool,
    /// What could not be done. The rest was.
    pub(in super::super) errors: Vec<Error>,
}

/// Compares the host with what is known of it, and brings the difference everywhere. With `table` the
/// host's table too is compared with what it should be.
///
/// Under the lock under which links are made: one that comes meanwhile looks for itself after it.
pub(in super::super) fn look(nft: &Path, known: &mut Known, table: bool) -> Result<Look, Error> {
    let around = failed("look at what is around", LINK_PREFIX);
    let store = Store::open(Path::new(NETWORK_ROOT))?;
    let records = store.read()?;
    let route = Route::open().map_err(&around)?;
    let outside = Outside::observe(&route, &[]).map_err(&around)?;
    let host = Host::observe(&route, &records, None)?;
    let mut look = Look::default();
    // Somebody may have flushed these too.
    look.errors.extend(host.guard(&route).err());
    let resolvers = &host.resolvers;
    let other = known.resolvers.as_ref().is_some_and(|known| known != resolvers);
    if table || other {
        match host.heal(nft) {
            Ok(found) => {
                look.healed = found == Found::Other;
                look.resolvers = other.then(|| resolvers.clone());
                known.resolvers = Some(resolvers.clone());
            }
            Err(error) => look.errors.push(error),
        }
    }
    let held = outside.held();
    if known.held.as_ref() != Some(&held) {
        for name in &host.names {
            let Some(ends) = records.ends(name) else { continue };
            let text = elements(held.clone(), ends.pool, &records);
            match fill_named(nft, name, &text) {
                Ok(filled) => look.filled += usize::from(filled),
                Err(error) => look.errors.push(error),
            }
        }
        known.held = Some(held).filter(|_| look.errors.is_empty());
    }
    let ways = outside.into_ways();
    if known.ways.as_ref() != Some(&ways) {
        look.outdated = true;
        known.ways = Some(ways);
    }
    look.links = host.names;
    Ok(look)
}

/// False where there is no such namespace any more.
fn fill_named(nft: &Path, name: &str, text: &str) -> Result<bool, Error> {
    match pin::find(&Place::new(NETNS_DIR, name))? {
        Some(namespace) => fill(nft, name, namespace.as_fd(), text).map(|()| true),
        None => Ok(false),
    }
}

/// Fills the sets of a policy that belong to the host, in one transaction.
pub(super) fn fill(
    nft: &Path,
    name: &str,
    namespace: BorrowedFd<'_>,
    text: &str,
) -> Result<(), Error> {
    namespace::inside(namespace, || {
        // A killed run may have left the table asleep, beside one that is not filled.
        let text = wake(NFT_TABLE) + text;
        nft::run(nft, &["-f", "-"], &text).map(drop).map_err(|failure| match failure {
            Failure::Start(source) => Error::StartNft { nft: nft.to_owned(), source },
            Failure::Refused { status, stderr } => {
                Error::HostSets { name: name.to_owned(), status, stderr }
            }
        })
    })
}
