//! The network namespace of one instance, and the policy inside it.
//!
//! Invariant: nothing is ever pinned below `/run/netns` before its policy is loaded and proven.
//! The kernel forgets an unpinned namespace together with the last process in it, so a run that is
//! killed at any step leaves either nothing usable or a namespace that refuses. A link comes after
//! the policy and goes before it.
//!
//! [`up`] always builds a fresh namespace from the rules. When there is none yet, that one is
//! pinned; otherwise it is the reference: the existing namespace gets the same text, and its listing
//! must then equal the reference's. No hash is involved, because
//! a comment survives a rule added next to it, and nft 1.0.6 does not even print it as JSON.

pub mod able;
mod error;
mod link;
mod lists;
mod look;
mod loopback;
mod namespace;
mod nft;
mod pin;
mod policy;
mod route;
mod sysctl;
mod turn;
mod watch;

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use instances_core::layout::NETNS_DIR;
use instances_core::network::Network;
use instances_core::spec::InstanceName;
use ipnet::Ipv4Net;

pub use self::error::{Error, Teardown};
use self::link::Wanted;
pub use self::look::{Addresses, Link, Look, Request, Rules, can_look, look};
use self::pin::{Pinned, Place};
use self::policy::Policy;
pub use self::sysctl::Changed;
pub use self::watch::{Reload, watch};

/// Which groups may send echo requests without privileges: a new namespace allows it to nobody.
const PING: &str = "net/ipv4/ping_group_range";

/// Which messages of its own the kernel sends no more than some of in a second, each with a value that is none of a
/// refusal. It tells a refusal by such a message, and a connection whose message is held back waits for a second.
/// Whoever is flooded with them has asked for each.
const LIMITED: [(&str, &str); 2] =
    [("net/ipv4/icmp_ratemask", "0"), ("net/ipv6/icmp/ratemask", "255")];

/// What [`up`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Up<'a> {
    /// The instance.
    pub name: &'a InstanceName,
    /// The file with the whole `table inet opencode`; root's, writable by nobody else.
    pub rules: &'a Path,
    /// The `nft` program, as an absolute path.
    pub nft: &'a Path,
    /// What the addresses of its link are taken from; without one it has no link.
    pub pool: Option<Ipv4Net>,
    /// Addresses beside the internet that it should reach: the host forwards to where they are too.
    pub destinations: &'a [IpAddr],
}

/// The steps of [`up`], each reported once it is done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The addresses of the link are recorded. Like all others about a link, only reported with one.
    Allocated,
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
    /// Routing rules refuse what the host's table has not seen.
    Guarded,
    /// The host's table is in force for the link.
    HostReady,
    /// Both ends exist; a new one is down.
    LinkMade,
    /// The host's end is up.
    HostEndUp,
    /// The inner end is up, with its routes.
    LinkUp,
    /// The kernel forwards for it.
    Forwarding,
    /// What would leave has a way to the rules that refuse it. Only reported without a link.
    NowhereMade,
}

/// What [`up`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// How it found the namespace.
    pub outcome: Outcome,
    /// Settings of the host that had to change, and stay so.
    pub changed: Vec<Changed>,
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

/// Reads what an instance may reach, as it is rendered beside the rules.
pub fn read_network(path: &Path) -> Result<Network, Error> {
    let failed = |source| Error::ReadRules { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(failed)?;
    Network::parse(&bytes).map_err(|error| failed(std::io::Error::other(error)))
}

/// Has a reload come to its end, with all that it starts, when systemd ends the unit meanwhile: one that is ended by the signal
/// would have the unit fail, which is only to stop. [`down`] takes away what the reload makes.
///
/// Nothing changes where there is no namespace yet: a start that hangs is to be ended. A signal that comes before this is called is
/// the unit's failure all the same.
///
/// # Errors
///
/// When the namespace's name cannot be looked for.
pub fn finish_reload(name: &InstanceName) -> Result<(), Error> {
    if pin::find(&Place::new(NETNS_DIR, name.as_str()))?.is_some() {
        #[expect(
            unsafe_code,
            reason = "signal-hook cannot ignore a signal, which alone is inherited"
        )]
        // SAFETY: no handler is replaced, and this thread is the only one.
        unsafe {
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
        }
    }
    Ok(())
}

