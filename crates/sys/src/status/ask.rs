//! What servers say of themselves, all at once: none waits for another that hangs.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instances_core::dialect::{self, Dialect};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{State, Status, joined, login, password, reachable};
use crate::http::{self, Login};
use crate::installed::Record;

/// How long a healthy server may take for all that it is asked; one that starts is not asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of them together may take. Then the rest is not asked.
const ALL: Duration = Duration::from_secs(6);
/// How many are asked at once.
const AT_ONCE: usize = 64;
/// How many sessions are looked at: the most recent ones. One that works is among them.
pub(super) const MAX_SESSIONS: usize = 100;
/// How many directories are asked whether a session works in them.
const DIRECTORIES: usize = 32;

/// The sessions of a server, of which at most the 100 touched last are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sessions {
    /// Those that work.
    pub busy: usize,
    /// The others.
    pub idle: usize,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Whether they are healthy.
    Health,
    /// Their sessions too.
    Sessions,
}

/// Asks every server that may be asked.
pub(super) fn all(records: &[Record], all: &mut [Status], depth: Depth) {
    // Asking a stopped server through its listener would start it, and whoever asks one on demand uses it.
    let asked: Vec<(&Record, &mut Status)> = records
        .iter()
        .zip(all)
        .filter(|(record, one)| one.state == State::Running && one.listening && !record.on_demand)
        .collect();
    let workers = asked.len().min(AT_ONCE);
    let end = Instant::now() + ALL;
    let queue = Mutex::new(asked.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            // Without a thread, another one takes its share.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || work(&queue, end, depth));
        }
    });
    for (_, status) in queue.into_inner().into_iter().flatten() {
        not_asked(status);
    }
}

fn not_asked(status: &mut Status) {
    let words = "not asked: too many servers did not answer".to_owned();
    status.reason = joined(words, &status.reason);
}

fn work<'a>(
    queue: &Mutex<impl Iterator<Item = (&'a Record, &'a mut Status)>>,
    end: Instant,
    depth: Depth,
) {
    while Instant::now() < end {
        let Ok(Some((record, status))) = queue.lock().map(|mut queue| queue.next()) else { return };
        ask(record, status, depth);
    }
}

fn ask(record: &Record, status: &mut Status, depth: Depth) {
    // A listener may wait for an address that another host has now (FreeBind=): nothing is sent to it.
    if !ours(reachable(record.listen).ip()).unwrap_or(false) {
        status.reason = format!("the host has no address {}", record.listen.ip());
        return;
    }
    let password = match password(record) {
        Ok(password) => password,
        // Only root can read it; anybody else sees what systemd sees.
        Err(error) if error.is_denied() => return,
        Err(error) => {
            status.reason = error.to_string();
            return;
        }
    };
    let server = Server {
        record,
        login: password.as_ref().map(|password| login(record, password)),
        end: Instant::now() + PATIENCE,
    };
    match server.get(Dialect::of_major(record.opencode).alive_path) {
        Ok(answer) if answer.is_json_success() => {
            let body: Health = serde_json::from_slice(&answer.body).unwrap_or_default();
            status.healthy = Some(body.healthy);
            status.version = body.version.as_deref().map(printable);
        }
        Ok(answer) => {
            status.healthy = Some(false);
            status.reason = format!("the server answers with status {}", answer.status);
        }
        Err(error) => {
            status.healthy = Some(false);
            status.reason = format!("no answer through the listener: {error}");
        }
    }
    if depth == Depth::Sessions && status.healthy == Some(true) {
        status.sessions = server.sessions(status.uptime.unwrap_or(u64::MAX));
    }
}

/// Who is asked, and until when.
struct Server<'a> {
    record: &'a Record,
    login: Option<Login<'a>>,
    end: Instant,
}

impl Server<'_> {
    fn get(&self, path: &str) -> Result<http::Response, http::Error> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(http::Error::Timeout);
        }
        http::get(reachable(self.record.listen), path, self.login, left)
    }

    fn json(&self, path: &str) -> Option<Vec<u8>> {
        let answer = self.get(path).ok()?;
        (answer.is_json_success() && !answer.truncated).then_some(answer.body)
    }

    /// What it says of its sessions; `None` where that is not what is understood.
    fn sessions(&self, uptime: u64) -> Option<Sessions> {
        let dialect::Sessions { list, status } = Dialect::of_major(self.record.opencode).sessions?;
        // What no server has touched since this one came does not work; it may take a moment until it is up.
        let age = Duration::from_secs(uptime.saturating_add(600));
        let began = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
        let listed = self.json(&format!("{list}?limit={MAX_SESSIONS}"))?;
        let (count, directories) = listed_sessions(&listed, began)?;
        let mut works = 0;
        for directory in directories {
            let path = format!("{status}?directory={}", http::percent(&directory));
            works += busy(&self.json(&path)?)?;
        }
        // A session that came meanwhile is counted by the next look.
        let busy = works.min(count);
        Some(Sessions { busy, idle: count - busy })
    }
}

