//! The DNS stub of an instance: asked inside its namespace, at sockets that systemd made there, and
//! asking the host's resolvers from the host's.
//!
//! It is the one process that reads the agent's bytes with the host's network. So it has no
//! capability, one thread, and a bound for everything that a client can make it hold; and nothing is
//! passed on as it came. Questions are judged alone (`rules.rs`): where only listed names may be
//! resolved, another name reaches no resolver, because a question is itself a way out. Aliases in an
//! answer may lead anywhere, which the resolver has then already followed; addresses in it that the
//! policy could never allow are taken out.
//!
//! Messages are read and made with the `domain` crate of `NLnet` Labs, who also make Unbound. It
//! reads messages in place, without a runtime, a random source or a table of Unicode, and brings five small
//! crates; `hickory-proto` brings some forty, most of them for names in other scripts, and builds the
//! whole message on the heap first. `domain` has unsafe code of its own, for names that were checked
//! before.
//!
//! There is no cache, because the host's resolver has one, and no DNSSEC: `AD` is never set, and
//! signatures are not asked for. Letters are not mixed in case against forged answers: a random
//! port, a random identifier and a connected socket stand against those, and the resolver is mostly
//! on this host or one hop away.

mod answers;
mod clients;
mod exchange;
mod journal;
mod message;
mod refusals;
pub(crate) mod resolvers;
mod rules;
mod server;
mod sockets;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use instances_core::spec::InstanceName;

pub use self::answers::FILE as ANSWERS_FILE;
pub use self::rules::{BadPattern, Pattern, Patterns, Rules};
pub use self::server::TROUBLE_ID;
pub use self::sockets::{Error as SocketError, Sockets};

use self::answers::Answers;
use self::journal::Journal;
use self::refusals::Refusals;
use self::resolvers::Resolvers;
use self::server::Server;
use crate::notify::Notifier;
use crate::supervise::signals::Signals;

/// Why the stub does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules cannot be read; without them nothing is resolved.
    #[error("cannot read the rules: {0}")]
    Rules(String),
    /// There is nothing to listen at.
    #[error(transparent)]
    Sockets(#[from] SocketError),
    /// The kernel refused what the loop is made of.
    #[error("cannot wait for clients")]
    Loop(#[source] io::Error),
    /// What this process sees of the host's list is no longer the host's; another one sees it.
    #[error("the host has another list of resolvers, which is seen after a restart")]
    Replaced,
}

/// Serves the instance `name` until SIGTERM. SIGHUP calls `load` again.
///
/// To be called first in a program, because it takes passed descriptors by their numbers.
pub fn run(name: &InstanceName, load: &dyn Fn() -> Result<Rules, String>) -> Result<(), Error> {
    let sockets = Sockets::take()?;
    let rules = load().map_err(Error::Rules)?;
    let signals = Signals::install().map_err(Error::Loop)?;
    let notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), None);
    let server = Server {
        rules,
        load,
        sockets,
        journal: Journal::new(Path::new(crate::journal::SOCKET), name.as_str()),
        notifier,
        resolvers: Resolvers::new(Path::new(resolvers::MANAGED), Path::new(resolvers::PLAIN)),
        answers: Answers::new(runtime_directory()),
        refusals: Refusals::new(Instant::now()),
        exchanges: Vec::new(),
        connections: Vec::new(),
        connected: 0,
        failing: false,
    };
    server.run(signals)
}

/// What `RuntimeDirectory=` made; systemd joins several with colons.
fn runtime_directory() -> Option<PathBuf> {
    let directories = std::env::var("RUNTIME_DIRECTORY").ok()?;
    directories.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
}
