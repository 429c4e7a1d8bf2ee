//! What the proxy is told: arguments, and what systemd puts into the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long connections may go on after SIGTERM, unless `--grace` says so: a stream of events would not end by
/// itself, and whoever stops an instance would wait for it.
const GRACE: Duration = Duration::ZERO;
/// How long a client waits for the server, unless `--wait` says so.
const WAIT: Duration = Duration::from_mins(5);
/// The longest time that an argument may name.
const MAX_TIME: Duration = Duration::from_hours(24);
/// The longest name of an abstract socket.
const MAX_NAME: usize = 107;

/// Where to, and who says when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What clients are connected to.
    pub target: SocketAddr,
    /// `--supervisor`: the abstract name of the socket that says when the server is ready. With it clients
    /// wait, and one that cannot be connected is told so in HTTP.
    pub supervisor: Option<String>,
    /// `--failure`: the file that says why a start failed.
    pub failure: Option<PathBuf>,
    /// `--instance`: how the instance is called in words for a client.
    pub instance: Option<String>,
    /// `--wait`: how long a client waits for the server.
    pub wait: Duration,
    /// `--grace`: how long connections go on after SIGTERM.
    pub grace: Duration,
    /// `NOTIFY_SOCKET`: where messages go, see `sd_notify(3)`.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`: how long the service manager waits between two signs of life.
    pub watchdog: Option<Duration>,
}

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsageError {
    /// There is no address.
    #[error("the address to connect to is missing, as in 127.0.0.1:4096")]
    NoTarget,
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// No seconds between 0 and a day.
    #[error("{0} takes whole seconds up to 86400, not {1:?}")]
    Seconds(&'static str, OsString),
    /// A name that no abstract socket can have.
    #[error("--supervisor takes 1 to 107 bytes of text, not {0:?}")]
    Name(OsString),
    /// An argument that means nothing here.
    #[error("unexpected argument {0:?}: neither an option nor an address as 127.0.0.1:4096")]
    Unexpected(OsString),
}

/// Parses what follows the word `proxy`: `[--supervisor NAME] [--failure FILE] [--instance NAME]
/// [--wait SECONDS] [--grace SECONDS] ADDRESS:PORT`.
///
/// It reads the environment of this process for the rest. It is separate from the command line's
/// own parser so that the proxy need not load that.
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
    let (mut target, mut supervisor, mut failure, mut instance) = (None, None, None, None);
    let (mut wait, mut grace) = (WAIT, GRACE);
    while let Some(argument) = arguments.next() {
        let mut value = |option| arguments.next().ok_or(UsageError::NoValue(option));
        match argument.to_str() {
            Some("--supervisor") => supervisor = Some(name(value("--supervisor")?)?),
            Some("--failure") => failure = Some(PathBuf::from(value("--failure")?)),
            Some("--instance") => {
                let name = value("--instance")?;
                instance = Some(name.into_string().map_err(UsageError::Unexpected)?);
            }
            Some("--wait") => wait = seconds("--wait", value("--wait")?)?,
            Some("--grace") => grace = seconds("--grace", value("--grace")?)?,
            Some(text) if target.is_none() => {
                target = Some(text.parse().map_err(|_| UsageError::Unexpected(argument))?);
            }
            _ => return Err(UsageError::Unexpected(argument)),
        }
    }
    let watchdog = variable("WATCHDOG_USEC").and_then(|text| text.to_str()?.parse().ok());
    Ok(Options {
        target: target.ok_or(UsageError::NoTarget)?,
        supervisor,
        failure,
        instance,
        wait,
        grace,
        notify_socket: variable("NOTIFY_SOCKET"),
        watchdog: watchdog.filter(|usec| *usec > 0).map(Duration::from_micros),
    })
}

fn name(value: OsString) -> Result<String, UsageError> {
    let name = value.into_string().map_err(UsageError::Name)?;
    if (1..=MAX_NAME).contains(&name.len()) { Ok(name) } else { Err(UsageError::Name(name.into())) }
}

fn seconds(option: &'static str, value: OsString) -> Result<Duration, UsageError> {
    let time = value.to_str().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    time.filter(|time| *time <= MAX_TIME).ok_or(UsageError::Seconds(option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Options, UsageError> {
        let variable = |name: &str| (name == "WATCHDOG_USEC").then(|| "4000000".into());
        parse(line.split_whitespace().map(OsString::from), variable)
    }

    #[test]
    fn a_whole_command_line() {
        let plain = args("127.0.0.1:4096").unwrap();
        assert_eq!(plain.target, "127.0.0.1:4096".parse().unwrap());
        assert_eq!((plain.wait, plain.grace), (WAIT, GRACE));
        assert_eq!((&plain.supervisor, &plain.failure), (&None, &None));
        assert_eq!(plain.watchdog, Some(Duration::from_secs(4)));
        let line = "--supervisor s --failure /run/f --instance web --wait 9 --grace 7 [::1]:80";
        let full = args(line).unwrap();
        assert_eq!(full.target, "[::1]:80".parse().unwrap());
        assert_eq!(full.supervisor.as_deref(), Some("s"));
        assert_eq!(full.failure, Some("/run/f".into()));
        assert_eq!(full.instance.as_deref(), Some("web"));
        assert_eq!((full.wait, full.grace), (Duration::from_secs(9), Duration::from_secs(7)));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(args(""), Err(UsageError::NoTarget));
        assert_eq!(args("--wait"), Err(UsageError::NoValue("--wait")));
        for time in ["-1", "1.5", "86401", "x"] {
            let refused = Err(UsageError::Seconds("--grace", time.into()));
            assert_eq!(args(&format!("--grace {time} [::1]:80")), refused);
        }
        for word in ["localhost:1", "127.0.0.1", "--other"] {
            assert_eq!(args(word), Err(UsageError::Unexpected(word.into())));
        }
        assert_eq!(args("[::1]:1 [::1]:2"), Err(UsageError::Unexpected("[::1]:2".into())));
        let long = "n".repeat(108);
        assert_eq!(
            args(&format!("--supervisor {long} [::1]:1")),
            Err(UsageError::Name(long.into()))
        );
    }
}
