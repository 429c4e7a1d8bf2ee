//! The operator's scripts.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use super::{Error, Event, Request};
use crate::environment;

/// Runs a script to its end, if there is one: in HOME, with the environment of the server.
pub(super) fn run(
    request: &Request<'_>,
    name: &'static str,
    said: &dyn Fn(Event<'_>),
) -> Result<(), Error> {
    let failed = |how: String| Error::Script { name, how };
    let script = request.plan.with_file_name(name);
    match script.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) => return Err(failed(format!("cannot be looked at: {error}"))),
    }
    let Some(scripts) = &request.scripts else {
        return Err(failed("is not what this unit was made for".to_owned()));
    };
    said(Event::Step(name));
    let mut command = Command::new(scripts.shell);
    command.args(["-eu"]).arg(&script).current_dir(request.home).stdin(Stdio::null());
    environment::hand_on(&mut command, &scripts.prefixes);
    let status = command.status().map_err(|error| failed(format!("cannot be started: {error}")))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(failed(format!("failed with status {code}"))),
        (None, signal) => {
            Err(failed(format!("was killed by signal {}", signal.unwrap_or_default())))
        }
    }
}
