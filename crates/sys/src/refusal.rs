//! Why a start failed, in a file that the proxy of the instance reads.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use instances_core::units::Names;

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
/// namespace, and so no proxy to read it: then those that wait at the listener are refused.
///
/// # Errors
///
/// See [`Error`].
pub fn tell(program: &str, record: &Record) -> Result<(), Error> {
    let Some(words) = status::refusal(program, record)? else { return Ok(()) };
    let path = PathBuf::from(Names(&record.name).failure());
    match replace(&path, &notify::one_line(&words, MAX)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(refuse(program, record)?),
        result => result.map_err(|source| Error::Write(path, source)),
    }
}

/// Closes the listener, and with it every connection that nobody has accepted, and opens it again.
fn refuse(program: &str, record: &Record) -> Result<(), systemctl::Error> {
    let names = Names(&record.name);
    let (socket, proxy) = (names.socket(), names.proxy());
    let shown = systemctl::show_by(program, std::slice::from_ref(&socket), &["ActiveState"])?;
    if shown.iter().any(|unit| unit.get("ActiveState").is_some_and(|state| state == "active")) {
        systemctl::run(program, &["stop", "--", &socket, &proxy])?;
        systemctl::run(program, &["start", "--", &socket])?;
    }
    Ok(())
}

/// Puts a file there whole, so that whoever looks for it sees it come.
fn replace(path: &Path, line: &str) -> io::Result<()> {
    let mut new = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    writeln!(new, "{line}")?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    new.persist(path).map(drop).map_err(|error| error.error)
}
