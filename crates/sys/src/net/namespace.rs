//! Work inside a network namespace, each time on a thread of its own.
//!
//! A thread that has changed its namespace is never reused: it ends with the work.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::Error;

/// The calling thread's own namespace; `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// Runs `work` in a new, empty network namespace, and returns that namespace with the result.
///
/// The namespace lives only as long as the returned descriptor, or what `work` started in it.
pub(super) fn fresh<T: Send>(
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<(OwnedFd, T), Error> {
    on_a_thread(|| {
        unshare_network().map_err(failed("create a network namespace"))?;
        let namespace = own()?;
        Ok((namespace, work()?))
    })
}

/// Runs `work` in the given network namespace.
pub(super) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    on_a_thread(|| {
        // The type is named because RestrictNamespaces= refuses a setns() that could be any.
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|errno| failed("enter the network namespace")(errno.into()))?;
        work()
    })
}

/// True for a network namespace, false for one of another kind: only the former can be entered.
pub(super) fn is_network(namespace: BorrowedFd<'_>) -> Result<bool, Error> {
    on_a_thread(|| match move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(failed("enter the pinned namespace")(errno.into())),
    })
}

/// The network namespace of the calling thread.
pub(super) fn own() -> Result<OwnedFd, Error> {
    Ok(File::open(OWN).map_err(failed("open the thread's network namespace"))?.into())
}

#[expect(deprecated, reason = "unsound only with UnshareFlags::FILES, which is not passed here")]
fn unshare_network() -> io::Result<()> {
    Ok(rustix::thread::unshare(UnshareFlags::NEWNET)?)
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(failed("start a thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Namespace { action, source }
}
