//! The name of a namespace: a bind mount below `/run/netns`, as `ip netns` makes it.
//!
//! Everything here happens under the lock that `ip netns` takes too. Nothing that is not
//! recognisably ours is ever mounted over, unmounted or removed.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, FlockOperation, Mode, OFlags, StatxAttributes, StatxFlags,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};

use super::{Error, Step, Teardown, namespace};
use crate::shell;

/// The file system that namespaces live on: `NSFS_MAGIC`.
const NSFS: u64 = 0x6e73_6673;

/// More mounts than this on top of each other are not the work of a killed run.
const MAX_STACKED: usize = 16;

/// Where a namespace is pinned.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    file: String,
}

/// How [`pin`] ended.
#[derive(Debug)]
pub(super) enum Pinned {
    /// The given namespace has the name now.
    Here,
    /// Another one has had it before.
    Already(OwnedFd),
}

/// What stands at a place.
#[derive(Debug)]
enum Found {
    Nothing,
    /// The empty file of a run that was killed before it mounted.
    Stale(OwnedFd),
    Namespace(OwnedFd),
}

impl Place {
    pub(super) fn new(directory: impl Into<PathBuf>, name: &str) -> Self {
        Self { directory: directory.into(), file: format!("opencode-{name}") }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(&self.file)
    }

    fn failed(&self, action: &'static str) -> impl Fn(Errno) -> Error {
        let path = self.path();
        move |source| Error::Pin { action, path: path.clone(), source }
    }

    fn foreign(&self, what: &'static str, remedy: &str) -> Error {
        let path = self.path();
        let remedy = format!("{remedy} {}", shell::word(&path));
        Error::Foreign { path, what, remedy }
    }

    /// Recognises what is at the place without following or changing anything.
    fn inspect(&self, directory: BorrowedFd<'_>) -> Result<Found, Error> {
        let failed = self.failed("look at");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match fs::openat(directory, &self.file, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            opened => opened.map_err(&failed)?,
        };
        let stat = fs::fstat(&found).map_err(&failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(self.foreign("a directory", "rmdir")),
            FileType::Symlink => return Err(self.foreign("a symbolic link", "rm")),
            _ => return Err(self.foreign("a special file", "rm")),
        }
        let system = fs::fstatfs(&found).map_err(&failed)?;
        if u64::try_from(system.f_type) == Ok(NSFS) {
            return self.network(directory).map(Found::Namespace);
        }
        if is_mount(found.as_fd()).map_err(&failed)? {
            return Err(self.foreign("a foreign mount", "umount"));
        }
        if stat.st_size != 0 {
            return Err(self.foreign("a file with content", "rm"));
        }
        Ok(Found::Stale(found))
    }

    /// Opens the pinned namespace; one of another kind is not ours.
    fn network(&self, directory: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::openat(directory, &self.file, flags, Mode::empty())
            .map_err(self.failed("open the namespace at"))?;
        if namespace::is_network(opened.as_fd())? {
            return Ok(opened);
        }
        Err(self.foreign("a namespace of another kind", "umount"))
    }
}

/// Gives `fresh` the name, unless another namespace has it already.
pub(super) fn pin(
    place: &Place,
    fresh: BorrowedFd<'_>,
    progress: &(dyn Fn(Step) + Sync),
) -> Result<Pinned, Error> {
    let failed = place.failed("share the directory of");
    if let Err(errno) = fs::mkdir(&place.directory, Mode::from_raw_mode(0o755))
        && errno != Errno::EXIST
    {
        return Err(failed(errno));
    }
    let _lock = lock(&place.directory).map_err(&failed)?;
    share(&place.directory).map_err(&failed)?;
    progress(Step::Shared);
    // Opened again: sharing may have mounted the directory over itself, and what is mounted
    // through the older descriptor would be hidden below.
    let directory = open_directory(&place.directory).map_err(&failed)?;
    let target = match place.inspect(directory.as_fd())? {
        Found::Namespace(existing) => return already(place, existing),
        Found::Stale(file) => file,
        Found::Nothing => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            fs::openat(&directory, &place.file, flags, Mode::empty())
                .map_err(place.failed("create"))?
        }
    };
    progress(Step::PlaceMade);
    mount::mount_bind(descriptor(fresh), descriptor(target.as_fd()))
        .map_err(place.failed("mount the namespace at"))?;
    progress(Step::Pinned);
    Ok(Pinned::Here)
}

