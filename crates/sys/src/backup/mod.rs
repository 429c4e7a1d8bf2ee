//! `backup` and `restore`: the state of an instance in one file, and back.
//!
//! The tree below a state directory is an agent's, and the agent is hostile. So root opens names that only
//! root can change, and hands their descriptors to processes that have become the instance's user for
//! good; those look, copy, pack and unpack. Each of them runs in a transient unit (`unit`), one after the
//! other:
//!
//! | step | the server | what |
//! |---|---|---|
//! | copy | runs | all files, each under a number, into a directory beside the state (`copy`) |
//! | again | stands still (`hold`), or cannot start | what has changed since |
//! | pack | runs | the archive, from the copies (`pack`): however slow its reader is, nobody waits |
//!
//! A restore is one unit, for which every start of the instance waits: it requires that nothing runs,
//! makes a tree beside the state while it judges the archive (`unpack`), and exchanges both (`swap`).

mod copy;
mod error;
mod hold;
mod identity;
mod pack;
mod place;
mod progress;
mod room;
mod steps;
mod swap;
mod target;
#[cfg(test)]
mod tests;
mod tree;
mod unit;
mod unpack;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use instances_core::backup::manifest::LeftOut;
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::installed::Record;
use crate::lock::{self, Lock};
use crate::systemctl::{self, text};
pub use error::Error;
pub use identity::Identity;
use identity::NOBODY;
use place::{Place, TREE};
pub use steps::{Kind, Told, take};
use target::Target;
use unit::{Said, Step};

/// How long a server may be between up and down until a backup gives up.
const SETTLING: Duration = Duration::from_mins(3);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(500);

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Directories, files and links.
    pub entries: u64,
    /// Of all files.
    pub bytes: u64,
    /// What was left out beside caches and logs.
    pub left_out: LeftOut,
}

/// Where an archive goes or comes from.
#[derive(Clone, Debug)]
pub enum Archive {
    /// A file.
    File(PathBuf),
    /// Standard input or output.
    Pipe,
}

/// What is to be kept.
#[derive(Debug)]
pub struct Backup<'a> {
    /// Whose state.
    pub record: &'a Record,
    /// Where to.
    pub to: Archive,
    /// Whether a file may be replaced.
    pub force: bool,
    /// Caches and logs too.
    pub all: bool,
    /// How many seconds the server may stand still.
    pub limit: u32,
    /// Of opencode, where it is known.
    pub opencode: Option<String>,
    /// Now, in UTC.
    pub time: String,
}

/// What was kept.
#[derive(Debug)]
pub struct Kept {
    /// What is in it.
    pub count: Count,
    /// How many bytes the archive has, if it is a file.
    pub length: Option<u64>,
    /// For how long the server stood still at most; `None` where it did not run.
    pub frozen: Option<Duration>,
}

/// What is to be restored.
#[derive(Debug)]
pub struct Restore<'a> {
    /// Whose state.
    pub record: &'a Record,
    /// Where from.
    pub from: Archive,
    /// Whose archive it is, if it is another's.
    pub other: Option<InstanceName>,
    /// Now, in UTC.
    pub time: String,
}

/// Whoever works at one instance's state, alone.
#[derive(Debug)]
struct Keeper<'a> {
    record: &'a Record,
    place: Place,
    identity: Identity,
    _lock: Lock,
}

