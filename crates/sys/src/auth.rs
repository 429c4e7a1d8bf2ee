//! The password of each instance: made once, readable by root alone, handed over by systemd.
//!
//! `AUTH_ROOT/NAME/password` holds exactly the password, with no line end: `LoadCredential=`
//! passes the bytes on as they are. A file an operator wrote with an editor is taken as well.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instances_core::spec::InstanceName;
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

use crate::{shell, trust};

/// How many random bytes a password has.
const BYTES: usize = 32;

/// The file inside the instance's directory.
const FILE: &str = "password";
/// What an interrupted run leaves behind, and the next one removes.
const NEW: &str = ".password.new";
/// Longer than any password.
const MAX: u64 = 4096;
const TOO_LONG: &str = "it is too long";

/// A password. Never shown by `Debug`; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}

/// What [`ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// There was a password; it is untouched.
    Kept,
    /// There was none; now there is.
    Created,
    /// What a power cut left of one was replaced: clients need the new one.
    Replaced,
}

/// Why there is no password.
#[derive(Debug, Error)]
pub enum Error {
    /// Somebody else may know or choose the password.
    #[error("{path} {what}; make sure nobody else uses it, then: {remedy}")]
    Untrusted {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// The command that clears it.
        remedy: String,
    },
    /// There is a file, but it is not a password.
    #[error(
        "{path} holds no password ({what}); make a new one: rm {}, and start the instance again",
        shell::word(.path)
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        what: &'static str,
    },
    /// The file that `auth.passwordFile` names is not a password.
    #[error(
        "{path}, which auth.passwordFile names, holds no password ({what}); write one line to it"
    )]
    OfOperator {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        what: &'static str,
    },
    /// The file that `auth.passwordFile` names could be replaced by somebody else than root.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The kernel refused.
    #[error("cannot {action} {path}; run as root, and check that its file system is writable")]
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

impl Error {
    /// Whether it only says that the caller is not root.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Makes sure that `NAME` has a password below `root`, usually `AUTH_ROOT`.
///
/// Atomic and durable when it returns. A password that is there is never overwritten.
pub fn ensure(root: &Path, name: &InstanceName) -> Result<Ensured, Error> {
    let place = Place::new(root, name.as_str());
    let parents = root.parent().unwrap_or(root);
    std::fs::create_dir_all(parents).map_err(|source| place.io("create the parents of", source))?;
    let root = open_or_make(fs::CWD, root, root)?;
    let directory = open_or_make(root.as_fd(), Path::new(name.as_str()), &place.directory)?;
    retry_on_intr(|| fs::flock(&directory, FlockOperation::LockExclusive))
        .map_err(|errno| place.io("lock the directory of", errno.into()))?;
    let ensured = match place.content(directory.as_fd())? {
        Some(text) if is_remnant(&text) => Ensured::Replaced,
        Some(_) => return Ok(Ensured::Kept),
        None => Ensured::Created,
    };
    store(directory.as_fd())
        // The directories may be new as well.
        .and_then(|()| Ok(fs::fsync(&root)?))
        .and_then(|()| File::open(parents)?.sync_all())
        .map_err(|source| place.io("write", source))?;
    Ok(ensured)
}

/// Replaces the password of `NAME` by a new one, atomically and durably. A running server keeps the
/// old one until it restarts.
pub fn rotate(root: &Path, name: &InstanceName) -> Result<(), Error> {
    ensure(root, name)?;
    let place = Place::new(root, name.as_str());
    let directory = open_directory(fs::CWD, &place.directory, &place.directory)?;
    retry_on_intr(|| fs::flock(&directory, FlockOperation::LockExclusive))
        .map_err(|errno| place.io("lock the directory of", errno.into()))?;
    store(directory.as_fd()).map_err(|source| place.io("write", source))
}

/// Reads the password of `NAME` below `root`.
pub fn read(root: &Path, name: &InstanceName) -> Result<Password, Error> {
    let place = Place::new(root, name.as_str());
    let directory = open_directory(fs::CWD, &place.directory, &place.directory)?;
    let unusable = |what| Error::Unusable { path: place.path(), what };
    let bytes = place.content(directory.as_fd())?.ok_or_else(|| unusable("there is no file"))?;
    parse(bytes).map_err(unusable)
}

/// Reads the operator's own password file, as systemd does: links in it are followed, when only root
/// can change them.
pub fn read_file(path: &Path) -> Result<Password, Error> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    trust::secret("auth.passwordFile", path).map_err(|error| match error {
        trust::Error::Look(_, source) => io(source),
        error => error.into(),
    })?;
    read_line(path)
}

