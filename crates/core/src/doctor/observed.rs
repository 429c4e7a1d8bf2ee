//! What was seen of a host: data only, observed elsewhere. `None` is what could not be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

/// A host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The version of systemd; 0 where it does not run.
    pub systemd: Option<u32>,
    /// nft and what it can do.
    pub nft: Nft,
    /// Whether a link could be made in a fresh namespace, or why not.
    pub veth: Option<Result<(), String>>,
    /// The unified hierarchy of control groups.
    pub control_groups: ControlGroups,
    /// All tables, as `nft -j list ruleset` shows them.
    pub ruleset: Option<Value>,
    /// Tables of iptables-legacy, which are not among these, as in `ip filter`.
    pub legacy: Vec<String>,
    /// The interface that the way to the internet goes through.
    pub uplink: Option<String>,
    /// Links of instances.
    pub links: Vec<Link>,
    /// Settings of the kernel that these links need, and that are off.
    pub switched_off: Vec<Switch>,
    /// Listeners that others than this host reach.
    pub listeners: Vec<Listener>,
    /// Whether the host has a way to the internet over IPv6.
    pub ipv6: Option<bool>,
    /// The resolvers, each with whether it answered.
    pub resolvers: Vec<(IpAddr, bool)>,
    /// Room on the file systems of state.
    pub rooms: Vec<Room>,
    /// The packages of instances; where none is installed, those that will be taken.
    pub packages: Vec<Package>,
    /// The clock.
    pub clock: Clock,
    /// Settings and features of the kernel.
    pub kernel: Kernel,
    /// What belongs to no instance that is installed.
    pub leftovers: Vec<Leftover>,
    /// What is wrong with secrets.
    pub secrets: Vec<Secret>,
    /// Units of ours that failed.
    pub failed: Vec<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// The unified hierarchy of control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ControlGroups {
    /// It could not be looked at.
    #[default]
    Unseen,
    /// There is none.
    Missing,
    /// There is one, with these controllers at its root.
    With(BTreeSet<String>),
}

/// nft and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nft {
    /// Its path.
    pub path: String,
    /// What it says of its version, or why it does not.
    pub version: Option<Result<String, String>>,
    /// Whether rules such as those of instances and of the host could be loaded in a fresh namespace, or why not.
    pub rules: Option<Result<(), String>>,
}

/// A link of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface on the host.
    pub name: String,
    /// Whose it is.
    pub instance: String,
}

/// A setting of the kernel that is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// As sysctl takes it when it separates by slashes.
    pub setting: String,
    /// Whose packets need it; at least one.
    pub instances: Vec<String>,
}

/// A listener of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Whose it is.
    pub instance: String,
    /// Its port.
    pub port: u16,
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The directory that it was asked by.
    pub path: String,
    /// Bytes that a user may still take, and all.
    pub bytes: (u64, u64),
    /// Files that a user may still make, and all; 0 where they are not counted.
    pub files: (u64, u64),
}

/// An opencode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// As it was declared, or where it was found.
    pub path: String,
    /// Who uses it; nobody where it was found and no instance is declared.
    pub instances: Vec<String>,
    /// Its version, or why nobody can say it.
    pub version: Result<String, String>,
}

/// The clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Whether it follows another one.
    pub synchronised: Option<bool>,
    /// Seconds since 1970.
    pub now: u64,
    /// The youngest of this program and what root wrote, with its time.
    pub youngest: Option<(String, u64)>,
}

/// Settings and features of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Settings, by their names with dots.
    pub settings: BTreeMap<String, String>,
    /// Whether it filters system calls.
    pub seccomp: Option<bool>,
}

/// What kind of thing was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pinned network namespace.
    Namespace,
    /// An end of a link.
    Link,
    /// A table of nft.
    Table,
    /// A unit's file.
    Unit,
    /// A state directory, or a password.
    State,
    /// A user.
    User,
}

/// Something that belongs to no instance that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: Kind,
    /// Its name or place.
    pub name: String,
}

/// What is wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Whose it is.
    pub instance: String,
    /// What is wrong, with its place.
    pub what: String,
    /// The smallest remedy.
    pub remedy: String,
    /// Whether it is there and has no content.
    pub is_empty: bool,
}
