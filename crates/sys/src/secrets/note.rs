//! What a server was started with, kept while its watcher is away.
//!
//! The note lies where only root looks, and goes with the watcher when that is stopped. Its digests are
//! made with a key of its own and the name of the file: no two of the same secret are the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use instances_core::plan::digest;
use serde::{Deserialize, Serialize};

use crate::auth;

const FILE: &str = "given.json";
/// What a killed run leaves behind, and the next one removes.
const NEW: &str = ".given.json.new";
const VERSION: u32 = 1;

/// What the files held, by option and path.
pub(super) type Digests = BTreeMap<String, String>;

/// What is known of a server's start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    version: u32,
    /// systemd's number of that start; nothing in a note that was made before it.
    server: Option<String>,
    key: String,
    /// Nothing where they could not be read.
    pub(super) given: Option<Digests>,
}

impl Note {
    /// One of a server that is about to be started, or of one that is here already.
    pub(super) fn new(server: Option<String>) -> io::Result<Self> {
        Ok(Self { version: VERSION, server, key: auth::random()?, given: None })
    }

    /// The note about this server. A watcher starts before each server, so that one which was made
    /// before a start is about the server that is here when the watcher comes back alone.
    pub(super) fn about(directory: &Path, server: &str) -> Option<Self> {
        let text = fs::read_to_string(directory.join(FILE)).ok()?;
        // One that cannot be understood says nothing, as none does.
        let note: Self =
            serde_json::from_str(&text).ok().filter(|n: &Self| n.version == VERSION)?;
        let known = note.server.as_deref().is_none_or(|known| known == server);
        known.then(|| Self { server: Some(server.to_owned()), ..note })
    }

    /// The digest of a secret.
    pub(super) fn digest(&self, name: &str, secret: &[u8]) -> String {
        digest(&[self.key.as_bytes(), name.as_bytes(), b"\0", secret].concat())
    }

    /// Puts it in the place of the one before, which is gone if that fails: it may be wrong.
    pub(super) fn keep(&self, directory: &Path) -> io::Result<()> {
        let kept = self.write(directory);
        if kept.is_err() {
            remove(&directory.join(FILE))?;
        }
        kept
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join(NEW);
        remove(&new)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, directory.join(FILE))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
