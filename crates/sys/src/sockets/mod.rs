//! Unix sockets of the host in a running sandbox: found, mounted, and followed while their services
//! restart.
//!
//! The server's unit has directories of ours bound, of which its mounts are slaves. What is mounted in
//! them here, on the host's side, appears there, and what is unmounted goes. Nothing of root's enters an
//! instance's namespaces, and nothing is connected to.

mod accounts;
mod find;
mod mounts;
mod watch;

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use instances_core::bound::BoundPath;
use instances_core::layout::RUNTIME_DIR;
use instances_core::sockets::{self, OPTION};
use instances_core::spec::InstanceName;

use crate::notify::Notifier;
use accounts::Accounts;
use find::Found;
use mounts::Place;
use watch::Watch;

/// How long a start waits for sockets that may not be missing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody tells of a file system that is mounted on the way: everything is looked at this often.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long a change is left to itself before it is looked at: a service makes its directory, then the
/// socket, then gives both away.
const QUIET: Duration = Duration::from_millis(20);

/// Why the sockets are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One that the server may not be without.
    #[error("{0}")]
    Socket(String),
    /// The directories that the sandbox shows.
    #[error("cannot {action} {path}")]
    Place {
        /// What failed.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What a look at one socket says.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Shown,
    /// It is not there; the words say what is missing.
    Missing(String),
    /// It is there, and is not shown.
    Refused(String),
}

/// Shows the sockets of an instance and follows them for ever. `say` is told what changes. What is
/// returned is why the server cannot start: a socket that may not be missing is refused, or is not there
/// after half a minute.
pub fn follow(name: &InstanceName, listed: &[BoundPath], say: &dyn Fn(&str)) -> Error {
    let mut notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), None);
    let error = match show(name, listed, &mut notifier, say) {
        Err(error) => error,
        Ok(never) => match never {},
    };
    notifier.status(&chain(&error));
    notifier.barrier(Duration::from_secs(5));
    error
}

fn show(
    name: &InstanceName,
    listed: &[BoundPath],
    notifier: &mut Notifier,
    say: &dyn Fn(&str),
) -> Result<Infallible, Error> {
    let place = Place::new(Path::new(&sockets::base(name.as_str())));
    place.prepare(listed.iter().map(|socket| target(name, socket)))?;
    let begin = Instant::now();
    let mut ready = false;
    let mut said: Vec<Option<String>> = vec![None; listed.len()];
    loop {
        // Watched before they are looked at, so that no change is missed between.
        let watch = Watch::on(listed.iter().map(|socket| Path::new(socket.source.as_str())));
        let accounts = Accounts::of_instances(Path::new(RUNTIME_DIR));
        let mut needed = Vec::new();
        let mut troubles = Vec::new();
        for (socket, said) in listed.iter().zip(&mut said) {
            let words = match look(&place, &target(name, socket), socket, &accounts) {
                State::Shown => None,
                State::Missing(words) => {
                    needed.extend((!socket.optional).then(|| words.clone()));
                    Some(words)
                }
                State::Refused(words) if !ready && !socket.optional => {
                    return Err(Error::Socket(words));
                }
                State::Refused(words) => {
                    troubles.push(words.clone());
                    Some(words)
                }
            };
            if *said != words {
                say(words.as_deref().unwrap_or(&format!("{OPTION} {} is there", socket.source)));
            }
            *said = words;
        }
        let waited = begin.elapsed();
        if !ready && let Some(words) = needed.first() {
            if waited >= PATIENCE {
                return Err(Error::Socket(words.clone()));
            }
            notifier.status(&format!("waiting for a socket: {words}"));
        } else {
            troubles.splice(0..0, needed);
            if ready {
                notifier.status(&troubles.join("; "));
            } else {
                notifier.ready(&troubles.join("; "));
                ready = true;
            }
        }
        let patience = if ready { INTERVAL } else { PATIENCE.saturating_sub(waited) };
        if watch.wait(patience.min(INTERVAL)) {
            std::thread::sleep(QUIET);
        }
    }
}

/// Unmounts everything of an instance's, whatever is listed by now.
///
/// # Errors
///
/// When a directory cannot be read or something cannot be unmounted; the rest is.
pub fn hide(name: &InstanceName) -> Result<(), Error> {
    Place::new(Path::new(&sockets::base(name.as_str()))).clear()
}

/// Judges a socket as the host has it now: what is wrong with it, and the smallest remedy. One that is
/// missing is not judged.
pub(crate) fn judge(source: &Path) -> Result<(), (String, String)> {
    find::socket(source, &Accounts::of_instances(Path::new(RUNTIME_DIR)))
        .map(drop)
        .map_err(|refusal| (refusal.what, refusal.remedy))
}

/// Where the host shows a socket to the sandbox.
fn target(name: &InstanceName, socket: &BoundPath) -> PathBuf {
    let directory = sockets::host_directory(name.as_str(), sockets::directory(socket));
    Path::new(&directory).join(sockets::name(socket))
}

fn look(place: &Place, target: &Path, socket: &BoundPath, accounts: &Accounts) -> State {
    let source = Path::new(socket.source.as_str());
    let refused = |what: String, remedy: &str| {
        State::Refused(format!("{OPTION} {}: {what}; {remedy}", socket.source))
    };
    let state = match find::socket(source, accounts) {
        Ok(Found::Socket { fd, id }) => {
            if mounts::shows(target) == Some(id) {
                return State::Shown;
            }
            return match place.show(fd.as_fd(), target) {
                Ok(()) => State::Shown,
                Err(error) => refused(chain(&error), "it is tried again"),
            };
        }
        Ok(Found::Nothing(missing)) => {
            let start = match sockets::provider(socket.source.as_str()) {
                Some(units) => format!("start its service ({units})"),
                None => "start its service".to_owned(),
            };
            let optional = if socket.optional {
                String::new()
            } else {
                format!(", or write \"-{}\" in {OPTION}", typed(socket))
            };
            let missing = missing.display();
            State::Missing(format!(
                "{OPTION} {}: {missing} does not exist; {start}{optional}",
                socket.source
            ))
        }
        Err(refusal) => refused(refusal.what, &refusal.remedy),
    };
    match mounts::take_away(target) {
        Ok(()) => state,
        Err(error) => refused(chain(&error), "it is tried again"),
    }
}

/// As it is typed in the option, but for what is in front.
fn typed(socket: &BoundPath) -> String {
    if socket.source == socket.target {
        return socket.source.to_string();
    }
    format!("{}:{}", socket.source, socket.target)
}

fn chain(error: &Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}
