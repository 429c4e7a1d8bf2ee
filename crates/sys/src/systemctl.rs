//! systemd, through `systemctl`: it waits for jobs by itself and says why they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::{Command, Output};

use instances_core::plan::Activity;
use instances_core::spec::InstanceName;
use instances_core::units::{Names, owner};
use serde::Deserialize;

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
    let (command, output) = output(program, arguments)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Failed { command, stderr: last_words(&output) })
}

/// Runs a command to its end; returns it in words too.
fn output<S: AsRef<str>>(program: &str, arguments: &[S]) -> Result<(String, Output), Error> {
    let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let command = format!("{program} {}", words.join(" "));
    let output = Command::new(program)
        .args(&words)
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .output()
        .map_err(|error| Error::Spawn(command.clone(), error))?;
    Ok((command, output))
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

/// What a property says, where it says anything.
pub(crate) fn text<'a>(unit: &'a Properties, name: &str) -> &'a str {
    unit.get(name).map(String::as_str).unwrap_or_default()
}

/// The properties of units, in the order asked for; unknown units are `inactive` to systemd.
pub fn show(units: &[String], properties: &[&str]) -> Result<Vec<Properties>, Error> {
    show_by("systemctl", units, properties)
}

/// The same by a program of another path.
pub fn show_by(
    program: &str,
    units: &[String],
    properties: &[&str],
) -> Result<Vec<Properties>, Error> {
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = vec!["show".to_owned(), format!("--property={}", properties.join(","))];
    arguments.push("--".to_owned());
    arguments.extend(units.iter().cloned());
    blocks(&run(program, &arguments)?, units.len())
}

/// The `ActiveState=` of those units of ours that systemd has loaded: all the others are inactive. One question, whereas [`show`]
/// has systemd load each unit and tell all of its properties.
pub fn loaded(units: &[String]) -> Result<BTreeMap<String, String>, Error> {
    #[derive(Deserialize)]
    struct Loaded {
        unit: String,
        active: String,
    }
    if units.is_empty() {
        return Ok(BTreeMap::new());
    }
    // systemd holds each unit that it has against each name that it is given.
    let arguments = ["list-units", "--all", "--full", "--output=json", "--", "opencode*"];
    let text = run("systemctl", &arguments)?;
    let all: Vec<Loaded> = serde_json::from_str(&text)
        .map_err(|_| Error::Output("systemctl list-units".to_owned()))?;
    let asked: BTreeSet<&String> = units.iter().collect();
    let all = all.into_iter().filter(|one| asked.contains(&one.unit));
    Ok(all.map(|one| (one.unit, one.active)).collect())
}

/// All properties of units, those without a value too, in the order of the units.
pub fn show_all(units: &[String]) -> Result<Vec<Properties>, Error> {
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = vec!["show".to_owned(), "--all".to_owned(), "--".to_owned()];
    arguments.extend(units.iter().cloned());
    blocks(&run("systemctl", &arguments)?, units.len())
}

fn blocks(text: &str, count: usize) -> Result<Vec<Properties>, Error> {
    let blocks: Vec<Properties> = text.split("\n\n").map(properties).collect();
    if blocks.len() == count { Ok(blocks) } else { Err(Error::Output("systemctl show".to_owned())) }
}

/// Of those that are said once for each value, the last one; and all files that are opened.
fn properties(block: &str) -> Properties {
    let mut all: Properties = pairs(block).collect();
    let opened: Vec<_> = pairs(block).filter(|(name, _)| name == "OpenFile").collect();
    if !opened.is_empty() {
        let opened: Vec<_> = opened.into_iter().map(|(_, value)| value).collect();
        all.insert("OpenFile".to_owned(), opened.join(" "));
    }
    all
}