/// Reads a file that may be anything, without waiting for anybody.
fn read_line(path: &Path) -> Result<Password, Error> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let failed = |errno: Errno| io(errno.into());
    let unusable = |what| Error::OfOperator { path: path.to_owned(), what };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = fs::fstat(&opened).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unusable("it is not a file"));
    }
    let bytes = at_most(MAX, opened).map_err(io)?.ok_or_else(|| unusable(TOO_LONG))?;
    parse(bytes).map_err(unusable)
}

/// The whole content, or nothing when it is longer.
fn at_most(max: u64, file: OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::from(file).take(max + 1).read_to_end(&mut bytes)?;
    Ok(u64::try_from(bytes.len()).is_ok_and(|length| length <= max).then_some(bytes))
}

/// The one line that a password file holds.
fn parse(bytes: Vec<u8>) -> Result<Password, &'static str> {
    if is_remnant(&bytes) {
        return Err("it was cut short");
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not text")?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.contains(char::is_control) {
        return Err("it has more than one line");
    }
    Ok(Password(password.to_owned()))
}

/// Where one password lies.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new(root: &Path, name: &str) -> Self {
        Self { directory: root.join(name) }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn io(&self, action: &'static str, source: io::Error) -> Error {
        Error::Io { action, path: self.path(), source }
    }

    /// The bytes of the file, or nothing when there is none.
    fn content(&self, directory: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Error> {
        let failed = |errno: Errno| self.io("open", errno.into());
        // Not blocking: a FIFO there must not hang the start.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match fs::openat(directory, FILE, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(untrusted(&self.path(), "is a symbolic link", "rm")),
            opened => opened.map_err(failed)?,
        };
        let stat = fs::fstat(&opened).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(untrusted(&self.path(), "is not a file", "rm -r"));
        }
        own(&self.path(), stat.st_uid)?;
        if stat.st_mode & 0o077 != 0 {
            fs::fchmod(&opened, Mode::from_raw_mode(0o600)).map_err(failed)?;
        }
        let bytes = at_most(MAX, opened).map_err(|source| self.io("read", source))?;
        let too_long = || Error::Unusable { path: self.path(), what: TOO_LONG };
        bytes.ok_or_else(too_long).map(Some)
    }
}

/// Writes a new password beside the old file, and puts it in place when it is on the disk.
fn store(directory: BorrowedFd<'_>) -> io::Result<()> {
    match fs::unlinkat(directory, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let new = fs::openat(directory, NEW, flags, Mode::from_raw_mode(0o600))?;
    let mut new = File::from(new);
    new.write_all(random()?.as_bytes())?;
    new.sync_all()?;
    fs::renameat(directory, NEW, directory, FILE)?;
    fs::fsync(directory)?;
    Ok(())
}

/// True for what a power cut may leave of a file: nothing, or NULs. A generated password is renamed
/// into place whole, so that anything else is an operator's own.
fn is_remnant(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace) || bytes.contains(&0)
}

/// What nobody can guess, as text.
pub(crate) fn random() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    let filled = retry_on_intr(|| getrandom(&mut bytes[..], GetRandomFlags::empty()))?;
    if filled != BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Opens a directory of root's, mode 0700, and makes it first when there is none.
fn open_or_make(parent: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<OwnedFd, Error> {
    let failed = |action| {
        move |errno: Errno| Error::Io { action, path: path.to_owned(), source: errno.into() }
    };
    match fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("create")(errno)),
    }
    let opened = open_directory(parent, name, path)?;
    fs::fchmod(&opened, Mode::from_raw_mode(0o700)).map_err(failed("protect"))?;
    Ok(opened)
}

