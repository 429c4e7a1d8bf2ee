//! Where a state directory is, and what stands beside it while it is kept or restored.
//!
//! | beside `NAME` | what |
//! |---|---|
//! | `.NAME.opencode-backup` | copies, and the list of them; removed at the end, and by the next run |
//! | `.NAME.opencode-restore` | a state that is being unpacked, or the previous one for a moment |
//! | `.NAME.opencode-before-TIME` | a state that was there before a restore |
//!
//! All of them are root's, and nobody else enters them: the agent's user writes below them through
//! descriptors that root has opened.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use instances_core::layout::STATE_ROOT;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid};
use rustix::io::Errno;

use super::Error;
use super::identity::Identity;
use crate::installed::Record;
use crate::{files, systemctl, trust};

/// The directory of the copies, and of a state that is unpacked.
pub(super) const TREE: &str = "state";

/// A state directory and its neighbours.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The state directory.
    pub home: PathBuf,
    parent: PathBuf,
    leaf: OsString,
}

impl Place {
    /// Of an instance. Only root can put another directory in its place.
    pub(super) fn of(record: &Record) -> Result<Self, Error> {
        let home = PathBuf::from(&record.state_dir);
        let (Some(parent), Some(leaf)) = (home.parent(), home.file_name()) else {
            return Err(Error::state(
                &home,
                "is no directory of its own",
                "set stateDir instead of",
            ));
        };
        let (parent, leaf) = (parent.to_owned(), leaf.to_owned());
        if parent == Path::new(STATE_ROOT) {
            // As systemd makes it, with the first state.
            files::make_directories(&parent).map_err(Error::file("create", &parent))?;
        }
        trust::directory_of_root(&parent)
            .map_err(|source| Error::Parent { parent: parent.clone(), source: Box::new(source) })?;
        Ok(Self { home, parent, leaf })
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.leaf);
        name.push(".opencode-");
        name.push(what);
        self.parent.join(name)
    }

    /// The directory above.
    pub(super) fn parent(&self) -> &Path {
        &self.parent
    }

    /// Where copies are made.
    pub(super) fn backup(&self) -> PathBuf {
        self.beside("backup")
    }

    /// Where a state is unpacked.
    pub(super) fn restore(&self) -> PathBuf {
        self.beside("restore")
    }

    /// Where the previous state goes.
    pub(super) fn before(&self, time: &str) -> PathBuf {
        self.beside(&format!("before-{time}"))
    }

    /// All previous states.
    pub(super) fn all_before(&self) -> Result<Vec<PathBuf>, Error> {
        let failed = |error| Error::file("list", &self.parent)(error);
        let prefix = self.before("");
        let prefix = prefix.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.parent).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Opens the state directory, for its path alone; it is the user's. `None` where there is none.
    pub(super) fn open(&self, identity: Identity) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let home = match rustix::fs::open(&self.home, flags, Mode::empty()) {
            Ok(home) => home,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Error::state(&self.home, "is no directory", "move it away: mv"));
            }
            Err(errno) => return Err(Error::io("open", &self.home)(errno)),
        };
        let stat = rustix::fs::fstat(&home).map_err(Error::io("look at", &self.home))?;
        if stat.st_uid != identity.uid {
            let remedy = format!("chown {}", identity.uid);
            return Err(Error::state(&self.home, "belongs to another user", &remedy));
        }
        Ok(Some(home))
    }

    /// Requires that the state directory can be exchanged by a rename.
    pub(super) fn require_exchangeable(&self) -> Result<(), Error> {
        let looked =
            rustix::fs::statx(CWD, &self.home, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
        match looked {
            Ok(found) if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
                Err(Error::Mount { path: self.home.clone() })
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("look at", &self.home)(errno)),
        }
    }
}

/// Makes a directory of root's that nobody else enters, with one in it for the user.
pub(super) fn make(path: &Path, identity: Identity) -> Result<(), Error> {
    let tree = path.join(TREE);
    for made in [path, &tree] {
        fs::DirBuilder::new().mode(0o700).create(made).map_err(Error::file("create", made))?;
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(CWD, &tree, Some(uid), Some(gid), flags)
        .map_err(Error::io("hand over", &tree))
}

/// Opens a directory of those, for whom [`Identity::take`] makes of root.
pub(super) fn open_tree(path: &Path) -> Result<OwnedFd, Error> {
    let tree = path.join(TREE);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(&tree, flags, Mode::empty()).map_err(Error::io("open", &tree))
}

/// Removes a directory of root's with all that is in it, if it is there: `rm` goes through trees of any
/// depth and follows no link.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("look at", path)(error)),
        Ok(metadata) if !metadata.is_dir() || metadata.uid() != 0 => {
            return Err(Error::state(path, "is not what a backup or restore left there", "mv"));
        }
        Ok(_) => {}
    }
    let path = path.display().to_string();
    systemctl::run("rm", &["--recursive", "--force", "--one-file-system", "--", &path])?;
    Ok(())
}