fn pairs(block: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = block.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
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
/// limits of earlier tries are forgotten first. Servers that systemd lost while they started are started once more.
pub fn verb(verb: &str, units: &[String]) -> Result<(), Error> {
    let begins = matches!(verb, "start" | "restart");
    match command(verb, units) {
        // What else was refused, systemd says again.
        Err(Error::Failed { .. }) if begins && has_lost_one(units) => command("start", units),
        result => result,
    }
}

fn command(verb: &str, units: &[String]) -> Result<(), Error> {
    if verb != "stop" {
        // Units that never failed, or are not loaded, are no error.
        let _ = forget(units);
    }
    let mut arguments = vec![verb.to_owned(), "--".to_owned()];
    arguments.extend(units.iter().cloned());
    run("systemctl", &arguments).map(drop)
}

/// Whether a server is starting again, or has done so, whose start was said to have failed: then there may be nothing
/// to repair.
///
/// With `PrivatePIDs=` a process of systemd's tells it of process 1 of the unit's namespace, and ends. When systemd
/// hears of the end first, it takes that for the end of the service before it was ready, `Result=protocol`. A
/// supervisor ends like that when a signal asks for it. systemd forgets the result with the next start, and counts it.
fn has_lost_one(units: &[String]) -> bool {
    let is_server = |unit: &&String| owner(unit).is_some_and(|name| Names(&name).main() == **unit);
    let servers: Vec<String> = units.iter().filter(is_server).cloned().collect();
    let shown = show(&servers, &["Result", "NRestarts", "ActiveState"]).unwrap_or_default();
    shown.iter().any(|one| {
        let again = text(one, "NRestarts") != "0"
            && matches!(text(one, "ActiveState"), "activating" | "active");
        again || text(one, "Result") == "protocol"
    })
}

/// Forgets that units failed, and how often they were started.
pub fn forget(units: &[String]) -> Result<(), Error> {
    let mut arguments = vec!["reset-failed".to_owned(), "--".to_owned()];
    arguments.extend(units.iter().cloned());
    run("systemctl", &arguments).map(drop)
}

/// The invocation of an instance's server, from where systemd begins to start it until it is down.
pub fn invocation(program: &str, name: &InstanceName) -> Result<Option<String>, Error> {
    let asked = "--property=ActiveState,SubState,InvocationID";
    let text = run(program, &["show", asked, "--", &Names(name).main()])?;
    let properties: Properties = pairs(&text).collect();
    let text = |name: &str| properties.get(name).map(String::as_str).unwrap_or_default();
    // Until the next start, one that is to be started again has nothing.
    let down = matches!(text("ActiveState"), "inactive" | "failed")
        || text("SubState").starts_with("auto-restart");
    match text("InvocationID") {
        _ if down => Ok(None),
        "" => Err(Error::Output(format!("{program} show"))),
        id => Ok(Some(id.to_owned())),
    }
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

/// Has a service of the host's read its configuration anew, if it runs. networkd is asked itself: the
/// unit of systemd 252 cannot be reloaded.
pub fn reread(unit: &str) -> Result<String, Error> {
    let state = run("systemctl", &["show", "--property=ActiveState", "--value", "--", unit])?;
    if activity(state.trim()) != Activity::Active {
        return Ok(String::new());
    }
    if unit == "systemd-networkd.service" {
        return run("networkctl", &["reload"]);
    }
    run("systemctl", &["reload", "--", unit])
}

/// Asks systemd to load the policies of instances anew, and make their links for the host of now. It
/// does so when it has time; one that is not up is left alone, and one that is to stop stops: systemd would take a reload
/// for the later wish, and leave the unit up.
///
/// Returns who is to stop, and may be started again instead.
pub fn reload_networks(program: &str, names: &[String]) -> Result<Vec<String>, Error> {
    let unit = |name: &String| format!("opencode-net@{name}.service");
    let units = names.iter().map(unit);
    let words = ["--no-block", "--job-mode=fail", "reload", "--"].map(str::to_owned);
    let (command, output) = output(program, &words.into_iter().chain(units).collect::<Vec<_>>())?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let failed = |line: &&str| line.starts_with("Failed to ");
    let stops = |line: &str| line.contains(" is destructive (") && line.contains("'stop' job");
    let stop = |name: &&String| {
        let begin = format!("Failed to reload {}: ", unit(name));
        said.lines().any(|line| line.starts_with(&begin) && stops(line))
    };
    let stopping: Vec<String> = names.iter().filter(stop).cloned().collect();
    if !stopping.is_empty() && said.lines().filter(failed).all(stops) {
        return Ok(stopping);
    }
    Err(Error::Failed { command, stderr: last_words(&output) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A `systemctl` that prints `shown` and notes what it is asked.
    fn stand_in(shown: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("systemctl");
        let text = format!(
            "#!/bin/sh\necho \"$*\" >>{}/log\n[ \"$1\" != show ] || printf '{shown}'\n\
             [ \"$1\" != reset-failed ]\n",
            directory.path().display()
        );
        crate::script::write(&program, &text);
        (directory, program.to_str().unwrap().to_owned())
    }

    fn name() -> InstanceName {
        InstanceName::new("web").unwrap()
    }

    #[test]
    fn a_network_that_is_to_stop_is_not_reloaded() {
        let stops = |name: &str| {
            let unit = format!("opencode-net@{name}.service");
            format!(
                "Failed to reload {unit}: Transaction for {unit}/reload is destructive ({unit} has 'stop' job queued, but \
                 'reload' is included in transaction).\nSee system logs and 'systemctl status {unit}' for details.\n"
            )
        };
        let names =
            |count: usize| (0..count).map(|number| format!("a{number}")).collect::<Vec<_>>();
        let warning =
            "Warning: The unit file, source configuration file or drop-ins of x changed on disk.\n";
        let absent =
            "Failed to reload opencode-net@a1.service: Unit opencode-net@a1.service not found.\n";
        for (said, asked, expected) in [
            (stops("a0"), 2, Some(names(1))),
            (names(20).iter().map(|name| stops(name)).collect(), 20, Some(names(20))),
            (stops("a0") + warning, 2, Some(names(1))),
            (stops("a0") + absent, 2, None),
            (warning.to_owned(), 2, None),
            (String::new(), 2, None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let program = directory.path().join("systemctl");
            crate::script::write(
                &program,
                &format!("#!/bin/sh\ncat >&2 <<'END'\n{said}END\nexit 4\n"),
            );
            let result = reload_networks(program.to_str().unwrap(), &names(asked));
            assert_eq!(result.ok(), expected, "{said}");
        }
    }

    /// What is asked of a systemd that says this state of the server.
    fn asked(state: &str, wait: Wait) -> Vec<String> {
        let (directory, program) = stand_in(state);
        renew(&program, &name(), wait).unwrap();
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        log.lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn a_server_has_an_invocation_while_it_is_started_or_runs() {
        for (active, sub, expected) in [
            ("active", "running", Some("5e")),
            ("activating", "start", Some("5e")),
            ("deactivating", "stop-sigterm", Some("5e")),
            ("activating", "auto-restart", None),
            ("activating", "auto-restart-queued", None),
            ("inactive", "dead", None),
            ("failed", "failed", None),
        ] {
            let shown = format!("InvocationID=5e\\nActiveState={active}\\nSubState={sub}\\n");
            let (_directory, program) = stand_in(&shown);
            assert_eq!(invocation(&program, &name()).unwrap().as_deref(), expected, "{sub}");
        }
        let (_directory, program) = stand_in("");
        assert!(invocation(&program, &name()).is_err());
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
