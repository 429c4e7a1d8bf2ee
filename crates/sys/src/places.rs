//! Many places of the host in the sandbox of a server that is being started, read-only.
//!
//! Each place is copied as a mount that nobody sees yet, and becomes read-only there, with everything
//! below it. When the supervisor is there, which waits, the copies are attached in its mount namespace. No process
//! of the agent's exists by then: the supervisor must be alone in its control group.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use instances_core::bound::BoundPath;
use instances_core::spec::InstanceName;
use instances_core::units::{Names, places};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::notify::Notifier;

/// Where control groups are, as systemd has it on every host with one hierarchy.
const GROUPS: &str = "/sys/fs/cgroup";
/// How long the supervisor waits: everything is prepared when it starts.
const WAIT: Duration = Duration::from_secs(20);
/// How often either looks for the other.
const INTERVAL: Duration = Duration::from_millis(1);
/// How often it is looked whether the server's unit has begun: a setup's scripts may take minutes.
const BEFORE: Duration = Duration::from_millis(5);

/// Why the places are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A place that the server may not be without.
    #[error("{0} is not there; make it, or write `-` in front where it may be missing")]
    Missing(PathBuf),
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
/// next, whose unit is in `slice`.
///
/// # Errors
///
/// When a place is missing that may not be, or cannot be shown: nothing is shown then, or the last
/// one is not, for which the supervisor waits.
pub fn show(name: &InstanceName, slice: &str, listed: &[BoundPath]) -> Result<(), Error> {
    let mut notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), false);
    let prepared = prepare(Path::new(&Names(name).root()), listed);
    let mounts = prepared.inspect_err(|error| {
        notifier.status(&error.to_string());
        notifier.barrier(Duration::from_secs(5));
    })?;
    notifier.ready("waiting for the server");
    let group = group(slice).join(Names(name).main());
    let server = server(&group)?;
    let place = Path::new("ns/mnt");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = openat(&server, place, flags, Mode::empty()).map_err(failed("open", place))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(failed("enter the namespace", place))?;
    mounts.iter().try_for_each(|(mount, target)| attach(mount.as_fd(), target))
}

/// The group of a slice: each dash of its name leads one level down.
fn group(slice: &str) -> PathBuf {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    let outer = ends.filter_map(|end| stem.get(..end)).filter(|stem| !["", "-"].contains(stem));
    outer.fold(PathBuf::from(GROUPS), |group, stem| group.join(format!("{stem}.slice")))
}

/// A copy of every place that is there, with where it belongs. Its mount point is below `root`.
fn prepare<'a>(root: &Path, listed: &'a [BoundPath]) -> Result<Vec<(OwnedFd, &'a Path)>, Error> {
    let mut mounts = Vec::with_capacity(listed.len());
    for BoundPath { source, target, optional } in listed {
        let (source, target) = (Path::new(source.as_str()), Path::new(target.as_str()));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        match open_tree(CWD, source, flags) {
            Ok(mount) => {
                protect(mount.as_fd()).map_err(failed("protect", source))?;
                let found = File::from(mount);
                let kind = found.metadata().map_err(failed("look at", source))?;
                point(root, target, &kind)?;
                mounts.push((found.into(), target));
            }
            Err(rustix::io::Errno::NOENT) if *optional => {}
            Err(rustix::io::Errno::NOENT) => return Err(Error::Missing(source.to_owned())),
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

/// Makes the mount point of a place of this kind. Only root writes below `root`.
fn point(root: &Path, target: &Path, kind: &Metadata) -> Result<(), Error> {
    let path = root.join(target.strip_prefix("/").unwrap_or(target));
    let make = |directory: &Path| DirBuilder::new().recursive(true).mode(0o755).create(directory);
    let right = fs::symlink_metadata(&path).map(|there| there.is_dir() == kind.is_dir());
    match right {
        Ok(true) => return Ok(()),
        // Of an earlier list.
        Ok(false) if kind.is_dir() => fs::remove_file(&path).map_err(failed("remove", &path))?,
        Ok(false) => fs::remove_dir(&path).map_err(failed("remove", &path))?,
        Err(_) => {}
    }
    let result = if kind.is_dir() {
        make(&path)
    } else {
        path.parent().map_or(Ok(()), make).and_then(|()| File::create_new(&path).map(drop))
    };
    result.map_err(failed("make", &path))
}

/// The directory in `/proc` of a supervisor that is alone in its group, when there is one. Systemd ends
/// the wait when the start fails.
fn server(group: &Path) -> Result<OwnedFd, Error> {
    let program = Path::new("/proc/self/exe");
    let own = fs::metadata(program).map_err(failed("look at", program))?;
    loop {
        if let Some(found) = alone(group, &own) {
            return Ok(found);
        }
        std::thread::sleep(if group.exists() { INTERVAL } else { BEFORE });
    }
}

/// The only process of a group, if it runs the same program as this one.
fn alone(group: &Path, own: &Metadata) -> Option<OwnedFd> {
    let listed = fs::read_to_string(group.join("cgroup.procs")).ok()?;
    let number: u32 = listed.trim_end().parse().ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = openat(CWD, format!("/proc/{number}"), flags, Mode::empty()).ok()?;
    let program = rustix::fs::statat(&process, "exe", rustix::fs::AtFlags::empty()).ok()?;
    (program.st_dev == own.dev() && program.st_ino == own.ino()).then_some(process)
}

/// Attaches a copy in the namespace that this process is in.
fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let find = || -> rustix::io::Result<OwnedFd> {
        // Step by step and through no link: the unit's filter knows no other way to say that.
        let root = openat(CWD, "/", flags, Mode::empty())?;
        let parts = target.iter().skip(1);
        parts.into_iter().try_fold(root, |at, part| openat(&at, part, flags, Mode::empty()))
    };
    let at = find().map_err(failed("find the mount point", target))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", &at, "", flags).map_err(failed("mount", target))
}

/// Waits in the sandbox until the last place is there.
///
/// # Errors
///
/// Says which unit should have mounted it.
pub(crate) fn wait() -> Result<(), String> {
    let begin = Instant::now();
    // Below it is an empty file.
    while fs::metadata(places::LAST).map_or(true, |last| last.len() == 0) {
        if begin.elapsed() > WAIT {
            return Err("the places of the host were not mounted; see the journal of the unit \
                        `opencode-places@` of this instance"
                .to_owned());
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_slice() {
        for (slice, group) in [
            ("opencode.slice", "/sys/fs/cgroup/opencode.slice"),
            ("a-b-c.slice", "/sys/fs/cgroup/a.slice/a-b.slice/a-b-c.slice"),
            ("-.slice", "/sys/fs/cgroup"),
        ] {
            assert_eq!(super::group(slice), Path::new(group), "{slice}");
        }
    }

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