fn open_directory(parent: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno: Errno| match errno {
        Errno::LOOP | Errno::NOTDIR => {
            untrusted(path, "is a symbolic link or a file, not a directory", "rm")
        }
        _ => Error::Io { action: "open", path: path.to_owned(), source: errno.into() },
    };
    let opened = fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
    let stat = fs::fstat(&opened).map_err(failed)?;
    own(path, stat.st_uid)?;
    Ok(opened)
}

/// Refuses what belongs to anybody but the caller, who is root outside of tests.
fn own(path: &Path, owner: u32) -> Result<(), Error> {
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(untrusted(path, "belongs to another user", "rm -r"))
}

fn untrusted(path: &Path, what: &'static str, remedy: &str) -> Error {
    let remedy = format!("{remedy} {}", shell::word(path));
    Error::Untrusted { path: path.to_owned(), what, remedy }
}

#[cfg(test)]
mod tests {
    use super::{Ensured, MAX, NEW, ensure, read, read_file, read_line};
    use instances_core::spec::InstanceName;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    use std::path::{Path, PathBuf};

    /// 32 bytes in base64 without padding.
    const CHARACTERS: usize = 43;

    fn name(text: &str) -> InstanceName {
        InstanceName::new(text).unwrap()
    }

    fn scratch() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("opencode/instance-auth");
        let file = root.join("foo/password");
        (directory, root, file)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn makes_a_password_once() {
        let (_guard, root, file) = scratch();
        assert_eq!(ensure(&root, &name("foo")).unwrap(), Ensured::Created);
        let first = read(&root, &name("foo")).unwrap();
        assert_eq!(first.expose().len(), CHARACTERS);
        assert_eq!(fs::read(&file).unwrap(), first.expose().as_bytes());
        assert_eq!((mode(&root), mode(&root.join("foo")), mode(&file)), (0o700, 0o700, 0o600));
        assert_eq!(ensure(&root, &name("foo")).unwrap(), Ensured::Kept);
        assert_eq!(read(&root, &name("foo")).unwrap(), first);
        assert_eq!(ensure(&root, &name("bar")).unwrap(), Ensured::Created);
        assert_ne!(read(&root, &name("bar")).unwrap(), first);
        assert_eq!(fs::read_dir(root.join("foo")).unwrap().count(), 1);
    }

    #[test]
    fn a_rotated_password_is_a_new_one() {
        let (_guard, root, file) = scratch();
        super::rotate(&root, &name("foo")).unwrap();
        let first = read(&root, &name("foo")).unwrap();
        super::rotate(&root, &name("foo")).unwrap();
        let second = read(&root, &name("foo")).unwrap();
        assert!(first != second && second.expose().len() == CHARACTERS);
        assert_eq!((mode(&file), fs::read_dir(root.join("foo")).unwrap().count()), (0o600, 1));
    }

    #[test]
    fn debug_shows_nothing() {
        let (_guard, root, _) = scratch();
        ensure(&root, &name("foo")).unwrap();
        assert_eq!(format!("{:?}", read(&root, &name("foo")).unwrap()), "Password(…)");
    }

    #[test]
    fn an_operators_own_password_stays() {
        let (_guard, root, file) = scratch();
        ensure(&root, &name("foo")).unwrap();
        for (own, expected) in
            [("hunter2\n", "hunter2"), ("hunter2", "hunter2"), ("correct horse", "correct horse")]
        {
            fs::write(&file, own).unwrap();
            assert_eq!(ensure(&root, &name("foo")).unwrap(), Ensured::Kept);
            assert_eq!(read(&root, &name("foo")).unwrap().expose(), expected);
        }
    }

    #[test]
    fn what_a_power_cut_left_is_replaced() {
        let (_guard, root, file) = scratch();
        ensure(&root, &name("foo")).unwrap();
        for remnant in ["", "\n", "\0\0\0\0", "Zm9v\0\0"] {
            fs::write(&file, remnant).unwrap();
            assert!(read(&root, &name("foo")).is_err(), "{remnant:?}");
            assert_eq!(ensure(&root, &name("foo")).unwrap(), Ensured::Replaced, "{remnant:?}");
            assert_eq!(read(&root, &name("foo")).unwrap().expose().len(), CHARACTERS);
        }
    }

