//! Many places of the host in the sandbox of a server that is being started, read-only.
//!
//! Each place is copied as a mount that nobody sees yet, and becomes read-only there, with everything
//! below it. When the supervisor is there, which waits, the copies are attached in its mount namespace. No process
//! of the agent's exists by then: the supervisor must be alone in its control group.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use instances_core::audit::mounts::{self, Mount};
use instances_core::bound::BoundPath;
use instances_core::spec::InstanceName;
use instances_core::units::{Names, SLICE, places};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, statat, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::notify::Notifier;
use crate::systemctl;

/// Where control groups are, as systemd has it on every host with one hierarchy.
const GROUPS: &str = "/sys/fs/cgroup";
/// How long the supervisor waits: everything is prepared when it starts.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the supervisor may take to come, after all that systemd does for it.
const WAIT: Duration = Duration::from_mins(2);
/// How long a server that ends may take: longer than systemd leaves it.
const END: Duration = Duration::from_secs(20);
/// How long a place may be missing: somebody may be about to replace it.
const MISSING: Duration = Duration::from_secs(2);
/// How often they look.
const INTERVAL: Duration = Duration::from_millis(1);
/// How often it is looked whether the server's unit has begun, or has ended.
const BEFORE: Duration = Duration::from_millis(5);

/// Why the places are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file of the control group's can say when the supervisor is there.
    #[error(
        "{GROUPS} is not the one hierarchy of control groups; boot with \
         systemd.unified_cgroup_hierarchy=1, or list fewer places"
    )]
    Hierarchy,
    /// A place that the server may not be without.
    #[error("{0} is not there; make it, or write `-` in front where it may be missing")]
    Missing(PathBuf),
    /// Something is where a mount point belongs.
    #[error(
        "cannot make the mount point {path}; `systemctl restart opencode-net@{name}` makes the root of \
         the sandbox anew"
    )]
    Point {
        /// Where, on the host.
        path: PathBuf,
        /// The instance.
        name: InstanceName,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another mount is in the way, and systemd should have been left with the whole list.
    #[error(
        "another mount of the unit has {0} in it, or is in it; remove the directive that makes it from the \
         unit's drop-ins, or put it into `unitOverrides.main`"
    )]
    Covered(PathBuf),
    /// Nobody waits for the places.
    #[error(
        "no supervisor waits for the places in {0}; remove what drop-ins say of `Slice=` or `ExecStart=` of \
         the server's unit, or put it into `unitOverrides.main`"
    )]
    Nobody(PathBuf),
    /// It is not known whether a server runs.
    #[error(transparent)]
    Systemd(#[from] systemctl::Error),
    /// A call that failed.
    #[error("cannot {action} {path}")]
    Place {
        /// What failed.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    move |source| Error::Place { action, path: path.to_owned(), source: source.into() }
}

/// Prepares the places, says that it is ready, and mounts them in the sandbox of the server that starts
/// next. When a server runs, nothing is left to do: systemd starts this unit too for a job that finds the
/// server's unit started.
///
/// # Errors
///
/// When a place is missing that may not be, or cannot be shown: nothing is shown then, or the last
/// one is not, for which the supervisor waits.
pub fn show(name: &InstanceName, listed: &[BoundPath], systemctl: &str) -> Result<(), Error> {
    let mut notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), None);
    let shown = try_show(name, listed, systemctl, &mut notifier);
    if let Err(error) = &shown {
        notifier.status(&error.to_string());
        notifier.barrier(Duration::from_secs(5));
    }
    shown
}

