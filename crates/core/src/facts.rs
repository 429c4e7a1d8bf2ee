//! What rendering must know about the host: data only, observed elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bound::is_below;
use crate::dialect::Dialect;
use crate::spec::Instance;
use crate::text::AbsPath;

/// The oldest systemd whose units are rendered and tested.
pub const OLDEST_SYSTEMD: u32 = 252;

/// The host, as far as rendered files depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostFacts {
    /// The major version of the systemd that will read the units, as in 257.
    pub systemd: u32,
    /// The path of this program on the host.
    pub engine: AbsPath,
    /// Whether this program needs shared libraries of the host. The build is static where nobody changes that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub engine_is_dynamic: bool,
    /// The path of `nft`.
    pub nft: AbsPath,
    /// A shell that the agent's tools can use.
    pub shell: AbsPath,
    /// The path of `getent`, which asks for the numbers of accounts.
    pub getent: AbsPath,
    /// The path of `systemctl`.
    #[serde(default = "systemctl")]
    pub systemctl: AbsPath,
    /// What opens ports of this host, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
    /// The version of opencode, such as `1.18.33`, by the value of `package`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub opencode: BTreeMap<String, String>,
    /// What NixOS has in the place of `/usr` and `/etc`; its `switch-to-configuration` is then who
    /// restarts units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nixos: Option<NixOs>,
}

/// Which program of a host, that is not NixOS, opens ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firewall {
    /// firewalld, which is active.
    Firewalld,
    /// ufw, which is enabled.
    Ufw,
    /// Neither of them.
    Neither,
}

impl Firewall {
    /// The command that opens a port now and after each boot.
    pub fn opening(self, port: u16) -> Option<String> {
        match self {
            Self::Firewalld => Some(format!(
                "firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload"
            )),
            Self::Ufw => Some(format!("ufw allow {port}/tcp")),
            Self::Neither => None,
        }
    }
}

/// A NixOS host, as its configuration says it at build time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NixOs {
    /// Files at the places where programs look for them: certificates, time zone, `/bin/sh`.
    #[serde(default)]
    pub binds: Vec<StoreBind>,
    /// Variables of the server and of its tools.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Prefixes of programs, behind those of the option `path`.
    #[serde(default)]
    pub path: Vec<AbsPath>,
    /// The prefix of the Nix that an instance with `nix.enable` uses.
    #[serde(default)]
    pub nix: Option<AbsPath>,
    /// What an instance with `nixLd.enable` gets.
    #[serde(default)]
    pub nix_ld: NixLd,
    /// The store paths that the agent's sandbox shows.
    #[serde(default)]
    pub agent: Vec<AbsPath>,
    /// The store paths that the sandboxes of this program's own services show.
    #[serde(default)]
    pub proxy: Vec<AbsPath>,
}

/// A dynamic loader for programs that were not built for NixOS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NixLd {
    /// The loader at its place.
    #[serde(default)]
    pub binds: Vec<StoreBind>,
    /// Where the loader finds libraries.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// A file or directory of the store at another place of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreBind {
    /// In the store.
    pub source: AbsPath,
    /// In the sandbox.
    pub target: AbsPath,
}

/// Units cannot be rendered for such a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// Directives that all supported versions know would be ignored without a word.
    #[error("systemd {0} is older than {OLDEST_SYSTEMD}, the oldest that units are rendered for")]
    Systemd(u32),
    /// It would start another line of the unit, or not be a variable at all.
    #[error("the host's variable {0:?} cannot stand in a unit: name or value has other characters")]
    Variable(String),
    /// The sandbox hides root's home, and with it this program.
    #[error("{0} is below /root, which the sandbox hides; install it to /usr/local/bin")]
    Hidden(AbsPath),
}

impl HostFacts {
    /// Whether it is known what this program itself needs of the host.
    pub(crate) fn knows_engine(&self) -> bool {
        let engine = self.engine.as_str();
        let among = |nixos: &NixOs| nixos.proxy.iter().any(|path| is_below(engine, path.as_str()));
        self.nixos.as_ref().is_none_or(among)
    }

    /// A distribution with a merged `/usr`, such as Debian, Fedora or Arch.
    pub fn usr(systemd: u32) -> Self {
        Self {
            systemd,
            engine: AbsPath::literal("/usr/bin/opencode-instances"),
            engine_is_dynamic: false,
            nft: AbsPath::literal("/usr/sbin/nft"),
            shell: AbsPath::literal("/bin/bash"),
            getent: AbsPath::literal("/usr/bin/getent"),
            systemctl: systemctl(),
            firewall: None,
            opencode: BTreeMap::new(),
            nixos: None,
        }
    }

    /// The version of an instance's opencode, where it is known.
    pub fn version_of(&self, instance: &Instance) -> Option<&str> {
        self.opencode.get(instance.package.as_str()).map(String::as_str)
    }

    /// How an instance's opencode is called and asked.
    pub fn dialect(&self, instance: &Instance) -> &'static Dialect {
        Dialect::of(self.version_of(instance))
    }

    /// Refuses a systemd that would ignore directives which all supported versions know, and
    /// variables that no unit can set.
    pub fn supported(self) -> Result<Self, Unsuitable> {
        if self.systemd < OLDEST_SYSTEMD {
            return Err(Unsuitable::Systemd(self.systemd));
        }
        let of_nixos = self.nixos.iter();
        let mut variables =
            of_nixos.flat_map(|one| one.environment.iter().chain(&one.nix_ld.environment));
        if let Some((name, _)) = variables.find(|(name, value)| !is_variable(name, value)) {
            return Err(Unsuitable::Variable(name.clone()));
        }
        Ok(self)
    }

    /// Refuses a program that units could name and not run.
    pub fn runnable(&self) -> Result<(), Unsuitable> {
        if self.engine.as_str().starts_with("/root/") {
            return Err(Unsuitable::Hidden(self.engine.clone()));
        }
        Ok(())
    }
}

fn systemctl() -> AbsPath {
    AbsPath::literal("/usr/bin/systemctl")
}

/// Whether systemd takes it in `Environment=`.
fn is_variable(name: &str, value: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    begins && name.bytes().all(legal) && !value.contains(char::is_control)
}

impl Default for HostFacts {
    /// The newest systemd that the tests run on.
    fn default() -> Self {
        Self::usr(257)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_would_leave_their_line_are_refused() {
        for (name, value) in
            [("A\nB", ""), ("A", "x\nUser=root"), ("", ""), ("1A", ""), ("A=B", "")]
        {
            let environment = [(name.to_owned(), value.to_owned())].into();
            let nixos = Some(NixOs { environment, ..NixOs::default() });
            let facts = HostFacts { nixos, ..HostFacts::default() };
            assert_eq!(facts.supported(), Err(Unsuitable::Variable(name.to_owned())));
        }
    }
}
