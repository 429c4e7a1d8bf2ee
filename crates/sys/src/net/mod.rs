//! The network namespace of one instance, and the policy inside it.
//!
//! Invariant: nothing is ever pinned below `/run/netns` before its policy is loaded and proven.
//! The kernel forgets an unpinned namespace together with the last process in it, so a run that is
//! killed at any step leaves either nothing usable or a namespace that refuses.
//!
//! [`up`] always builds a fresh namespace from the rules. When there is none yet, that one is
//! pinned; otherwise it is the reference: the existing namespace gets the same text in one
//! transaction, and its listing must then equal the reference's. No hash is involved, because
//! a comment survives a rule added next to it, and nft 1.0.6 does not even print it as JSON.

mod error;
mod loopback;
mod namespace;
mod pin;
mod policy;

use std::os::fd::AsFd as _;
use std::path::Path;

use instances_core::layout::NETNS_DIR;
use instances_core::spec::InstanceName;

pub use self::error::{Error, Teardown};
use self::pin::{Pinned, Place};
use self::policy::Policy;

/// What [`up`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Up<'a> {
    /// The instance.
    pub name: &'a InstanceName,
    /// The file with the whole `table inet opencode`; root's, writable by nobody else.
    pub rules: &'a Path,
    /// The `nft` program, as an absolute path.
    pub nft: &'a Path,
}

/// The steps of [`up`], each reported once it is done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A fresh namespace holds the policy.
    Loaded,
    /// What was loaded closes every hook.
    Proven,
    /// Loopback works in the fresh namespace.
    LoopbackUp,
    /// `/run/netns` passes mounts on to other mount namespaces.
    Shared,
    /// The empty file for the pin exists. Not reported when there is a namespace already.
    PlaceMade,
    /// The namespace has its name. Not reported when there is a namespace already.
    Pinned,
    /// The namespace that was there already has the policy again.
    Reloaded,
}

/// What [`up`] found, and therefore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no namespace; now there is.
    Created,
    /// There was one with this very policy; it was loaded again all the same.
    Same,
    /// There was one with another policy in it: the rules changed, or somebody changed the table.
    Replaced,
    /// There was one without any table of ours: somebody removed it.
    Restored,
}

/// Makes sure that the namespace `opencode-NAME` exists and holds exactly the policy in the file.
///
/// Safe to repeat, and the way to reload. On an error the policy that was in force stays.
/// Must run in the host's mount namespace, or else the pin is not seen by anybody.
pub fn up(request: &Up<'_>, progress: &(dyn Fn(Step) + Sync)) -> Result<Outcome, Error> {
    let policy = Policy::read(request.rules, request.nft)?;
    let (fresh, expected) = namespace::fresh(|| {
        policy.load()?;
        progress(Step::Loaded);
        let listing = policy.list()?;
        policy.require_closed(&listing)?;
        progress(Step::Proven);
        loopback::up()?;
        progress(Step::LoopbackUp);
        Ok(listing)
    })?;
    let existing =
        match pin::pin(&Place::new(NETNS_DIR, request.name.as_str()), fresh.as_fd(), progress)? {
            Pinned::Here => return Ok(Outcome::Created),
            Pinned::Already(existing) => existing,
        };
    drop(fresh);
    namespace::inside(existing.as_fd(), || {
        let outcome = match policy.list() {
            Ok(found) if found == expected => Outcome::Same,
            Ok(_) => Outcome::Replaced,
            Err(_) => Outcome::Restored,
        };
        policy.load()?;
        policy.require_same(&expected, &policy.list()?)?;
        loopback::up()?;
        progress(Step::Reloaded);
        Ok(outcome)
    })
}

/// Takes the name of the namespace away. Already gone is success.
///
/// The namespace itself, with its policy, lives on until the last process in it has ended.
/// Whatever can be done is done; what could not be is reported together.
pub fn down(name: &InstanceName) -> Result<(), Teardown> {
    pin::unpin(&Place::new(NETNS_DIR, name.as_str()))
}
