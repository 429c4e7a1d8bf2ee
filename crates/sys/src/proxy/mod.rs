//! The proxy between clients and one server: from a port of the host into an instance's namespace, or from a
//! namespace to one port of the host's loopback.
//!
//! It passes bytes on and reads none of them. One thread waits at one `epoll(7)`, edge-triggered, so that a socket
//! costs a wake-up when something comes and none while something is stuck; what is left to do at once is in a list,
//! of which each turn takes a bounded part. A connection that moves has two descriptors and no memory of
//! its own.
//!
//! With a supervisor to ask, clients are held until the server is ready: accepted, not read, and told in HTTP
//! when it does not come. Everybody is taken for hostile: clients, the server, which is the agent's, and whoever
//! answers at the supervisor's name, where the agent might.

mod answer;
mod connection;
mod copy;
mod deadlines;
mod failure;
mod link;
mod listeners;
mod options;
mod pages;
mod room;
mod server;
mod table;

use std::io;

pub use self::failure::Error as FailureError;
pub use self::listeners::Error as ListenError;
pub use self::options::{Options, UsageError, parse_args};

/// Why the proxy does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to listen at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The failure of a start would never be seen.
    #[error(transparent)]
    Failure(#[from] FailureError),
    /// The kernel refused what the loop is made of.
    #[error("cannot wait for clients")]
    Loop(#[source] io::Error),
}

/// Passes connections on until SIGTERM, or until there is a reason to be started anew.
///
/// To be called first in a program, because it takes passed descriptors by their numbers.
///
/// # Errors
///
/// See [`Error`].
pub fn run(options: &Options) -> Result<(), Error> {
    let listeners = listeners::take()?;
    let proxy = server::Proxy::new(options, listeners)?;
    pages::leave();
    proxy.run()
}
