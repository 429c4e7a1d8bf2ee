//! Clears the locks that a killed server left behind.
//!
//! A server that finds a stale lock waits for it, 54 s before its first session. There is one
//! server per HOME and it does not run yet, so every lock is stale. The tree belongs to the agent,
//! who may have planted anything there: no symlink is followed, nothing is opened that could
//! block, and depth, count and time are bounded. What cannot be removed stays.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, open, openat, unlinkat};
use rustix::io::Errno;

/// Where opencode keeps its locks, below HOME.
const LOCKS: [&str; 4] = [".local", "state", "opencode", "locks"];
const MAX_DEPTH: u32 = 8;
const MAX_ENTRIES: u32 = 20_000;
const MAX_TIME: Duration = Duration::from_secs(1);

/// What [`clear`] did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cleared {
    /// Files and directories removed.
    pub(super) removed: u32,
    /// Entries that are still there; more may lie below or behind them.
    pub(super) left: u32,
}

/// Removes everything in `home`'s directory of locks. Never fails: at worst the server waits.
pub(super) fn clear(home: &Path) -> Cleared {
    let mut sweep = Sweep { cleared: Cleared::default(), seen: 0, end: Instant::now() + MAX_TIME };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(home) = open(home, flags, Mode::empty()) else { return sweep.cleared };
    // Component by component: `RestrictSUIDSGID=` answers openat2 with ENOSYS.
    let locks = LOCKS.iter().try_fold(home, |parent, name| {
        openat(&parent, *name, flags | OFlags::NOFOLLOW, Mode::empty())
    });
    match locks {
        Ok(locks) => sweep.empty(&locks, 0),
        Err(Errno::NOENT) => {}
        Err(_) => sweep.cleared.left = 1,
    }
    sweep.cleared
}

struct Sweep {
    cleared: Cleared,
    seen: u32,
    end: Instant,
}

impl Sweep {
    /// Removes what is in `directory`; without effect on what is beyond the bounds.
    fn empty(&mut self, directory: &OwnedFd, depth: u32) {
        for name in self.names(directory) {
            if self.remove(directory.as_fd(), &name, depth).is_ok() {
                self.cleared.removed += 1;
            } else {
                self.cleared.left += 1;
            }
        }
    }

    fn names(&mut self, directory: &OwnedFd) -> Vec<CString> {
        let mut names = Vec::new();
        let Ok(entries) = Dir::read_from(directory) else { return names };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.seen += 1;
            if self.exhausted() {
                self.cleared.left += 1;
                break;
            }
            names.push(name.to_owned());
        }
        names
    }

    fn exhausted(&self) -> bool {
        self.seen > MAX_ENTRIES || Instant::now() > self.end
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), Errno> {
        if self.exhausted() {
            return Err(Errno::TIMEDOUT);
        }
        match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(Errno::ACCESS) => {
                // The parent is read-only: the agent owns it, and so do we.
                fchmod(parent, Mode::RWXU)?;
                match unlinkat(parent, name, AtFlags::empty()) {
                    Err(Errno::ISDIR | Errno::PERM) => {}
                    done => return done,
                }
            }
            done => return done,
        }
        if depth >= MAX_DEPTH {
            return Err(Errno::LOOP);
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty())?;
        self.empty(&directory, depth + 1);
        unlinkat(parent, name, AtFlags::REMOVEDIR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn home() -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let locks = home.path().join(LOCKS.join("/"));
        fs::create_dir_all(&locks).unwrap();
        (home, locks)
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
    }

    fn count(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn stale_locks_go_and_the_directory_stays() {
        let (home, locks) = home();
        for name in ["a.lock", "b.lock"] {
            fs::create_dir(locks.join(name)).unwrap();
            fs::write(locks.join(name).join("meta.json"), "{}").unwrap();
            fs::write(locks.join(name).join("heartbeat"), "").unwrap();
        }
        assert_eq!(clear(home.path()), Cleared { removed: 6, left: 0 });
        assert_eq!(count(&locks), 0);
        assert_eq!(clear(home.path()), Cleared::default());
    }

    #[test]
    fn nothing_behind_a_symlink_is_touched() {
        let (home, locks) = home();
        let kept = tempfile::tempdir().unwrap();
        fs::write(kept.path().join("precious"), "x").unwrap();
        symlink(kept.path(), locks.join("a.lock")).unwrap();
        fifo(&locks.join("fifo"));
        assert_eq!(clear(home.path()), Cleared { removed: 2, left: 0 });
        assert_eq!(count(kept.path()), 1);

        fs::remove_dir(&locks).unwrap();
        symlink(kept.path(), &locks).unwrap();
        assert_eq!(clear(home.path()).removed, 0);
        assert_eq!(count(kept.path()), 1);

        fs::remove_file(&locks).unwrap();
        fifo(&locks);
        assert_eq!(clear(home.path()).removed, 0);
    }

    #[test]
    fn read_only_directories_and_deep_trees_do_not_stop_it() {
        let (home, locks) = home();
        let closed = locks.join("closed.lock");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("meta.json"), "{}").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
        let mut deep = locks.join("deep.lock");
        for _ in 0..40 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let cleared = clear(home.path());
        assert!(cleared.left > 0);
        assert!(!closed.exists() && locks.join("deep.lock").exists());
    }

    #[test]
    fn a_home_that_is_missing_is_no_error() {
        assert_eq!(clear(Path::new("/nonexistent")), Cleared::default());
    }
}
