//! Tells when the host's list of resolvers may be another one.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

/// What programs do to a file that they replace or write anew.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY);

/// How many links a list may be behind.
const LINKS: usize = 8;

/// Watches files, the directories that they are in, and those that links on the way lead to. A
/// directory that is missing may come: then the next one above is watched.
#[derive(Debug)]
pub(super) struct Lists {
    paths: Vec<PathBuf>,
    inotify: OwnedFd,
}

impl Lists {
    pub(super) fn watch(paths: &[&str]) -> io::Result<Self> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let inotify = arm(&paths)?;
        Ok(Self { paths, inotify })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.inotify
    }

    /// Takes what has come; true when there was something. The ways may lead elsewhere by now.
    pub(super) fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        match Reader::new(&self.inotify, &mut buffer).next() {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        self.inotify = arm(&self.paths)?;
        Ok(true)
    }
}

fn arm(paths: &[PathBuf]) -> io::Result<OwnedFd> {
    let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let mut watched = BTreeSet::new();
    // A link may have been replaced before its directory was watched.
    for _ in 0..LINKS {
        let mut places = BTreeSet::new();
        for path in paths {
            ways(path, &mut places);
        }
        if places.is_subset(&watched) {
            break;
        }
        for place in &places {
            match add_watch(&inotify, place, CHANGES) {
                // Gone since, or a loop of links.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                watched => drop(watched?),
            }
        }
        watched.extend(places);
    }
    Ok(inotify)
}

fn ways(path: &Path, places: &mut BTreeSet<PathBuf>) {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        places.extend(path.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_owned));
        let Ok(target) = path.read_link() else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    // As it is mounted over its name, for instance, it changes where no directory tells.
    places.insert(path);
}

#[cfg(test)]
mod tests {
    use super::Lists;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn whatever_becomes_of_a_list_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (plain, real) = (root.join("resolv.conf"), root.join("run/resolve/list"));
        let mut lists = Lists::watch(&[plain.to_str().unwrap()]).unwrap();
        let mut told = |what: &str, step: &dyn Fn()| {
            while lists.drain().unwrap() {}
            step();
            assert!(lists.drain().unwrap(), "{what}");
        };
        told("it comes", &|| fs::write(&plain, "one").unwrap());
        told("it is written", &|| fs::write(&plain, "two").unwrap());
        told("it is replaced", &|| {
            fs::write(root.join("new"), "three").unwrap();
            fs::rename(root.join("new"), &plain).unwrap();
        });
        told("it is a link to nothing", &|| {
            fs::remove_file(&plain).unwrap();
            symlink("run/resolve/list", &plain).unwrap();
        });
        told("a directory of its target comes", &|| fs::create_dir(root.join("run")).unwrap());
        told("and the next one", &|| fs::create_dir(root.join("run/resolve")).unwrap());
        told("the target comes", &|| fs::write(&real, "four").unwrap());
        told("the target is replaced", &|| {
            fs::write(root.join("run/resolve/new"), "five").unwrap();
            fs::rename(root.join("run/resolve/new"), &real).unwrap();
        });
        told("the target goes", &|| fs::remove_file(&real).unwrap());
    }
}
