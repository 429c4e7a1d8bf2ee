//! Turns of servers that start: so many at once, and the others in the order in which they asked. And of idle
//! ones that end: one after the other while the host is short of memory, the least recently used first.
//!
//! Each supervisor has a connection from systemd, on which both say single bytes. Its end says that the server
//! is ready or gone.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::num::{NonZeroU8, NonZeroUsize};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use instances_core::units::turns::PRESSURE;

use crate::passed;

/// A start that takes longer does not keep others waiting: one that hangs would, and whoever can make his
/// own server hang.
const LONGEST: Duration = Duration::from_secs(15);
/// How often those who wait are told that there are turns; long before they no longer wait for one.
const TELL: Duration = Duration::from_mins(1);
/// The most connections; more wait to be taken.
const MOST: usize = 4096;
/// The most of them while servers run that may be asked to end: the others are for those that start.
const MOST_KEPT: usize = MOST / 2;
/// In how much time the kernel counts how long somebody waited for memory.
const WINDOW: Duration = Duration::from_secs(2);

/// What a supervisor says.
pub(crate) mod says {
    /// It asks for its turn.
    pub(crate) const ASKS: u8 = b'1';
    /// Its server is ready, and it stays to be asked to end.
    pub(crate) const READY: u8 = b'r';
    /// Nobody uses the server.
    pub(crate) const IDLE: u8 = b'i';
    /// Somebody does.
    pub(crate) const USED: u8 = b'u';
}
/// What it is told: it may start its server.
pub(crate) const BEGIN: u8 = b'1';
/// What it is told: its turn will come.
pub(crate) const WAIT: u8 = b'w';
/// What it is told: it should end, if nobody uses the server.
pub(crate) const END: u8 = b'e';

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
    /// Whether its server is ready.
    ready: bool,
    /// Which one it was to become idle, if it is and has not been asked to end.
    idle: Option<u64>,
}

impl Turn {
    fn new(connection: OwnedFd) -> Self {
        Self { connection, asked: None, since: None, ready: false, idle: None }
    }

    fn waits(&self) -> bool {
        self.asked.is_some() && self.since.is_none()
    }

    fn counts(&self, now: Instant) -> bool {
        !self.ready && self.since.is_some_and(|since| now < since + LONGEST)
    }

    /// Whether the other side is still there, when there was something of it to read.
    fn stays(&mut self, count: &mut u64, keeps: bool) -> bool {
        let mut bytes = [0; 16];
        let read = match recv(&self.connection, &mut bytes, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Ok((_, 0)) | Err(_) => return false,
            Ok((_, read)) => read,
        };
        let mut stays = true;
        for byte in bytes.into_iter().take(read) {
            *count += 1;
            match byte {
                says::ASKS if self.asked.is_none() => self.asked = Some(*count),
                says::READY => (self.ready, stays) = (true, keeps),
                says::IDLE => self.idle = Some(*count),
                says::USED => self.idle = None,
                _ => {}
            }
        }
        stays
    }

