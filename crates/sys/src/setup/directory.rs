//! Directories below HOME, each opened through the one before it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use crate::shell;

/// An open directory that the user can use.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// HOME itself.
    pub(super) fn home(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::Home { path: path.to_owned(), source: errno.into() })?;
        let home = Self { fd, path: path.to_owned() };
        home.require_usable()?;
        Ok(home)
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory below, made with mode 0700 where it is missing. A usable one is left as it is,
    /// whatever its mode.
    pub(super) fn make(&self, parts: &[&str]) -> Result<Self, Error> {
        let mut here = self.again()?;
        for part in parts {
            here = match here.below(part)? {
                Some(next) => next,
                None => here.create(part)?,
            };
        }
        Ok(here)
    }

    /// A directory below; nothing where one on the way is missing.
    pub(super) fn look(&self, parts: &[&str]) -> Result<Option<Self>, Error> {
        let mut here = self.again()?;
        for part in parts {
            let Some(next) = here.below(part)? else { return Ok(None) };
            here = next;
        }
        Ok(Some(here))
    }

    fn again(&self) -> Result<Self, Error> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| Error::io("open", &self.path, errno))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    fn create(&self, part: &str) -> Result<Self, Error> {
        let path = self.path.join(part);
        match fs::mkdirat(&self.fd, part, Mode::RWXU) {
            // Made by somebody else in between: judged below like anything that was there.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("create", &path, errno)),
        }
        let made = self.below(part)?;
        made.ok_or_else(|| Error::io("open", &path, Errno::NOENT))
    }

    /// Opens a directory that is really in this one: one component, and never through a link.
    ///
    /// Not `openat2`: `RestrictSUIDSGID=` answers it with ENOSYS, since a filter cannot see its flags.
    /// Only a path descriptor, which a directory without read permission gives too.
    fn below(&self, part: &str) -> Result<Option<Self>, Error> {
        let path = self.path.join(part);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.fd, part, flags, Mode::empty()) {
            Ok(fd) => {
                let directory = Self { fd, path };
                directory.require_usable()?;
                Ok(Some(directory))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let what = self.kind(part)?;
                Err(Error::InTheWay { path, what, wanted: "a directory" })
            }
            Err(errno) => Err(Error::io("open", &path, errno)),
        }
    }

    /// What has this name, in words.
    pub(super) fn kind(&self, part: &str) -> Result<&'static str, Error> {
        let stat = fs::statat(&self.fd, part, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::io("look at", &self.path.join(part), errno))?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            FileType::Directory => "a directory",
            FileType::Fifo => "a FIFO",
            FileType::Socket => "a socket",
            FileType::BlockDevice | FileType::CharacterDevice => "a device",
            FileType::Unknown => "something else",
        })
    }

    /// Refuses a directory in which the user cannot create anything.
    fn require_usable(&self) -> Result<(), Error> {
        let unusable = |what, remedy: &str| Error::Unusable {
            path: self.path.clone(),
            what,
            remedy: format!("{remedy} {}", shell::word(&self.path)),
        };
        let stat = fs::fstat(&self.fd).map_err(|errno| Error::io("look at", &self.path, errno))?;
        let user = rustix::process::geteuid().as_raw();
        if stat.st_uid != user {
            return Err(unusable("belongs to another user", &format!("chown {user}")));
        }
        if !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU) {
            return Err(unusable("has no full access for its owner", "chmod u+rwx"));
        }
        match fs::accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(()),
            Err(Errno::ROFS) => Err(unusable("is on a read-only mount", "mount -o remount,rw")),
            Err(Errno::ACCESS) => Err(unusable("cannot be written, by its ACL", "setfacl -b")),
            Err(errno) => Err(Error::io("look at", &self.path, errno)),
        }
    }
}
