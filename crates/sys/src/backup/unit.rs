//! The transient unit in which each step runs: confined as far as a program is that reads files and writes
//! others, and known to systemd, so that what must follow a step follows whoever is killed.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use instances_core::spec::InstanceName;
use instances_core::units::Names;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::{shell, systemctl};

/// What a step needs: to become another user, to read, and to write where it is told.
const SANDBOX: &[&str] = &[
    "CapabilityBoundingSet=CAP_SETUID CAP_SETGID",
    "NoNewPrivileges=yes",
    "PrivateNetwork=yes",
    "RestrictAddressFamilies=AF_UNIX",
    "PrivateDevices=yes",
    "DevicePolicy=closed",
    "PrivateIPC=yes",
    "PrivateTmp=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "KeyringMode=private",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "LimitCORE=0",
    "LimitNOFILE=4096",
    "MemoryMax=2G",
    "OOMScoreAdjust=500",
    "TasksMax=8",
    "UMask=0077",
];
/// Longer than all that steps say, in bytes.
const SAID: u64 = 1 << 20;

/// What a step says on standard output, one line each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Said {
    /// The server stands still, or does not run and cannot start.
    Held {
        /// Since when it stands still, in milliseconds since 1970, if it runs.
        since: Option<u64>,
    },
    /// The server is being started or stopped.
    Unsettled,
    /// What is in a tree, or in an archive.
    Counted(super::Count),
    /// Where the previous state is.
    Swapped(Option<PathBuf>),
    /// How the unit ended, by systemd's words.
    Ended(String),
}

/// Says it.
pub(super) fn say(said: &Said) -> Result<(), Error> {
    let line = serde_json::to_string(said).map_err(|_| Error::Words("a step".to_owned()))?;
    writeln!(std::io::stdout().lock(), "{line}").map_err(Error::file("write to", "standard output"))
}

/// The unit's name: one for each instance, so that no two steps run at once.
pub(super) fn name(instance: &InstanceName) -> String {
    format!("opencode-keep@{instance}.service")
}

/// A step, and what stands around it.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) instance: &'a InstanceName,
    /// Where it may write; nowhere, if it only looks.
    pub(super) writable: Option<&'a Path>,
    /// What it is called with behind `keep`.
    pub(super) words: Vec<String>,
    /// The same before and after it, as root and outside the sandbox.
    pub(super) before: Option<Vec<String>>,
    pub(super) after: Option<Vec<String>>,
    /// Whether no unit of the instance is started meanwhile.
    pub(super) holds: bool,
    /// The server is thawed at the end, which comes after so many seconds at the latest.
    pub(super) thaws: Option<u32>,
}

/// Runs a step to its end. What it said, where standard output is not an archive.
pub(super) fn run(
    step: &Step<'_>,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
) -> Result<Vec<Said>, Error> {
    let unit = name(step.instance);
    let engine = std::env::current_exe().map_err(Error::file("find", "this program"))?;
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--collect", "--pipe", "--wait", "--service-type=oneshot"]);
    command.arg(format!("--unit={unit}"));
    command.arg(format!("--description=Keeping the state of instance {}", step.instance));
    let mut property = |text: String| {
        command.arg(format!("--property={text}"));
    };
    for line in SANDBOX {
        property((*line).to_owned());
    }
    if let Some(path) = step.writable {
        property(format!("ReadWritePaths={}", quoted(path)));
    }
    if step.holds {
        let names = Names(step.instance);
        let others = names.all().into_iter().chain(names.sometimes());
        property(format!("Before={}", others.collect::<Vec<_>>().join(" ")));
    }
    let line = |words: &[String]| format!("{} keep {}", quoted(&engine), words.join(" "));
    if let Some(words) = &step.before {
        property(format!("ExecStartPre=+{}", line(words)));
    }
    if let Some(words) = &step.after {
        property(format!("ExecStartPost=+{}", line(words)));
    }
    if let Some(seconds) = step.thaws {
        property(format!("TimeoutStartSec={seconds}"));
        property("TimeoutStopSec=5".to_owned());
        // It takes nothing of ours to have an agent go on. One that does not run is no error.
        let (shell, systemctl) = (quoted(&program("sh")?), program("systemctl")?);
        let main = Names(step.instance).main();
        let thaw = format!("exec {} thaw {main} 2>/dev/null", shell::word(&systemctl));
        property(format!("ExecStopPost=-+{shell} -c {}", quoted(Path::new(&thaw))));
        property(format!(
            "ExecStopPost=-+{}",
            line(&["ended".to_owned(), step.instance.to_string()])
        ));
    }
    command.arg("--").arg(&engine).arg("keep").args(&step.words);
    command.env("LC_ALL", "C.UTF-8");
    command.stdin(input.map_or_else(Stdio::null, Stdio::from));
    let speaks = output.is_none();
    command.stdout(output.map_or_else(Stdio::piped, Stdio::from));
    let spawned = |error| systemctl::Error::Spawn("systemd-run".to_owned(), error);
    let mut child = command.spawn().map_err(spawned)?;
    // It has them by now, and a pipe ends when nobody else has it.
    drop(command);
    let mut text = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(SAID).read_to_end(&mut text).map_err(Error::file("read from", &unit))?;
    }
    let status = child.wait().map_err(Error::file("wait for", &unit))?;
    let text = String::from_utf8_lossy(&text);
    let said: Vec<Said> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if status.success() || (speaks && said.contains(&Said::Unsettled)) {
        return Ok(said);
    }
    // Somebody may have ended systemd-run alone.
    let _ = systemctl::run("systemctl", &["stop", "--", &unit]);
    let result = said.iter().find_map(|said| match said {
        Said::Ended(result) => Some(result.clone()),
        _ => None,
    });
    match (result.as_deref(), step.thaws) {
        (Some("timeout"), Some(seconds)) => Err(Error::Limit(seconds)),
        _ => Err(Error::Step { unit, result: result.unwrap_or_else(|| status.to_string()) }),
    }
}

/// A path as one word of a command in a unit.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// Where PATH finds a program: units know no PATH of the caller's.
pub(super) fn program(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name));
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    found
        .filter(|path| path.is_absolute())
        .find(|path| path.is_file())
        .ok_or_else(|| Error::file("find in PATH", name)(missing()))
}
