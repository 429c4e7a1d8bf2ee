//! `status`: one line for each instance.

mod metrics;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use instances_core::recent::Recent;
use instances_core::spec::InstanceName;
use instances_sys::events::recent::{self, Hour};
use instances_sys::files::Root;
use instances_sys::installed::{self, Record};
use instances_sys::status::{self, State, Status, result_in_words};
use instances_sys::{systemctl, terminal};
use serde::Serialize;
use serde_json::{Value, json};

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::out;
use table::Look;

/// An instance with what the journal says of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    #[serde(flatten)]
    status: Status,
    /// What it was kept from in the last hour; `None` where the journal cannot be read.
    refused_last_hour: Option<Refused>,
    /// How its server failed last, in the last hour.
    last_error: Option<LastError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Refused {
    /// How many destinations and names, at most 1000.
    destinations: usize,
    /// How many packets and questions.
    packets: u64,
    /// Whether all records were read; otherwise there are more.
    complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct LastError {
    at: String,
    result: String,
    words: String,
}

impl Seen {
    fn new(status: Status, hour: Option<&Hour>) -> Self {
        let name = InstanceName::new(&status.name).ok();
        let recent = hour.zip(name).and_then(|(hour, name)| Some((hour.each.get(&name)?, hour)));
        let refused = |(recent, hour): (&Recent, &Hour)| Refused {
            destinations: recent.destinations(),
            packets: recent.refused,
            complete: hour.complete,
        };
        let failure = recent.and_then(|(recent, _)| recent.failure.as_ref());
        let last_error = failure.map(|failure| LastError {
            at: time(failure.at),
            result: failure.result.clone(),
            words: result_in_words(&failure.result).to_owned(),
        });
        Self { status, refused_last_hour: recent.map(refused), last_error }
    }

    /// Whether an operator should look at it.
    fn is_wrong(&self) -> bool {
        self.status.state == State::Failed || self.status.healthy == Some(false)
    }
}

/// A time in UTC.
fn time(micros: u64) -> String {
    const LAST: u64 = 253_402_300_799_000_000;
    let time = UNIX_EPOCH + Duration::from_micros(micros.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

pub(crate) fn run(args: &args::Status) -> Outcome {
    let root = Root::new("/".as_ref());
    let records = records(&root, &args.names)?;
    if args.watch {
        return watch::run(&root, &args.names);
    }
    let hour = recent::read(&names(&records));
    let all = look(&records, hour.as_ref())?;
    if args.metrics {
        out::raw(metrics::text(&all).as_bytes());
        return Ok(Exit::Done);
    }
    if args.json.json {
        out::json(&report(&all));
    } else if all.is_empty() {
        out::note("no instance is installed; `opencode-instances apply` installs them");
    } else {
        let columns = terminal::size().map(|size| size.columns);
        let look = Look { columns, colours: terminal::has_colours(), rates: &BTreeMap::new() };
        for line in look.lines(&all) {
            out::line(line);
        }
    }
    Ok(if all.iter().any(Seen::is_wrong) { Exit::Finding } else { Exit::Done })
}

fn records(root: &Root, names: &[String]) -> Result<Vec<Record>, installed::Error> {
    if names.is_empty() { installed::instances(root) } else { installed::named(root, names) }
}

fn names(records: &[Record]) -> Vec<InstanceName> {
    records.iter().map(|record| record.name.clone()).collect()
}

fn look(records: &[Record], hour: Option<&Hour>) -> Result<Vec<Seen>, systemctl::Error> {
    let all = status::observe_sessions(records)?;
    Ok(all.into_iter().map(|status| Seen::new(status, hour)).collect())
}

fn report(all: &[Seen]) -> Value {
    json!({ "version": 1, "instances": all })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use instances_sys::status::{Sessions, Usage};

    /// One that runs well, with something in every field.
    pub(super) fn seen(name: &str) -> Seen {
        let status = Status {
            name: name.to_owned(),
            state: State::Running,
            healthy: Some(true),
            version: Some("1.18.33".to_owned()),
            listen: "127.0.0.1:4101".parse().unwrap(),
            url: "http://127.0.0.1:4101/".to_owned(),
            listening: true,
            pid: Some(4711),
            uptime: Some(90_061),
            memory: Some(400 << 20),
            usage: Usage {
                memory: Some(412 << 20),
                memory_peak: Some(900 << 20),
                cpu_nanoseconds: Some(75_500_000_000),
                tasks: Some(31),
            },
            sessions: Some(Sessions { busy: 1, idle: 12 }),
            restarts: 0,
            pending_restart: false,
            reason: "serving on port 4096".to_owned(),
        };
        let refused = Refused { destinations: 3, packets: 17, complete: true };
        Seen { status, refused_last_hour: Some(refused), last_error: None }
    }

    /// One that failed, of which nothing else is known.
    pub(super) fn failed(name: &str, reason: &str) -> Seen {
        let mut seen = seen(name);
        let status = &mut seen.status;
        (status.state, status.healthy, status.version) = (State::Failed, None, None);
        (status.uptime, status.memory, status.sessions) = (None, None, None);
        (status.usage, status.listening, status.pid) = (Usage::default(), false, None);
        status.reason = reason.to_owned();
        seen.refused_last_hour = None;
        seen
    }

    #[test]
    fn the_object_is_an_interface() {
        let mut one = seen("web");
        one.last_error = Some(LastError {
            at: time(1_700_000_000_000_000),
            result: "oom-kill".to_owned(),
            words: "out of memory".to_owned(),
        });
        assert_eq!(
            report(&[one]),
            json!({ "version": 1, "instances": [{
                "name": "web", "state": "running", "healthy": true, "version": "1.18.33",
                "listen": "127.0.0.1:4101", "url": "http://127.0.0.1:4101/", "listening": true,
                "pid": 4711, "uptime": 90061, "memory": 419_430_400,
                "usage": {
                    "memory": 432_013_312, "memoryPeak": 943_718_400,
                    "cpuNanoseconds": 75_500_000_000_u64, "tasks": 31,
                },
                "sessions": { "busy": 1, "idle": 12 }, "restarts": 0, "pendingRestart": false,
                "reason": "serving on port 4096",
                "refusedLastHour": { "destinations": 3, "packets": 17, "complete": true },
                "lastError": {
                    "at": "2023-11-14T22:13:20Z", "result": "oom-kill", "words": "out of memory",
                },
            }]})
        );
    }
}
