//! Turns of servers that start: so many at once, and the others in the order in which they came.
//!
//! Each supervisor has a connection from systemd. A byte on it says that it may start its server, and its end
//! that the server is ready, or that nobody waits any more. Nothing that is sent here is read but that end.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use crate::passed;

/// A start that takes longer does not keep others waiting: one that hangs would, and whoever can make his
/// own server hang.
const LONGEST: Duration = Duration::from_secs(15);
/// The most connections; more wait to be taken.
const MOST: usize = 4096;

/// Why no turns are given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Started by hand.
    #[error("no socket was passed; systemd starts this through opencode-host@turns.socket")]
    NotPassed,
    /// A call that failed.
    #[error("cannot wait for servers that start")]
    Wait(#[source] io::Error),
}

/// One that waits, or starts.
struct Turn {
    connection: OwnedFd,
    /// Since when it may.
    since: Option<Instant>,
}

impl Turn {
    fn counts(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now < since + LONGEST)
    }

    /// Whether the other side is still there.
    fn stays(&self) -> bool {
        let mut nothing = [0; 16];
        match recv(&self.connection, &mut nothing, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => false,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    fn begin(&mut self, now: Instant) {
        // A connection that takes no byte has ended, which is seen in the next round.
        let _ = send(&self.connection, b"1", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        self.since = Some(now);
    }
}

/// Lets `max` servers start at once, otherwise as many as there are processors.
///
/// # Errors
///
/// See [`enum@Error`]. Who waits then starts at once.
pub fn serve(max: Option<NonZeroUsize>) -> Result<Infallible, Error> {
    let max = max.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let number = passed::number("opencode-host@turns.socket").ok_or(Error::NotPassed)?;
    let listener = passed::take(number).ok_or(Error::NotPassed)?;
    let mut turns: Vec<Turn> = Vec::new();
    loop {
        look(&listener, &turns, Instant::now()).map_err(Error::Wait)?;
        turns.retain(Turn::stays);
        take(&listener, &mut turns);
        let now = Instant::now();
        let counted = turns.iter().filter(|turn| turn.counts(now)).count();
        let waiting = turns.iter_mut().filter(|turn| turn.since.is_none());
        waiting.take(max.saturating_sub(counted)).for_each(|turn| turn.begin(now));
    }
}

/// Waits until somebody comes or goes, or a start no longer counts.
fn look(listener: &OwnedFd, turns: &[Turn], now: Instant) -> io::Result<()> {
    let mut interests = Vec::with_capacity(turns.len() + 1);
    if turns.len() < MOST {
        interests.push(PollFd::new(listener, PollFlags::IN));
    }
    interests.extend(turns.iter().map(|turn| PollFd::new(&turn.connection, PollFlags::IN)));
    let lapse = turns.iter().filter(|turn| turn.counts(now));
    let lapse = lapse.filter_map(|turn| Some((turn.since? + LONGEST).duration_since(now))).min();
    let left = lapse.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
    match poll(&mut interests, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes who has come.
fn take(listener: &OwnedFd, turns: &mut Vec<Turn>) {
    while turns.len() < MOST {
        let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC) else { return };
        turns.push(Turn { connection, since: None });
    }
}
