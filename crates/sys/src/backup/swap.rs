//! The moment of a restore: the new state for the previous one.
//!
//! | step | killed right after it |
//! |---|---|
//! | the number of the new directory is noted beside it | nothing has changed; the next run removes both |
//! | both directories are exchanged, in one step of the kernel's | the new state is there; the next run does the last step |
//! | the directory around the previous state gets its name | done |

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use instances_core::format::{self, Unreadable};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Error;
use super::place::{Place, TREE, remove};

/// The note, in the directory around.
const NOTE: &str = "swap.json";
/// How many previous states may have one time.
const NAMES: usize = 100;
/// The version of the note.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Note {
    /// The format's version.
    #[serde(default = "format::first")]
    version: u32,
    /// The number of the new directory.
    inode: u64,
    /// When the previous state was put aside.
    time: String,
}

/// Puts what was unpacked in the place of the state directory, if that is `wanted` still. Where the previous one
/// is now.
pub(super) fn swap(
    place: &Place,
    time: &str,
    wanted: &dyn Fn() -> Result<(), Error>,
) -> Result<Option<PathBuf>, Error> {
    let around = place.restore();
    let new = around.join(TREE);
    // Names and bytes are on the disk before the first name leads to them.
    let synced = File::open(&around).map_err(Error::file("open", &around))?;
    rustix::fs::syncfs(&synced).map_err(Error::io("sync", &around))?;
    let inode = number(&new)?.ok_or_else(|| Error::io("find", &new)(Errno::NOENT))?;
    note(&around, &Note { version: VERSION, inode, time: time.to_owned() })?;
    // After what takes long.
    wanted()?;
    match renameat_with(CWD, &new, CWD, &place.home, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => {
            renameat_with(CWD, &new, CWD, &place.home, RenameFlags::NOREPLACE)
                .map_err(Error::io("put the state in the place of", &place.home))?;
        }
        Err(Errno::BUSY) => return Err(Error::Mount { path: place.home.clone() }),
        Err(errno) => return Err(Error::io("exchange", &place.home)(errno)),
    }
    sync(&around)?;
    sync(place.parent())?;
    finish(place)
}

/// Ends what a run that was killed has begun: the previous state gets its name, or what was unpacked goes.
/// Where the previous state is now, if there was one.
pub(super) fn finish(place: &Place) -> Result<Option<PathBuf>, Error> {
    let around = place.restore();
    // What is beside the state is the new one as long as it has the number that was noted, and the previous one after that.
    let (noted, beside) = (read(&around)?, number(&around.join(TREE))?);
    let Some(noted) = noted.filter(|noted| beside.is_some_and(|beside| beside != noted.inode))
    else {
        remove(&around)?;
        return Ok(None);
    };
    let before = named(place, &around, &noted.time)?;
    sync(place.parent())?;
    Ok(Some(before))
}

/// Gives the directory around the previous state its name; the next one that is free, for two restores may have one time.
fn named(place: &Place, around: &Path, time: &str) -> Result<PathBuf, Error> {
    let mut before = place.before(time);
    for number in 1..=NAMES {
        match renameat_with(CWD, around, CWD, &before, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(before),
            Err(Errno::EXIST) => before = place.before(&format!("{time}.{number}")),
            Err(errno) => return Err(Error::io("keep the previous state as", &before)(errno)),
        }
    }
    Err(Error::io("keep the previous state as", &before)(Errno::EXIST))
}

fn note(around: &Path, note: &Note) -> Result<(), Error> {
    let path = around.join(NOTE);
    let text = serde_json::to_vec(note).unwrap_or_default();
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(Error::file("write", &path))?;
    sync(around)
}

/// The note; one that was cut short is none, since nothing was exchanged then. One of a newer program is refused:
/// without it the previous state could be taken for what was only unpacked.
fn read(around: &Path) -> Result<Option<Note>, Error> {
    let path = around.join(NOTE);
    match fs::read(&path) {
        Ok(text) => match format::parse(&text, VERSION) {
            Ok(note) => Ok(Some(note)),
            Err(Unreadable::Json(_)) => Ok(None),
            Err(why) => Err(Error::file("understand", &path)(io::Error::other(why))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", &path)(error)),
    }
}

/// Which directory is there.
pub(super) fn number(path: &Path) -> Result<Option<u64>, Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("look at", path)(error)),
    }
}

fn sync(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(Error::file("sync", directory))
}
