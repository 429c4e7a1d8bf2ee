//! The commands, one module each.

pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod blocked;
pub(crate) mod check;
pub(crate) mod control;
pub(crate) mod dns;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod net;
pub(crate) mod nixos;
pub(crate) mod options;
pub(crate) mod render;
pub(crate) mod restore;
pub(crate) mod rotate;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod unit;
pub(crate) mod url;

use std::error::Error;
use std::thread::sleep;
use std::time::{Duration, Instant};

use instances_core::terminal::harmless;
use instances_sys::installed::Record;
use instances_sys::status::{State, observe};
use instances_sys::systemctl;

use crate::exit::Exit;
use crate::out;

/// How a command ends: an exit status, or a failure that is printed with its causes.
pub(crate) type Outcome = Result<Exit, Box<dyn Error>>;

/// How long a start that was tried again may take until its reason is known.
const SETTLING: Duration = Duration::from_secs(10);

/// Says of each instance that is not well why it is not.
///
/// systemd may be at the next attempt already, and forgets the reason of the last one meanwhile: each
/// instance is looked at until it is between two.
pub(crate) fn say_why(records: &[Record]) -> Result<(), systemctl::Error> {
    let end = Instant::now() + SETTLING;
    let mut left = records.to_vec();
    loop {
        let all = observe(&left)?;
        let late = Instant::now() >= end;
        for status in &all {
            let settled = late || status.state != State::Starting;
            if settled && !status.reason.is_empty() && status.healthy != Some(true) {
                out::note(format!("{}: {}", status.name, harmless(&status.reason)));
            }
        }
        let starting = |record: &Record| {
            let its = all.iter().find(|status| status.name == record.name.as_str());
            its.is_some_and(|status| status.state == State::Starting)
        };
        left.retain(starting);
        if late || left.is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
}
