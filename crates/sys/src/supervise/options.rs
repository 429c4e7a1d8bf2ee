//! What the supervisor is told: arguments, and what systemd puts into the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instances_core::attend::NEVER_READY;
use instances_core::dialect::{self, Dialect};
use instances_core::layout::DEFAULT_USERNAME;
use instances_core::spec::InstanceName;

use crate::environment;
use crate::http;

/// What to run, and where the service manager listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the server will listen on 127.0.0.1; the same number as in `command`.
    pub port: u16,
    /// The server's program and arguments, never empty. A directory as its first word stands for
    /// `bin/opencode` below it.
    pub command: Vec<OsString>,
    /// `--path`: prefixes of programs, which go in front of `PATH`.
    pub prefixes: Vec<PathBuf>,
    /// `HOME`: where stale locks are looked for.
    pub home: Option<PathBuf>,
    /// `CREDENTIALS_DIRECTORY`: may hold the file `password`.
    pub credentials: Option<PathBuf>,
    /// `--username`: whom the server asks for.
    pub username: String,
    /// `--directory`: the project, where the server does not start in it.
    pub directory: Option<String>,
    /// `--guarded`: whether the server is not ready before the guard says that it is active.
    pub guarded: bool,
    /// `--attend`: the instance whose proxies are told how the server is.
    pub attend: Option<InstanceName>,
    /// `--idle`: when the server ends because nobody uses it; `None` for never.
    pub idle: Option<Idle>,
    /// `--setup`: what is done in HOME before the server starts; `None` where a unit before has done it.
    pub setup: Option<PathBuf>,
    /// `--places`: the name of the list of places that the host mounts before anything starts.
    pub places: Option<OsString>,
    /// `--opencode`: how this generation of opencode is asked.
    pub dialect: &'static Dialect,
    /// `--password`: whether a missing credential is an error, and not a server without a password.
    pub password: bool,
    /// `NOTIFY_SOCKET`: where messages go, see `sd_notify(3)`.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`: how long the service manager waits between two signs of life.
    ///
    /// `WATCHDOG_PID` is not looked at: with `PrivatePIDs=` it is wrong in systemd 257.2 to 257.7
    /// (systemd#38137).
    pub watchdog: Option<Duration>,
}

impl Options {
    /// The exit status where the server never was ready: the service manager need not try again where clients do.
    pub(super) fn never_ready(&self, code: u8) -> u8 {
        if self.idle.is_some() { NEVER_READY } else { code }
    }
}

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsageError {
    /// There is no `--port`.
    #[error("--port is missing")]
    NoPort,
    /// An argument without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// The port is no number in `1..=65535`.
    #[error("{0:?} is not a port")]
    Port(OsString),
    /// An argument that means nothing here.
    #[error("unexpected argument {0:?}")]
    Unexpected(OsString),
    /// Nothing follows `--`.
    #[error("the server's command is missing after --")]
    NoCommand,
}

/// When a server is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// For how long it has to be.
    pub time: Duration,
    /// `--idle-active`: whether only those clients count that have sent something in that time.
    pub active: bool,
    /// `--idle-alone`: whether processes that were left running do not count.
    pub alone: bool,
}

