//! The file that says why the last start failed: one line, put there by a rename.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::{Errno, read, retry_on_intr};

/// The most bytes that are read of it.
const MAX: usize = 4096;
/// How many events are looked at in one turn.
const EVENTS: usize = 64;

/// Why the file cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It names no file.
    #[error("--failure {0}: a directory and the name of a file in it are needed")]
    NoFile(PathBuf),
    /// The directory is not there, or cannot be watched.
    #[error("--failure: cannot watch the directory {0}")]
    Directory(PathBuf, #[source] std::io::Error),
}

/// Follows the file in its directory.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    file: PathBuf,
    name: OsString,
}

impl Watch {
    pub(super) fn new(file: &Path) -> Result<Self, Error> {
        let no_file = || Error::NoFile(file.to_owned());
        let name = file.file_name().ok_or_else(no_file)?.to_owned();
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let failed = |error: Errno| Error::Directory(directory.to_owned(), error.into());
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let what = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        add_watch(&inotify, directory, what).map_err(failed)?;
        Ok(Self { inotify, file: file.to_owned(), name })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Whether the file is there anew.
    pub(super) fn came(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut space);
        let mut came = false;
        for _ in 0..EVENTS {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    // After a loss of events it may have come.
                    came |= name == Some(&self.name)
                        || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                }
                Err(_) => break,
            }
        }
        came
    }

    /// The first line; empty if there is none to be had. Whoever wrote it is not trusted: it may be no file.
    pub(super) fn reason(&self) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = openat(CWD, &self.file, flags, Mode::empty()) else { return String::new() };
        let regular = fstat(&file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let mut buffer = [0; MAX];
        let mut length = 0;
        while regular && let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match retry_on_intr(|| read(&file, &mut *rest)) {
                Ok(0) | Err(_) => break,
                Ok(count) => length += count,
            }
        }
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_comes_by_rename_and_by_writing_and_others_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("failure");
        let mut watch = Watch::new(&file).unwrap();
        assert!(!watch.came());
        assert_eq!(watch.reason(), "");
        fs::write(directory.path().join("other"), "x").unwrap();
        assert!(!watch.came());
        let new = directory.path().join("new");
        fs::write(&new, "the port is taken\nsecond").unwrap();
        fs::rename(&new, &file).unwrap();
        assert!(watch.came());
        assert!(!watch.came());
        assert_eq!(watch.reason(), "the port is taken");
        fs::write(&file, vec![b'a'; 10_000]).unwrap();
        assert!(watch.came());
        assert_eq!(watch.reason().len(), MAX);
    }

    #[test]
    fn what_is_no_file_says_nothing_and_does_not_hang() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("failure");
        let watch = Watch::new(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(watch.reason(), "");
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(watch.reason(), "");
        assert!(matches!(Watch::new(Path::new("/")), Err(Error::NoFile(_))));
        assert!(matches!(Watch::new(Path::new("/nonexistent/x")), Err(Error::Directory(..))));
    }
}
