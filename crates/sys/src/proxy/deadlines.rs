//! Connections whose time is up after the same while: the one that began first ends first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::table::Key;

/// How many entries are there before those of connections that are gone are looked for.
const FEW: usize = 64;

/// When connections began something that must not last.
#[derive(Debug)]
pub(super) struct Deadlines {
    patience: Duration,
    entries: VecDeque<(Instant, Key)>,
    bound: usize,
}

impl Deadlines {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, entries: VecDeque::new(), bound: FEW }
    }

    /// Notes that `key` began at `since`, not before the one that was noted last. `live` says whether what was noted before still
    /// matters: clients that come and go leave no pile behind.
    pub(super) fn note(&mut self, since: Instant, key: Key, live: impl Fn(Instant, Key) -> bool) {
        if self.entries.len() >= self.bound {
            self.entries.retain(|(since, key)| live(*since, *key));
            self.bound = FEW.max(self.entries.len() * 2);
        }
        self.entries.push_back((since, key));
    }

    /// Takes the next one whose time is up.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(Instant, Key)> {
        let (since, _) = self.entries.front()?;
        if *since + self.patience > now { None } else { self.entries.pop_front() }
    }

    /// When the next time is up.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.entries.front().map(|(since, _)| *since + self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ends_first_and_the_gone_leave_nothing() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(Duration::from_secs(1));
        for number in 0..100_000 {
            deadlines.note(start, Key::from_bits(number), |_, key| key.bits() % 1000 == 0);
        }
        assert!(deadlines.entries.len() < 1000, "{}", deadlines.entries.len());
        assert_eq!(deadlines.expired(start), None);
        assert_eq!(deadlines.wake(), Some(start + Duration::from_secs(1)));
        let first = deadlines.expired(start + Duration::from_secs(1));
        assert_eq!(first, Some((start, Key::from_bits(0))));
    }
}
