//! Copies of an agent's files in a directory of root's, each under a number, with a list of what they are.
//!
//! Made twice: first of a server that runs, which may take as long as it takes, then again of one that
//! stands still, where only what has changed since is copied. What has not is known by its stamp, and
//! by the time of its last change, which no agent can set: before the first time everything is written
//! to the disk, so that even a file that is mapped gets a new time with its next change.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use instances_core::backup::HOLES;
use instances_core::backup::manifest::{Kind, LeftOut, Why};
use instances_core::backup::member::LATEST;
use instances_core::backup::path::{Bytes, TreePath};
use instances_core::backup::selection::is_left_out;
use rustix::fs::{self, AtFlags, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::tree::{self, Visitor};
use super::{Error, room};

/// What is read at once.
const CHUNK: usize = 1 << 18;
/// Times of changes and of the clock may be so many seconds apart.
const MARGIN: i64 = 2;
/// More pieces of data than a file of so many holes has are not looked for.
const PIECES: usize = 100_000;

/// What has been copied.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) entries: Vec<Copied>,
    pub(super) left_out: LeftOut,
    /// The number of the next copy.
    next: u64,
    /// When the first pass began, in seconds since 1970.
    since: i64,
}

/// An entry, and where its bytes are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Copied {
    pub(super) path: TreePath,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) mtime: u64,
    pub(super) size: u64,
    pub(super) target: Option<Bytes>,
    /// The number of a file's copy.
    pub(super) number: u64,
    stamp: Option<Stamp>,
}

/// What a file that was changed or replaced does not have any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, u64, [i64; 4]);

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let nanoseconds = |of: u64| i64::try_from(of).unwrap_or_default();
        let times = [
            stat.st_mtime,
            nanoseconds(stat.st_mtime_nsec),
            stat.st_ctime,
            nanoseconds(stat.st_ctime_nsec),
        ];
        Self(stat.st_ino, size(stat), times)
    }

    fn changed(self) -> i64 {
        let Self(_, _, [_, _, changed, _]) = self;
        changed
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

impl Index {
    /// How many bytes all files have.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }
}

/// How a copy is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// HOME.
    pub(super) home: BorrowedFd<'a>,
    /// Whose files are taken.
    pub(super) owner: u32,
    /// Where the copies go; nowhere if it is only to be known what there is.
    pub(super) to: Option<(BorrowedFd<'a>, &'a Path)>,
    /// Whether caches and logs are taken too.
    pub(super) all: bool,
    /// Whether nobody writes.
    pub(super) held: bool,
}

/// Copies what is below HOME, and takes over what `before` has of it already.
pub(super) fn copy(
    request: &Request<'_>,
    before: Option<Index>,
    now: i64,
    progress: &mut Progress,
) -> Result<Index, Error> {
    let since = before.as_ref().map_or(now - MARGIN, |index| index.since);
    let next = before.as_ref().map_or(0, |index| index.next);
    let entries = before.into_iter().flat_map(|index| index.entries);
    let files = entries.filter(|entry| entry.kind == Kind::File);
    let known = files.map(|entry| (entry.path, (entry.stamp, entry.number)));
    let mut copying = Copying {
        request,
        known: known.collect(),
        index: Index { next, since, ..Index::default() },
        clones: true,
        unseen: 0,
        holes: 0,
        bytes: 0,
        progress,
    };
    tree::walk(request.home, request.owner, &mut copying)?;
    Ok(copying.index)
}

struct Copying<'a, 'b> {
    request: &'a Request<'b>,
    /// Copies of the pass before; without a stamp where the file changed under it.
    known: HashMap<TreePath, (Option<Stamp>, u64)>,
    index: Index,
    /// Whether the file system can share data between files, as far as is known.
    clones: bool,
    /// What files have less on the disk than they are long, as far as it was not worth a look.
    unseen: u64,
    holes: u64,
    /// How long all files are that are taken, so far.
    bytes: u64,
    progress: &'a mut Progress,
}

impl Visitor for Copying<'_, '_> {
    fn skips(&self, path: &TreePath) -> bool {
        !self.request.all && is_left_out(path)
    }

    fn directory(&mut self, path: &TreePath, stat: &Stat) -> Result<(), Error> {
        self.add(path, Kind::Directory, stat);
        Ok(())
    }

    fn link(&mut self, path: &TreePath, stat: &Stat, target: Vec<u8>) -> Result<(), Error> {
        self.add(path, Kind::Link, stat).target = Some(Bytes::new(target));
        Ok(())
    }

    fn file(&mut self, path: &TreePath, stat: &Stat, file: File) -> Result<(), Error> {
        if self.has_too_many_holes(path, stat, &file)? {
            return self.left_out(Bytes::new(path.as_bytes()), Why::Sparse);
        }
        // Links and clones make one piece of data many files, and an archive has each of them whole.
        self.bytes = self.bytes.saturating_add(size(stat));
        let stamp = Stamp::of(stat);
        let known = self.known.get(path).copied();
        if let Some((known, number)) = known
            && known == Some(stamp)
            && stamp.changed() < self.index.since
        {
            self.progress.more(size(stat));
            let entry = self.add(path, Kind::File, stat);
            (entry.number, entry.stamp) = (number, Some(stamp));
            return Ok(());
        }
        let Some((to, place)) = self.request.to else {
            self.progress.more(size(stat));
            self.add(path, Kind::File, stat);
            return Ok(());
        };
        if let Some((_, number)) = known {
            // What is there of it is of no use, and takes room.
            let _ = fs::unlinkat(to, number.to_string(), AtFlags::empty());
        }
        let number = self.index.next;
        self.index.next += 1;
        self.bytes(&file, stat, to, place, number)?;
        let after = fs::fstat(&file).map_err(Error::below("look at", path))?;
        let steady = Stamp::of(&after) == stamp;
        if self.request.held && !steady {
            return Err(Error::Changed(path.clone()));
        }
        let entry = self.add(path, Kind::File, stat);
        (entry.number, entry.stamp) = (number, Some(stamp).filter(|_| steady));
        Ok(())
    }

