//! Whether anybody uses the server, and for how long nobody has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use instances_core::dialect::Sessions;
use rustix::process::{Pid, getpid};
use serde_json::Value;

use super::options;
use super::processes::descendants;

/// How many sessions are looked at: the most recent ones. One that works is among them.
const SESSIONS: usize = 100;
/// How many directories are asked whether a session works in them.
const DIRECTORIES: usize = 32;

/// After how long without use a server may end because the host is short of memory.
const EARLIEST: Duration = Duration::from_secs(10);

/// What a look at the server found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Somebody uses it.
    Use,
    /// Nobody seems to.
    Nothing,
    /// The same, and it is time to ask for sessions.
    Due,
}

/// Since when nobody has used the server.
#[derive(Debug)]
pub(super) struct Idle {
    options: options::Idle,
    since: Instant,
    /// When sessions are to be looked at again.
    next: Instant,
    /// When the server was started, by both clocks: a session that nobody touched since then does not work.
    began: (SystemTime, Instant),
}

impl Idle {
    pub(super) fn new(options: options::Idle, now: Instant) -> Self {
        Self { options, since: now, next: now, began: (SystemTime::now(), now) }
    }

    /// Somebody uses it.
    pub(super) fn used(&mut self, now: Instant) {
        self.since = self.since.max(now);
    }

    /// A session was used so long ago.
    pub(super) fn used_before(&mut self, ago: Duration, now: Instant) {
        if let Some(then) = now.checked_sub(ago) {
            self.since = self.since.max(then);
        }
    }

    /// Takes in what costs nothing to know: how many clients there are and when one last sent something, and which
    /// processes there are.
    pub(super) fn look(
        &mut self,
        clients: u32,
        heard: Option<Instant>,
        server: Pid,
        now: Instant,
    ) -> Found {
        if let Some(heard) = heard {
            self.used(heard);
        }
        if (clients > 0 && !self.options.active) || (!self.options.alone && has_left_some(server)) {
            self.used(now);
            return Found::Use;
        }
        if now < self.next {
            return Found::Nothing;
        }
        self.next =
            now + (self.options.time / 8).clamp(Duration::from_secs(1), Duration::from_secs(30));
        Found::Due
    }

    /// Whether nobody has used it for the whole time.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.options.time
    }

    /// Whether an early end would take processes along that may be left only for the whole time.
    pub(super) fn would_take_some(&self, server: Pid) -> bool {
        self.options.alone && has_left_some(server)
    }

    /// Whether nobody has used it for so long that it may end early.
    pub(super) fn is_early(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= EARLIEST.min(self.options.time)
    }

    /// How long the clients that do not count have been quiet; `None` where all count.
    pub(super) fn quiet(&self) -> Option<u32> {
        let seconds = u32::try_from(self.options.time.as_secs()).unwrap_or(u32::MAX);
        self.options.active.then_some(seconds)
    }

    /// How long ago a session was last touched, and the directories in which one may work.
    pub(super) fn recent(&self, answer: &[u8]) -> Option<(Option<Duration>, BTreeSet<String>)> {
        let sessions: Vec<Value> = serde_json::from_slice(answer).ok()?;
        let (mut last, mut directories) = (None, BTreeSet::new());
        // Somebody may have set the clock meanwhile, forward or back.
        let (began, age) = (self.began.0, self.began.1.elapsed());
        let began = SystemTime::now().checked_sub(age).map_or(began, |by_now| began.min(by_now));
        for session in sessions.iter().take(SESSIONS) {
            let updated = session.get("time")?.get("updated")?.as_u64()?;
            let updated = SystemTime::UNIX_EPOCH + Duration::from_millis(updated);
            // A session says when it began to work, not that it still does.
            if updated + Duration::from_secs(1) >= began {
                let ago = updated.elapsed().unwrap_or_default();
                last = Some(last.map_or(ago, |last: Duration| last.min(ago)));
                directories.insert(session.get("directory")?.as_str()?.to_owned());
            }
        }
        (directories.len() <= DIRECTORIES).then_some((last, directories))
    }
}

