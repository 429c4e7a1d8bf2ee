//! What the transient units run: each a process of its own, which looks at the tree of an agent's only
//! after it has become the agent's user.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use instances_core::backup::manifest::{Manifest, VERSION};
use instances_core::spec::InstanceName;
use rustix::fs::{Mode, OFlags, openat, renameat, syncfs};

use super::copy::{self, Index};
use super::identity::Identity;
use super::place::{self, Place};
use super::progress::Progress;
use super::room::Sparing;
use super::unit::{Said, say};
use super::{Count, Error, hold, pack, swap, tree, unpack};
use crate::installed::Record;
use crate::lock;

/// The list of copies, among them.
const INDEX: &str = "index";
/// So many of the things that were left out are named to the operator; the manifest names more.
const NAMED: usize = 20;
const NEW: &str = "index.new";

/// A step, as `keep` is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Look at what a backup would have.
    Scan,
    /// Copy, of a server that runs.
    Copy,
    /// Copy what has changed, of one that stands still.
    Again,
    /// Write the archive.
    Pack,
    /// Have the server stand still.
    Hold,
    /// Require that it did.
    Held,
    /// Require that nothing runs.
    Quiet,
    /// Read an archive.
    Verify,
    /// Make a tree of one.
    Unpack,
    /// Put the tree in the place of the state.
    Swap,
    /// Say how the unit ended.
    Ended,
}

/// What a step is told.
#[derive(Debug)]
pub struct Told {
    /// The step.
    pub kind: Kind,
    /// Whose state.
    pub identity: Identity,
    /// Caches and logs too.
    pub all: bool,
    /// Whether the server stood still for the copies.
    pub frozen: bool,
    /// The version of opencode, where it is known.
    pub opencode: Option<String>,
    /// The time of the whole.
    pub time: String,
    /// Whose archive it is.
    pub from: Option<InstanceName>,
    /// The program that asks systemd.
    pub systemctl: String,
}

/// Takes a step.
///
/// # Errors
///
/// See [`Error`].
pub fn take(record: &Record, told: &Told) -> Result<(), Error> {
    match told.kind {
        Kind::Scan | Kind::Copy | Kind::Again => copying(record, told),
        Kind::Pack => packing(record, told),
        Kind::Hold => hold::hold(record, &told.systemctl),
        Kind::Held => hold::require_held(record, &told.systemctl),
        Kind::Quiet => hold::require_quiet(record, &told.systemctl),
        Kind::Verify | Kind::Unpack => unpacking(record, told),
        Kind::Swap => {
            // Who asked for the restore holds this lock to the end. Whoever ended that expects the state as it was.
            let waits = || match lock::take_state(&record.name) {
                Err(lock::Error::Busy) => Ok(()),
                _ => Err(Error::Abandoned(record.name.to_string())),
            };
            let before = swap::swap(&Place::of(record)?, &told.time, &waits)?;
            say(&Said::Swapped(before))
        }
        Kind::Ended => say(&Said::Ended(std::env::var("SERVICE_RESULT").unwrap_or_default())),
    }
}

/// Opens for reading what root has opened for its path: as the user.
fn again(path: &OwnedFd, name: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(path, ".", flags, Mode::empty()).map_err(Error::io("open", name))
}

fn copying(record: &Record, told: &Told) -> Result<(), Error> {
    let place = Place::of(record)?;
    let home = place.open(told.identity)?.ok_or_else(|| Error::NoState(place.home.clone()))?;
    let scans = told.kind == Kind::Scan;
    let around = place.backup();
    let copies = (!scans).then(|| place::open_tree(&around)).transpose()?;
    told.identity.take()?;
    let home = again(&home, &place.home)?;
    let copies = copies.map(|copies| again(&copies, &around)).transpose()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let held = told.kind == Kind::Again;
    let before = match &copies {
        Some(copies) if held => Some(load(copies.as_fd())?),
        Some(_) => {
            syncfs(&home).map_err(Error::io("sync", &place.home))?;
            None
        }
        None => None,
    };
    let request = copy::Request {
        home: home.as_fd(),
        owner: told.identity.uid,
        to: copies.as_ref().map(|copies| (copies.as_fd(), around.as_path())),
        all: told.all,
        held,
    };
    let mut progress = Progress::new(if scans { "looking" } else { "copying" });
    let index = copy::copy(&request, before, now, &mut progress)?;
    drop(progress);
    if let Some(copies) = &copies {
        store(copies.as_fd(), &index)?;
    }
    let entries = index.entries.len() as u64;
    say(&Said::Counted(Count {
        entries,
        bytes: index.bytes(),
        left_out: index.left_out.naming(NAMED),
    }))
}

fn packing(record: &Record, told: &Told) -> Result<(), Error> {
    let around = Place::of(record)?.backup();
    let copies = place::open_tree(&around)?;
    told.identity.take()?;
    let copies = again(&copies, &around)?;
    let index = load(copies.as_fd())?;
    let manifest = Manifest {
        version: VERSION,
        instance: record.name.clone(),
        engine: env!("CARGO_PKG_VERSION").to_owned(),
        opencode: told.opencode.clone(),
        time: told.time.clone(),
        all: told.all,
        frozen: told.frozen,
        bytes: 0,
        left_out: index.left_out.clone(),
        entries: Vec::new(),
    };
    pack::pack(copies.as_fd(), index, manifest, Sparing::new(io::stdout().lock()))
}

fn unpacking(record: &Record, told: &Told) -> Result<(), Error> {
    let around = Place::of(record)?.restore();
    let makes = told.kind == Kind::Unpack;
    let tree = makes.then(|| place::open_tree(&around)).transpose()?;
    told.identity.take()?;
    let tree = tree.map(|tree| again(&tree, &around)).transpose()?;
    let wanted = told.from.as_ref().unwrap_or(&record.name);
    let into = tree.as_ref().map(|tree| (tree.as_fd(), around.as_path()));
    let manifest = unpack::unpack(io::stdin().lock(), wanted, into)?;
    say(&Said::Counted(Count {
        entries: manifest.entries.len() as u64,
        bytes: manifest.bytes,
        left_out: manifest.left_out.naming(NAMED),
    }))
}

fn load(copies: BorrowedFd<'_>) -> Result<Index, Error> {
    let opened = tree::open(copies, INDEX.as_bytes(), OFlags::RDONLY);
    let mut text = Vec::new();
    let mut file = opened.map(File::from).map_err(Error::io("open", INDEX))?;
    file.read_to_end(&mut text).map_err(Error::file("read", INDEX))?;
    serde_json::from_slice(&text).map_err(|_| Error::Words("the list of copies".to_owned()))
}

fn store(copies: BorrowedFd<'_>, index: &Index) -> Result<(), Error> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = openat(copies, NEW, flags, mode).map_err(Error::io("create", NEW))?;
    let mut file = io::BufWriter::new(File::from(file));
    let written = serde_json::to_writer(&mut file, index).map_err(io::Error::from);
    written
        .and_then(|()| io::Write::flush(&mut file))
        .map_err(Error::file("write", "the list of copies"))?;
    renameat(copies, NEW, copies, INDEX).map_err(Error::io("replace", INDEX))
}
