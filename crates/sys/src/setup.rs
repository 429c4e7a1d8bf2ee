//! The directories below HOME that the server expects, made before each start.
//!
//! Runs as the instance's user inside its sandbox. The agent owns the tree and may have planted
//! anything in it, so every step goes through the descriptor of the directory before it, and no
//! link is ever followed. What is not a usable directory is left alone and named in the error.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// What is made below HOME, by XDG's names.
const DIRECTORIES: [&[&str]; 4] = [
    &[".config", "opencode"],
    &[".local", "share", "opencode"],
    &[".local", "state", "opencode"],
    &[".cache", "opencode"],
];

/// Why the server would not find its directories.
#[derive(Debug, Error)]
pub enum Error {
    /// HOME itself cannot be used.
    #[error(
        "cannot open the home {path}; the unit must bind the state directory there, read-write"
    )]
    Home {
        /// HOME.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something else has the name.
    #[error("{path} is {what} where a directory must be; move it away: mv {path} {path}.old")]
    NotADirectory {
        /// The place.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The user could not create anything in it.
    #[error("{path} {what}; run: {remedy}")]
    Unusable {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// The command that repairs it.
        remedy: String,
    },
    /// The kernel refused.
    #[error(
        "cannot {action} {path}; check that its file system has room and is mounted read-write"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Makes what is missing below `home`, mode 0700, and returns what was made.
///
/// A usable directory is left as it is, whatever its mode.
pub fn run(home: &Path) -> Result<Vec<PathBuf>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = fs::open(home, flags, Mode::empty())
        .map_err(|errno| Error::Home { path: home.to_owned(), source: errno.into() })?;
    require_usable(top.as_fd(), home)?;
    let mut made = Vec::new();
    for components in DIRECTORIES {
        let mut path = home.to_owned();
        let mut directory = None;
        for component in components {
            let parent = directory.as_ref().unwrap_or(&top).as_fd();
            path.push(component);
            directory = Some(descend(parent, component, &path, &mut made)?);
        }
    }
    Ok(made)
}

/// Opens one component below `parent`, and makes it first when it is missing.
fn descend(
    parent: BorrowedFd<'_>,
    component: &str,
    path: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<OwnedFd, Error> {
    let failed = |action| {
        move |errno: Errno| Error::Io { action, path: path.to_owned(), source: errno.into() }
    };
    let opened = match open_component(parent, component) {
        Err(Errno::NOENT) => {
            match fs::mkdirat(parent, component, Mode::RWXU) {
                Ok(()) => made.push(path.to_owned()),
                // Made by somebody else in between: judged below like anything that was there.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("create")(errno)),
            }
            open_component(parent, component)
        }
        opened => opened,
    };
    let directory = match opened {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let what = kind(parent, component).map_err(failed("look at"))?;
            return Err(Error::NotADirectory { path: path.to_owned(), what });
        }
        opened => opened.map_err(failed("open"))?,
    };
    require_usable(directory.as_fd(), path)?;
    Ok(directory)
}

/// Opens a directory that is really in `parent`: one component, and never through a link.
///
/// Not `openat2`: `RestrictSUIDSGID=` answers it with ENOSYS, since a filter cannot see its flags.
/// Only a path descriptor, which a directory without read permission gives too.
fn open_component(parent: BorrowedFd<'_>, component: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, component, flags, Mode::empty())
}

/// Refuses a directory in which the user cannot create anything.
fn require_usable(directory: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let failed =
        |errno: Errno| Error::Io { action: "look at", path: path.to_owned(), source: errno.into() };
    let unusable = |what, remedy: &str| Error::Unusable {
        path: path.to_owned(),
        what,
        remedy: format!("{remedy} {}", path.display()),
    };
    let stat = fs::fstat(directory).map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(unusable("belongs to another user", &format!("chown {user}")));
    }
    if !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU) {
        return Err(unusable("has no full access for its owner", "chmod u+rwx"));
    }
    match fs::accessat(directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(Errno::ROFS) => Err(unusable("is on a read-only mount", "mount -o remount,rw")),
        Err(Errno::ACCESS) => Err(unusable("cannot be written, by its ACL", "setfacl -b")),
        Err(errno) => Err(failed(errno)),
    }
}

fn kind(parent: BorrowedFd<'_>, component: &str) -> Result<&'static str, Errno> {
    let stat = fs::statat(parent, component, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile => "a file",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        _ => "something else",
    })
}

