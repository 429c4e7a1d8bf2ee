//! What an attack is, and which defences have to be taken away before it succeeds.

/// Attacks on one part of the host.
#[derive(Debug)]
pub(crate) struct Group {
    /// What is attacked.
    pub(crate) name: &'static str,
    /// The attacks, in no particular order.
    pub(crate) attacks: &'static [Attack],
}

/// One attack, run by the agent's own shell.
#[derive(Debug)]
pub(crate) struct Attack {
    /// What it tries.
    pub(crate) name: &'static str,
    /// A bash script.
    pub(crate) command: &'static str,
    /// What the script prints only if the attack has succeeded.
    pub(crate) proof: &'static str,
    /// Where it was seen to succeed.
    pub(crate) red: Red,
}

/// Where an attack succeeds, so that its failure in the sandbox means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Red {
    /// In the real unit, weakened by this drop-in.
    With(Weak),
    /// As root outside the sandbox: more than one layer would have to go, file modes among them.
    AsRoot,
    /// Nowhere in a test machine, for this reason.
    Nowhere(&'static str),
}

/// Drop-ins for the unit; each takes all layers away that its attacks have to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weak {
    /// The host's files, with its sockets and its IPC.
    Files,
    /// The host's processes, and messages to the manager from any process.
    Processes,
    /// System calls, address families and new privileges, still as the instance's user.
    Calls,
    /// Root with every capability and no filter, in the same mounts and namespaces.
    Root,
    /// The host's network.
    Network,
}

impl Weak {
    pub(crate) const ALL: [Self; 5] =
        [Self::Files, Self::Processes, Self::Calls, Self::Root, Self::Network];

    /// The assignments of the drop-in.
    pub(crate) fn assignments(self) -> &'static str {
        match self {
            Self::Files => {
                "RootDirectory=\nMountAPIVFS=yes\nTemporaryFileSystem=\nBindReadOnlyPaths=\nInaccessiblePaths=\nProtectSystem=no\nProtectHome=no\n\
                 PrivateTmp=no\nPrivateDevices=no\nPrivateIPC=no\nPrivateUsers=no\n\
                 ProtectControlGroups=no\nProtectKernelTunables=no\n"
            }
            Self::Processes => {
                "InaccessiblePaths=\nPrivatePIDs=no\nProtectProc=default\nProcSubset=all\nPrivateUsers=no\n\
                 NotifyAccess=all\n"
            }
            Self::Calls => {
                "SystemCallFilter=\nSystemCallArchitectures=\nRestrictAddressFamilies=\n\
                 RestrictNamespaces=no\nRestrictRealtime=no\nRestrictSUIDSGID=no\n\
                 LockPersonality=no\nNoNewPrivileges=no\nPrivateUsers=no\nPrivateDevices=no\n\
                 ProtectClock=no\nProtectHostname=no\nProtectKernelLogs=no\n\
                 ProtectKernelModules=no\nProtectKernelTunables=no\nLimitCORE=infinity\n\
                 CapabilityBoundingSet=~\n"
            }
            Self::Root => {
                "User=root\nGroup=root\nSystemCallFilter=\nSystemCallArchitectures=\n\
                 RestrictAddressFamilies=\nRestrictNamespaces=no\nRestrictRealtime=no\n\
                 RestrictSUIDSGID=no\nLockPersonality=no\nNoNewPrivileges=no\nPrivateUsers=no\n\
                 PrivateDevices=no\nDevicePolicy=auto\nProtectClock=no\nProtectHostname=no\n\
                 ProtectKernelLogs=no\nProtectKernelModules=no\nProtectKernelTunables=no\n\
                 ProtectControlGroups=no\nBindPaths=/sys/fs/cgroup\nCapabilityBoundingSet=~\n"
            }
            // The host's listener has the port that the server would take.
            Self::Network => {
                "PrivateNetwork=no\nNetworkNamespacePath=\nExecStart=\n\
                 ExecStart=/usr/bin/opencode-instances supervise --port 4191 -- /usr/bin/opencode \
                 serve --hostname 127.0.0.1 --port 4191 --print-logs\n"
            }
        }
    }

    /// Where the server is then, if not at its listener.
    pub(crate) fn port(self) -> Option<u16> {
        (self == Self::Network).then_some(4191)
    }
}

/// The usual word that scripts print when they have got through.
pub(crate) const BREACH: &str = "BREACH";

/// An attack whose script prints [`BREACH`].
pub(crate) const fn attack(name: &'static str, red: Red, command: &'static str) -> Attack {
    Attack { name, command, proof: BREACH, red }
}

/// An attack that is after a text which only the victim has.
pub(crate) const fn steal(
    name: &'static str,
    red: Red,
    proof: &'static str,
    command: &'static str,
) -> Attack {
    Attack { name, command, proof, red }
}

/// A script in Python, with everything of `probe.py` at hand.
macro_rules! python {
    ($code:literal) => {
        concat!("python3 - <<'END'\nfrom probe import *\n", $code, "\nEND")
    };
}
pub(crate) use python;
