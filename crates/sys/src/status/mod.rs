//! What is: each installed instance as systemd, and the server itself, see it.

mod ask;
mod usage;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use instances_core::layout::AUTH_ROOT;
use instances_core::units::Names;
use serde::Serialize;

pub use self::ask::Sessions;
pub use self::usage::Usage;

use self::ask::Depth;

use crate::files::Root;
use crate::http::Login;
use crate::installed::Record;
use crate::program::Judge;
use crate::systemctl::{self, Properties, text};
use crate::{auth, shell, trust};

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The server answers, as far as systemd knows.
    Running,
    /// The server is being started.
    Starting,
    /// The server is being stopped.
    Stopping,
    /// The server failed and is started again.
    Restarting,
    /// The server failed too often; `start` tries again.
    Failed,
    /// Nobody started it, or somebody stopped it.
    Stopped,
    /// Nobody uses it: the next client starts it.
    Idle,
}

/// One instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Whether the server answered through the listener; `None` when it was not asked.
    pub healthy: Option<bool>,
    /// The server's version, when it answered.
    pub version: Option<String>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The same as a client on this host writes it.
    pub url: String,
    /// Whether the listener is open.
    pub listening: bool,
    /// The main process, as the host sees it.
    pub pid: Option<u32>,
    /// For how many seconds the server has run.
    pub uptime: Option<u64>,
    /// Bytes of memory of the server's unit, where the kernel counts them.
    pub memory: Option<u64>,
    /// What all units of the instance together use.
    pub usage: Usage,
    /// The server's sessions; `None` when it was not asked, or did not say.
    pub sessions: Option<Sessions>,
    /// How often systemd restarted it since it was last started.
    pub restarts: u32,
    /// Whether the server runs as it was declared before, or under an earlier program of ours: a restart makes it
    /// as it is now.
    pub pending_restart: bool,
    /// What the server or systemd says: a phase, or why it failed.
    pub reason: String,
}

/// What is asked of systemd.
const PROPERTIES: &[&str] = &[
    "Id",
    "ActiveState",
    "SubState",
    "Result",
    "StatusText",
    "MainPID",
    "MemoryCurrent",
    "NRestarts",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "LoadState",
    "Job",
    "MemoryPeak",
    "CPUUsageNSec",
    "TasksCurrent",
];

/// How long a server that is started again has until it is looked at once more,
const AGAIN: Duration = Duration::from_millis(100);
/// and how often.
const AGAIN_LOOKS: usize = 10;

/// Looks at every instance of `records`.
///
/// # Errors
///
/// When systemd cannot be asked.
pub fn observe(records: &[Record]) -> Result<Vec<Status>, systemctl::Error> {
    look(records, Depth::Health)
}

/// The same, with the sessions of those that can be asked.
///
/// # Errors
///
/// As [`observe`].
pub fn observe_sessions(records: &[Record]) -> Result<Vec<Status>, systemctl::Error> {
    look(records, Depth::Sessions)
}

fn look(records: &[Record], depth: Depth) -> Result<Vec<Status>, systemctl::Error> {
    let host = Root::new("/".as_ref());
    // What cannot be read of an instance's network is `net NAME`'s to say; the server is seen without.
    let units: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let names = Names(&record.name);
            let own = own_units(record).into_iter().chain([names.socket()]);
            // What stands around, and never fails a start.
            let around = [names.proxy(), names.secrets()];
            own.chain(around).chain(record.helpers(&host).unwrap_or_default()).collect()
        })
        .collect();
    let shown = shown_with_reasons(&units)?;
    let mut rest = shown.as_slice();
    let of_each = units.iter().map(|units| {
        let (own, others) = rest.split_at(units.len().min(rest.len()));
        rest = others;
        own
    });
    let now = usage::now();
    let mut programs = Judge::default();
    let (mut all, beside): (Vec<Status>, Vec<String>) = records
        .iter()
        .zip(of_each)
        .map(|(one, units)| status(one, units, now, &mut programs))
        .unzip();
    ask::all(records, &mut all, depth);
    for ((record, status), beside) in records.iter().zip(&mut all).zip(beside) {
        status.reason = joined(beside, &status.reason);
        if status.pending_restart {
            let words = format!("pending restart: `opencode-instances restart {}`", record.name);
            status.reason = joined(words, &status.reason);
        }
    }
    Ok(all)
}

