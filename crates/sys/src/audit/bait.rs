//! What an audit lays out on the host, so that an attempt which gets out has something to find.
//!
//! Everything holds a word that was made for this audit: what the agent itself puts at such a place
//! does not know it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Error, observe};
use crate::auth::random;

/// Where something lies, and the word in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// A path, an address, or an abstract name.
    pub place: String,
    /// The word.
    pub word: String,
}

/// What is laid out, by the names that the catalogue has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laid {
    /// Files.
    pub canaries: BTreeMap<String, Place>,
    /// Listeners.
    pub listeners: BTreeMap<String, Place>,
}

/// The directories that get a file which everybody may read.
const DIRECTORIES: &[(&str, &str)] =
    &[("run", "/run"), ("tmp", "/tmp"), ("var-tmp", "/var/tmp"), ("shm", "/dev/shm")];

/// What is laid out while this lives.
#[derive(Debug)]
pub struct Bait {
    laid: Laid,
    files: Vec<NamedTempFile>,
}

impl Bait {
    /// Lays it out. The listeners are on loopback and in the host's abstract names, and say the word to
    /// whoever connects, until this program ends.
    ///
    /// # Errors
    ///
    /// When this program does not see the host's own files and network, when a place cannot be written to,
    /// or a listener not be made.
    pub fn lay() -> Result<Self, Error> {
        if !observe::on_the_host() {
            return Err(Error::Elsewhere);
        }
        Self::everywhere().map_err(Error::Bait)
    }

    fn everywhere() -> io::Result<Self> {
        let mut bait = Self { laid: Laid::default(), files: Vec::new() };
        for (name, directory) in DIRECTORIES {
            let word = random()?;
            let mut file =
                tempfile::Builder::new().prefix(".opencode-audit-").tempfile_in(directory)?;
            file.write_all(word.as_bytes())?;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
            let place = file.path().display().to_string();
            bait.laid.canaries.insert((*name).to_owned(), Place { place, word });
            bait.files.push(file);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let place = listener.local_addr()?.to_string();
        bait.listen("loopback", place, move || listener.accept().map(|(client, _)| client))?;
        let place = format!("opencode-audit-{}", random()?);
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&place)?)?;
        bait.listen("abstract", place, move || listener.accept().map(|(client, _)| client))?;
        Ok(bait)
    }

    /// Says a word to whoever comes, for as long as this program runs.
    fn listen<Client: Write>(
        &mut self,
        name: &str,
        place: String,
        accept: impl Fn() -> io::Result<Client> + Send + 'static,
    ) -> io::Result<()> {
        let word = random()?;
        let said = word.clone();
        thread::Builder::new().spawn(move || {
            loop {
                if let Ok(mut client) = accept() {
                    let _ = client.write_all(said.as_bytes());
                }
            }
        })?;
        self.laid.listeners.insert(name.to_owned(), Place { place, word });
        Ok(())
    }

    /// Where everything lies.
    pub fn laid(&self) -> &Laid {
        &self.laid
    }
}
