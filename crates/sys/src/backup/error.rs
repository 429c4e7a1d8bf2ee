//! Why a backup or a restore did not come to be.

use std::io;
use std::path::{Path, PathBuf};

use instances_core::backup::ENTRIES;
use instances_core::backup::manifest::Refusal;
use instances_core::backup::path::TreePath;

use crate::{shell, systemctl, trust};

/// Why nothing was kept, or nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Who called has not the rights.
    #[error("only root can keep the state of instances; run this as root")]
    Denied,
    /// Another run for the same instance.
    #[error("another backup or restore of `{0}` is running; wait for it, then run this again")]
    Busy(String),
    /// The record names somebody who is not there.
    #[error(
        "the user {user} of `{name}` is not there, or is one of the system's own; `opencode-instances apply` makes it"
    )]
    User {
        /// The instance.
        name: String,
        /// Its user.
        user: String,
    },
    /// There is no state.
    #[error("{0} does not exist: there is nothing to keep until the server has started once")]
    NoState(PathBuf),
    /// What is there is no state directory.
    #[error("{path} {what}; {remedy}")]
    State {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Somebody else than root could put another directory in the place.
    #[error(
        "{parent}, where the state directory is, cannot be trusted; move the state below a directory \
         that only root can write, or stop the instance and use tar"
    )]
    Parent {
        /// The directory above.
        parent: PathBuf,
        /// Why.
        #[source]
        source: Box<trust::Error>,
    },
    /// The state directory is where a file system is mounted, and no rename leads over that.
    #[error(
        "{path} is a mount point, so that it cannot be exchanged; set stateDir to a directory below it, or \
         restore by hand: stop the instance, and unpack the archive's `state` there as its user"
    )]
    Mount {
        /// The place.
        path: PathBuf,
    },
    /// A file would be overwritten.
    #[error("{0} exists; name another file, or say --force to replace it")]
    Exists(PathBuf),
    /// The agent could change what is written.
    #[error("{path} is below {place}, where the agent can write; name a file elsewhere")]
    Within {
        /// The file.
        path: PathBuf,
        /// The place.
        place: String,
    },
    /// The agent has more than a backup takes.
    #[error(
        "the state has more than {ENTRIES} files, or longer names than a backup takes; stop the instance and use tar, or a snapshot of the file system"
    )]
    Many,
    /// Something wrote although nobody should.
    #[error(
        "{0} changed while the instance stood still: another program than its server writes there; end it, and run this again"
    )]
    Changed(TreePath),
    /// The server was stopped or started, against what was asked for.
    #[error(
        "the server did not stand still to the end: somebody stopped or thawed it; run this again"
    )]
    Disturbed,
    /// It took too long.
    #[error(
        "the server stood still for {0} s, which is the limit, and runs again; nothing was kept. Run this again when it writes less, or say --freeze-limit 15"
    )]
    Limit(u32),
    /// It is neither up nor down, for too long.
    #[error(
        "{0} is being started or stopped; run this again when `opencode-instances status` says that it runs or is stopped"
    )]
    Unsettled(String),
    /// It runs, or a client would start it.
    #[error("{unit} is {state}; run `opencode-instances stop {name}` first")]
    Running {
        /// The instance.
        name: String,
        /// The unit.
        unit: String,
        /// What systemd says of it.
        state: String,
    },
    /// Too little room.
    #[error("{path} has {free} MiB left, and {needed} MiB are needed; make room there")]
    Room {
        /// Where.
        path: PathBuf,
        /// What is left, without a reserve.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// No file system like this one could hold all files.
    #[error(
        "the files are longer together than all of the file system of {path}, which has {all} MiB: they share data, or are compressed; stop the instance and use tar, or a snapshot of the file system"
    )]
    Long {
        /// Where copies go.
        path: PathBuf,
        /// The size of the file system.
        all: u64,
    },
    /// The archive is not one that `backup` wrote.
    #[error("the archive is refused, and nothing was changed: {0}")]
    Archive(String),
    /// Its manifest is not.
    #[error("the archive is refused, and nothing was changed: {0}")]
    Manifest(#[from] Refusal),
    /// A member is not.
    #[error("the archive is refused, and nothing was changed: {path}: {what}")]
    Member {
        /// Which.
        path: TreePath,
        /// What is wrong.
        what: String,
    },
    /// A step ended without a word of its own.
    #[error("{unit} failed ({result}); its own words are above, or in `journalctl -u {unit}`")]
    Step {
        /// The unit.
        unit: String,
        /// What systemd says.
        result: String,
    },
    /// Whoever asked for a restore is gone.
    #[error(
        "nobody waits for the restore of `{0}` any more, so nothing was changed; run it again, to its end"
    )]
    Abandoned(String),
    /// A restore was done, and something failed after that.
    #[error(
        "the state was restored, and {before}; what came after that failed: look at {place} before the server starts"
    )]
    Exchanged {
        /// Where the previous state is.
        before: String,
        /// Where the state is.
        place: PathBuf,
        /// What failed.
        #[source]
        source: Box<Error>,
    },
    /// Another backup to the same file.
    #[error("another backup is being written to {0}; wait for it, or name another file")]
    Written(PathBuf),
    /// A step said what is no result.
    #[error("{0} said what is no result")]
    Words(String),
    /// Others than root could change what is written.
    #[error("{0}; name a file in a directory of root's, or `-` for standard output")]
    Trust(#[from] trust::Error),
    /// systemd.
    #[error(transparent)]
    Systemd(#[from] systemctl::Error),
    /// The kernel refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A system call that failed.
    pub(super) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.as_ref().display().to_string();
        move |errno| Self::Io { action, path, source: errno.into() }
    }

    /// The same of the standard library.
    pub(super) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::Io { action, path, source }
    }

    /// A system call that failed below a tree of the agent's.
    pub(super) fn below(
        action: &'static str,
        path: &TreePath,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.to_string();
        move |errno| Self::Io { action, path, source: errno.into() }
    }

    /// A state directory that is none.
    pub(super) fn state(path: &Path, what: impl Into<String>, remedy: &str) -> Self {
        let remedy = format!("{remedy} {}", shell::word(path));
        Self::State { path: path.to_owned(), what: what.into(), remedy }
    }
}
