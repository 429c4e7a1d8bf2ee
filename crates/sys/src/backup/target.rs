//! The file of a backup: complete under its name, or not there.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::Error;
use crate::installed::Record;
use crate::trust;

/// A file that is being written beside its place.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    new: PathBuf,
    force: bool,
    file: File,
    done: bool,
}

impl Target {
    /// Begins a file that root alone can read.
    pub(super) fn create(path: &Path, force: bool, record: &Record) -> Result<Self, Error> {
        let Some(name) = path.file_name() else {
            return Err(Error::state(path, "names no file", "name one below"));
        };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.is_file() => {
                return Err(Error::state(
                    path,
                    "is no regular file",
                    "name `-` for standard output, or a file, and not",
                ));
            }
            Ok(_) if !force => return Err(Error::Exists(path.to_owned())),
            _ => {}
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let real = fs::canonicalize(parent).map_err(Error::file("find", parent))?;
        for place in [&record.state_dir, &record.directory] {
            if real.starts_with(place) {
                return Err(Error::Within { path: path.to_owned(), place: place.clone() });
            }
        }
        // Whoever else could replace what is in it, and it could be another instance, could choose what is written and what is kept.
        trust::directory_of_root(&real)?;
        let new = real.join(format!(".{}.opencode-new", name.display()));
        // What a run that was killed has left goes. One that writes has it locked.
        if let Ok(left) = File::options().write(true).open(&new) {
            lock(&left, path)?;
        }
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &new)(error));
            }
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&new);
        let file = file.map_err(Error::file("create", &new))?;
        lock(&file, path)?;
        let made = file.metadata().map_err(Error::file("look at", &new))?.ino();
        if fs::symlink_metadata(&new).map_or(true, |there| there.ino() != made) {
            // Another one was faster.
            return Err(Error::Written(path.to_owned()));
        }
        Ok(Self { path: real.join(name), new, force, file, done: false })
    }

    /// For who writes it.
    pub(super) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.file.try_clone().map(OwnedFd::from).map_err(Error::file("open", &self.new))
    }

    /// Gives it its name, once all of it is on the disk; how many bytes it has.
    pub(super) fn finish(mut self) -> Result<u64, Error> {
        self.file.sync_all().map_err(Error::file("write", &self.new))?;
        let length = self.file.metadata().map_err(Error::file("look at", &self.new))?.len();
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match renameat_with(CWD, &self.new, CWD, &self.path, flags) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::Exists(self.path.clone())),
            Err(errno) => return Err(Error::io("replace", &self.path)(errno)),
        }
        self.done = true;
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(Error::file("sync", parent))?;
        Ok(length)
    }
}

/// Has a file for this run alone, until its descriptors are closed; where the file system has locks.
fn lock(file: &File, path: &Path) -> Result<(), Error> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Error::Written(path.to_owned())),
        _ => Ok(()),
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.new);
        }
    }
}
