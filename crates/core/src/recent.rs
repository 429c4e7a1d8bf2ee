//! What happened to instances lately, as the journal has it: refusals, and how units of servers failed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::blocked::{Destination, Entry};
use crate::terminal::harmless;
use crate::text::InstanceName;
use crate::units::Names;

/// `MESSAGE_ID=` of systemd's own word that a unit failed, with `UNIT_RESULT=`.
pub const UNIT_FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";
/// How many destinations of an instance are told apart.
pub const MAX_DESTINATIONS: usize = 1000;

/// How a server ended that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When, in microseconds since 1970.
    pub at: u64,
    /// `Result=` of its unit, as in `oom-kill`.
    pub result: String,
}

/// Of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    destinations: BTreeSet<Destination>,
    /// Packets and questions that were refused, those in no record of their own too.
    pub refused: u64,
    /// The last failure of the server.
    pub failure: Option<Failure>,
}

impl Recent {
    /// How many destinations it was kept from, at most [`MAX_DESTINATIONS`].
    pub fn destinations(&self) -> usize {
        self.destinations.len()
    }
}

/// Of all instances that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Recents {
    each: BTreeMap<InstanceName, Recent>,
    units: BTreeMap<String, InstanceName>,
}

impl Recents {
    /// Nothing yet, of these instances.
    pub fn of(instances: &[InstanceName]) -> Self {
        let units = instances.iter().map(|name| (Names(name).main(), name.clone()));
        let each = instances.iter().map(|name| (name.clone(), Recent::default()));
        Self { each: each.collect(), units: units.collect() }
    }

    /// Takes in a line of `journalctl --output=json`; what is no record of theirs is left out.
    pub fn add(&mut self, line: &[u8]) {
        if let Some(entry) = Entry::parse(line) {
            self.refusal(entry);
        } else if let Some((unit, failure)) = failure(line)
            && let Some(recent) = self.units.get(&unit).and_then(|name| self.each.get_mut(name))
            && recent.failure.as_ref().is_none_or(|known| known.at < failure.at)
        {
            recent.failure = Some(failure);
        }
    }

    fn refusal(&mut self, entry: Entry) {
        let (name, count, destination) = match entry {
            Entry::Lost { instance, packets } => (instance, packets, None),
            Entry::Refused(refusal) => {
                let count = refusal.count;
                let destination = Destination::of(&refusal);
                (refusal.instance, count, Some(destination))
            }
        };
        let Some(recent) = self.each.get_mut(&name) else { return };
        recent.refused = recent.refused.saturating_add(count);
        if recent.destinations.len() < MAX_DESTINATIONS {
            recent.destinations.extend(destination);
        }
    }

    /// What was found of each.
    pub fn into_each(self) -> BTreeMap<InstanceName, Recent> {
        self.each
    }
}

/// A unit that failed. Only process 1 says which, and journald says who wrote a record.
fn failure(line: &[u8]) -> Option<(String, Failure)> {
    let fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if text("MESSAGE_ID") != Some(UNIT_FAILED) || text("_PID") != Some("1") {
        return None;
    }
    let result = harmless(text("UNIT_RESULT")?).chars().take(32).collect();
    Some((
        text("UNIT")?.to_owned(),
        Failure { at: text("__REALTIME_TIMESTAMP")?.parse().ok()?, result },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{LOST, REFUSED};
    use serde_json::json;

    fn web() -> InstanceName {
        InstanceName::new("web").unwrap()
    }

    fn read(lines: &[Value]) -> Recent {
        let mut all = Recents::of(&[web()]);
        for line in lines {
            all.add(line.to_string().as_bytes());
        }
        all.into_each().remove(&web()).unwrap()
    }

    fn refused(address: &str, count: &str) -> Value {
        json!({
            "_SYSTEMD_UNIT": "opencode-events@web.service", "MESSAGE_ID": REFUSED,
            "OPENCODE_PROTOCOL": "tcp", "OPENCODE_ADDRESS": address, "OPENCODE_PORT": "443",
            "OPENCODE_COUNT": count,
        })
    }

    fn failed(at: &str, result: &str, pid: &str, unit: &str) -> Value {
        json!({
            "MESSAGE_ID": UNIT_FAILED, "_PID": pid, "UNIT": unit, "UNIT_RESULT": result,
            "__REALTIME_TIMESTAMP": at,
        })
    }

    #[test]
    fn refusals_are_counted_by_destination() {
        let lost = json!({
            "_SYSTEMD_UNIT": "opencode-events@web.service", "MESSAGE_ID": LOST,
            "OPENCODE_LOST_PACKETS": "5",
        });
        let mut other = refused("9.9.9.9", "100");
        other["_SYSTEMD_UNIT"] = json!("opencode-events@other.service");
        let lines = [refused("1.1.1.1", "3"), refused("1.1.1.1", "4"), refused("8.8.8.8", "1")];
        let recent = read(&[&lines[..], &[lost, other]].concat());
        assert_eq!((recent.destinations(), recent.refused), (2, 13));
        let many: Vec<Value> =
            (0..2000).map(|at| refused(&format!("1.1.{}.{}", at / 256, at % 256), "1")).collect();
        let recent = read(&many);
        assert_eq!((recent.destinations(), recent.refused), (MAX_DESTINATIONS, 2000));
    }

    #[test]
    fn only_process_1_says_that_a_server_failed() {
        let unit = "opencode-web.service";
        let recent = read(&[
            failed("20", "oom-kill", "1", unit),
            failed("10", "timeout", "1", unit),
            failed("30", "signal", "4711", unit),
            failed("40", "signal", "1", "opencode-other.service"),
        ]);
        assert_eq!(recent.failure, Some(Failure { at: 20, result: "oom-kill".to_owned() }));
        let odd = read(&[failed("1", "a\u{1b}[2J", "1", unit)]).failure.unwrap();
        assert_eq!(odd.result, "a\\u{1b}[2J");
    }
}