/// Parses what follows the word `supervise`: `[--generation WORD] [--places LIST] [--attend NAME]
/// [--setup PLAN] [--idle SECONDS [--idle-active] [--idle-alone]] --port N [--opencode MAJOR]
/// [--directory DIRECTORY] [--guarded] [--path PREFIX:…] [--password] [--username NAME] -- PROGRAM [ARGUMENT…]`. The generation is there for `status` to read.
///
/// It reads the environment of this process for the rest. It is separate from the command line's
/// own parser so that the supervisor need not load that.
///
/// # Errors
///
/// See [`UsageError`].
pub fn parse_args(arguments: impl Iterator<Item = OsString>) -> Result<Options, UsageError> {
    parse(arguments, |name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn parse(
    mut arguments: impl Iterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Options, UsageError> {
    let (mut port, mut password, mut prefixes) = (None, false, Vec::new());
    let (mut username, mut dialect) = (DEFAULT_USERNAME.to_owned(), &dialect::ONE);
    let (mut directory, mut guarded, mut places) = (None, false, None);
    let (mut attend, mut idle, mut active, mut alone) = (None, None, false, false);
    let mut setup = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--") => break,
            Some("--password") => password = true,
            Some("--generation") => {
                arguments.next().ok_or(UsageError::NoValue("--generation"))?;
            }
            Some("--path") => {
                let list = arguments.next().ok_or(UsageError::NoValue("--path"))?;
                prefixes = environment::prefixes(&list);
            }
            Some("--username") => {
                let name = arguments.next().ok_or(UsageError::NoValue("--username"))?;
                username = name.into_string().map_err(UsageError::Unexpected)?;
            }
            Some("--guarded") => guarded = true,
            Some("--places") => {
                places = Some(arguments.next().ok_or(UsageError::NoValue("--places"))?);
            }
            Some("--attend") => {
                let name = arguments.next().ok_or(UsageError::NoValue("--attend"))?;
                let parsed = name.to_str().and_then(|text| InstanceName::new(text).ok());
                attend = Some(parsed.ok_or(UsageError::Unexpected(name))?);
            }
            Some("--setup") => {
                let plan = arguments.next().ok_or(UsageError::NoValue("--setup"))?;
                setup = Some(PathBuf::from(plan));
            }
            Some("--idle") => {
                let seconds = arguments.next().ok_or(UsageError::NoValue("--idle"))?;
                let number = seconds.to_str().and_then(|text| text.parse().ok());
                idle = Some(number.ok_or(UsageError::Unexpected(seconds))?);
            }
            Some("--idle-active") => active = true,
            Some("--idle-alone") => alone = true,
            Some("--directory") => {
                let path = arguments.next().ok_or(UsageError::NoValue("--directory"))?;
                directory = Some(path.into_string().map_err(UsageError::Unexpected)?);
            }
            Some("--opencode") => {
                let major = arguments.next().ok_or(UsageError::NoValue("--opencode"))?;
                let number = major.to_str().and_then(|text| text.parse().ok());
                dialect = Dialect::of_major(number.ok_or(UsageError::Unexpected(major))?);
            }
            Some("--port") => port = Some(arguments.next().ok_or(UsageError::NoPort)?),
            Some(text) if text.starts_with("--port=") => {
                port = text.strip_prefix("--port=").map(OsString::from);
            }
            _ => return Err(UsageError::Unexpected(argument)),
        }
    }
    let port = port.ok_or(UsageError::NoPort)?;
    let number = port.to_str().and_then(|text| text.parse().ok()).filter(|port| *port > 0);
    let command: Vec<OsString> = arguments.collect();
    if command.first().is_none_or(|program| program.is_empty()) {
        return Err(UsageError::NoCommand);
    }
    let watchdog = variable("WATCHDOG_USEC").and_then(|text| text.to_str()?.parse().ok());
    Ok(Options {
        port: number.ok_or(UsageError::Port(port))?,
        command,
        prefixes,
        home: variable("HOME").map(PathBuf::from),
        credentials: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        username,
        directory,
        guarded,
        attend,
        idle: idle.map(|seconds| Idle { time: Duration::from_secs(seconds), active, alone }),
        setup,
        places,
        dialect,
        password,
        notify_socket: variable("NOTIFY_SOCKET"),
        watchdog: watchdog.filter(|usec| *usec > 0).map(Duration::from_micros),
    })
}

impl Options {
    /// What is asked for readiness: the project's configuration.
    pub(super) fn ready_path(&self) -> String {
        let path = self.dialect.ready_path;
        match &self.directory {
            None => path.to_owned(),
            Some(directory) => format!("{path}?directory={}", http::percent(directory)),
        }
    }

    /// The server's program.
    pub(super) fn program(&self) -> PathBuf {
        environment::program_of(self.command.first().map_or(Path::new(""), Path::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Options, UsageError> {
        let variable = |name: &str| match name {
            "HOME" => Some("/h".into()),
            "WATCHDOG_USEC" => Some("4000000".into()),
            _ => None,
        };
        parse(line.split(' ').map(OsString::from), variable)
    }

    #[test]
    fn a_whole_command_line() {
        let options = args("--port 4101 -- /usr/bin/opencode serve --port 4101").unwrap();
        assert_eq!(options.port, 4101);
        assert_eq!(options.command, ["/usr/bin/opencode", "serve", "--port", "4101"]);
        assert_eq!(options.watchdog, Some(Duration::from_secs(4)));
        assert_eq!(options.home, Some("/h".into()));
        assert_eq!(args("--port=1 -- x").unwrap().port, 1);
        assert!(!options.password && args("--password --port 1 -- x").unwrap().password);
    }

    #[test]
    fn whom_and_what_it_asks() {
        let plain = args("--port 1 -- x").unwrap();
        assert_eq!((plain.username.as_str(), plain.dialect.major), ("opencode", 1));
        let options = args("--opencode 2 --username team --port 1 -- x").unwrap();
        assert_eq!((options.username.as_str(), options.dialect.major), ("team", 2));
        assert_eq!(plain.ready_path(), "/config");
        let elsewhere = args("--directory /srv/ü --port 1 -- x").unwrap();
        assert_eq!(elsewhere.ready_path(), "/config?directory=%2Fsrv%2F%C3%BC");
        assert_eq!(args("--opencode x"), Err(UsageError::Unexpected("x".into())));
        assert_eq!(args("--username"), Err(UsageError::NoValue("--username")));
        assert_eq!(args("--path"), Err(UsageError::NoValue("--path")));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(args("-- x"), Err(UsageError::NoPort));
        assert_eq!(args("--port 0 -- x"), Err(UsageError::Port("0".into())));
        assert_eq!(args("--port 65536 -- x"), Err(UsageError::Port("65536".into())));
        assert_eq!(args("--port 1"), Err(UsageError::NoCommand));
        assert_eq!(args("--port 1 x"), Err(UsageError::Unexpected("x".into())));
    }
}