/// How many sessions there are, and the directories in which one may work.
fn listed_sessions(answer: &[u8], began: SystemTime) -> Option<(usize, BTreeSet<String>)> {
    let sessions: Vec<Value> = serde_json::from_slice(answer).ok()?;
    let mut directories = BTreeSet::new();
    for session in sessions.iter().take(MAX_SESSIONS) {
        let updated = session.get("time")?.get("updated")?.as_u64()?;
        if UNIX_EPOCH.checked_add(Duration::from_millis(updated))? >= began {
            directories.insert(session.get("directory")?.as_str()?.to_owned());
        }
    }
    (directories.len() <= DIRECTORIES).then(|| (sessions.len().min(MAX_SESSIONS), directories))
}

/// How many sessions of a directory work.
fn busy(answer: &[u8]) -> Option<usize> {
    let states: Map<String, Value> = serde_json::from_slice(answer).ok()?;
    let idle = |state: &Value| Some(state.get("type")?.as_str()? == "idle");
    let states: Option<Vec<bool>> = states.values().map(idle).collect();
    Some(states?.into_iter().filter(|idle| !idle).count())
}

/// Whether what is sent to the address stays on this host: a datagram to ourselves comes back.
///
/// That it can be bound says nothing: with `net.ipv4.ip_nonlocal_bind`, as hosts have it that take
/// over each other's addresses, every address can be.
fn ours(ip: IpAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind((ip, 0))?;
    // Connected to itself, it takes nobody else's.
    socket.connect(socket.local_addr()?)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    Ok(socket.recv(&mut [0])? == 1)
}

/// The server's answer to whether it is healthy.
#[derive(Default, Deserialize)]
struct Health {
    #[serde(default)]
    healthy: bool,
    version: Option<String>,
}

/// Text of the agent's making, cut to what a table can hold.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::unknown;

    #[test]
    fn one_that_is_not_asked_keeps_its_reason() {
        let record = serde_json::json!({
            "version": 1, "name": "web", "directory": "/srv/web", "stateDir": "/srv/state",
            "user": "web", "listen": "127.0.0.1:4101", "autoStart": true, "authEnable": false
        });
        let mut status = unknown(&serde_json::from_value(record).unwrap());
        let words = "not asked: too many servers did not answer";
        for (reason, expected) in
            [("", words.to_owned()), ("a socket is gone", format!("{words}; a socket is gone"))]
        {
            reason.clone_into(&mut status.reason);
            not_asked(&mut status);
            assert_eq!(status.reason, expected);
        }
    }

    #[test]
    fn only_an_address_of_this_host_is_ours() {
        for ip in ["127.0.0.1", "127.0.0.2"] {
            assert_eq!(ours(ip.parse().unwrap()).ok(), Some(true), "{ip}");
        }
        // Kept for documents: nobody has them.
        for ip in ["192.0.2.1", "2001:db8::1"] {
            assert_ne!(ours(ip.parse().unwrap()).ok(), Some(true), "{ip}");
        }
    }

    #[test]
    fn sessions_are_counted_as_a_server_lists_them() {
        let began = UNIX_EPOCH + Duration::from_secs(1000);
        let one = |directory: &str, updated: u64| {
            format!("{{\"directory\":\"{directory}\",\"time\":{{\"updated\":{updated}}}}}")
        };
        let text = format!("[{},{}]", one("/a", 1_000_001), one("/old", 5));
        let expected = (2, BTreeSet::from(["/a".to_owned()]));
        assert_eq!(listed_sessions(text.as_bytes(), began), Some(expected));
        assert_eq!(listed_sessions(b"[]", began), Some((0, BTreeSet::new())));
        let many: Vec<String> = (0..40).map(|at| one(&format!("/{at}"), 2_000_000)).collect();
        let many = format!("[{}]", many.join(","));
        for text in ["{}", "[1]", "[{\"time\":{\"updated\":-1}}]", "x", &many] {
            assert_eq!(listed_sessions(text.as_bytes(), began), None, "{text}");
        }
        // No time is too late to be added up.
        let far = format!("[{}]", one("/a", u64::MAX));
        listed_sessions(far.as_bytes(), began);
    }

    #[test]
    fn what_works_is_busy() {
        for (text, count) in [
            ("{}", Some(0)),
            (
                "{\"a\":{\"type\":\"idle\"},\"b\":{\"type\":\"busy\"},\"c\":{\"type\":\"retry\"}}",
                Some(2),
            ),
            ("{\"a\":{}}", None),
            ("[]", None),
        ] {
            assert_eq!(busy(text.as_bytes()), count, "{text}");
        }
    }
}
