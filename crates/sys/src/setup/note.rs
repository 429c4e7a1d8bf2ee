//! Small files of setup's own in a tree of the agent's: whether HOME is initialised, which links are
//! ours.
//!
//! The agent can write them. What it gains is that the operator's scripts run again, or not: as
//! itself, in its own sandbox.

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;
use super::directory::Directory;
use crate::shell;

/// Where they lie, below HOME.
const PLACE: &[&str] = &[".local", "share", "opencode-instances"];
/// The format's version.
const VERSION: u32 = 1;
/// Longer than any of them, in bytes.
const MAX: u64 = 1 << 20;
/// The file that says whether HOME is initialised.
const STATE: &str = "state.json";

/// What is known of a HOME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// Nothing was noted, and no server has used it. Never written.
    #[serde(skip)]
    Empty,
    /// Nothing was noted, and a server has used it. Never written.
    #[serde(skip)]
    Used,
    /// A run began, and did not come to its end.
    Begun,
    /// A run came to its end.
    Initialised,
}

#[derive(Serialize, Deserialize)]
struct Noted<T> {
    version: u32,
    #[serde(flatten)]
    rest: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct OfState {
    state: State,
}

/// What was noted of HOME's state, if anything was.
pub(super) fn read(home: &Directory) -> Result<Option<State>, Error> {
    Ok(load::<OfState>(home, STATE)?.map(|noted| noted.state))
}

/// Notes the state, atomically and durably.
pub(super) fn write(home: &Directory, state: State) -> Result<(), Error> {
    store(home, STATE, &OfState { state })
}

/// Reads a file of setup's own; nothing when there is none.
pub(super) fn load<T: DeserializeOwned>(home: &Directory, name: &str) -> Result<Option<T>, Error> {
    let Some(directory) = home.look(PLACE)? else { return Ok(None) };
    let path = directory.path().join(name);
    let refuse = |what: &str| Error::Note {
        path: path.clone(),
        what: what.to_owned(),
        remedy: format!("setup starts over without it: rm -r {}", shell::word(&path)),
    };
    // Not blocking: a FIFO there must not hang the start.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(directory.fd(), name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NXIO) => return Err(refuse("is not a file")),
        Err(Errno::ACCESS) => return Err(refuse("cannot be read")),
        opened => opened.map_err(|errno| Error::io("open", &path, errno))?,
    };
    let stat = fs::fstat(&file).map_err(|errno| Error::io("look at", &path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse("is not a file"));
    }
    let mut bytes = Vec::new();
    let read = File::from(file).take(MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX) {
        return Err(refuse("is too long"));
    }
    match serde_json::from_slice::<Version>(&bytes) {
        Ok(Version { version: VERSION }) => {}
        Ok(Version { version }) => {
            return Err(Error::Note {
                path,
                what: format!("has format version {version}, this program knows {VERSION}"),
                remedy: "use the program that wrote it, or a newer one".to_owned(),
            });
        }
        Err(_) => return Err(refuse("is damaged")),
    }
    let noted: Result<Noted<T>, _> = serde_json::from_slice(&bytes);
    noted.map(|noted| Some(noted.rest)).map_err(|_| refuse("is damaged"))
}

/// Writes a file of setup's own: complete and on the disk, or not at all.
pub(super) fn store<T: Serialize>(home: &Directory, name: &str, rest: &T) -> Result<(), Error> {
    let directory = home.make(PLACE)?;
    let path = directory.path().join(name);
    let new = format!(".{name}.new");
    let failed = |action| move |errno: Errno| (action, errno);
    let written = || -> Result<(), (&'static str, Errno)> {
        match fs::unlinkat(directory.fd(), &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(("make room beside", errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(directory.fd(), &new, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("create"))?;
        let text = serde_json::to_string(&Noted { version: VERSION, rest }).unwrap_or_default();
        let mut file = File::from(file);
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .map_err(failed("write"))?;
        fs::renameat(directory.fd(), &new, directory.fd(), name).map_err(failed("replace"))?;
        // Opened for its path alone it cannot be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            fs::openat(directory.fd(), ".", flags, Mode::empty()).map_err(failed("open"))?;
        fs::fsync(opened).map_err(failed("sync"))
    };
    written().map_err(|(action, errno)| match errno {
        Errno::ISDIR => Error::InTheWay {
            path: if action == "replace" { path.clone() } else { directory.path().join(&new) },
            what: "a directory",
            wanted: "a file of setup's own",
        },
        errno => Error::io(action, &path, errno),
    })
}
