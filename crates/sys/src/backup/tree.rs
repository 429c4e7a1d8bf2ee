//! A walk through a tree of the agent's, by descriptors alone.
//!
//! The agent may change anything while it is walked. Each name is opened in the directory that was opened
//! before it, with no link followed and no mount crossed, and what was opened says itself what it is.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use instances_core::backup::manifest::Why;
use instances_core::backup::path::{Bytes, TreePath};
use instances_core::backup::{DEPTH, ENTRIES, NAMES};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::Error;

/// No way out of the directory that a name is looked up in.
pub(super) const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// What is found, in the order of paths.
pub(super) trait Visitor {
    /// Whether nothing at that path is wanted.
    fn skips(&self, path: &TreePath) -> bool;
    /// A directory; what is in it follows.
    fn directory(&mut self, path: &TreePath, stat: &Stat) -> Result<(), Error>;
    /// A regular file, open for reading.
    fn file(&mut self, path: &TreePath, stat: &Stat, file: File) -> Result<(), Error>;
    /// A symbolic link.
    fn link(&mut self, path: &TreePath, stat: &Stat, target: Vec<u8>) -> Result<(), Error>;
    /// Something that is none of these, or cannot be read.
    fn left_out(&mut self, path: Bytes, why: Why) -> Result<(), Error>;
}

/// How often a name is opened. The kernel has it opened again where it could not be sure during a rename elsewhere; and
/// for as long as the agent, which may stand still, holds a lease of the file.
const TRIES: usize = 64;

/// Opens a name in a directory.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let always = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        result = fs::openat2(directory, name, flags | always, Mode::empty(), WITHIN);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// Walks all that is below HOME.
pub(super) fn walk(
    home: BorrowedFd<'_>,
    owner: u32,
    visitor: &mut dyn Visitor,
) -> Result<(), Error> {
    Walk { owner, count: 0, length: 0 }.below(home, None, 0, visitor)
}

struct Walk {
    owner: u32,
    count: usize,
    /// Of all names, in bytes.
    length: usize,
}

impl Walk {
    fn below(
        &mut self,
        directory: BorrowedFd<'_>,
        above: Option<&TreePath>,
        depth: usize,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Error> {
        for name in self.names(directory, above)? {
            let name = name.as_bytes();
            self.take(above.map_or(0, |above| above.as_bytes().len()) + name.len())?;
            let Ok(path) = TreePath::join(above, name) else {
                let above = above.map(TreePath::as_bytes).unwrap_or_default();
                visitor.left_out(Bytes::new([above, b"/", name].concat()), Why::Deep)?;
                continue;
            };
            if visitor.skips(&path) {
                continue;
            }
            match self.one(directory, name, &path, depth, visitor)? {
                None => {}
                Some(why) => visitor.left_out(Bytes::new(path.as_bytes()), why)?,
            }
        }
        Ok(())
    }

    /// What is in a directory, in the order of bytes.
    fn names(
        &mut self,
        directory: BorrowedFd<'_>,
        path: Option<&TreePath>,
    ) -> Result<Vec<CString>, Error> {
        let place = || path.map_or_else(|| "the state directory".to_owned(), ToString::to_string);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = open(directory, b".", flags).map_err(Error::io("open", place()))?;
        let mut names = Vec::new();
        for entry in Dir::new(opened).map_err(Error::io("list", place()))? {
            let entry = entry.map_err(Error::io("list", place()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.count += 1;
                if self.count > ENTRIES {
                    return Err(Error::Many);
                }
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Looks at one name; why it is left out, if it is.
    fn one(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &TreePath,
        depth: usize,
        visitor: &mut dyn Visitor,
    ) -> Result<Option<Why>, Error> {
        let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Some(Why::Changing)),
            Err(Errno::ACCESS) => return Ok(Some(Why::Unreadable)),
            Err(errno) => return Err(Error::below("look at", path)(errno)),
        };
        if let Some(why) = self.refused(&stat) {
            return Ok(Some(why));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let flags = match kind {
            FileType::Directory if depth + 1 >= DEPTH => return Ok(Some(Why::Deep)),
            FileType::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            FileType::RegularFile => OFlags::RDONLY,
            FileType::Symlink => {
                return match fs::readlinkat(directory, name, Vec::new()) {
                    Ok(target) => {
                        self.take(target.as_bytes().len())?;
                        visitor.link(path, &stat, target.into_bytes()).map(|()| None)
                    }
                    Err(Errno::NOENT | Errno::INVAL) => Ok(Some(Why::Changing)),
                    Err(errno) => Err(Error::below("read the link", path)(errno)),
                };
            }
            FileType::Fifo => return Ok(Some(Why::Fifo)),
            FileType::Socket => return Ok(Some(Why::Socket)),
            _ => return Ok(Some(Why::Device)),
        };
        let opened = match open(directory, name, flags) {
            Ok(opened) => opened,
            Err(Errno::ACCESS | Errno::PERM | Errno::AGAIN) => return Ok(Some(Why::Unreadable)),
            Err(Errno::XDEV) => return Ok(Some(Why::Mount)),
            // Something else has the name by now.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NODEV) => {
                return Ok(Some(Why::Changing));
            }
            Err(errno) => return Err(Error::below("open", path)(errno)),
        };
        let stat = fs::fstat(&opened).map_err(Error::below("look at", path))?;
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Ok(Some(Why::Changing));
        }
        if let Some(why) = self.refused(&stat) {
            return Ok(Some(why));
        }
        if kind == FileType::RegularFile {
            visitor.file(path, &stat, File::from(opened))?;
        } else {
            visitor.directory(path, &stat)?;
            self.below(opened.as_fd(), Some(path), depth + 1, visitor)?;
        }
        Ok(None)
    }

    /// Names take memory, and are as long as the agent likes.
    fn take(&mut self, length: usize) -> Result<(), Error> {
        self.length = self.length.saturating_add(length);
        if self.length > NAMES { Err(Error::Many) } else { Ok(()) }
    }

    fn refused(&self, stat: &Stat) -> Option<Why> {
        (stat.st_uid != self.owner).then_some(Why::Owner)
    }
}
