//! Starts the server and says how it ended.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use instances_core::attend::{COMES_BACK, NEVER_READY};
use instances_core::dialect::Dialect;
use instances_core::guard;
use instances_core::layout::DEFAULT_USERNAME;
use rustix::process::{Pid, WaitStatus};

use super::options::Options;
use super::relay::unblock;
use crate::environment;

/// The longest password, in bytes.
const MAX_PASSWORD: u64 = 4096;
/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) pid: Pid,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Reads the credential `password`; nothing when there is none and none is required.
///
/// Whatever else is wrong with it is fatal: without a password the server would serve everyone.
pub(super) fn password(
    credentials: Option<&Path>,
    required: bool,
) -> Result<Option<String>, String> {
    let missing =
        || if required { Err("the credential password is missing".to_owned()) } else { Ok(None) };
    let Some(path) = credentials.map(|directory| directory.join("password")) else {
        return missing();
    };
    let mut text = String::new();
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return missing(),
        other => other
            .and_then(|file| file.take(MAX_PASSWORD + 1).read_to_string(&mut text))
            .map_err(|error| format!("cannot read the credential password: {error}"))?,
    };
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err("the credential password is empty, which would switch it off".to_owned());
    }
    if password.len() as u64 > MAX_PASSWORD || password.contains(char::is_control) {
        return Err("the credential password is too long or has control characters".to_owned());
    }
    Ok(Some(password.to_owned()))
}

/// The user's name and the password that an environment file gave the server.
pub(super) fn inherited_login(dialect: &Dialect) -> Option<(String, String)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let password = dialect.password.iter().find_map(|name| variable(name))?;
    let user = variable(dialect.username);
    Some((user.unwrap_or_else(|| DEFAULT_USERNAME.to_owned()), password))
}

/// Starts the server in a process group of its own, so that a `kill(0, …)` in it stays in it.
pub(super) fn spawn(options: &Options, password: Option<&str>) -> Result<Server, String> {
    let program = options.program();
    let mut command = Command::new(&program);
    command.args(options.command.iter().skip(1)).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    environment::hand_on(&mut command, &options.prefixes);
    if options.guarded {
        command.env(guard::PRELOAD, guard::FILE);
    }
    if let Some(password) = password {
        for name in options.dialect.password {
            command.env(name, password);
        }
        command.env(options.dialect.username, &options.username);
    }
    let mut child =
        command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    for stream in [&stdout, &stderr].into_iter().flatten() {
        unblock(stream).map_err(|error| format!("cannot read the server's output: {error}"))?;
    }
    // A process id is positive; the supervisor reaps it together with the orphans.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(Server { pid: pid.ok_or("the server has no process id")?, stdout, stderr })
}

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// It called `exit`.
    Status(u8),
    /// A signal killed it.
    Signal(i32),
}

impl Exit {
    pub(super) fn of(status: WaitStatus) -> Self {
        match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => Self::Signal(signal),
            (None, status) => Self::Status(u8::try_from(status.unwrap_or(1)).unwrap_or(1)),
        }
    }

    /// The supervisor's own status for an end that nobody asked for: never 0, and none that means something to the
    /// unit. Those from 200 on are systemd's own.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Status(0 | NEVER_READY | COMES_BACK | 200..) => 1,
            Self::Status(status) => status,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = match self {
            Self::Status(0) => return f.write_str("the server ended by itself"),
            Self::Status(status) => return write!(f, "the server failed with status {status}"),
            Self::Signal(signal) => *signal,
        };
        let name = match signal {
            1 => "SIGHUP",
            2 => "SIGINT",
            4 => "SIGILL; a processor without AVX2 needs opencode's baseline build",
            6 => "SIGABRT",
            7 => "SIGBUS",
            9 => "SIGKILL",
            11 => "SIGSEGV",
            15 => "SIGTERM",
            31 => "SIGSYS; the system call filter refused something",
            _ => return write!(f, "the server was killed by signal {signal}"),
        };
        write!(f, "the server was killed by {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unasked_end_is_never_a_success() {
        assert_eq!(Exit::Status(0).code(), 1);
        assert_eq!(Exit::Status(3).code(), 3);
        assert_eq!(Exit::Signal(9).code(), 137);
        assert_eq!(Exit::Signal(64).code(), 192);
    }

    #[test]
    fn a_password_is_read_or_refused_but_never_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let read = || password(Some(directory.path()), false);
        assert_eq!(read(), Ok(None));
        assert!(password(Some(directory.path()), true).is_err() && password(None, true).is_err());
        for (text, expected) in [("s3cret\n", Some("s3cret")), ("a b", Some("a b"))] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read().unwrap().as_deref(), expected);
        }
        for text in ["", "\n", "a\0b", "a\nb", &"x".repeat(5000)] {
            std::fs::write(&path, text).unwrap();
            assert!(read().is_err());
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read().is_err());
    }
}
