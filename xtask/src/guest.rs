//! The slow tier: what needs a kernel that the lab chooses.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use instances_lab::guest::{self, Guest};
use instances_lab::place;
use instances_lab::progress::say;
use serde_json::Value;

use crate::engine::{self, cargo};
use crate::test::{Tally, count};

/// The test binary that needs a guest.
const TARGET: &str = "guest";
/// How long its tests may take.
const TESTS_TIME: Duration = Duration::from_mins(20);
/// How long a command may take that a human waits for.
const COMMAND_TIME: Duration = Duration::from_hours(24);

/// Runs a command, or a shell, and passes its status on.
pub(crate) fn run(command: &[OsString]) -> Result<ExitCode> {
    let status = match command.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments);
            Guest::start(&command, Stdio::inherit(), COMMAND_TIME)?.wait()?
        }
        None => Guest::shell()?,
    };
    Ok(u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs the tests for a human.
pub(crate) fn tests() -> Result<ExitCode> {
    engine::build()?;
    let failed = check()?.failed > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Builds the tests here and runs them in a guest.
pub(crate) fn check() -> Result<Tally> {
    if let Some(reason) = guest::obstacle() {
        if env::var_os("CI").is_some() {
            bail!(reason);
        }
        say(&format!("SKIP: {reason}"));
        return Ok(Tally::default());
    }
    let mut command = Command::new(binary()?);
    // Two machines at once are as fast as one after the other.
    command.args(["--ignored", "--test-threads", "2"]).current_dir(place::workspace());
    command.env(place::ENGINE_VAR, place::engine()).env(place::DIR_VAR, place::dir());
    // What could not run there must not look as if it had.
    command.env("CI", "1");
    let mut guest = Guest::start(&command, Stdio::piped(), TESTS_TIME)?;
    let output = guest.output().context("the guest's output is gone")?;
    // Beside each other: a guest that hangs would never end its output.
    let (tally, status) = thread::scope(|scope| {
        let tally = scope.spawn(|| count(output));
        let status = guest.wait();
        (tally.join(), status)
    });
    let mut tally = tally.map_err(|_| anyhow!("the reader of the output panicked"))??;
    if status? != 0 && tally.failed == 0 {
        tally.failed = 1;
    }
    if tally.passed + tally.failed == 0 {
        bail!("no test ran in the guest");
    }
    Ok(tally)
}

/// The test binary, built with what the other tests are built with.
fn binary() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--workspace", "--test", TARGET, "--no-run", "--message-format", "json"]);
    let build = build.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    let messages = String::from_utf8_lossy(&build.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut binaries = messages.filter_map(|message| {
        let ours = message.pointer("/target/name")? == TARGET;
        message.get("executable")?.as_str().filter(|_| ours).map(PathBuf::from)
    });
    binaries.next_back().context("the tests do not build")
}
