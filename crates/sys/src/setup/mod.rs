//! What stands below HOME before the server starts: initialised once, and the managed links kept.
//!
//! Runs as the instance's user inside its sandbox, before each start: in a unit of its own where the
//! operator has scripts, and otherwise in the supervisor. The agent owns the tree and may
//! have planted anything in it, so every step goes through the descriptor of the directory before it,
//! and no link is ever followed. What is not usable is left alone and named in the error.
//!
//! | state | what happens |
//! |---|---|
//! | nothing noted, and no session of a server's | `preInitScript`, directories, links, `postInitScript`, noted |
//! | noted as begun | the same, from its start: an earlier run did not come to its end |
//! | nothing noted, and sessions of a server's | noted: one has used it before there were notes |
//! | noted as initialised | links |

mod directory;
mod links;
mod note;
mod script;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instances_core::config::{SCRIPTS, SETUP_VERSION, SetupPlan};
use rustix::fs::{self, Dir, Mode, OFlags};
use thiserror::Error;

use crate::notify::Notifier;
use crate::{passed, shell};
use directory::Directory;
use note::State;

/// Where a server keeps its sessions, by which a HOME is known that one has used.
const DATA: &[&str] = &[".local", "share", "opencode"];

/// What is made below HOME, by XDG's names.
const DIRECTORIES: [&[&str]; 4] =
    [&[".config", "opencode"], DATA, &[".local", "state", "opencode"], &[".cache", "opencode"]];

/// What setup is told.
#[derive(Debug)]
pub struct Request<'a> {
    /// HOME.
    pub home: &'a Path,
    /// The plan; the scripts lie beside it.
    pub plan: &'a Path,
    /// How the scripts run; `None` where there are none.
    pub scripts: Option<Scripts<'a>>,
}

/// How the operator's scripts run.
#[derive(Debug)]
pub struct Scripts<'a> {
    /// What runs them.
    pub shell: &'a Path,
    /// Prefixes of programs, which go in front of `PATH`.
    pub prefixes: Vec<PathBuf>,
}

/// Why the server would not find its HOME as it should be.
#[derive(Debug, Error)]
pub enum Error {
    /// HOME itself cannot be used.
    #[error(
        "cannot open the home {path}; the unit must bind the state directory there, read-write"
    )]
    Home {
        /// HOME.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something else has the name.
    #[error(
        "{path} is {what} where {wanted} must be; move it away: mv {} {}", shell::word(.path),
        shell::word(old(.path))
    )]
    InTheWay {
        /// The place.
        path: PathBuf,
        /// What is there.
        what: &'static str,
        /// What should be.
        wanted: &'static str,
    },
    /// The user could not create anything in it.
    #[error("{path} {what}; run: {remedy}")]
    Unusable {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// The command that repairs it.
        remedy: String,
    },
    /// What setup noted cannot be understood: going on could initialise a HOME that is in use.
    #[error("{path} {what}; {remedy}")]
    Note {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A script of the operator's failed.
    #[error("{name} {how}; its output is in the journal, and the next start begins anew")]
    Script {
        /// The option's name.
        name: &'static str,
        /// How it ended.
        how: String,
    },
    /// The plan is not one of this program's.
    #[error("cannot read the plan {path}: {what}; run `opencode-instances apply`")]
    Plan {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The kernel refused.
    #[error(
        "cannot {action} {path}; check that its file system has room and is mounted read-write"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The error of a system call.
    fn io(action: &'static str, path: &Path, errno: rustix::io::Errno) -> Self {
        Self::Io { action, path: path.to_owned(), source: errno.into() }
    }
}

/// The name by which something can stand beside itself.
fn old(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    old.into()
}

/// Brings HOME to where the server can start; `said` takes what an operator may want to know, and
/// every step by its name before it is taken.
///
/// # Errors
///
/// See [`enum@Error`]. What an error or a kill leaves behind is taken up by the next run.
pub fn run(request: &Request<'_>, said: &dyn Fn(Event<'_>)) -> Result<(), Error> {
    let plan = plan(request.plan)?;
    let home = Directory::home(request.home)?;
    match state(&home)? {
        State::Initialised => {
            for parts in DIRECTORIES {
                home.look(parts)?;
            }
            links::keep(&home, &plan.links, said)?;
        }
        State::Used => {
            said(Event::Step("note that the state is in use"));
            note::write(&home, State::Initialised)?;
            links::keep(&home, &plan.links, said)?;
        }
        State::Empty | State::Begun => initialise(request, &plan, &home, said)?,
    }
    Ok(())
}

/// What [`run`] tells.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step that is about to be taken.
    Step(&'a str),
    /// Something that was moved aside.
    Moved {
        /// What stood there.
        from: &'a Path,
        /// Where it is now.
        to: &'a Path,
    },
}

fn initialise(
    request: &Request<'_>,
    plan: &SetupPlan,
    home: &Directory,
    said: &dyn Fn(Event<'_>),
) -> Result<(), Error> {
    let [before, after] = SCRIPTS;
    let run = |name| script::run(request, name, said);
    said(Event::Step("note that it begins"));
    note::write(home, State::Begun)?;
    run(before)?;
    for parts in DIRECTORIES {
        said(Event::Step("make a directory"));
        home.make(parts)?;
    }
    links::keep(home, &plan.links, said)?;
    run(after)?;
    said(Event::Step("note that it is done"));
    note::write(home, State::Initialised)
}

/// What is known of HOME: what setup noted, and otherwise whether a server has used it.
fn state(home: &Directory) -> Result<State, Error> {
    if let Some(state) = note::read(home)? {
        return Ok(state);
    }
    let Some(data) = home.look(DATA)? else { return Ok(State::Empty) };
    Ok(if has_sessions(&data)? { State::Used } else { State::Empty })
}

/// Whether a server of any build has left sessions: `opencode.db`, `opencode-CHANNEL.db` of one that
/// was built for testers, or the directory that held them before there was a database.
fn has_sessions(data: &Directory) -> Result<bool, Error> {
    let failed = |errno| Error::io("list", data.path(), errno);
    // Opened for its path alone it cannot be listed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = fs::openat(data.fd(), ".", flags, Mode::empty()).map_err(failed)?;
    for entry in Dir::new(opened).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
        let is_database = name.starts_with(b"opencode") && name.ends_with(b".db");
        if is_database || (name == b"storage" && data.kind("storage")? == "a directory") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The engine's own file, which the agent cannot write.
fn plan(path: &Path) -> Result<SetupPlan, Error> {
    let refuse = |what: String| Error::Plan { path: path.to_owned(), what };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let plan: SetupPlan = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    if plan.version != SETUP_VERSION {
        return Err(refuse(format!("it has format version {}", plan.version)));
    }
    Ok(plan)
}

/// Runs setup as its unit does: why it failed is told to systemd, and so to `status`.
pub fn run_in_unit(request: &Request<'_>, said: &dyn Fn(Event<'_>)) -> Result<(), Error> {
    let socket = std::env::var_os("NOTIFY_SOCKET");
    let mut notifier = Notifier::new(socket.as_deref(), passed::number("notify"));
    let outcome = run(request, said);
    if let Err(error) = &outcome {
        notifier.status(&error.to_string());
        notifier.barrier(Duration::from_millis(200));
    }
    outcome
}

#[cfg(test)]
mod tests;
