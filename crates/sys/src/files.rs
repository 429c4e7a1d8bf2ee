//! Files below the host's root, or below a directory given with `--root`: read tolerantly, written
//! atomically.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use instances_core::desired::Content;
use instances_core::plan::{Found, digest};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}")]
pub struct Error {
    /// `read`, `write`, `remove`.
    pub doing: &'static str,
    /// The path, with the root.
    pub path: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Attaches the place and the deed to an I/O error.
pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error { doing, path, source }
}

/// The host, or a directory that stands for it.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// `/`, or what `--root` names.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Whether this is the running host.
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where `path` (absolute, on the host) lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// What lies at `path`; `None` only when nothing does.
    pub fn find(&self, path: &str) -> Result<Option<Found>, Error> {
        let place = self.path(path);
        let metadata = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &place)(error)),
        };
        if metadata.is_symlink() {
            let target = fs::read_link(&place).map_err(at("read", &place))?;
            return Ok(Some(Found::Link(target.display().to_string())));
        }
        if !metadata.is_file() {
            return Ok(Some(Found::Other("not a regular file".to_owned())));
        }
        let mode = metadata.mode() & 0o7777;
        let owner = metadata.uid();
        if mode != 0o644 || owner != rustix::process::geteuid().as_raw() {
            return Ok(Some(Found::Other(format!("mode {mode:04o}, owner {owner}"))));
        }
        let bytes = fs::read(&place).map_err(at("read", &place))?;
        Ok(Some(Found::Text(digest(&bytes))))
    }

    /// The text at `path`; `None` only when nothing is there.
    pub fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let place = self.path(path);
        match fs::read_to_string(&place) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &place)(error)),
        }
    }

    /// What lies at `path`, to be written there again; `None` only when nothing does. What no [`Content`] can be is
    /// [`io::ErrorKind::InvalidData`].
    pub fn content(&self, path: &str) -> Result<Option<Content>, Error> {
        let text = || self.read(path).map(|text| text.map(Content::Text));
        match self.find(path)? {
            None => Ok(None),
            Some(Found::Link(target)) => Ok(Some(Content::Link(target))),
            Some(Found::Text(_)) => text(),
            Some(Found::Other(_)) if self.path(path).is_file() => text(),
            Some(Found::Other(what)) => {
                let source = io::Error::new(io::ErrorKind::InvalidData, what);
                Err(at("read", &self.path(path))(source))
            }
        }
    }

    /// Puts `content` at `path`: written beside it, synced, renamed over it. A power cut leaves the
    /// old file or the new one.
    pub fn write(&self, path: &str, content: &Content) -> Result<(), Error> {
        let place = self.path(path);
        self.write_at(&place, content).map_err(at("write", &place))
    }

    fn write_at(&self, place: &Path, content: &Content) -> io::Result<()> {
        let parent = place.parent().unwrap_or(&self.0);
        make_directories(parent)?;
        let new = beside(place);
        // What a killed run has left: always the same name, so that nothing piles up.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = prepare(&new, content).and_then(|()| fs::rename(&new, place));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&new);
        }
        written?;
        File::open(parent)?.sync_all()
    }

    /// Removes the file or link at `path`; already gone is success. Its directory goes too when it
    /// is one of ours and empty.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        let place = self.path(path);
        for gone in [&beside(&place), &place] {
            match fs::remove_file(gone) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at("remove", gone)(error));
                }
                _ => {}
            }
        }
        let config = self.path(instances_core::layout::CONFIG_DIR);
        let mut parent = place.parent();
        while let Some(directory) = parent.filter(|directory| directory.starts_with(&config)) {
            // A directory that still holds something stays.
            if fs::remove_dir(directory).is_err() {
                break;
            }
            parent = directory.parent();
        }
        Ok(())
    }

    /// Has it on the disk that these paths are gone: until then a power cut may bring them back.
    pub fn sync_removed<'a>(&self, paths: impl Iterator<Item = &'a String>) -> Result<(), Error> {
        let above = |path: &String| {
            let place = self.path(path);
            // Their directories may be gone as well.
            place.ancestors().skip(1).find(|place| place.is_dir()).map(Path::to_owned)
        };
        for directory in paths.filter_map(above).collect::<BTreeSet<_>>() {
            sync(&directory)?;
        }
        Ok(())
    }
}

/// Has it on the disk what a directory holds.
pub(crate) fn sync(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(at("sync", directory))
}

/// Where the next content of `place` is prepared.
fn beside(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default();
    place.with_file_name(format!(".{}.opencode-new", name.display()))
}

/// Writes `content` to a place where nothing is, and syncs it.
fn prepare(new: &Path, content: &Content) -> io::Result<()> {
    match content {
        Content::Text(text) => {
            let mut file = File::options().write(true).create_new(true).open(new)?;
            file.write_all(text.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            file.sync_all()
        }
        Content::Link(target) => symlink(target, new),
    }
}

/// Like `mkdir -p`, with mode 0755 whatever the umask, and synced: what is in a directory is not on the disk before
/// its own name is.
pub(crate) fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent();
    if let Some(parent) = parent {
        make_directories(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
            parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_what_differs_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        assert_eq!(root.find("/etc/x/y").unwrap(), None);
        root.write("/etc/x/y", &Content::Text("text".into())).unwrap();
        assert_eq!(root.find("/etc/x/y").unwrap(), Some(Found::Text(digest(b"text"))));
        root.write("/etc/x/y", &Content::Link("/target".into())).unwrap();
        assert_eq!(root.find("/etc/x/y").unwrap(), Some(Found::Link("/target".into())));
        fs::write(root.path("/etc/x/.y.opencode-new"), "half a te").unwrap();
        root.write("/etc/x/y", &Content::Text("again".into())).unwrap();
        fs::set_permissions(root.path("/etc/x/y"), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(root.find("/etc/x/y").unwrap(), Some(Found::Other(_))));
        assert_eq!(fs::read_dir(root.path("/etc/x")).unwrap().count(), 1, "nothing left behind");
    }

    #[test]
    fn removing_takes_our_empty_directories_along_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        for path in ["/etc/opencode-instances/a/etc/hosts", "/etc/systemd/system/a.service"] {
            root.write(path, &Content::Text(String::new())).unwrap();
            root.remove(path).unwrap();
            root.remove(path).unwrap();
        }
        assert!(!root.path("/etc/opencode-instances").exists());
        assert!(root.path("/etc/systemd/system").exists());
    }
}
