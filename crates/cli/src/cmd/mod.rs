//! The commands, one module each.

pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod blocked;
pub(crate) mod check;
pub(crate) mod control;
pub(crate) mod dns;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod net;
pub(crate) mod nixos;
pub(crate) mod options;
pub(crate) mod render;
pub(crate) mod rotate;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod unit;
pub(crate) mod url;

use std::error::Error;

use instances_sys::installed::Record;
use instances_sys::systemctl;

use crate::exit::Exit;
use crate::out;

/// How a command ends: an exit status, or a failure that is printed with its causes.
pub(crate) type Outcome = Result<Exit, Box<dyn Error>>;

/// Says of each instance that is not well why it is not.
pub(crate) fn say_why(records: &[Record]) -> Result<(), systemctl::Error> {
    for status in instances_sys::status::observe(records)? {
        if !status.reason.is_empty() && status.healthy != Some(true) {
            out::note(format!("{}: {}", status.name, status.reason));
        }
    }
    Ok(())
}
