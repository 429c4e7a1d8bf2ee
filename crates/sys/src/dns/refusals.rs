//! What was refused, told once and then counted.
//!
//! The first refusal of a name is a record at once; further ones are one record with their number
//! each [`INTERVAL`]. The agent chooses the names, so their number is bounded too, and what is
//! beyond it is told as a number without names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instances_core::events::REFUSED;

use super::journal::Journal;

/// How often counts are told.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Questions only ever go out.
const DIRECTION: (&str, &str) = ("OPENCODE_DIRECTION", "out");
/// The most names that are told of in an interval.
const MAX_NAMES: usize = 100;

/// Why a question was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// The name is not in `network.dns.allowNames`.
    Name,
    /// The name is one of the local network's.
    Local,
    /// Every address of it is one that the policy could never allow.
    Address,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Local => "local",
            Self::Address => "address",
        }
    }

    fn words(self, name: &str, address: &str) -> String {
        match self {
            Self::Name => format!(
                "Refused to resolve {name}: it is not allowed. Add it to network.dns.allowNames"
            ),
            Self::Local => format!(
                "Refused to resolve {name}: it names the local network, which network.dns.policy = \"open\" \
                 leaves out. Use its address, and add that to network.outbound.allowCidrs; or write \
                 network.dns.policy = \"names\", and list it and every other name in network.dns.allowNames"
            ),
            Self::Address => format!(
                "Refused the addresses of {name}: the policy allows none of them ({address}), so there was no \
                 answer. Add them to network.outbound.allowCidrs"
            ),
        }
    }
}

#[derive(Debug)]
struct Tally {
    pending: u64,
    first: SystemTime,
    last: SystemTime,
    address: Option<IpAddr>,
}

/// The refusals of this interval.
#[derive(Debug)]
pub(super) struct Refusals {
    seen: BTreeMap<(Reason, String), Tally>,
    beyond: u64,
    next: Instant,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Self {
        Self { seen: BTreeMap::new(), beyond: 0, next: now + INTERVAL }
    }

    /// Counts a refusal, and tells of it if it is the first of its kind.
    pub(super) fn note(
        &mut self,
        journal: &Journal,
        policy: &str,
        (reason, name, address): (Reason, String, Option<IpAddr>),
    ) {
        let now = SystemTime::now();
        let key = (reason, name);
        if let Some(tally) = self.seen.get_mut(&key) {
            tally.pending += 1;
            tally.last = now;
            tally.address = address.or(tally.address);
            return;
        }
        if self.seen.len() >= MAX_NAMES {
            self.beyond += 1;
            return;
        }
        let mut tally = Tally { pending: 1, first: now, last: now, address };
        tell(journal, policy, &key, &mut tally);
        self.seen.insert(key, tally);
    }

    /// When [`Refusals::flush`] has something to tell, if nothing else happens.
    pub(super) fn wake(&self) -> Option<Instant> {
        (!self.seen.is_empty()).then_some(self.next)
    }

    /// Tells what was counted, if the time has come or `end` says that there will be no other, and
    /// forgets names that came no more.
    pub(super) fn flush(&mut self, journal: &Journal, policy: &str, now: Instant, end: bool) {
        if now < self.next && !end {
            return;
        }
        self.next = now + INTERVAL;
        self.seen.retain(|key, tally| {
            let again = tally.pending > 0;
            tell(journal, policy, key, tally);
            again
        });
        if self.beyond > 0 {
            let count = self.beyond.to_string();
            let words = format!(
                "Refused {count} further questions, of more names than are told of at a time"
            );
            let fields = [
                ("MESSAGE", words.as_str()),
                ("OPENCODE_COUNT", &count),
                ("OPENCODE_POLICY", policy),
                ("OPENCODE_REASON", "many"),
                DIRECTION,
            ];
            if journal.send(4, REFUSED, &fields) {
                self.beyond = 0;
            }
        }
    }
}

fn tell(journal: &Journal, policy: &str, (reason, name): &(Reason, String), tally: &mut Tally) {
    if tally.pending == 0 {
        return;
    }
    let address = tally.address.map(|address| address.to_string());
    let words = reason.words(name, address.as_deref().unwrap_or_default());
    let (count, first, last) = (tally.pending.to_string(), micros(tally.first), micros(tally.last));
    let mut fields = vec![
        ("MESSAGE", words.as_str()),
        ("OPENCODE_NAME", name),
        ("OPENCODE_COUNT", &count),
        ("OPENCODE_POLICY", policy),
        ("OPENCODE_REASON", reason.word()),
        DIRECTION,
        ("OPENCODE_FIRST_USEC", &first),
        ("OPENCODE_LAST_USEC", &last),
    ];
    if let Some(address) = &address {
        fields.push(("OPENCODE_ADDRESS", address));
    }
    // What the journal did not take is in the next count.
    if journal.send(5, REFUSED, &fields) {
        tally.pending = 0;
        tally.first = SystemTime::now();
    }
}

fn micros(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn drain(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            let read = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
        })
        .collect()
    }

    #[test]
    fn told_once_then_counted_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let journal = Journal::new(&path, "foo");
        let start = Instant::now();
        let mut refusals = Refusals::new(start);
        let note = |refusals: &mut Refusals, name: &str| {
            refusals.note(&journal, "allow-list", (Reason::Name, name.to_owned(), None));
        };
        for _ in 0..1000 {
            note(&mut refusals, "evil.example");
        }
        let records = drain(&socket);
        assert_eq!(records.len(), 1, "{records:#?}");
        for line in [
            "PRIORITY=5",
            "OPENCODE_INSTANCE=foo",
            "OPENCODE_PROTOCOL=dns",
            "OPENCODE_NAME=evil.example",
            "OPENCODE_COUNT=1",
            "OPENCODE_POLICY=allow-list",
            "OPENCODE_REASON=name",
        ] {
            assert!(records[0].lines().any(|have| have == line), "{line}: {}", records[0]);
        }
        refusals.flush(&journal, "allow-list", start + INTERVAL, false);
        let records = drain(&socket);
        assert_eq!(records.len(), 1);
        assert!(records[0].contains("\nOPENCODE_COUNT=999\n"), "{}", records[0]);
        let mut names = Vec::new();
        for number in 0..5000 {
            note(&mut refusals, &format!("{number}.evil.example"));
            names.extend(drain(&socket));
        }
        assert_eq!(names.len(), MAX_NAMES - 1, "the first one is still there");
        refusals.flush(&journal, "allow-list", start + INTERVAL * 2, false);
        let records = drain(&socket);
        assert_eq!(records.len(), 1, "{records:#?}");
        assert!(records[0].contains(&format!("\nOPENCODE_COUNT={}\n", 5000 - MAX_NAMES + 1)));
        refusals.flush(&journal, "allow-list", start + INTERVAL * 3, false);
        assert!(refusals.seen.is_empty() && refusals.wake().is_none());
    }

    #[test]
    fn what_the_journal_did_not_take_is_told_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::new(&path, "foo");
        let start = Instant::now();
        let mut refusals = Refusals::new(start);
        let address = Some("10.0.0.1".parse().unwrap());
        for _ in 0..3 {
            refusals.note(&journal, "internet", (Reason::Address, "a.example".into(), address));
        }
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        refusals.flush(&journal, "internet", start, true);
        let records = drain(&socket);
        assert_eq!(records.len(), 1);
        assert!(records[0].contains("\nOPENCODE_COUNT=3\n"), "{}", records[0]);
        assert!(records[0].contains("\nOPENCODE_ADDRESS=10.0.0.1\n"), "{}", records[0]);
    }
}
