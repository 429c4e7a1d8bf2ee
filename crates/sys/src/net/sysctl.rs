//! Settings of the calling thread's network namespace, below `/proc/sys/net`.
//!
//! What a path there means is decided when it is opened, by the namespace of the thread that opens it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;

/// A setting of the host that had to be changed for links to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// As sysctl(8) takes it when it separates by slashes.
    pub setting: String,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
}

/// Whether the setting exists: a kernel without IPv6 has none of its.
pub(super) fn exists(setting: &str) -> bool {
    path(setting).exists()
}

/// What is in a directory of settings: the names of interfaces.
pub(super) fn names(directory: &str) -> Result<Vec<String>, Error> {
    let path = path(directory);
    let listed = fs::read_dir(&path).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    listed.map_err(failed("read", path))
}

/// What the setting is.
pub(super) fn read(setting: &str) -> Result<String, Error> {
    let path = path(setting);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(source) => Err(failed("read", path)(source)),
    }
}

/// Makes the setting `value`, and makes sure. Where it is so already nothing is written, so that this
/// works where `/proc/sys` is read-only.
pub(super) fn ensure(setting: &str, value: &str) -> Result<Option<Changed>, Error> {
    let from = read(setting)?;
    if from == value {
        return Ok(None);
    }
    let path = path(setting);
    fs::write(&path, value).map_err(failed("write", path.clone()))?;
    let found = read(setting)?;
    if found != value {
        return Err(Error::SettingIgnored { path, value: value.to_owned(), found });
    }
    Ok(Some(Changed { setting: setting.to_owned(), from, to: found }))
}

fn path(setting: &str) -> PathBuf {
    Path::new("/proc/sys").join(setting)
}

fn failed(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Setting { action, path, source }
}
