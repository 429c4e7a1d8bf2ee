//! systemd, through `systemctl`: it waits for jobs by itself and says why they fail.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Output};

use instances_core::plan::Activity;
use instances_core::spec::InstanceName;
use instances_core::units::Names;

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

/// Whether [`renew`] waits for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until the server runs again, or has failed to.
    UntilDone,
    /// Not at all: the caller restarts with it.
    No,
}

/// Restarts an instance's server, if it runs, because it is to have something new.
///
/// However often that happens, it is no failure: the starts before it do not count toward the limit at
/// which systemd gives up.
pub fn renew(program: &str, name: &InstanceName, wait: Wait) -> Result<(), Error> {
    let (main, watcher) = (Names(name).main(), Names(name).secrets());
    let state = run(program, &["show", "--property=ActiveState", "--value", "--", &main])?;
    // It is not restarted, and without its state nobody would see that it failed.
    if activity(state.trim()) == Activity::Failed {
        return Ok(());
    }
    // The watcher of its secrets restarts with it, where there is one; and see `verb`.
    let _ = run(program, &["reset-failed", "--", &main, &watcher]);
    let restart = ["--no-block", "try-restart", "--", &main];
    let from = usize::from(wait == Wait::UntilDone);
    run(program, restart.get(from..).unwrap_or_default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    /// What is asked of a systemd that says this state of the server.
    fn asked(state: &str, wait: Wait) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let (program, log) = (directory.path().join("systemctl"), directory.path().join("log"));
        let text = format!(
            "#!/bin/sh\necho \"$*\" >>{}\n[ \"$1\" != show ] || echo {state}\n[ \"$1\" != reset-failed ]\n",
            log.display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let name = InstanceName::new("web").unwrap();
        renew(program.to_str().unwrap(), &name, wait).unwrap();
        fs::read_to_string(log).unwrap().lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn a_restart_that_is_asked_for_counts_toward_no_limit() {
        let reset = "reset-failed -- opencode-web.service opencode-secrets@web.service";
        let restart = "try-restart -- opencode-web.service";
        assert_eq!(asked("active", Wait::UntilDone), [reset, restart]);
        assert_eq!(asked("activating", Wait::No), [reset, &format!("--no-block {restart}")]);
        assert!(asked("failed", Wait::UntilDone).is_empty(), "what failed still says so");
    }
}
