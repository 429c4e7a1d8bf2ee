//! Every place that a path leads through, as the kernel follows it: each directory, each symbolic
//! link, and what those lead through in turn.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

/// As many as the kernel follows.
const LINKS: usize = 40;

/// A place on the way.
#[derive(Debug)]
pub(crate) struct Place {
    /// A path without symbolic links but for its last part.
    pub(crate) path: PathBuf,
    /// What is there itself; a link is not followed.
    pub(crate) metadata: Metadata,
}

/// Goes from `/` to the end, one place at a time, so that nothing below a place is looked at before
/// the caller has judged the place.
#[derive(Debug)]
pub(crate) struct Way {
    started: bool,
    here: PathBuf,
    /// The parts still to be gone, the next one last.
    left: Vec<OsString>,
    links: usize,
}

impl Way {
    /// The way to an absolute path.
    pub(crate) fn to(path: &Path) -> Self {
        let mut way = Self { started: false, here: PathBuf::from("/"), left: Vec::new(), links: 0 };
        way.turn(path);
        way
    }

    /// Where it leads: the real path once the way is at its end. What does not exist is appended.
    pub(crate) fn end(&self) -> PathBuf {
        self.left.iter().rev().fold(self.here.clone(), |path, part| path.join(part))
    }

    fn turn(&mut self, target: &Path) {
        if target.is_absolute() {
            self.here = PathBuf::from("/");
        }
        let parts = target.components().filter_map(|part| match part {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        let parts: Vec<OsString> = parts.collect();
        self.left.extend(parts.into_iter().rev());
    }

    fn step(&mut self, path: PathBuf) -> io::Result<Place> {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() {
            self.links += 1;
            if self.links > LINKS {
                return Err(Errno::LOOP.into());
            }
            self.turn(&fs::read_link(&path)?);
        } else {
            self.here.clone_from(&path);
        }
        Ok(Place { path, metadata })
    }
}

impl Iterator for Way {
    type Item = Result<Place, (PathBuf, io::Error)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = if self.started {
            loop {
                let part = self.left.pop()?;
                if part != ".." {
                    break self.here.join(part);
                }
                self.here.pop();
            }
        } else {
            self.started = true;
            PathBuf::from("/")
        };
        Some(self.step(next.clone()).map_err(|error| {
            // Nothing is left to go, but `end` says where it would have led.
            self.here.clone_from(&next);
            (next, error)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn places(path: &Path) -> (Vec<PathBuf>, PathBuf) {
        let mut way = Way::to(path);
        let places = way.by_ref().map_while(Result::ok).map(|place| place.path).collect();
        (places, way.end())
    }

    #[test]
    fn links_are_places_and_so_is_what_they_lead_through() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        for name in ["a", "b", "b/c"] {
            fs::create_dir(base.join(name)).unwrap();
        }
        fs::write(base.join("b/file"), "").unwrap();
        // In at `a`, through `b`, out again.
        symlink(base.join("b/c/../second"), base.join("a/first")).unwrap();
        symlink("file", base.join("b/second")).unwrap();
        let (places, end) = places(&base.join("a/first"));
        for name in ["a", "a/first", "b", "b/c", "b/second", "b/file"] {
            assert!(places.contains(&base.join(name)), "{name}: {places:?}");
        }
        assert_eq!(end, base.join("b/file"));
    }

    #[test]
    fn a_way_ends_where_nothing_is_and_in_no_circle() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        symlink("gone/x", base.join("link")).unwrap();
        assert_eq!(places(&base.join("link/y")).1, base.join("gone/x/y"));
        symlink("circle", base.join("circle")).unwrap();
        let error = Way::to(&base.join("circle")).find_map(Result::err).unwrap().1;
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
