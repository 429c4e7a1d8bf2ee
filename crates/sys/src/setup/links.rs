//! The links from `.config/opencode` to what the operator declared.
//!
//! A link is ours when it leads where one of ours was noted to lead. Only such a link is replaced or
//! removed. What is noted is written before a link is made and cut down after one is removed, so
//! that a run which is killed leaves no link behind that nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;

use instances_core::config::{CONFIG_HOME, Link};
use rustix::fs::{self, AtFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::{Error, Event, note};

/// The file that says which links are ours.
const FILE: &str = "links.json";
/// How many things can be moved aside from one place.
const ASIDE: u32 = 1000;

/// Where each of our links may lead, by its place.
type Known = BTreeMap<String, BTreeSet<String>>;

#[derive(Default, Serialize, Deserialize)]
struct OfLinks {
    links: Known,
}

/// Makes, turns and removes links until they are what is wanted.
pub(super) fn keep(
    home: &Directory,
    wanted: &[Link],
    said: &dyn Fn(Event<'_>),
) -> Result<(), Error> {
    let noted = note::load::<OfLinks>(home, FILE)?.unwrap_or_default().links;
    let of = |link: &Link| (link.place.clone(), BTreeSet::from([link.target.clone()]));
    let goal: Known = wanted.iter().map(of).collect();
    let mut known = noted.clone();
    for (place, targets) in &goal {
        known.entry(place.clone()).or_default().extend(targets.iter().cloned());
    }
    if known != noted {
        said(Event::Step("note the links"));
        note::store(home, FILE, &OfLinks { links: known.clone() })?;
    }
    let parts: Vec<&str> = CONFIG_HOME.split('/').collect();
    for (place, targets) in known.iter().filter(|(place, _)| !goal.contains_key(*place)) {
        said(Event::Step("remove a link"));
        remove(home, &parts, place, targets)?;
    }
    for link in wanted {
        said(Event::Step("keep a link"));
        one(home, &parts, link, known.get(&link.place), said)?;
    }
    if goal != known {
        said(Event::Step("note the links that are left"));
        note::store(home, FILE, &OfLinks { links: goal })?;
    }
    Ok(())
}

/// The parts of a place's directory, and its name.
fn split<'a>(parts: &[&'a str], place: &'a str) -> (Vec<&'a str>, &'a str) {
    let (above, name) = place.rsplit_once('/').unwrap_or(("", place));
    let above = above.split('/').filter(|part| !part.is_empty());
    (parts.iter().copied().chain(above).collect(), name)
}

/// Whether a place that was noted, in a file that the agent can write, is one that setup could have
/// made.
fn is_plain(place: &str) -> bool {
    place.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn remove(
    home: &Directory,
    parts: &[&str],
    place: &str,
    targets: &BTreeSet<String>,
) -> Result<(), Error> {
    let (above, name) = split(parts, place);
    // What is in the way is the user's, and there is no link of ours behind it.
    let Ok(Some(directory)) = (if is_plain(place) { home.look(&above) } else { Ok(None) }) else {
        return Ok(());
    };
    if leads(&directory, name)?.is_some_and(|target| targets.contains(&target)) {
        match fs::unlinkat(directory.fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::io("remove", &directory.path().join(name), errno)),
        }
    }
    // The directory of a skill that was a text. Anything else in it keeps it.
    if let [.., "skills", skill] = above.as_slice()
        && let Ok(Some(skills)) = home.look(above.get(..above.len() - 1).unwrap_or_default())
    {
        let _ = fs::unlinkat(skills.fd(), *skill, AtFlags::REMOVEDIR);
    }
    Ok(())
}

fn one(
    home: &Directory,
    parts: &[&str],
    link: &Link,
    ours: Option<&BTreeSet<String>>,
    said: &dyn Fn(Event<'_>),
) -> Result<(), Error> {
    let (above, name) = split(parts, &link.place);
    let directory = home.make(&above)?;
    let path = directory.path().join(name);
    let create = || {
        fs::symlinkat(&link.target, directory.fd(), name)
            .map_err(|errno| Error::io("link", &path, errno))
    };
    match leads(&directory, name)? {
        Some(target) if target == link.target => Ok(()),
        Some(target) if ours.is_some_and(|ours| ours.contains(&target)) => {
            turn(&directory, name, &link.target)
        }
        other => {
            let there = other.is_some() || exists(&directory, name)?;
            if there && link.replaces {
                move_aside(&directory, name, said)?;
            } else if there {
                let what = directory.kind(name)?;
                return Err(Error::InTheWay { path, what, wanted: "a link to what is declared" });
            }
            create()
        }
    }
}

/// Replaces a link by another, with no moment without one.
fn turn(directory: &Directory, name: &str, target: &str) -> Result<(), Error> {
    let path = directory.path().join(name);
    let new = format!(".{name}.new");
    match fs::unlinkat(directory.fd(), &new, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::ISDIR) => {
            let path = directory.path().join(&new);
            return Err(Error::InTheWay { path, what: "a directory", wanted: "room for a link" });
        }
        Err(errno) => return Err(Error::io("make room beside", &path, errno)),
    }
    fs::symlinkat(target, directory.fd(), &new)
        .and_then(|()| fs::renameat(directory.fd(), &new, directory.fd(), name))
        .map_err(|errno| Error::io("link", &path, errno))
}

/// Gives another name to what is in the place of a link: nothing is lost.
fn move_aside(directory: &Directory, name: &str, said: &dyn Fn(Event<'_>)) -> Result<(), Error> {
    let from = directory.path().join(name);
    for number in 1..=ASIDE {
        let aside = if number == 1 {
            format!("{name}.replaced")
        } else {
            format!("{name}.replaced-{number}")
        };
        let at = directory.fd();
        match fs::renameat_with(at, name, at, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => {
                said(Event::Moved { from: &from, to: &directory.path().join(&aside) });
                return Ok(());
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("move aside", &from, errno)),
        }
    }
    let what = directory.kind(name)?;
    Err(Error::InTheWay { path: from, what, wanted: "a link to what is declared" })
}

/// Where a link leads; nothing when there is no link.
fn leads(directory: &Directory, name: &str) -> Result<Option<String>, Error> {
    match fs::readlinkat(directory.fd(), name, Vec::new()) {
        Ok(target) => Ok(Some(text(target))),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(Error::io("look at", &directory.path().join(name), errno)),
    }
}

/// A target that is no text leads nowhere that we would link to.
fn text(target: CString) -> String {
    target.into_string().unwrap_or_default()
}

fn exists(directory: &Directory, name: &str) -> Result<bool, Error> {
    match fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::io("look at", &directory.path().join(name), errno)),
    }
}