fn try_show(
    name: &InstanceName,
    listed: &[BoundPath],
    systemctl: &str,
    notifier: &mut Notifier,
) -> Result<(), Error> {
    let group = Path::new(GROUPS).join(SLICE).join(Names(name).main());
    if !Path::new(GROUPS).join("cgroup.procs").exists() {
        return Err(Error::Hierarchy);
    }
    if is_populated(&group) && !has_ended(name, &group, systemctl)? {
        notifier.ready("the server runs");
        return Ok(());
    }
    let mounts = prepare(name, listed)?;
    notifier.ready("waiting for the server");
    let Supervisor { namespace, mounts: others } = supervisor(&group)?;
    let covers = |target: &Path| {
        let inside = |other: &Mount| Path::new(&other.target).starts_with(target);
        others.iter().any(inside)
    };
    if let Some((_, target)) = mounts.iter().find(|(_, target)| covers(target)) {
        return Err(Error::Covered((*target).to_owned()));
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(failed("enter the namespace of", &group))?;
    mounts.iter().try_for_each(|(mount, target)| attach(mount.as_fd(), target))
}

/// Whether a process is in the group or below it.
fn is_populated(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Waits for the end of a server that is being stopped, whose next start this unit is for already. False if none is.
fn has_ended(name: &InstanceName, group: &Path, systemctl: &str) -> Result<bool, Error> {
    let main = [Names(name).main()];
    let shown = systemctl::show_by(systemctl, &main, &["ActiveState"])?;
    if !shown.iter().any(|unit| unit.get("ActiveState").is_some_and(|it| it == "deactivating")) {
        return Ok(false);
    }
    let begin = Instant::now();
    while is_populated(group) && begin.elapsed() < END {
        std::thread::sleep(BEFORE);
    }
    Ok(true)
}

/// A copy of every place that is there, with where it belongs. Its mount point is below `root`.
fn prepare<'a>(
    name: &InstanceName,
    listed: &'a [BoundPath],
) -> Result<Vec<(OwnedFd, &'a Path)>, Error> {
    let (root, shown) = (Names(name).root(), PathBuf::from(Names(name).shown()));
    directories(&shown).map_err(failed("make", &shown))?;
    let mut mounts = Vec::with_capacity(listed.len());
    let begin = Instant::now();
    for BoundPath { source, target, optional } in listed {
        let (source, target) = (Path::new(source.as_str()), Path::new(target.as_str()));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let copied = loop {
            match open_tree(CWD, source, flags) {
                Err(Errno::NOENT) if !optional && begin.elapsed() < MISSING => {
                    std::thread::sleep(MISSING / 20);
                }
                copied => break copied,
            }
        };
        match copied {
            Ok(mount) => {
                protect(mount.as_fd()).map_err(failed("protect", source))?;
                let found = File::from(mount);
                let kind = found.metadata().map_err(failed("look at", source))?;
                point(Path::new(&root), target, &kind).map_err(|(path, source)| Error::Point {
                    path,
                    name: name.clone(),
                    source,
                })?;
                mounts.push((found.into(), target));
            }
            Err(Errno::NOENT) if *optional => {}
            Err(Errno::NOENT) => return Err(Error::Missing(source.to_owned())),
            Err(error) => return Err(failed("show", source)(error)),
        }
    }
    Ok(mounts)
}

/// Makes a copied mount and all below it read-only, without programs of root's and without devices; what
/// the host mounts there later appears, and nothing goes the other way.
fn protect(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_SLAVE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    #[expect(unsafe_code, reason = "rustix has no mount_setattr")]
    // SAFETY: the path ends with its zero, and the kernel reads `attributes` as far as the size says.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes the mount point of a place of this kind. Only root writes below `root`.
fn point(root: &Path, target: &Path, kind: &Metadata) -> Result<(), (PathBuf, io::Error)> {
    let path = root.join(target.strip_prefix("/").unwrap_or(target));
    let make = || {
        match fs::symlink_metadata(&path).map(|there| there.is_dir() == kind.is_dir()) {
            Ok(true) => return Ok(()),
            // Of an earlier list.
            Ok(false) if kind.is_dir() => fs::remove_file(&path)?,
            Ok(false) => fs::remove_dir(&path)?,
            Err(_) => {}
        }
        if kind.is_dir() {
            return directories(&path);
        }
        path.parent().map_or(Ok(()), directories)?;
        File::create_new(&path).map(drop)
    };
    make().map_err(|error| (path.clone(), error))
}

/// A supervisor that waits, as far as it matters here.
struct Supervisor {
    namespace: OwnedFd,
    /// What systemd mounted for it.
    mounts: Vec<Mount>,
}

/// The supervisor, as soon as it is there. Systemd ends the wait when the start fails.
fn supervisor(group: &Path) -> Result<Supervisor, Error> {
    let program = Path::new("/proc/self/exe");
    let own = fs::metadata(program).map_err(failed("look at", program))?;
    let begin = Instant::now();
    while begin.elapsed() < WAIT {
        if let Some(found) = alone(group, &own).map_err(failed("look into", group))? {
            return Ok(found);
        }
        std::thread::sleep(if group.exists() { INTERVAL } else { BEFORE });
    }
    Err(Error::Nobody(group.to_owned()))
}

/// The only process of a group, if it runs the same program as this one, from the same user namespace.
///
/// It is looked again when the namespace is open: a process that is alone still, and not in one that an
/// agent made, is the supervisor before it has started anything.
fn alone(group: &Path, own: &Metadata) -> io::Result<Option<Supervisor>> {
    let alone = || fs::read_to_string(group.join("cgroup.procs")).ok()?.trim_end().parse().ok();
    let Some(number): Option<u32> = alone() else { return Ok(None) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(process) = openat(CWD, format!("/proc/{number}"), flags, Mode::empty()) else {
        return Ok(None);
    };
    match statat(&process, "exe", AtFlags::empty()) {
        Ok(program) if program.st_dev == own.dev() && program.st_ino == own.ino() => {}
        _ => return Ok(None),
    }
    let open = |name| openat(&process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let (namespace, mounts) = match (open("ns/mnt"), open("mountinfo")) {
        (Ok(namespace), Ok(mounts)) => (namespace, io::read_to_string(File::from(mounts))?),
        // It is gone.
        (Err(Errno::NOENT | Errno::SRCH), _) | (_, Err(Errno::NOENT | Errno::SRCH)) => {
            return Ok(None);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error.into()),
    };
    let owner = File::from(owner(namespace.as_fd())?).metadata()?;
    let host = fs::metadata("/proc/self/ns/user")?;
    let ours = owner.dev() == host.dev() && owner.ino() == host.ino();
    let found = Supervisor { namespace, mounts: mounts::read(&mounts) };
    Ok((ours && alone() == Some(number)).then_some(found))
}

/// The user namespace that a namespace belongs to.
fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "rustix has no calls for namespaces' files")]
    // SAFETY: the call takes no third argument and answers with a descriptor of our own.
    unsafe {
        match libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// `_IO(0xb7, 0x1)` of `linux/nsfs.h`.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Attaches a copy in the namespace that this process is in.
fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let find = || -> rustix::io::Result<_> {
        // Step by step and through no link: the unit's filter knows no other way to say that.
        let root = openat(CWD, "/", flags, Mode::empty())?;
        let outside = mount_of(&root)?;
        let parts = target.iter().skip(1);
        let at =
            parts.into_iter().try_fold(root, |at, part| openat(&at, part, flags, Mode::empty()))?;
        Ok((mount_of(&at)? == outside).then_some(at))
    };
    let at = match find() {
        Ok(at) => at,
        // A mount of somebody's hides the mount point that was made.
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        Err(error) => return Err(failed("find the mount point", target)(error)),
    };
    let at = at.ok_or_else(|| Error::Covered(target.to_owned()))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", &at, "", flags).map_err(failed("mount", target))
}

/// The number of the mount that an open file is on.
fn mount_of(file: &OwnedFd) -> rustix::io::Result<u64> {
    statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
}

/// Waits in the sandbox until the last place of the list of this name is there: then it is true. It is false if `asked` to end.
///
/// # Errors
///
/// Says which unit should have mounted it.
pub(crate) fn wait(list: &OsStr, mut asked: impl FnMut() -> bool) -> Result<bool, String> {
    let begin = Instant::now();
    let done = Path::new(places::DONE).join(list);
    while !is_mount(&done) {
        if asked() {
            return Ok(false);
        }
        if begin.elapsed() > PATIENCE {
            return Err("the places of the host were not mounted; the journal of the unit \
                        `opencode-places@` of this instance says why, unless a drop-in has a `Slice=`"
                .to_owned());
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(true)
}

/// Whether something is mounted there.
fn is_mount(path: &Path) -> bool {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_of_the_kind_of_what_it_shows() {
        let root = tempfile::tempdir().unwrap();
        let (directory, file) =
            (fs::metadata("/").unwrap(), fs::metadata("/proc/self/exe").unwrap());
        let there = root.path().join("a/b");
        for _ in 0..2 {
            point(root.path(), Path::new("/a/b"), &directory).unwrap();
            assert!(there.is_dir());
        }
        for _ in 0..2 {
            point(root.path(), Path::new("/a/b"), &file).unwrap();
            assert!(there.is_file());
        }
        point(root.path(), Path::new("/a/b"), &directory).unwrap();
        assert!(there.is_dir());
    }
}
