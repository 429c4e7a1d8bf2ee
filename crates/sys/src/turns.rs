//! Turns of servers that start: so many at once, and the others in the order in which they asked.
//!
//! Each supervisor has a connection from systemd. It asks with a byte, another one says that it may start its
//! server, and the end of the connection that the server is ready, or that nobody waits any more.

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
    /// Which one it was to ask. Before that its sandbox is still made.
    asked: Option<u64>,
    /// Since when it may.
    since: Option<Instant>,
}

impl Turn {
    fn counts(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now < since + LONGEST)
    }

    /// Whether the other side is still there, when there was something of it to read.
    fn stays(&mut self, asked: &mut u64) -> bool {
        let mut bytes = [0; 16];
        match recv(&self.connection, &mut bytes, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => true,
            Ok((_, 0)) | Err(_) => false,
            Ok(_) => {
                if self.asked.is_none() {
                    *asked += 1;
                    self.asked = Some(*asked);
                }
                true
            }
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
    let (mut asked, mut now) = (0, Instant::now());
    loop {
        // With the time by which turns were given: one that lapses since then ends the wait at once.
        let ready = look(&listener, &turns, now).map_err(Error::Wait)?;
        let mut ready = ready.into_iter();
        turns.retain_mut(|turn| !ready.next().unwrap_or(false) || turn.stays(&mut asked));
        take(&listener, &mut turns);
        now = Instant::now();
        let counted = turns.iter().filter(|turn| turn.counts(now)).count();
        let mut waiting: Vec<&mut Turn> =
            turns.iter_mut().filter(|turn| turn.asked.is_some() && turn.since.is_none()).collect();
        waiting.sort_unstable_by_key(|turn| turn.asked);
        waiting.into_iter().take(max.saturating_sub(counted)).for_each(|turn| turn.begin(now));
    }
}

/// Waits until somebody comes, asks or goes, or a start no longer counts; says who of `turns` asked or went.
fn look(listener: &OwnedFd, turns: &[Turn], now: Instant) -> io::Result<Vec<bool>> {
    let mut interests: Vec<PollFd<'_>> =
        turns.iter().map(|turn| PollFd::new(&turn.connection, PollFlags::IN)).collect();
    if turns.len() < MOST {
        interests.push(PollFd::new(listener, PollFlags::IN));
    }
    let lapse = turns.iter().filter(|turn| turn.counts(now));
    let lapse = lapse.filter_map(|turn| Some((turn.since? + LONGEST).duration_since(now))).min();
    let left = lapse.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
    match poll(&mut interests, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(interests.iter().take(turns.len()).map(|one| !one.revents().is_empty()).collect())
}

/// Takes who has come.
fn take(listener: &OwnedFd, turns: &mut Vec<Turn>) {
    while turns.len() < MOST {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(connection) => turns.push(Turn { connection, asked: None, since: None }),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return,
            // The kernel has no room: it would say the same again at once.
            Err(_) => return thread::sleep(Duration::from_millis(100)),
        }
    }
}
