//! What rendering must know about this host.

use std::io;
use std::path::Path;

use instances_core::facts::{Firewall, HostFacts};
use instances_core::plan::Activity;
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
    facts.engine_is_dynamic = !cfg!(target_feature = "crt-static");
    for (fact, places) in [
        (&mut facts.nft, &["/usr/sbin/nft", "/usr/bin/nft"]),
        (&mut facts.shell, &["/bin/bash", "/bin/sh"]),
        (&mut facts.getent, &["/usr/bin/getent", "/bin/getent"]),
    ] {
        let found = places.iter().find(|place| Path::new(place).exists());
        if let Some(path) = found.and_then(|place| AbsPath::new(place).ok()) {
            *fact = path;
        }
    }
    facts.firewall = Some(firewall());
    Ok(facts)
}

/// What opens ports here. A ufw that is installed and not enabled opens and closes none.
fn firewall() -> Firewall {
    let firewalld = systemctl::show(&["firewalld.service".to_owned()], &["ActiveState"]);
    let state = firewalld.iter().flatten().find_map(|unit| unit.get("ActiveState"));
    if state.is_some_and(|state| systemctl::activity(state) == Activity::Active) {
        return Firewall::Firewalld;
    }
    let settings = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    if is_enabled(&settings) { Firewall::Ufw } else { Firewall::Neither }
}

/// Whether ufw's settings say so, as ufw itself reads them.
fn is_enabled(settings: &str) -> bool {
    let lines = settings.lines().filter_map(|line| line.trim().split_once('='));
    let mut values = lines.filter(|(name, _)| name.trim().eq_ignore_ascii_case("enabled"));
    values.next_back().is_some_and(|(_, value)| {
        value.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("yes")
    })
}

#[cfg(test)]
mod tests {
    use super::is_enabled;

    #[test]
    fn a_ufw_opens_ports_only_when_it_is_enabled() {
        assert!(is_enabled("# /etc/ufw/ufw.conf\n\nENABLED=yes\nLOGLEVEL=low\n"));
        for settings in ["", "ENABLED=no\n", "# ENABLED=yes\n", "LOGLEVEL=yes\n"] {
            assert!(!is_enabled(settings), "{settings}");
        }
    }
}