/// What systemd says of all units. With a new start systemd forgets why the last one failed: a server that is
/// started again is looked at until that start has ended too, or as often as that is worth.
fn shown_with_reasons(units: &[Vec<String>]) -> Result<Vec<Properties>, systemctl::Error> {
    let mut shown = systemctl::show(&units.concat(), PROPERTIES)?;
    for _ in 0..AGAIN_LOOKS {
        let again = starting_again(units, &shown);
        if again.is_empty() {
            break;
        }
        std::thread::sleep(AGAIN);
        let names: Vec<String> =
            again.iter().filter_map(|(own, _)| units.get(*own)).flatten().cloned().collect();
        let mut fresh = systemctl::show(&names, PROPERTIES)?.into_iter();
        for (_, places) in again {
            for place in shown.get_mut(places).unwrap_or_default() {
                *place = fresh.next().unwrap_or_default();
            }
        }
    }
    Ok(shown)
}

/// Whose server is started again: the number of each instance, and where its units are in what was shown.
fn starting_again(units: &[Vec<String>], shown: &[Properties]) -> Vec<(usize, Range<usize>)> {
    let mut from = 0;
    let all = units.iter().enumerate().map(|(number, own)| {
        let places = from..from + own.len();
        from = places.end;
        (number, places)
    });
    let again =
        |(_, places): &(usize, Range<usize>)| shown.get(places.start).is_some_and(starts_again);
    all.filter(again).collect()
}

/// Whether a unit has failed and is being started again by systemd.
fn starts_again(unit: &Properties) -> bool {
    is_starting(unit) && !matches!(text(unit, "NRestarts"), "" | "0")
}

/// The units that stand in the way of a server, itself first.
fn own_units(record: &Record) -> [String; 6] {
    let units = Names(&record.name);
    [units.main(), units.setup(), units.judge(), units.net(), units.sockets(), units.places()]
}

/// Why the server of an instance does not come; `None` where it is there, or is being started, or was there
/// and comes back.
///
/// # Errors
///
/// When systemd cannot be asked.
pub fn refusal(program: &str, record: &Record) -> Result<Option<String>, systemctl::Error> {
    let units = systemctl::show_by(program, &own_units(record), PROPERTIES)?;
    let [main, setup, judge, net, sockets, places] = units.as_slice() else { return Ok(None) };
    let state = state_of(main, setup, sockets, places);
    // Between the units that it needs, a server that is being started is as inactive as any.
    if !matches!(text(main, "Job"), "" | "0") {
        return Ok(None);
    }
    let when = |name| text(main, name).parse::<u64>().unwrap_or(0);
    let was_there = when("ActiveEnterTimestampMonotonic") > when("ExecMainStartTimestampMonotonic");
    match state {
        State::Running | State::Starting | State::Stopping => return Ok(None),
        State::Restarting if was_there => return Ok(None),
        _ => {}
    }
    // What a server said that has ended since is not why the next one does not come.
    let state = if state == State::Stopped { State::Idle } else { state };
    let words = reason(record, state, [main, setup, judge, net, sockets, places]);
    let unknown = || {
        format!("a unit that it needs failed; `systemctl status {}` says which", text(main, "Id"))
    };
    Ok(Some(if words.is_empty() { unknown() } else { words }))
}

/// Whether a unit is being started, and has not failed before it starts again.
fn is_starting(unit: &Properties) -> bool {
    text(unit, "ActiveState") == "activating" && !text(unit, "SubState").starts_with("auto-restart")
}

/// What the units of a server say together.
fn state_of(
    main: &Properties,
    setup: &Properties,
    sockets: &Properties,
    places: &Properties,
) -> State {
    match state(text(main, "ActiveState"), text(main, "SubState")) {
        // The start of the server waits for them.
        State::Stopped | State::Failed
            if [setup, sockets, places].iter().any(|unit| is_starting(unit)) =>
        {
            State::Starting
        }
        state => state,
    }
}

/// The instance as systemd sees it, and what is wrong beside its server.
fn status(
    record: &Record,
    units: &[Properties],
    now: u64,
    programs: &mut Judge,
) -> (Status, String) {
    let [main, setup, judge, net, sockets, places, socket, _proxy, _secrets, helpers @ ..] = units
    else {
        return (unknown(record), String::new());
    };
    let state = state_of(main, setup, sockets, places);
    let listening = text(socket, "ActiveState") == "active";
    let state = match state {
        State::Stopped if record.on_demand && listening => State::Idle,
        state => state,
    };
    let mut status = Status {
        name: record.name.to_string(),
        state,
        healthy: None,
        version: None,
        listen: record.listen,
        url: url(record.listen),
        listening,
        pid: text(main, "MainPID").parse().ok().filter(|pid| *pid != 0),
        uptime: usage::since(main, now).filter(|_| state == State::Running),
        memory: usage::number(main, "MemoryCurrent"),
        usage: usage::of(units),
        sessions: None,
        restarts: text(main, "NRestarts").parse().unwrap_or(0),
        pending_restart: false,
        reason: reason(record, state, [main, setup, judge, net, sockets, places]),
    };
    if !listening && matches!(text(socket, "ActiveState"), "failed") {
        status.reason = closed(record.listen, text(socket, "Id"));
    }
    let mut is_old = |pid| runs_another(record, pid) || programs.is_outdated(pid);
    status.pending_restart = state == State::Running && status.pid.is_some_and(&mut is_old);
    (status, helpers.iter().find_map(broken).unwrap_or_default())
}