    #[test]
    fn a_killed_run_does_not_stand_in_the_way() {
        let (_guard, root, _) = scratch();
        fs::create_dir_all(root.join("foo")).unwrap();
        fs::write(root.join("foo").join(NEW), "half").unwrap();
        assert_eq!(ensure(&root, &name("foo")).unwrap(), Ensured::Created);
        assert!(!root.join("foo").join(NEW).exists());
    }

    #[test]
    fn loose_permissions_are_tightened() {
        let (_guard, root, file) = scratch();
        ensure(&root, &name("foo")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(root.join("foo"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(ensure(&root, &name("foo")).unwrap(), Ensured::Kept);
        assert_eq!((mode(&root.join("foo")), mode(&file)), (0o700, 0o600));
    }

    #[test]
    fn links_and_other_objects_are_refused() {
        let (guard, root, file) = scratch();
        ensure(&root, &name("foo")).unwrap();
        let victim = guard.path().join("victim");
        fs::write(&victim, "").unwrap();
        fs::remove_file(&file).unwrap();
        symlink(&victim, &file).unwrap();
        let message = ensure(&root, &name("foo")).unwrap_err().to_string();
        assert!(message.contains("symbolic link") && message.contains("rm /"), "{message}");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(ensure(&root, &name("foo")).unwrap_err().to_string().contains("is not a file"));
        fs::remove_dir_all(root.join("foo")).unwrap();
        symlink(guard.path(), root.join("foo")).unwrap();
        assert!(ensure(&root, &name("foo")).unwrap_err().to_string().contains("not a directory"));
        assert!(read(&root, &name("foo")).unwrap_err().to_string().contains("not a directory"));
        assert_eq!(fs::read(&victim).unwrap(), b"");
        assert!(!guard.path().join("password").exists());
    }

    #[test]
    fn a_foreign_owner_is_refused() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            // Past the capture of the test harness, so that it is seen.
            let _ = writeln!(std::io::stderr(), "SKIP: needs root to give a file away");
            return;
        }
        let (_guard, root, file) = scratch();
        ensure(&root, &name("foo")).unwrap();
        chown(&file, Some(1), None).unwrap();
        assert!(ensure(&root, &name("foo")).unwrap_err().to_string().contains("another user"));
        chown(&file, Some(0), None).unwrap();
        chown(root.join("foo"), Some(1), None).unwrap();
        assert!(read(&root, &name("foo")).unwrap_err().to_string().contains("another user"));
    }

    #[test]
    fn an_operators_file_is_read_whole_or_not_at_all() {
        let guard = tempfile::tempdir().unwrap();
        let file = guard.path().join("file");
        let read = |content: &str| {
            fs::write(&file, content).unwrap();
            read_line(&file).map(|password| password.expose().len()).map_err(|e| e.to_string())
        };
        let most = usize::try_from(MAX).unwrap();
        assert_eq!(read(&format!("{}\n", "x".repeat(most - 1))), Ok(most - 1));
        assert!(read(&"x".repeat(most + 1)).unwrap_err().contains("it is too long"));
        assert!(read("two\nlines").unwrap_err().contains("more than one line"));
        // What has no end, and what nobody writes to.
        let fifo = guard.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for odd in [&fifo, Path::new("/dev/zero"), guard.path()] {
            let message = read_line(odd).unwrap_err().to_string();
            assert!(message.contains("it is not a file"), "{message}");
        }
        // Below a directory where everybody can write, nothing is read.
        assert!(read_file(&file).unwrap_err().to_string().contains("cannot be trusted"));
    }

    #[test]
    fn reading_makes_nothing() {
        let (_guard, root, _) = scratch();
        assert!(read(&root, &name("foo")).unwrap_err().to_string().contains("cannot open"));
    }
}
