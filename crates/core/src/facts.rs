//! What rendering must know about the host: data only, observed elsewhere.

use serde::{Deserialize, Serialize};

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
    /// The path of `systemd-socket-proxyd`.
    pub socket_proxyd: AbsPath,
    /// The path of `nft`.
    pub nft: AbsPath,
    /// A shell that the agent's tools can use.
    pub shell: AbsPath,
}

/// Units cannot be rendered for such a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// Directives that all supported versions know would be ignored without a word.
    #[error("systemd {0} is older than {OLDEST_SYSTEMD}, the oldest that units are rendered for")]
    Systemd(u32),
    /// The sandbox hides root's home, and with it this program.
    #[error("{0} is below /root, which the sandbox hides; install it to /usr/local/bin")]
    Hidden(AbsPath),
}

impl HostFacts {
    /// A distribution with a merged `/usr`, such as Debian, Fedora or Arch.
    pub fn usr(systemd: u32) -> Self {
        Self {
            systemd,
            engine: AbsPath::literal("/usr/bin/opencode-instances"),
            socket_proxyd: AbsPath::literal("/usr/lib/systemd/systemd-socket-proxyd"),
            nft: AbsPath::literal("/usr/sbin/nft"),
            shell: AbsPath::literal("/bin/bash"),
        }
    }

    /// Refuses a systemd that would ignore directives which all supported versions know.
    pub fn supported(self) -> Result<Self, Unsuitable> {
        if self.systemd < OLDEST_SYSTEMD {
            return Err(Unsuitable::Systemd(self.systemd));
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

impl Default for HostFacts {
    /// The newest systemd that the tests run on.
    fn default() -> Self {
        Self::usr(257)
    }
}