/// Takes what is pinned already, unless that is where this very program runs.
fn already(place: &Place, existing: OwnedFd) -> Result<Pinned, Error> {
    let host = namespace::own()?;
    if same_file(existing.as_fd(), host.as_fd()).map_err(place.failed("look at"))? {
        return Err(Error::HostNamespace { path: place.path() });
    }
    Ok(Pinned::Already(existing))
}

/// The namespace with this name; `None` where there is none.
pub(super) fn find(place: &Place) -> Result<Option<OwnedFd>, Error> {
    let directory = match open_directory(&place.directory) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(place.failed("open the directory of"))?,
    };
    match place.inspect(directory.as_fd())? {
        Found::Namespace(namespace) => Ok(Some(namespace)),
        Found::Nothing | Found::Stale(_) => Ok(None),
    }
}

/// Removes the name, whatever else goes wrong.
pub(super) fn unpin(place: &Place) -> Result<(), Teardown> {
    let failed = |error| Teardown { errors: vec![error] };
    let _lock = match lock(&place.directory) {
        Err(Errno::NOENT) => return Ok(()),
        locked => locked.map_err(place.failed("lock the directory of")).map_err(failed)?,
    };
    let directory = open_directory(&place.directory)
        .map_err(place.failed("open the directory of"))
        .map_err(failed)?;
    let mut errors = Vec::new();
    for _ in 0..MAX_STACKED {
        match place.inspect(directory.as_fd()) {
            Ok(Found::Namespace(_)) => {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                if let Err(errno) = mount::unmount(place.path(), flags) {
                    errors.push(place.failed("unmount")(errno));
                    break;
                }
            }
            Ok(Found::Nothing) => return Ok(()),
            Ok(Found::Stale(_)) => break,
            Err(error) => return Err(failed(error)),
        }
    }
    // Tried even after a failed unmount: since Linux 3.18 it detaches what other mount namespaces
    // still show there, and here it fails with EBUSY and harms nothing.
    match fs::unlinkat(&directory, &place.file, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => errors.push(place.failed("remove")(errno)),
    }
    if errors.is_empty() { Ok(()) } else { Err(Teardown { errors }) }
}

/// Makes the directory a shared mount point, so that a unit with its own mount namespace sees pins
/// that are made after it started.
///
/// An empty directory gets a file system of its own. One that has something in it is mounted over itself, as `ip netns` does;
/// then each pin is a second mount in what is below, and systemd, which reads all mounts again and again while
/// it makes a sandbox, has twice as many to read.
fn share(directory: &Path) -> Result<(), Errno> {
    let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount::mount_change(directory, flags) {
        Err(Errno::INVAL) => {
            if is_empty(directory)? {
                let none = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                mount::mount("netns", directory, "tmpfs", none, Some(c"mode=0755,size=4m"))?;
            } else {
                mount::mount_bind_recursive(directory, directory)?;
            }
            mount::mount_change(directory, flags)
        }
        done => done,
    }
}

fn is_empty(directory: &Path) -> Result<bool, Errno> {
    let entries = fs::Dir::new(open_directory(directory)?)?;
    for entry in entries {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(directory: &Path) -> Result<OwnedFd, Errno> {
    let opened = open_directory(directory)?;
    retry_on_intr(|| fs::flock(&opened, FlockOperation::LockExclusive))?;
    Ok(opened)
}

fn open_directory(directory: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::open(directory, flags, Mode::empty())
}

fn is_mount(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let statx = fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (a, b) = (fs::fstat(a)?, fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn descriptor(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::{Found, Place};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;
    use std::{fs, path::Path};

    fn inspect(directory: &Path) -> Result<Found, String> {
        let opened = fs::File::open(directory).unwrap();
        Place::new(directory, "foo").inspect(opened.as_fd()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_place_and_a_killed_run_are_usable() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(inspect(directory.path()), Ok(Found::Nothing)));
        fs::write(directory.path().join("opencode-foo"), "").unwrap();
        assert!(matches!(inspect(directory.path()), Ok(Found::Stale(_))));
    }

    #[test]
    fn what_is_not_ours_is_named_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("opencode-foo");
        symlink("/etc/passwd", &path).unwrap();
        let message = inspect(directory.path()).unwrap_err();
        assert!(
            message.contains("a symbolic link")
                && message.contains(&format!("rm {path:?}").replace('"', ""))
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(inspect(directory.path()).unwrap_err().contains("rmdir"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(inspect(directory.path()).unwrap_err().contains("a file with content"));
    }
}
