//! Commands inside a machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::guest::patience;

/// The search path of commands that run in a machine.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What `timeout` reports for a command that it had to kill.
const KILLED: i32 = 128 + 9;

/// What a command inside a machine did.
#[derive(Debug, Clone)]
#[must_use]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// The command as a human would type it.
    pub command: String,
}

impl Output {
    /// Says whether the command ended with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code, or -1 if a signal ended the command.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// What the command printed, or an error that shows everything if it did not succeed.
    pub fn ok(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        bail!("{self}")
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, command } = self;
        write!(f, "{command}: {status}\n--- stdout\n{stdout}--- stderr\n{stderr}")
    }
}

/// The command that enters all namespaces of a process with a clean environment.
pub(crate) fn enter(pid: i32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={pid}"));
    command
        .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"]);
    command.args(["/usr/bin/env", "-i", "HOME=/root", "LANG=C.UTF-8"]).arg(format!("PATH={PATH}"));
    command
}

/// Runs a command in the namespaces of a process to its end.
pub(crate) fn run<I, S>(pid: i32, argv: I, input: &[u8], timeout: Duration) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let timeout = patience(timeout);
    let argv: Vec<S> = argv.into_iter().collect();
    let words: Vec<_> = argv.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let shown = words.join(" ");
    // Files, not pipes: what a command leaves running in the background cannot hold us up.
    let (mut stdin, mut stdout, mut stderr) = (scratch()?, scratch()?, scratch()?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    let start = Instant::now();
    let status = enter(pid)
        .args(["timeout", "--signal=KILL"])
        .arg(format!("{}", timeout.as_secs_f64()))
        .args(&argv)
        .stdin(Stdio::from(stdin))
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .status()
        .context("cannot start nsenter")?;
    let output =
        Output { status, stdout: text(&mut stdout)?, stderr: text(&mut stderr)?, command: shown };
    if start.elapsed() >= timeout && (status.code() == Some(KILLED) || status.code().is_none()) {
        bail!("no end after {} s: {output}", timeout.as_secs());
    }
    Ok(output)
}

fn scratch() -> Result<File> {
    tempfile::tempfile().context("cannot make a temporary file")
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