impl<'a> Keeper<'a> {
    /// Ends what a run that was killed has left.
    fn begin(record: &'a Record) -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Err(Error::Denied);
        }
        let lock = match lock::take_state(&record.name) {
            Ok(lock) => lock,
            Err(lock::Error::File(error)) => {
                return Err(Error::file(error.doing, error.path)(error.source));
            }
            Err(_) => return Err(Error::Busy(record.name.to_string())),
        };
        // Before anything else: what goes on there took this lock for its own until now.
        let unit = unit::name(&record.name);
        let state = systemctl::show(std::slice::from_ref(&unit), &["ActiveState"])?;
        if state.iter().any(|unit| text(unit, "ActiveState") != "inactive") {
            let _ = systemctl::run("systemctl", &["stop", "--", &unit]);
        }
        let place = Place::of(record)?;
        let mut identity = Identity::of(record)?;
        if let Some(home) = place.open(identity)? {
            // It may be another than the user's first one.
            let stat = rustix::fs::fstat(&home).map_err(Error::io("look at", &place.home))?;
            if !matches!(stat.st_gid, 0 | NOBODY) {
                identity.gid = stat.st_gid;
            }
        }
        place::remove(&place.backup())?;
        swap::finish(&place)?;
        Ok(Self { record, place, identity, _lock: lock })
    }

    /// The words that call a step.
    fn words(&self, step: &str) -> Vec<String> {
        let Identity { uid, gid } = self.identity;
        vec![
            step.to_owned(),
            self.record.name.to_string(),
            format!("--uid={uid}"),
            format!("--gid={gid}"),
        ]
    }

    /// The words of one that asks systemd.
    fn asking(&self, step: &str) -> Result<Vec<String>, Error> {
        let mut words = self.words(step);
        let systemctl = unit::program("systemctl")?;
        words.push(format!("--systemctl={}", systemctl.display()));
        Ok(words)
    }

    fn step(&self, words: Vec<String>) -> Step<'_> {
        Step {
            instance: &self.record.name,
            writable: None,
            words,
            before: None,
            after: None,
            holds: false,
            thaws: None,
        }
    }
}

fn counted(said: &[Said]) -> Result<Count, Error> {
    let found = said.iter().find_map(|said| match said {
        Said::Counted(count) => Some(count.clone()),
        _ => None,
    });
    found.ok_or_else(|| Error::Words("the unit of a step".to_owned()))
}

/// Copies that go with the value.
struct Copies(PathBuf);

impl Drop for Copies {
    fn drop(&mut self) {
        // What stays is removed by the next run.
        let _ = place::remove(&self.0);
    }
}

impl Backup<'_> {
    /// Looks at what would be kept.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn look(&self) -> Result<Count, Error> {
        let keeper = Keeper::begin(self.record)?;
        let mut words = keeper.words("scan");
        words.extend(self.all.then(|| "--all".to_owned()));
        counted(&unit::run(&keeper.step(words), None, None)?)
    }

    /// Keeps it.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`]. Then no file is there, and the server runs as before.
    pub fn run(&self) -> Result<Kept, Error> {
        let keeper = Keeper::begin(self.record)?;
        if keeper.place.open(keeper.identity)?.is_none() {
            return Err(Error::NoState(keeper.place.home.clone()));
        }
        let target = match &self.to {
            Archive::File(path) => Some(Target::create(path, self.force, self.record)?),
            Archive::Pipe => None,
        };
        let around = keeper.place.backup();
        let copies = Copies(around.clone());
        place::make(&around, keeper.identity)?;
        let all = self.all.then(|| "--all".to_owned());
        let mut words = keeper.words("copy");
        words.extend(all.clone());
        let step = Step { writable: Some(keeper.place.parent()), ..keeper.step(words) };
        unit::run(&step, None, None)?;
        let (count, frozen) = self.copy_again(&keeper)?;
        let mut words = keeper.words("pack");
        words.extend(all);
        words.extend(frozen.map(|_| "--frozen".to_owned()));
        words.push(format!("--time={}", self.time));
        words.extend(self.opencode.as_ref().map(|version| format!("--opencode={version}")));
        let output = match &target {
            Some(target) => target.descriptor()?,
            None => duplicate(std::io::stdout())?,
        };
        unit::run(&keeper.step(words), None, Some(output))?;
        drop(copies);
        let length = target.map(Target::finish).transpose()?;
        Ok(Kept { count, length, frozen })
    }

    /// Copies what has changed while nobody writes, and for how long that was.
    fn copy_again(&self, keeper: &Keeper<'_>) -> Result<(Count, Option<Duration>), Error> {
        let end = Instant::now() + SETTLING;
        let mut words = keeper.words("again");
        words.extend(self.all.then(|| "--all".to_owned()));
        let step = Step {
            writable: Some(keeper.place.parent()),
            before: Some(keeper.asking("hold")?),
            after: Some(keeper.asking("held")?),
            holds: true,
            thaws: Some(self.limit),
            ..keeper.step(words)
        };
        loop {
            let said = unit::run(&step, None, None);
            self.require_thawed()?;
            let said = said?;
            if !said.contains(&Said::Unsettled) {
                let since = said.iter().find_map(|said| match said {
                    Said::Held { since } => *since,
                    _ => None,
                });
                let frozen = since.map(|since| hold::milliseconds().saturating_sub(since));
                return Ok((counted(&said)?, frozen.map(Duration::from_millis)));
            }
            if Instant::now() > end {
                return Err(Error::Unsettled(self.record.name.to_string()));
            }
            sleep(POLL);
        }
    }

    /// The unit has thawed the server. That it has is worth a look.
    fn require_thawed(&self) -> Result<(), Error> {
        let main = Names(&self.record.name).main();
        let unit = systemctl::show(std::slice::from_ref(&main), &["FreezerState"])?;
        if unit.first().is_some_and(|unit| text(unit, "FreezerState") == "frozen") {
            systemctl::run("systemctl", &["thaw", "--", &main])?;
        }
        Ok(())
    }
}