/// The path that lists the most recent sessions.
pub(super) fn list(sessions: &Sessions) -> String {
    format!("{}?limit={SESSIONS}", sessions.list)
}

/// Whether the answer of a directory names a session that works; `None` where it cannot be understood.
pub(super) fn works(answer: &[u8]) -> Option<bool> {
    let states: serde_json::Map<String, Value> = serde_json::from_slice(answer).ok()?;
    let idle = |state: &Value| Some(state.get("type")?.as_str()? == "idle");
    let states: Option<Vec<bool>> = states.values().map(idle).collect();
    Some(states?.contains(&false))
}

/// Whether a process was left running: one that outlived what started it, and so is a child of this one, or one with
/// a terminal. The server's other children, as language servers, are its own.
fn has_left_some(server: Pid) -> bool {
    let own = getpid().as_raw_nonzero().get();
    let server = server.as_raw_nonzero().get();
    descendants(getpid())
        .iter()
        .any(|one| one.pid != server && (one.parent == own || one.terminal != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(active: bool) -> Idle {
        let options = options::Idle { time: Duration::from_mins(1), active, alone: true };
        Idle::new(options, Instant::now())
    }

    #[test]
    fn clients_keep_it() {
        let server = getpid();
        let mut idle = idle(false);
        let later = idle.since + Duration::from_secs(59);
        assert!(!idle.is_over(later) && idle.is_over(later + Duration::from_secs(1)));
        assert_eq!(idle.look(1, None, server, later), Found::Use);
        assert!(!idle.is_over(later + Duration::from_secs(59)));
        assert_eq!(idle.look(0, None, server, later), Found::Due);
        assert_eq!(idle.look(0, None, server, later), Found::Nothing, "not asked at once again");
        assert!(!idle.is_early(later + Duration::from_secs(9)));
        assert!(idle.is_early(later + EARLIEST));
        // One that came and went between two looks.
        let mut idle = self::idle(false);
        idle.look(0, Some(later), server, later);
        assert!(!idle.is_over(later + Duration::from_secs(59)));
    }

    #[test]
    fn a_quiet_client_keeps_it_unless_only_active_ones_do() {
        let server = getpid();
        for (active, over) in [(false, false), (true, true)] {
            let mut idle = idle(active);
            let begin = idle.since;
            let later = begin + Duration::from_mins(1);
            idle.look(1, Some(begin), server, later);
            assert_eq!(idle.is_over(later), over, "{active}");
        }
    }

    #[test]
    fn sessions_of_this_server_are_asked_for() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_millis()).unwrap();
        let one = |directory: &str, updated: u64| {
            format!(
                "{{\"directory\":\"{directory}\",\"time\":{{\"created\":1,\"updated\":{updated}}}}}"
            )
        };
        let text = format!("[{},{},{}]", one("/a", now), one("/a", now + 5000), one("/old", 5));
        let (ago, directories) = idle(false).recent(text.as_bytes()).unwrap();
        assert!(ago.unwrap() < Duration::from_secs(10));
        assert_eq!(directories, BTreeSet::from(["/a".to_owned()]));
        assert_eq!(idle(false).recent(b"[]"), Some((None, BTreeSet::new())));
        for text in ["", "{}", "[1]", "[{\"directory\":\"/a\"}]", "[{\"time\":{\"updated\":-1}}]"] {
            assert_eq!(idle(false).recent(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn whether_a_session_works() {
        for (text, works) in [
            ("{}", Some(false)),
            ("{\"ses_1\":{\"type\":\"idle\"}}", Some(false)),
            ("{\"ses_1\":{\"type\":\"idle\"},\"ses_2\":{\"type\":\"busy\"}}", Some(true)),
            ("{\"ses_1\":{\"type\":\"retry\",\"attempt\":1}}", Some(true)),
            ("{\"ses_1\":{}}", None),
            ("[]", None),
            ("<html>", None),
        ] {
            assert_eq!(super::works(text.as_bytes()), works, "{text}");
        }
    }
}
