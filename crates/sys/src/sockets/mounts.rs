//! The directories that a sandbox shows, and the sockets that are mounted in them.
//!
//! Only root writes here, and each entry is the mount point of one socket: it is there as long as the
//! socket is.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use super::Error;

/// More mounts than this on top of each other are not the work of killed runs.
const MAX_STACKED: usize = 16;
/// Where a mount gets its flags before it is shown: a mount that was shown already would keep its own in
/// the sandbox. No directory of sockets is called so.
const STAGE: &str = "stage";

/// What holds the directories of one instance.
#[derive(Debug)]
pub(super) struct Place {
    base: PathBuf,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Place { action, path, source }
}

impl Place {
    pub(super) fn new(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }

    /// Makes the directories of these sockets, and takes away what an earlier run has left.
    pub(super) fn prepare(&self, targets: impl Iterator<Item = PathBuf>) -> Result<(), Error> {
        self.clear()?;
        let directories = targets.filter_map(|target| target.parent().map(Path::to_owned));
        for directory in std::iter::once(self.base.clone()).chain(directories) {
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make", &directory)(error));
                }
                _ => {}
            }
            // Whatever the mask of the caller: the sandbox's user looks in here.
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))
                .map_err(failed("open", &directory))?;
        }
        Ok(())
    }

    /// Unmounts and removes everything, but for the directories, which a server may have bound.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let mut first = None;
        for entry in entries(&self.base)? {
            let directory = fs::symlink_metadata(&entry).is_ok_and(|found| found.is_dir());
            let below = if directory { entries(&entry)? } else { vec![entry] };
            for target in below {
                let taken = take_away(&target);
                first = first.or(taken.err());
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Shows the socket behind a descriptor in the place of what was there.
    pub(super) fn show(&self, socket: BorrowedFd<'_>, target: &Path) -> Result<(), Error> {
        take_away(target)?;
        let stage = self.base.join(STAGE);
        take_away(&stage)?;
        let shown = stage_and_show(socket, &stage, target);
        let gone = take_away(&stage);
        shown.and(gone)
    }
}

/// The number of the file system and of the socket that is shown.
pub(super) fn shows(target: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(target).ok().map(|found| (found.dev(), found.ino()))
}

/// Takes away what is shown, if something is, and its mount point. The place must be one of ours.
pub(super) fn take_away(target: &Path) -> Result<(), Error> {
    for _ in 0..MAX_STACKED {
        // An agent may hold it open.
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(failed("unmount", target)(error.into())),
        }
    }
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", target)(error))
        }
        _ => Ok(()),
    }
}

fn stage_and_show(socket: BorrowedFd<'_>, stage: &Path, target: &Path) -> Result<(), Error> {
    // Not by its name, which may be another socket's by now.
    let source = format!("/proc/self/fd/{}", socket.as_raw_fd());
    point(stage)?;
    mount_bind(&source, stage).map_err(|error| failed("mount a socket at", stage)(error.into()))?;
    let flags = MountFlags::BIND
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    mount_remount(stage, flags, "").map_err(|error| failed("protect", stage)(error.into()))?;
    point(target)?;
    mount_bind(stage, target).map_err(|error| failed("mount a socket at", target)(error.into()))
}

/// A mount point: a socket that nobody listens at. Programs that list a directory go by the kind of what is
/// below the mount.
fn point(path: &Path) -> Result<(), Error> {
    mknodat(CWD, path, FileType::Socket, Mode::empty(), 0)
        .map_err(|error| failed("make", path)(error.into()))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed("read", directory))?,
    };
    listed.map(|entry| Ok(entry.map_err(failed("read", directory))?.path())).collect()
}