fn joined(words: String, reason: &str) -> String {
    if words.is_empty() || reason.is_empty() {
        words + reason
    } else {
        format!("{words}; {reason}")
    }
}

/// What a client on this host connects to, without a password.
fn url(listen: SocketAddr) -> String {
    format!("http://{}/", reachable(listen))
}

/// What is wrong with a unit beside the server; one that systemd starts again and again is never
/// `failed`.
fn broken(unit: &Properties) -> Option<String> {
    let again = text(unit, "SubState").starts_with("auto-restart");
    let failed = text(unit, "ActiveState") == "failed" || again;
    let id = text(unit, "Id");
    let why = || match text(unit, "Result") {
        // Of a socket.
        "resources" => "its port cannot be opened".to_owned(),
        _ => result(unit),
    };
    failed.then(|| format!("{id} failed: {}; `journalctl -u {id}` says why", why()))
}

/// Whether the supervisor was told another generation than the installed one.
pub(crate) fn runs_another(record: &Record, pid: u32) -> bool {
    generation(pid).is_some_and(|generation| generation != record.generation.as_bytes())
}

/// The generation that a supervisor was told; `None` where it is no supervisor, or none yet.
pub(crate) fn generation(pid: u32) -> Option<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != b"--generation");
    words.nth(1).map(<[u8]>::to_vec)
}

/// Why a listener cannot be opened: systemd keeps the reason in the journal, so this tries again.
fn closed(listen: SocketAddr, unit: &str) -> String {
    let why = match TcpListener::bind(listen) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            format!("port {} is taken by another program", listen.port())
        }
        Err(error) => error.to_string(),
        Ok(_) => format!("`journalctl -u {unit}` says why"),
    };
    format!("the listener {listen} cannot be opened: {why}")
}

fn unknown(record: &Record) -> Status {
    Status {
        name: record.name.to_string(),
        state: State::Stopped,
        healthy: None,
        version: None,
        listen: record.listen,
        url: url(record.listen),
        listening: false,
        pid: None,
        uptime: None,
        memory: None,
        usage: Usage::default(),
        sessions: None,
        restarts: 0,
        pending_restart: false,
        reason: "systemd does not know its units".to_owned(),
    }
}

fn state(active: &str, sub: &str) -> State {
    match (active, sub) {
        ("active" | "reloading" | "refreshing", _) => State::Running,
        ("activating", "auto-restart" | "auto-restart-queued") => State::Restarting,
        ("activating", _) => State::Starting,
        ("deactivating", _) => State::Stopping,
        ("failed", _) => State::Failed,
        _ => State::Stopped,
    }
}

/// Why the instance is as it is, in words: the unit that stands in the way, then the server's own
/// message, then what systemd's result means.
fn reason(
    record: &Record,
    state: State,
    [main, setup, judge, net, sockets, places]: [&Properties; 6],
) -> String {
    if text(sockets, "ActiveState") == "activating" {
        return text(sockets, "StatusText").to_owned();
    }
    if text(setup, "ActiveState") == "activating" {
        return "setup is running".to_owned();
    }
    if state == State::Running || state == State::Starting {
        let said = text(main, "StatusText");
        return match text(sockets, "StatusText") {
            "" => said.to_owned(),
            // A socket that is gone, while the server goes on.
            words if text(sockets, "ActiveState") == "active" => joined(words.to_owned(), said),
            _ => said.to_owned(),
        };
    }
    // Whichever unit it is that read it in vain, the file is what has to be mended.
    let failed = |unit: &Properties| text(unit, "ActiveState") == "failed";
    if [net, judge, setup, main].into_iter().any(failed)
        && let Some(why) = refused_secret(record)
    {
        return why;
    }
    for unit in [net, judge, sockets, places, setup] {
        if failed(unit) {
            let id = text(unit, "Id");
            return match text(unit, "StatusText") {
                "" => format!("{id} failed: {}; `journalctl -u {id}` says why", result(unit)),
                words => words.to_owned(),
            };
        }
    }
    let failed_with =
        |status| text(main, "Result") == "exit-code" && text(main, "ExecMainStatus") == status;
    let missing = || {
        std::fs::metadata(record.directory.as_str()).is_err_and(|error| {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        })
    };
    if failed_with("226") && missing() {
        let (directory, user) = (&record.directory, &record.user);
        return format!(
            "the project directory {directory} does not exist; run: install -d -o {user} {}",
            shell::word(directory)
        );
    }
    if failed_with("200") {
        let (directory, user) = (&record.directory, &record.user);
        return format!(
            "the user {user} cannot enter the project directory {directory}; run: setfacl -m \
             u:{user}:rwX {}",
            shell::word(directory)
        );
    }
    match text(main, "StatusText") {
        // What it said before it became idle is no reason.
        _ if state == State::Idle => String::new(),
        "" if matches!(state, State::Stopped) => String::new(),
        "" => result(main),
        words => words.to_owned(),
    }
}

