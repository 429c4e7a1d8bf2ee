//! Decides whether a server that did not answer is alive all the same.

use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::processes::{Process, Usage};

/// How long a server that is merely busy may go without an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How many late looks in a row are not held against the server.
const EXCUSES: u32 = 3;

/// What an answer or its absence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered.
    Answered,
    /// It works, or wants to and gets no processor: the watchdog is fed.
    Busy,
    /// A signal stopped it.
    Stopped,
    /// Nothing in it moves.
    Silent,
    /// It works but has not answered for [`PATIENCE`].
    TooLong,
}

impl Verdict {
    /// The status in words, unless all is well.
    pub(super) fn words(self) -> Option<&'static str> {
        Some(match self {
            Self::Answered => return None,
            Self::Busy => "the server does not answer, but it is working; waiting for it",
            Self::Stopped => {
                "the server does not answer: a signal stopped it; it will be restarted"
            }
            Self::Silent => "the server does not answer and does nothing; it will be restarted",
            Self::TooLong => "the server has not answered for 30 s; it will be restarted",
        })
    }
}

/// What the service manager is told after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// The watchdog is fed.
    Alive,
    /// It is not, and there is time left.
    Nothing,
    /// The server is given up.
    Hung,
}

/// How long a server may go without a sign of life.
#[derive(Debug)]
pub(super) struct Bound {
    interval: Duration,
    alive: Instant,
    /// How many looks in a row were late and saw no life.
    excuses: u32,
}

impl Bound {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, alive: now, excuses: 0 }
    }

    /// Judges a look that should have taken so long. One that took much longer says that this process got
    /// no processor, as on a host that stands still: then the server may have got none either. That
    /// excuses [`EXCUSES`] looks in a row, and never one that a signal stopped: this process may be late
    /// for what the agent does.
    pub(super) fn look(
        &mut self,
        verdict: Verdict,
        planned: Duration,
        begun: Instant,
        now: Instant,
    ) -> Sign {
        let late = now.duration_since(begun) > planned + self.interval / 4;
        let alive = matches!(verdict, Verdict::Answered | Verdict::Busy);
        let excused = late && verdict != Verdict::Stopped && self.excuses < EXCUSES;
        self.excuses = if alive || !late { 0 } else { self.excuses.saturating_add(1) };
        if excused || alive {
            self.alive = now;
            return Sign::Alive;
        }
        if self.left(now).is_zero() {
            // In case that nobody acts on it.
            self.alive = now;
            return Sign::Hung;
        }
        Sign::Nothing
    }

    /// Begins anew with a question: nobody asked before, and nothing is known of that time.
    pub(super) fn asks(&mut self, now: Instant) {
        self.alive = now;
    }

    /// How long there is still.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.interval.saturating_sub(now.duration_since(self.alive))
    }
}

/// What is known of one server since its last answer.
#[derive(Debug)]
pub(super) struct Watch {
    server: Pid,
    answered: Instant,
    misses: u32,
    usage: Option<Usage>,
}

impl Watch {
    pub(super) fn new(server: Pid) -> Self {
        Self { server, answered: Instant::now(), misses: 0, usage: None }
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self) -> Verdict {
        *self = Self::new(self.server);
        Verdict::Answered
    }

    /// How many answers in a row are missing.
    pub(super) fn misses(&self) -> u32 {
        self.misses
    }

    /// Judges one missing answer.
    pub(super) fn missed(&mut self) -> Verdict {
        self.misses = self.misses.saturating_add(1);
        let path = format!("/proc/{}/stat", self.server.as_raw_nonzero());
        if Process::read(&path).is_some_and(Process::is_stopped) {
            return Verdict::Stopped;
        }
        let usage = Usage::of(self.server);
        let before = self.usage.replace(usage);
        judge(self.answered.elapsed(), usage, before)
    }
}

/// Judges by what moved `since` the last answer. The first miss has nothing to compare with and
/// counts as work.
fn judge(since: Duration, usage: Usage, before: Option<Usage>) -> Verdict {
    match before {
        _ if since > PATIENCE => Verdict::TooLong,
        Some(before) if !usage.shows_life_since(before) => Verdict::Silent,
        _ => Verdict::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_answer_is_judged_by_what_moved() {
        let own = rustix::process::getpid();
        let idle = Usage::default();
        let soon = Duration::from_secs(1);
        assert_eq!(judge(soon, idle, None), Verdict::Busy);
        assert_eq!(judge(soon, idle, Some(idle)), Verdict::Silent);
        assert_eq!(judge(soon, Usage::of(own), Some(idle)), Verdict::Busy);
        assert_eq!(judge(soon * 31, Usage::of(own), Some(idle)), Verdict::TooLong);
    }

    #[test]
    fn a_server_is_given_up_in_time_and_not_for_a_host_that_stood_still() {
        let interval = Duration::from_secs(4);
        let (begun, planned) = (Instant::now(), interval / 2);
        let bound = || Bound::new(interval, begun);
        for verdict in [Verdict::Silent, Verdict::Stopped, Verdict::TooLong] {
            let look = |bound: &mut Bound, begun, now| bound.look(verdict, planned, begun, now);
            let mut hangs = bound();
            assert_eq!(look(&mut hangs, begun, begun + planned), Sign::Nothing);
            assert_eq!(hangs.left(begun + planned), interval / 2);
            assert_eq!(look(&mut hangs, begun + planned, begun + interval), Sign::Hung);
            if verdict == Verdict::Stopped {
                assert_eq!(look(&mut bound(), begun, begun + interval * 3), Sign::Hung);
                continue;
            }
            // As long, but in one piece.
            let mut stood_still = bound();
            let woken = begun + interval * 3;
            assert_eq!(look(&mut stood_still, begun, woken), Sign::Alive);
            assert_eq!(look(&mut stood_still, woken, woken + planned), Sign::Nothing);
            assert_eq!(look(&mut stood_still, woken + planned, woken + interval), Sign::Hung);
        }
        // Late again and again.
        let mut late = bound();
        let look = |now: u32| {
            let begun = begun + interval * now;
            late.look(Verdict::TooLong, planned, begun, begun + interval)
        };
        assert_eq!([0, 1, 2, 3].map(look), [Sign::Alive, Sign::Alive, Sign::Alive, Sign::Hung]);
        let mut busy = bound();
        assert_eq!(busy.look(Verdict::Busy, planned, begun, begun + planned), Sign::Alive);
        assert_eq!(busy.left(begun + planned), interval);
    }
}