impl Restore<'_> {
    /// Reads the archive to its end, and changes nothing.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn look(&self) -> Result<Count, Error> {
        let keeper = Keeper::begin(self.record)?;
        let words = self.words(&keeper, "verify");
        counted(&unit::run(&keeper.step(words), Some(self.input()?), None)?)
    }

    /// Puts what is in the archive in the place of the state. Where the previous state is now, if there
    /// was one.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`]. Then the state is as before, but with [`Error::Exchanged`].
    pub fn run(&self) -> Result<(Count, Option<PathBuf>), Error> {
        let keeper = Keeper::begin(self.record)?;
        keeper.place.require_exchangeable()?;
        let input = self.input()?;
        let was = swap::number(&keeper.place.home)?.is_some();
        let around = keeper.place.restore();
        place::make(&around, keeper.identity)?;
        let new = swap::number(&around.join(TREE))?;
        let mut swap = keeper.words("swap");
        swap.push(format!("--time={}", self.time));
        let step = Step {
            writable: Some(keeper.place.parent()),
            before: Some(keeper.asking("quiet")?),
            after: Some(swap),
            holds: true,
            ..keeper.step(self.words(&keeper, "unpack"))
        };
        let said = unit::run(&step, Some(input), None);
        // Where it failed, what it has made goes; or, the exchange being done, it is ended.
        let finished = swap::finish(&keeper.place);
        let is_new = || swap::number(&keeper.place.home).is_ok_and(|is| is.is_some() && is == new);
        let said = match said {
            Err(source) if is_new() => return Err(exchanged(&keeper.place, was, source)),
            said => said?,
        };
        let before = said.iter().find_map(|said| match said {
            Said::Swapped(before) => Some(before.clone()),
            _ => None,
        });
        Ok((counted(&said)?, before.unwrap_or(finished?)))
    }

    fn words(&self, keeper: &Keeper<'_>, step: &str) -> Vec<String> {
        let mut words = keeper.words(step);
        words.extend(self.other.as_ref().map(|other| format!("--from={other}")));
        words
    }

    fn input(&self) -> Result<OwnedFd, Error> {
        match &self.from {
            Archive::File(path) => {
                File::open(path).map(OwnedFd::from).map_err(Error::file("open", path))
            }
            Archive::Pipe => duplicate(std::io::stdin()),
        }
    }
}

/// What failed after the exchange.
fn exchanged(place: &Place, was: bool, source: Error) -> Error {
    let before = if was {
        let all = place.all_before().unwrap_or_default();
        // Until it has a name of its own.
        let restore = Some(place.restore()).filter(|path| path.exists());
        let path = restore.or_else(|| all.last().cloned()).unwrap_or_default();
        format!("the previous one is in {}", path.display())
    } else {
        "there was none before".to_owned()
    };
    Error::Exchanged { before, place: place.home.clone(), source: Box::new(source) }
}

fn duplicate(stream: impl std::os::fd::AsFd) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(stream, 3).map_err(Error::io("open", "a standard stream"))
}

/// Removes the states that restores have put aside; which they were.
///
/// # Errors
///
/// See [`enum@Error`].
pub fn forget(record: &Record) -> Result<Vec<PathBuf>, Error> {
    let keeper = Keeper::begin(record)?;
    let all = keeper.place.all_before()?;
    all.iter().try_for_each(|path| place::remove(path))?;
    Ok(all)
}

/// Where an archive is, by what was typed.
pub fn archive(typed: &Path) -> Archive {
    if typed == Path::new("-") { Archive::Pipe } else { Archive::File(typed.to_owned()) }
}
