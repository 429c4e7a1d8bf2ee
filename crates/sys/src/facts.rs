//! What rendering must know about this host.

use std::io;
use std::path::Path;

use instances_core::facts::HostFacts;
use instances_core::spec::AbsPath;
use instances_core::text::Refusal;

use crate::systemctl;

/// The host could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not say where this program is.
    #[error("cannot find out where this program is")]
    Engine(#[source] io::Error),
    /// Its path cannot stand in a unit file.
    #[error("units cannot name this program at {path}; install it to /usr/local/bin")]
    Path {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: Refusal,
    },
}

/// Observes the host. Without a systemd to ask, the version is the newest that is tested.
pub fn observe() -> Result<HostFacts, Error> {
    let mut facts = HostFacts::default();
    if let Ok(version) = systemctl::version() {
        facts.systemd = version;
    }
    let engine = std::env::current_exe().map_err(Error::Engine)?.display().to_string();
    facts.engine = AbsPath::new(&engine).map_err(|source| Error::Path { path: engine, source })?;
    for (fact, places) in [
        (
            &mut facts.socket_proxyd,
            &["/usr/lib/systemd/systemd-socket-proxyd", "/lib/systemd/systemd-socket-proxyd"],
        ),
        (&mut facts.nft, &["/usr/sbin/nft", "/usr/bin/nft"]),
        (&mut facts.shell, &["/bin/bash", "/bin/sh"]),
        (&mut facts.getent, &["/usr/bin/getent", "/bin/getent"]),
    ] {
        let found = places.iter().find(|place| Path::new(place).exists());
        if let Some(path) = found.and_then(|place| AbsPath::new(place).ok()) {
            *fact = path;
        }
    }
    Ok(facts)
}
