//! Decides whether a server that did not answer is alive all the same.

use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::processes::{Process, Usage};

/// How long a server that is merely busy may go without an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

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
}
