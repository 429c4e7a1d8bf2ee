//! systemd, through `systemctl`: it waits for jobs by itself and says why they fail.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Output};

use instances_core::plan::Activity;

/// A command of systemd failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot run {0}")]
    Spawn(String, #[source] io::Error),
    /// It said no; its own words.
    #[error("{command} failed: {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// What it printed, at most 2 KiB.
        stderr: String,
    },
    /// Its output was not what its manual says.
    #[error("cannot understand the output of {0}")]
    Output(String),
}

/// Runs a command and returns its standard output.
pub fn run<S: AsRef<str>>(program: &str, arguments: &[S]) -> Result<String, Error> {
    let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let command = format!("{program} {}", words.join(" "));
    let output = Command::new(program)
        .args(&words)
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .output()
        .map_err(|error| Error::Spawn(command.clone(), error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Failed { command, stderr: last_words(&output) })
}

fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    let from = text.len().saturating_sub(2048);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(from..).unwrap_or_default().to_owned()
}

/// The major version of the running systemd.
pub fn version() -> Result<u32, Error> {
    let text = run("systemctl", &["--version"])?;
    let number = text.split_whitespace().nth(1).and_then(|word| {
        word.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
    });
    number.ok_or_else(|| Error::Output("systemctl --version".to_owned()))
}

/// Whether systemd is the running service manager (`sd_booted`).
pub fn booted() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}

/// A unit's properties, by name.
pub type Properties = BTreeMap<String, String>;

/// The properties of units, in the order asked for; unknown units are `inactive` to systemd.
pub fn show(units: &[String], properties: &[&str]) -> Result<Vec<Properties>, Error> {
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = vec!["show".to_owned(), format!("--property={}", properties.join(","))];
    arguments.push("--".to_owned());
    arguments.extend(units.iter().cloned());
    let text = run("systemctl", &arguments)?;
    let blocks: Vec<Properties> = text
        .split("\n\n")
        .map(|block| {
            let pairs = block.lines().filter_map(|line| line.split_once('='));
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        })
        .collect();
    if blocks.len() != units.len() {
        return Err(Error::Output("systemctl show".to_owned()));
    }
    Ok(blocks)
}

/// `ActiveState=` as plans take it.
pub fn activity(state: &str) -> Activity {
    match state {
        "active" | "reloading" | "refreshing" => Activity::Active,
        "activating" | "deactivating" => Activity::Changing,
        "failed" => Activity::Failed,
        _ => Activity::Inactive,
    }
}

/// Starts, stops, restarts or reloads units and waits for the result. `failed` states and start
/// limits of earlier tries are forgotten first.
pub fn verb(verb: &str, units: &[String]) -> Result<(), Error> {
    if verb != "stop" {
        let mut reset = vec!["reset-failed".to_owned(), "--".to_owned()];
        reset.extend(units.iter().cloned());
        // Units that never failed, or are not loaded, are no error.
        let _ = run("systemctl", &reset);
    }
    let mut arguments = vec![verb.to_owned(), "--".to_owned()];
    arguments.extend(units.iter().cloned());
    run("systemctl", &arguments).map(drop)
}
