//! A server that stands still, or that cannot start, while its files are copied.
//!
//! Both end with the unit of the step: what would start the server waits for that unit, and that unit thaws
//! it when it ends, however it ends. So there is nothing here that thaws.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use instances_core::units::Names;
use serde::{Deserialize, Serialize};

use super::Error;
use super::place::Place;
use super::unit::{Said, say};
use crate::installed::Record;
use crate::systemctl::{self, Properties, text};

/// What the look at the end is held against.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    /// The invocation of the server that stands still, if one runs.
    invocation: Option<String>,
}

/// How a server is for a copy.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It runs, with its invocation and whether it stands still.
    Up(String, bool),
    /// It does not run.
    Down,
    /// Neither.
    Between,
}

fn look(record: &Record, systemctl: &str) -> Result<State, Error> {
    let names = Names(&record.name);
    let asked = ["ActiveState", "SubState", "InvocationID", "FreezerState"];
    let units = systemctl::show_by(systemctl, &[names.main(), names.setup()], &asked)?;
    let [main, setup] = units.as_slice() else {
        return Err(systemctl::Error::Output(format!("{systemctl} show")).into());
    };
    Ok(state(main, setup))
}

fn state(main: &Properties, setup: &Properties) -> State {
    // It works in the state before the server does.
    if matches!(text(setup, "ActiveState"), "activating" | "deactivating") {
        return State::Between;
    }
    match text(main, "ActiveState") {
        "active" => {
            State::Up(text(main, "InvocationID").to_owned(), text(main, "FreezerState") == "frozen")
        }
        "inactive" | "failed" => State::Down,
        _ if text(main, "SubState").starts_with("auto-restart") => State::Down,
        _ => State::Between,
    }
}

fn path(record: &Record) -> Result<PathBuf, Error> {
    Ok(Place::of(record)?.backup().join("held.json"))
}

/// Has the server stand still, if it runs.
pub(super) fn hold(record: &Record, systemctl: &str) -> Result<(), Error> {
    let since = milliseconds();
    let invocation = match look(record, systemctl)? {
        State::Between => return unsettled(record),
        State::Down => None,
        State::Up(invocation, _) => {
            let main = Names(&record.name).main();
            let frozen = systemctl::run(systemctl, &["freeze", "--", &main]);
            if let Err(error) = frozen {
                return match look(record, systemctl)? {
                    State::Up(..) if !is_busy(&error) => Err(error.into()),
                    _ => unsettled(record),
                };
            }
            Some(invocation)
        }
    };
    let path = path(record)?;
    let said = Said::Held { since: invocation.as_ref().map(|_| since) };
    let text = serde_json::to_vec(&Note { invocation }).unwrap_or_default();
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&text)).map_err(Error::file("write", &path))?;
    say(&said)
}

/// Now, in milliseconds since 1970.
pub(super) fn milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}

/// Whether systemd has a job for the unit, which goes first.
fn is_busy(error: &systemctl::Error) -> bool {
    let busy = ["job", "busy", "in progress"];
    let words = error.to_string().to_lowercase();
    busy.iter().any(|word| words.contains(word))
}

fn unsettled(record: &Record) -> Result<(), Error> {
    say(&Said::Unsettled)?;
    Err(Error::Unsettled(record.name.to_string()))
}

/// Requires that nothing has changed since.
pub(super) fn require_held(record: &Record, systemctl: &str) -> Result<(), Error> {
    let path = path(record)?;
    let text = fs::read(&path).map_err(Error::file("read", &path))?;
    let noted: Note =
        serde_json::from_slice(&text).map_err(|_| Error::Words(path.display().to_string()))?;
    match (noted.invocation, look(record, systemctl)?) {
        (Some(noted), State::Up(invocation, true)) if noted == invocation => Ok(()),
        (None, State::Down) => Ok(()),
        _ => Err(Error::Disturbed),
    }
}

/// Requires that no unit of the instance runs, and that no client would start one.
pub(super) fn require_quiet(record: &Record, systemctl: &str) -> Result<(), Error> {
    let names = Names(&record.name);
    let units: Vec<String> = names.all().into_iter().chain(names.sometimes()).collect();
    let states = systemctl::show_by(systemctl, &units, &["ActiveState"])?;
    for (unit, state) in units.into_iter().zip(states) {
        let state = text(&state, "ActiveState");
        if !matches!(state, "inactive" | "failed") {
            let (name, state) = (record.name.to_string(), state.to_owned());
            return Err(Error::Running { name, unit, state });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, sub: &str, freezer: &str) -> Properties {
        let pairs = [("ActiveState", active), ("SubState", sub), ("FreezerState", freezer)];
        let all = pairs.into_iter().chain([("InvocationID", "5e")]);
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_server_is_up_or_down_or_asked_again() {
        let idle = unit("inactive", "dead", "running");
        let of = |active, sub| state(&unit(active, sub, "running"), &idle);
        assert_eq!(of("active", "running"), State::Up("5e".to_owned(), false));
        assert_eq!(of("inactive", "dead"), State::Down);
        assert_eq!(of("failed", "failed"), State::Down);
        assert_eq!(of("activating", "auto-restart"), State::Down);
        for (active, sub) in [("activating", "start"), ("deactivating", "stop"), ("reloading", "")]
        {
            assert_eq!(of(active, sub), State::Between, "{active}");
        }
        let setup = unit("activating", "start", "running");
        assert_eq!(state(&idle, &setup), State::Between);
        let frozen = unit("active", "running", "frozen");
        assert_eq!(state(&frozen, &idle), State::Up("5e".to_owned(), true));
    }
}