#[cfg(test)]
mod tests {
    use super::{DIRECTORIES, run};
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    fn home() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let (home, outside) = (guard.path().join("home"), guard.path().join("outside"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "untouched").unwrap();
        (guard, home, outside)
    }

    /// Every component that is made, parents before children.
    fn components() -> Vec<PathBuf> {
        let mut all = Vec::new();
        for parts in DIRECTORIES {
            all.extend((1..=parts.len()).map(|n| parts[..n].iter().collect::<PathBuf>()));
        }
        all.dedup();
        all
    }

    /// Path, mode and modification time of everything below `top`.
    fn snapshot(top: &Path) -> BTreeMap<PathBuf, (u32, i64, i64)> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(top).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                all.append(&mut snapshot(&entry.path()));
            }
            all.insert(entry.path(), (metadata.mode(), metadata.mtime(), metadata.mtime_nsec()));
        }
        all
    }

    #[test]
    fn makes_everything_once_and_private() {
        let (_guard, home, _) = home();
        let made = run(&home).unwrap();
        assert_eq!(made.len(), 9);
        for path in components() {
            assert_eq!(fs::metadata(home.join(&path)).unwrap().mode() & 0o7777, 0o700, "{path:?}");
        }
        let before = snapshot(&home);
        assert_eq!(run(&home).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(snapshot(&home), before);
    }

    #[test]
    fn a_right_directory_stays_as_it_is() {
        let (_guard, home, _) = home();
        fs::create_dir_all(home.join(".config/opencode")).unwrap();
        fs::set_permissions(home.join(".config"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(home.join(".config/opencode/opencode.json"), "{}").unwrap();
        let before = snapshot(&home.join(".config"));
        run(&home).unwrap();
        assert_eq!(snapshot(&home.join(".config")), before);
        assert_eq!(fs::metadata(home.join(".config")).unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn every_hostile_object_at_every_component_is_named_and_left_alone() {
        type Plant = fn(&Path, &Path);
        let hostile: [(&str, Plant); 8] = [
            ("a symbolic link", |at, outside| symlink(outside, at).unwrap()),
            ("a symbolic link", |at, outside| symlink(outside.join("gone"), at).unwrap()),
            ("a symbolic link", |at, _| symlink(".", at).unwrap()),
            ("a symbolic link", |at, _| symlink("/proc/self/cwd", at).unwrap()),
            ("a file", |at, _| fs::write(at, "x").unwrap()),
            ("a socket", |at, _| drop(UnixListener::bind(at).unwrap())),
            ("a FIFO", |at, _| {
                mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap();
            }),
            ("no full access", |at, _| {
                fs::create_dir(at).unwrap();
                fs::set_permissions(at, fs::Permissions::from_mode(0o500)).unwrap();
            }),
        ];
        for (expected, plant) in hostile {
            for component in components() {
                let (_guard, home, outside) = home();
                let at = home.join(&component);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                plant(&at, &outside);
                let before = (snapshot(&outside), fs::symlink_metadata(&at).unwrap().ino());
                let message = run(&home).unwrap_err().to_string();
                let named =
                    message.contains(expected) && message.contains(&at.display().to_string());
                assert!(named, "{component:?}: {message}");
                assert!(message.contains("mv /") || message.contains("chmod u+rwx /"), "{message}");
                let after = (snapshot(&outside), fs::symlink_metadata(&at).unwrap().ino());
                assert_eq!(before, after, "{component:?}");
            }
        }
    }

    #[test]
    fn the_named_command_repairs_it() {
        for plant in [(|at| fs::write(at, "x").unwrap()) as fn(&Path), |at| {
            fs::create_dir(at).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(0o000)).unwrap();
        }] {
            let (_guard, home, _) = home();
            fs::create_dir(home.join(".local")).unwrap();
            plant(&home.join(".local/share"));
            let message = run(&home).unwrap_err().to_string();
            let command = message.rsplit_once(": ").unwrap().1;
            let status = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
            assert!(status.success(), "{command}");
            run(&home).unwrap();
        }
    }

    #[test]
    fn a_home_that_is_none_is_refused() {
        let (guard, home, outside) = home();
        assert!(run(&guard.path().join("gone")).is_err());
        let link = guard.path().join("link");
        symlink(&home, &link).unwrap();
        assert!(run(&link).unwrap_err().to_string().contains("must bind the state directory"));
        assert!(run(&outside.join("file")).is_err());
        assert!(fs::read_dir(&home).unwrap().next().is_none());
    }
}
