//! The room that is left for the state, and the one file in it that grows for ever: the server's log.
//!
//! opencode appends to it and never rotates it; everything in it is in the journal too. The tree is
//! the agent's, and this runs as the same user in the same sandbox: nothing that it does is beyond
//! what the agent could do itself, but nothing may hang it either.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, fstat, ftruncate, open, statvfs};

/// Where the server appends, below HOME.
const LOG: &str = ".local/share/opencode/log/opencode.log";
/// The log is emptied when it is longer, in bytes.
const LOG_MAX: u64 = 64 << 20;
/// Said when less is left, in bytes; on a small file system a fiftieth of it.
const LEAST: u64 = 256 << 20;
/// How often it is looked at.
pub(super) const INTERVAL: Duration = Duration::from_mins(1);

/// What was seen of a HOME.
#[derive(Debug)]
pub(super) struct Room {
    home: Option<PathBuf>,
    next: Option<Instant>,
    words: Option<String>,
}

impl Room {
    pub(super) fn below(home: Option<&Path>) -> Self {
        Self { home: home.map(Path::to_owned), next: None, words: None }
    }

    /// Looks once in [`INTERVAL`]; says in words what is short.
    pub(super) fn look(&mut self) -> Option<&str> {
        let now = Instant::now();
        if let Some(home) = &self.home
            && self.next.is_none_or(|next| now >= next)
        {
            self.next = Some(now + INTERVAL);
            cut(&home.join(LOG), LOG_MAX);
            self.words = left(home);
        }
        self.words.as_deref()
    }
}

/// Empties a file that is longer; the server goes on appending at its start.
fn cut(file: &Path, max: u64) {
    // Not blocking: the agent may have put a FIFO there.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = open(file, flags, Mode::empty()) else { return };
    let is_long = fstat(&file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size).is_ok_and(|size| size > max)
    });
    if is_long {
        let _ = ftruncate(&file, 0);
    }
}

/// What is short of room, if something is.
fn left(home: &Path) -> Option<String> {
    let system = statvfs(home).ok()?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let all = system.f_blocks.saturating_mul(system.f_frsize);
    (free < LEAST.min(all / 50).max(1))
        .then(|| format!("only {} MiB are left for {}", free >> 20, home.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_long_log_is_emptied_and_nothing_else_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        fs::write(&log, "0123456789").unwrap();
        cut(&log, 10);
        assert_eq!(fs::metadata(&log).unwrap().len(), 10);
        cut(&log, 9);
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        let (other, link) = (home.path().join("other"), home.path().join("link"));
        fs::write(&other, "0123456789").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let fifo = home.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for odd in [&link, &fifo, &home.path().join("gone"), home.path()] {
            cut(odd, 0);
        }
        assert_eq!(fs::metadata(&other).unwrap().len(), 10);
    }

    #[test]
    fn a_look_is_not_taken_twice_in_an_interval() {
        let home = tempfile::tempdir().unwrap();
        let mut room = Room::below(Some(home.path()));
        room.look();
        let next = room.next;
        room.look();
        assert_eq!(room.next, next);
        assert_eq!(Room::below(None).look(), None);
    }
}
