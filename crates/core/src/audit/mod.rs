//! The audit: what was declared of an instance against what systemd and the kernel have, and a
//! catalogue of attempts to get out. Pure: what is observed and tried comes from elsewhere.

pub mod catalogue;
pub mod controls;
pub mod declared;
pub mod mounts;
pub mod report;
pub mod unit;

/// Controls that no directive of the server's unit makes, each with what it stops.
pub const HOST: &[(&str, &str)] = &[
    (
        "policy",
        "what the instance may reach is decided by rules in its own namespace that it cannot change",
    ),
    (
        "listener",
        "the declared port is the one way in, and no process of the instance holds a socket of the host's",
    ),
    (
        "sockets",
        "of the host's Unix sockets the listed ones are there, each that of its running service",
    ),
    ("state", "the instance's HOME is its user's alone"),
    ("secrets", "passwords and credentials are root's, and reach the server through systemd alone"),
    ("limits", "memory and tasks of the instance end where it was declared"),
    ("mounts", "what the sandbox shows is what was declared, and what was declared read-only is"),
    ("units", "the units are as they were rendered, and systemd has read them"),
];

/// What a control stops, by its name.
pub fn why(control: &str) -> Option<&'static str> {
    let of_unit = crate::controls::find(control).map(|control| control.why);
    of_unit.or_else(|| HOST.iter().find(|(name, _)| *name == control).map(|(_, why)| *why))
}

/// What an older systemd cannot give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newer {
    /// The control.
    pub control: &'static str,
    /// The directive, with its value where an older systemd knows others.
    pub directive: &'static str,
    /// The first version that has it.
    pub since: u32,
    /// The attempts that succeed without it.
    pub attempts: &'static [&'static str],
}

/// Every directive that some supported systemd does not have.
pub const NEWER: &[Newer] = &[
    Newer { control: "process-visibility", directive: "PrivatePIDs=", since: 257, attempts: &[] },
    Newer {
        control: "control-groups",
        directive: "ProtectControlGroups=strict",
        since: 257,
        attempts: &["cgroup-names"],
    },
    Newer { control: "file-system", directive: "BindLogSockets=no", since: 257, attempts: &[] },
    // It is a file system of the instance's own, which counts as its memory; seen with 252 alone.
    Newer {
        control: "file-system",
        directive: "private /run that is root's alone",
        since: 257,
        attempts: &["write-run"],
    },
    Newer {
        control: "systemd-messages",
        directive: "OpenFile=",
        since: 253,
        attempts: &["systemd-notify"],
    },
];
