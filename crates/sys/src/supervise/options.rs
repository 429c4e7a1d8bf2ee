//! What the supervisor is told: arguments, and what systemd puts into the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// `--password`: whether a missing credential is an error, and not a server without a password.
    pub password: bool,
    /// Whether systemd passed the connected socket for messages (`OpenFile=`, as `notify`).
    pub notify_passed: bool,
    /// `NOTIFY_SOCKET`: where messages go, see `sd_notify(3)`.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`: how long the service manager waits between two signs of life.
    ///
    /// `WATCHDOG_PID` is not looked at: with `PrivatePIDs=` it is wrong in systemd 257.2 to 257.7
    /// (systemd#38137).
    pub watchdog: Option<Duration>,
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

/// Parses what follows the word `supervise`: `[--generation WORD] --port N [--path PREFIX:…]
/// [--password] -- PROGRAM [ARGUMENT…]`. The generation is there for `status` to read.
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
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--") => break,
            Some("--password") => password = true,
            Some("--generation") => {
                arguments.next().ok_or(UsageError::NoValue("--generation"))?;
            }
            Some("--path") => {
                let list = arguments.next().ok_or(UsageError::NoValue("--path"))?;
                prefixes = std::env::split_paths(&list).collect();
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
        password,
        // `LISTEN_PID` is not looked at: with `PrivatePIDs=` it is a number from outside.
        notify_passed: variable("LISTEN_FDS").is_some_and(|count| count == "1")
            && variable("LISTEN_FDNAMES").is_some_and(|names| names == "notify"),
        notify_socket: variable("NOTIFY_SOCKET"),
        watchdog: watchdog.filter(|usec| *usec > 0).map(Duration::from_micros),
    })
}

impl Options {
    /// The server's program.
    pub(super) fn program(&self) -> PathBuf {
        let program = self.command.first().map_or(Path::new(""), Path::new);
        if program.is_dir() { program.join("bin/opencode") } else { program.to_owned() }
    }

    /// The `PATH` of the server: what the operator named, and then what was inherited. Of a prefix
    /// its `bin` and `sbin` count, and a directory that has neither counts itself.
    pub(super) fn search_path(&self, inherited: Option<OsString>) -> Option<OsString> {
        let of_prefix = |prefix: &PathBuf| {
            let inner: Vec<PathBuf> = ["bin", "sbin"]
                .map(|name| prefix.join(name))
                .into_iter()
                .filter(|directory| directory.is_dir())
                .collect();
            if inner.is_empty() { vec![prefix.clone()] } else { inner }
        };
        let own = self.prefixes.iter().flat_map(of_prefix);
        let inherited = inherited.unwrap_or_default();
        // A colon in a prefix is refused long before; an empty entry would be the current directory.
        let rest = std::env::split_paths(&inherited).filter(|one| !one.as_os_str().is_empty());
        std::env::join_paths(own.chain(rest)).ok().filter(|path| !path.is_empty())
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
    fn the_operators_programs_come_first() {
        let prefix = tempfile::tempdir().unwrap();
        std::fs::create_dir(prefix.path().join("bin")).unwrap();
        let line =
            format!("--generation x --path {}:/plain --port 1 -- x", prefix.path().display());
        let options = args(&line).unwrap();
        let wanted = format!("{}/bin:/plain:/usr/bin", prefix.path().display());
        assert_eq!(options.search_path(Some(":/usr/bin:".into())), Some(wanted.into()));
        assert_eq!(args("--port 1 -- x").unwrap().search_path(None), None);
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

    #[test]
    fn a_prefix_stands_for_its_program() {
        let prefix = tempfile::tempdir().unwrap();
        let mut options = args("--port 1 -- /usr/bin/opencode").unwrap();
        assert_eq!(options.program(), Path::new("/usr/bin/opencode"));
        options.command = vec![prefix.path().into()];
        assert_eq!(options.program(), prefix.path().join("bin/opencode"));
    }
}