/// Makes sure that the namespace `opencode-NAME` exists and holds exactly the policy in the file, and
/// that it has a link if it should have one.
///
/// Safe to repeat, and the way to reload: connections that are still allowed go on. On an error the
/// policy that was in force stays. Must run in the host's mount and network namespaces, or else the pin
/// is not seen by anybody and the link leads nowhere.
pub fn up(request: &Up<'_>, progress: &(dyn Fn(Step) + Sync)) -> Result<Done, Error> {
    let Up { name, rules, nft, pool, destinations } = *request;
    let _turn = turn::take(name)?;
    let wanted = pool.map(|pool| Wanted::new(name, pool, nft, destinations)).transpose()?;
    if wanted.is_some() {
        progress(Step::Allocated);
    }
    let more = wanted.as_ref().map(Wanted::rules).unwrap_or_default();
    let policy = Policy::read(rules, &more, nft)?;
    let (namespace, outcome) = with_policy(name, &policy, wanted.as_ref(), progress)?;
    let changed = if let Some(wanted) = &wanted {
        link::nowhere::unmake(namespace.as_fd())?;
        wanted.raise(namespace.as_fd(), progress)?
    } else {
        if let Some(error) = link::lower(name, Some(nft)).into_iter().next() {
            return Err(error);
        }
        link::nowhere::make(namespace.as_fd())?;
        progress(Step::NowhereMade);
        Vec::new()
    };
    Ok(Done { outcome, changed })
}

/// The namespace with the policy in force, made or found.
fn with_policy(
    name: &InstanceName,
    policy: &Policy,
    wanted: Option<&Wanted<'_>>,
    progress: &(dyn Fn(Step) + Sync),
) -> Result<(OwnedFd, Outcome), Error> {
    let settle = || {
        loopback::up()?;
        sysctl::ensure(PING, "0 2147483647")?;
        for (setting, none) in LIMITED {
            if sysctl::exists(setting) {
                sysctl::ensure(setting, none)?;
            }
        }
        wanted.map_or(Ok(()), Wanted::prepare)
    };
    let (fresh, expected) = namespace::fresh(|| {
        policy.load()?;
        progress(Step::Loaded);
        let listing = policy.list()?;
        policy.require_closed(&listing)?;
        progress(Step::Proven);
        settle()?;
        progress(Step::LoopbackUp);
        Ok(listing)
    })?;
    let existing = match pin::pin(&Place::new(NETNS_DIR, name.as_str()), fresh.as_fd(), progress)? {
        Pinned::Here => return Ok((fresh, Outcome::Created)),
        Pinned::Already(existing) => existing,
    };
    drop(fresh);
    let outcome = namespace::inside(existing.as_fd(), || {
        let outcome = match policy.list() {
            Ok(found) if found.same_policy(&expected) => Outcome::Same,
            Ok(_) => Outcome::Replaced,
            Err(_) => Outcome::Restored,
        };
        if outcome == Outcome::Restored {
            policy.load()?;
            policy.require_same(&expected, &policy.list()?)?;
        } else {
            policy.replace(&expected)?;
        }
        settle()?;
        progress(Step::Reloaded);
        Ok(outcome)
    })?;
    Ok((existing, outcome))
}

/// Whether the namespace of an instance has its name.
pub fn is_pinned(name: &InstanceName) -> bool {
    Path::new(NETNS_DIR).join(format!("opencode-{name}")).exists()
}

/// Takes the link of the namespace away, and then its name. Already gone is success.
///
/// The namespace itself, with its policy, lives on until the last process in it has ended. The
/// addresses of the link stay recorded. Whatever can be done is done; what could not be is reported together.
pub fn down(name: &InstanceName, nft: Option<&Path>) -> Result<(), Teardown> {
    let mut errors = link::lower(name, nft);
    if let Err(teardown) = pin::unpin(&Place::new(NETNS_DIR, name.as_str())) {
        errors.extend(teardown.errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(Teardown { errors }) }
}

/// Sees to it that the stub of an instance reaches the host's resolvers and nothing else. For the start of
/// that stub, while its user exists and before it reads anything.
pub fn confine_stub(name: &InstanceName, nft: &Path) -> Result<(), Error> {
    link::confine_stub(name, nft)
}

/// The host's own addresses that no instance may reach: all but loopback and link-local ones.
pub fn held() -> Result<Vec<IpAddr>, Error> {
    link::held()
}

/// Forgets which addresses of the pool an instance had, unless it is among `kept` or has a link still.
/// Returns who is forgotten.
pub fn forget(kept: &[&InstanceName]) -> Result<Vec<String>, Error> {
    link::forget(kept)
}