/// Why a secret file of the operator's cannot be handed over, if one cannot.
fn refused_secret(record: &Record) -> Option<String> {
    record.secrets().into_iter().find_map(|(option, file)| match trust::secret(&option, file) {
        Ok(()) | Err(trust::Error::Look(..)) => None,
        Err(error) => Some(error.to_string()),
    })
}

/// `Result=` in words, where it says all.
pub fn result_in_words(result: &str) -> &str {
    match result {
        "start-limit-hit" => "started too often in a short time",
        "timeout" => "timed out",
        "watchdog" => "the server stopped answering",
        "oom-kill" => "out of memory",
        "dependency" => "a unit it needs failed",
        "signal" => "killed by a signal",
        "core-dump" => "it crashed",
        "exit-code" => "it ended with an error",
        other => other,
    }
}

/// `Result=` and the exit status in words.
fn result(unit: &Properties) -> String {
    let status = text(unit, "ExecMainStatus");
    match text(unit, "Result") {
        "signal" => format!("killed by signal {status}"),
        "exit-code" => match status {
            // Not the main command, but one before or after it.
            "0" | "" => "one of its commands failed".to_owned(),
            "203" => {
                "a program could not be executed (203/EXEC); below /root none can be".to_owned()
            }
            "217" => "the user does not exist (217/USER)".to_owned(),
            "225" => "the network namespace is gone (225/NETWORK)".to_owned(),
            "226" => "a path of the sandbox is missing (226/NAMESPACE)".to_owned(),
            "243" => "a secret could not be handed over (243/CREDENTIALS)".to_owned(),
            _ => format!("exit status {status}"),
        },
        other => result_in_words(other).to_owned(),
    }
}

/// The password of an instance, for those who may read it.
pub fn password(record: &Record) -> Result<Option<auth::Password>, auth::Error> {
    if !record.auth_enable {
        return Ok(None);
    }
    match &record.auth_password_file {
        Some(path) => auth::read_file(path).map(Some),
        None => auth::read(Path::new(AUTH_ROOT), &record.name).map(Some),
    }
}

/// What the server of an instance asks for.
pub fn login<'a>(record: &'a Record, password: &'a auth::Password) -> Login<'a> {
    Login { user: &record.auth_username, password: password.expose() }
}

/// An address that a client on this host can connect to: a wildcard is not one.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_again_is_told_from_who_starts_and_who_waits() {
        let unit = |active: &str, sub: &str, restarts: &str| -> Properties {
            let pairs = [("ActiveState", active), ("SubState", sub), ("NRestarts", restarts)];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        assert!(starts_again(&unit("activating", "start", "1")));
        for (active, sub, restarts) in [
            ("activating", "start", "0"),
            ("activating", "auto-restart", "1"),
            ("active", "running", "1"),
        ] {
            assert!(!starts_again(&unit(active, sub, restarts)), "{active} {sub} {restarts}");
        }
    }

    #[test]
    fn only_those_are_looked_at_again_whose_server_starts_again() {
        let unit = |active: &str| -> Properties {
            let pairs = [("ActiveState", active), ("SubState", "start"), ("NRestarts", "2")];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        let units = [vec![String::new(); 2], vec![String::new(); 3], vec![String::new(); 2]];
        let shown = ["active", "activating", "activating", "active", "active", "active", "active"];
        let again = starting_again(&units, &shown.map(unit));
        assert_eq!(again, [(1, 2..5)]);
        assert_eq!(starting_again(&units, &[]), []);
    }

    #[test]
    fn a_unit_beside_the_server_is_named_when_it_failed() {
        let unit = |active: &str, sub: &str, result: &str| -> Properties {
            let id = "opencode-dns@web.service";
            let pairs =
                [("Id", id), ("ActiveState", active), ("SubState", sub), ("Result", result)];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        assert_eq!(broken(&unit("active", "running", "success")), None);
        assert_eq!(broken(&unit("inactive", "dead", "success")), None);
        for (active, sub, result, words) in [
            ("failed", "failed", "oom-kill", "out of memory"),
            ("activating", "auto-restart", "timeout", "timed out"),
            ("failed", "failed", "resources", "its port cannot be opened"),
        ] {
            let said = broken(&unit(active, sub, result)).unwrap();
            assert!(said.starts_with("opencode-dns@web.service failed: "), "{said}");
            assert!(said.contains(words) && said.contains("journalctl -u"), "{said}");
        }
    }
}