    fn left_out(&mut self, path: Bytes, why: Why) -> Result<(), Error> {
        if why == Why::Changing && self.request.held {
            let path = TreePath::new(path.as_bytes());
            return Err(path.map_or(Error::Disturbed, Error::Changed));
        }
        self.index.left_out.add(path, why);
        Ok(())
    }
}

impl Copying<'_, '_> {
    fn add(&mut self, path: &TreePath, kind: Kind, stat: &Stat) -> &mut Copied {
        let size = if kind == Kind::File { size(stat) } else { 0 };
        if kind == Kind::File {
            self.progress.file();
        }
        // `push_mut`, when that is stable.
        self.index.entries.push(Copied {
            path: path.clone(),
            kind,
            mode: stat.st_mode & 0o777,
            mtime: u64::try_from(stat.st_mtime).unwrap_or_default().min(LATEST),
            size,
            target: None,
            number: 0,
            stamp: None,
        });
        let last = self.index.entries.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it was pushed right before")]
        &mut self.index.entries[last]
    }

    /// Whether the holes of all files come to more than zeros are written for.
    fn has_too_many_holes(
        &mut self,
        path: &TreePath,
        stat: &Stat,
        file: &File,
    ) -> Result<bool, Error> {
        let size = size(stat);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512);
        // Compression takes room away as well; only where it matters all of the file is looked at: much of one
        // file, or little of many.
        let missing = size.saturating_sub(allocated);
        let unseen = self.unseen.saturating_add(missing);
        if missing <= 1 << 20 && unseen <= HOLES {
            self.unseen = unseen;
            return Ok(false);
        }
        let mut data = 0_u64;
        let mut pieces = 0;
        for piece in Pieces::of(file, size) {
            let (from, to) = piece.map_err(Error::below("look for holes in", path))?;
            data = data.saturating_add(to - from);
            pieces += 1;
            if pieces > PIECES {
                break;
            }
        }
        let holes = self.holes.saturating_add(size.saturating_sub(data));
        if holes > HOLES {
            return Ok(true);
        }
        self.holes = holes;
        Ok(false)
    }

    /// Copies the bytes that a file had when it was looked at, and no more of them.
    fn bytes(
        &mut self,
        file: &File,
        stat: &Stat,
        to: BorrowedFd<'_>,
        place: &Path,
        number: u64,
    ) -> Result<(), Error> {
        let place = place.join(number.to_string());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = fs::openat(to, number.to_string(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::io("create", &place))?;
        let size = size(stat);
        room::require_possible(to, &place, self.bytes)?;
        if self.clones {
            match fs::ioctl_ficlone(&copy, file) {
                Ok(()) => {
                    self.progress.more(size);
                    return fs::ftruncate(&copy, size).map_err(Error::io("write", &place));
                }
                Err(_) => self.clones = false,
            }
        }
        let allocated = u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512);
        room::require(to, &place, size.min(allocated.saturating_add(1 << 20)))?;
        fs::ftruncate(&copy, size).map_err(Error::io("write", &place))?;
        let copy = File::from(copy);
        let mut buffer = vec![0; CHUNK];
        for piece in Pieces::of(file, size) {
            let (mut at, end) = piece.map_err(Error::io("read what becomes", &place))?;
            while at < end {
                let left = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                let part = buffer.get_mut(..left).unwrap_or_default();
                let count =
                    file.read_at(part, at).map_err(Error::file("read what becomes", &place))?;
                if count == 0 {
                    // It became shorter, and so its stamp another.
                    return Ok(());
                }
                let part = part.get(..count).unwrap_or_default();
                copy.write_all_at(part, at).map_err(Error::file("write", &place))?;
                self.progress.more(count as u64);
                at += count as u64;
            }
        }
        Ok(())
    }
}

/// Where a file holds data, up to a size.
struct Pieces<'a> {
    file: &'a File,
    at: u64,
    size: u64,
}

impl<'a> Pieces<'a> {
    fn of(file: &'a File, size: u64) -> Self {
        Self { file, at: 0, size }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<(u64, u64), Errno>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.size {
            return None;
        }
        let from = match fs::seek(self.file, SeekFrom::Data(self.at)) {
            Ok(from) => from,
            // No data behind it.
            Err(Errno::NXIO) => return None,
            // A file system that does not know: all of it is data.
            Err(Errno::INVAL) => self.at,
            Err(errno) => {
                self.at = self.size;
                return Some(Err(errno));
            }
        };
        let to = fs::seek(self.file, SeekFrom::Hole(from)).unwrap_or(self.size).min(self.size);
        self.at = to.max(from + 1);
        (from < to).then_some(Ok((from, to)))
    }
}

/// The directory of copies, for who writes an archive of them.
pub(super) fn opened(copies: BorrowedFd<'_>, one: &Copied) -> Result<File, Error> {
    let name = one.number.to_string();
    let opened = tree::open(copies.as_fd(), name.as_bytes(), OFlags::RDONLY);
    opened.map(File::from).map_err(Error::below("open the copy of", &one.path))
}