    fn say(&self, byte: u8) {
        // A connection that takes no byte has ended, which is seen in the next round.
        let _ = send(&self.connection, &[byte], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn begin(&mut self, now: Instant) {
        self.say(BEGIN);
        self.since = Some(now);
    }
}

/// The kernel's word that the host is short of memory.
struct Pressure(OwnedFd);

impl Pressure {
    /// `percent` of the time somebody waits for memory. The file is opened by systemd, as the unit's `/proc` does not
    /// have it.
    fn watch(percent: NonZeroU8) -> io::Result<Self> {
        let number = passed::number(PRESSURE);
        let file = number.and_then(passed::take).ok_or(ErrorKind::NotFound)?;
        let micros = WINDOW.as_micros() * u128::from(percent.get()) / 100;
        let trigger = format!("some {micros} {}\0", WINDOW.as_micros());
        write(&file, trigger.as_bytes())?;
        Ok(Self(file))
    }
}

/// Asks the one to end that has been idle for the longest time.
fn relieve(turns: &mut [Turn]) {
    let longest = turns.iter_mut().filter(|turn| turn.idle.is_some()).min_by_key(|turn| turn.idle);
    if let Some(turn) = longest {
        turn.say(END);
        turn.idle = None;
    }
}

/// Lets `max` servers start at once, otherwise as many as there are processors. While somebody on the host waits for
/// memory for `pressure` percent of the time, idle ones are asked to end; `said` takes why that cannot be.
///
/// # Errors
///
/// See [`enum@Error`]. Who waits then starts at once.
pub fn serve(
    max: Option<NonZeroUsize>,
    pressure: Option<NonZeroU8>,
    said: &dyn Fn(String),
) -> Result<Infallible, Error> {
    let pressure = pressure.and_then(|percent| {
        let watched = Pressure::watch(percent).map_err(|error| {
            said(format!(
                "fleet.memoryPressure does nothing: /proc/pressure/memory cannot be watched ({error}); boot with psi=1"
            ));
        });
        watched.ok()
    });
    let max = max.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let number = passed::number("opencode-host@turns.socket").ok_or(Error::NotPassed)?;
    let listener = passed::take(number).ok_or(Error::NotPassed)?;
    let mut turns: Vec<Turn> = Vec::new();
    let (mut count, mut now) = (0, Instant::now());
    let mut told = now;
    loop {
        // With the time by which turns were given: one that lapses since then ends the wait at once.
        let lapse = lapse(&turns, told, now);
        let ready = look(&listener, pressure.as_ref(), &turns, lapse).map_err(Error::Wait)?;
        let keeps = pressure.is_some() && turns.len() <= MOST_KEPT;
        let mut heard = ready.heard.into_iter();
        turns.retain_mut(|turn| !heard.next().unwrap_or(false) || turn.stays(&mut count, keeps));
        if ready.pressure {
            relieve(&mut turns);
        }
        take(&listener, &mut turns);
        now = Instant::now();
        let counted = turns.iter().filter(|turn| turn.counts(now)).count();
        let mut waiting: Vec<&mut Turn> = turns.iter_mut().filter(|turn| turn.waits()).collect();
        waiting.sort_unstable_by_key(|turn| turn.asked);
        waiting.into_iter().take(max.saturating_sub(counted)).for_each(|turn| turn.begin(now));
        if now >= told + TELL {
            turns.iter().filter(|turn| turn.waits()).for_each(|turn| turn.say(WAIT));
            told = now;
        }
    }
}

/// In how much time a start no longer counts, or those who wait are told so again.
fn lapse(turns: &[Turn], told: Instant, now: Instant) -> Option<Duration> {
    let starts = turns.iter().filter(|turn| turn.counts(now));
    let starts = starts.filter_map(|turn| Some(turn.since? + LONGEST));
    let tell = turns.iter().any(Turn::waits).then_some(told + TELL);
    Some(starts.chain(tell).min()?.saturating_duration_since(now))
}

/// What has happened.
struct Ready {
    /// Who of the turns says something, or went.
    heard: Vec<bool>,
    /// Whether the host is short of memory.
    pressure: bool,
}

/// Waits until somebody comes, says something or goes, the time is over, or the host is short of memory.
fn look(
    listener: &OwnedFd,
    pressure: Option<&Pressure>,
    turns: &[Turn],
    lapse: Option<Duration>,
) -> io::Result<Ready> {
    let mut interests: Vec<PollFd<'_>> =
        turns.iter().map(|turn| PollFd::new(&turn.connection, PollFlags::IN)).collect();
    interests.extend(pressure.map(|Pressure(file)| PollFd::new(file, PollFlags::PRI)));
    if turns.len() < MOST {
        interests.push(PollFd::new(listener, PollFlags::IN));
    }
    let left = lapse.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
    match poll(&mut interests, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut happened = interests.iter().map(|one| !one.revents().is_empty());
    let heard = happened.by_ref().take(turns.len()).collect();
    Ok(Ready { heard, pressure: pressure.is_some() && happened.next() == Some(true) })
}

/// Takes who has come.
fn take(listener: &OwnedFd, turns: &mut Vec<Turn>) {
    while turns.len() < MOST {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(connection) => turns.push(Turn::new(connection)),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return,
            // The kernel has no room: it would say the same again at once.
            Err(_) => return thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, socketpair};

    use super::*;

    /// One that has said these bytes, its supervisor's end, and whether it stays.
    fn turn(said: &[u8], count: &mut u64, keeps: bool) -> (Turn, OwnedFd, bool) {
        let kind = SocketType::STREAM;
        let (ours, its) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let mut turn = Turn::new(ours);
        send(&its, said, SendFlags::empty()).unwrap();
        let stays = turn.stays(count, keeps);
        (turn, its, stays)
    }

    fn heard(end: &OwnedFd) -> Vec<u8> {
        let mut bytes = [0; 16];
        let read = recv(end, &mut bytes, RecvFlags::DONTWAIT).map_or(0, |(_, read)| read);
        bytes[..read].to_vec()
    }

    #[test]
    fn the_one_that_is_idle_for_the_longest_time_is_asked_first_and_once() {
        let mut count = 0;
        let (used, used_end, _) = turn(b"1riu", &mut count, true);
        let (old, old_end, _) = turn(b"1ri", &mut count, true);
        let (new, new_end, _) = turn(b"1ri", &mut count, true);
        let mut turns = [new, used, old];
        let ends = [&old_end, &new_end, &used_end];
        for expected in [["e", "", ""], ["", "e", ""], ["", "", ""]] {
            relieve(&mut turns);
            assert_eq!(ends.map(heard), expected.map(|text| text.as_bytes().to_vec()));
        }
        // It was used meanwhile, and is not any more.
        send(&old_end, b"ui", SendFlags::empty()).unwrap();
        assert!(turns[2].stays(&mut count, true));
        relieve(&mut turns);
        assert_eq!(heard(&old_end), b"e");
    }

    #[test]
    fn those_who_wait_are_told_so_and_others_wake_nobody() {
        let (told, mut count) = (Instant::now(), 0);
        let later = told + TELL / 4;
        let (waits, _end, _) = turn(b"1", &mut count, false);
        let (silent, _silent_end, _) = turn(b"", &mut count, false);
        let (mut starts, _starts_end, _) = turn(b"1", &mut count, false);
        starts.begin(told);
        assert_eq!(lapse(&[silent], told, later), None);
        assert_eq!(lapse(&[waits], told, later), Some(TELL * 3 / 4));
        assert_eq!(lapse(&[starts], told, told), Some(LONGEST));
    }

    #[test]
    fn a_server_that_is_ready_does_not_count_and_stays_where_it_can_be_asked() {
        let now = Instant::now();
        for (said, keeps, counts, stays) in [
            (&b"1"[..], true, true, true),
            (b"1", false, true, true),
            (b"1r", true, false, true),
            (b"1r", false, false, false),
        ] {
            let (mut turn, _end, stayed) = turn(said, &mut 0, keeps);
            turn.begin(now);
            assert_eq!((turn.counts(now), stayed), (counts, stays), "{said:?}");
        }
        let (mut turn, end, _) = turn(b"1ri", &mut 0, true);
        // Who comes to be ready when there is no room does not stay; who was, does.
        send(&end, b"u", SendFlags::empty()).unwrap();
        assert!(turn.stays(&mut 0, false));
        drop(end);
        assert!(!turn.stays(&mut 0, true));
    }
}
