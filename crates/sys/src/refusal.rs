//! Why a start failed, in a file that the proxy of the instance reads.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use instances_core::units::Names;
use tempfile::NamedTempFile;

use crate::installed::Record;
use crate::{notify, status, systemctl};

/// The longest reason, in characters.
const MAX: usize = 1000;

/// Why nobody learns it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// systemd does not answer.
    #[error(transparent)]
    Systemd(#[from] systemctl::Error),
    /// The file cannot be written.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
}

/// Writes why the server of an instance does not come, if it does not. Without the directory there is no
/// namespace, and so no proxy to read it.
///
/// # Errors
///
/// See [`Error`].
pub fn tell(program: &str, record: &Record) -> Result<(), Error> {
    let Some(words) = status::refusal(program, record)? else { return Ok(()) };
    let path = PathBuf::from(Names(&record.name).failure());
    let failed = |source| Error::Write(path.clone(), source);
    let new = match line(&path, &notify::one_line(&words, MAX)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        new => new.map_err(failed)?,
    };
    // The next start may have begun meanwhile: its clients wait for that one.
    if status::refusal(program, record)?.is_some() {
        new.persist(&path).map_err(|error| failed(error.error))?;
    }
    Ok(())
}

/// The file beside its place, so that it comes there whole.
fn line(path: &Path, words: &str) -> io::Result<NamedTempFile> {
    let mut new = NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    writeln!(new, "{words}")?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    Ok(new)
}
