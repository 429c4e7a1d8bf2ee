//! Everything that can keep a namespace from coming up or going away.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use instances_core::format::Unreadable;
use ipnet::{IpNet, Ipv4Net};
use rustix::io::Errno;
use thiserror::Error;

use crate::shell;

/// Why a namespace is not up; in every case the policy that was in force still is.
#[derive(Debug, Error)]
pub enum Error {
    /// Without rules there is nothing to enforce.
    #[error("cannot read the rules in {path}; install them with \"opencode-instances apply\"")]
    ReadRules {
        /// The rules.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Whoever can write the rules decides what the sandbox lets through.
    #[error(
        "the rules in {path} can be changed by others than root (owner {owner}, mode {mode:o}); \
         run: chown root {word} && chmod go-w {word}", word = shell::word(.path)
    )]
    LooseRules {
        /// The rules.
        path: PathBuf,
        /// Who owns them.
        owner: u32,
        /// Their permission bits.
        mode: u32,
    },
    /// `nft` could not be started at all.
    #[error("cannot run {nft}; install the package nftables or name another program")]
    StartNft {
        /// The program.
        nft: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// `nft` refused the rules, or could not list them.
    #[error(
        "nft {action} failed for {rules} ({status}): {stderr}; check them with: nft -c -f {}",
        shell::word(.rules)
    )]
    Nft {
        /// What it was asked to do.
        action: &'static str,
        /// Where the rules came from.
        rules: PathBuf,
        /// How it ended.
        status: String,
        /// What it said, on one line.
        stderr: String,
    },
    /// The listing has a shape that this program does not know.
    #[error("cannot read the listing of {nft}; it must be nft 1.0.6 or newer with JSON support")]
    Listing {
        /// The program.
        nft: PathBuf,
        /// Where reading ended.
        #[source]
        source: serde_json::Error,
    },
    /// A policy with an open hook is none.
    #[error(
        "{rules} leaves the {hook} hook open; it needs a chain with \
         \"type filter hook {hook} priority filter; policy drop;\""
    )]
    OpenHook {
        /// The rules.
        rules: PathBuf,
        /// The hook without a closed base chain.
        hook: &'static str,
    },
    /// A flag such as `dormant` switches every chain of the table off.
    #[error(
        "{rules} gives the table flags, which could switch it off; remove the line \"flags …\""
    )]
    TableFlags {
        /// The rules.
        rules: PathBuf,
    },
    /// Another program writes to the same table at the same time.
    #[error(
        "the table loaded from {rules} is not what the file says; another program changes it: \
         find it with \"nft monitor\" inside the namespace, stop it, and start this unit again"
    )]
    NotAsWritten {
        /// The rules.
        rules: PathBuf,
    },
    /// Two runs at once would be in each other's way.
    #[error("cannot lock {directory} against a second run for this instance; this needs root")]
    Turn {
        /// Where its lock is.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// nft took the host's table and holds another one.
    #[error(
        "the host's table is not what was loaded; another program changes it: find it with \"nft \
         monitor\", stop it, and start this unit again"
    )]
    OtherHostTable,
    /// systemd did not tell which users it has made.
    #[error(
        "cannot ask systemd for the users of the resolvers; look at: systemctl status init.scope"
    )]
    Users(#[source] io::Error),
    /// There is no table that would confine it.
    #[error(
        "{name} has no link yet, so nothing would confine its resolver; start it with: systemctl \
         start opencode-net@{name}"
    )]
    NoLink {
        /// The instance.
        name: String,
    },
    /// It would run, and talk to anybody.
    #[error(
        "the resolver of {name} has no user {user} that could be confined; start it with: \
         systemctl start opencode-dns@{name}"
    )]
    NoStub {
        /// The instance.
        name: String,
        /// The user.
        user: String,
    },
    /// The kernel refused a step on namespaces; which one is in the message.
    #[error("cannot {action}; the unit needs CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    Namespace {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that is not ours stands where the pin belongs.
    #[error("{path} is {what}, not the network namespace of this instance; remove it: {remedy}")]
    Foreign {
        /// The place of the pin.
        path: PathBuf,
        /// What is there.
        what: &'static str,
        /// The command that clears the place.
        remedy: String,
    },
    /// Loading the policy there would cut off the host.
    #[error(
        "{path} is the host's own network namespace; remove it: umount {word} && rm {word}",
        word = shell::word(.path)
    )]
    HostNamespace {
        /// The place of the pin.
        path: PathBuf,
    },
    /// The kernel refused a step on the pin.
    #[error("cannot {action} {path}; the unit needs CAP_SYS_ADMIN and a writable {path}")]
    Pin {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Without its record an instance could get the address of another.
    #[error("cannot {action} {path}; the unit needs root and a writable {path}")]
    Records {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Guessing would give an instance the address of another.
    #[error(
        "cannot read {path}, which says which addresses each instance has; put back a copy, or stop \
         all instances, remove it, and start them: they may get other addresses then"
    )]
    BadRecords {
        /// The file.
        path: PathBuf,
        /// Where reading ended.
        #[source]
        source: serde_json::Error,
    },
    /// The same.
    #[error("cannot read {path}, which says which addresses each instance has: {why}")]
    NewerRecords {
        /// The file.
        path: PathBuf,
        /// What is to be done.
        why: Unreadable,
    },
    /// A link takes two addresses.
    #[error("network.pool {pool} has no room for a link; give it a prefix of at most 31 bits")]
    PoolTooSmall {
        /// The pool.
        pool: Ipv4Net,
    },
    /// Instances that are gone keep their place, so that they come back to it.
    #[error(
        "network.pool {pool} has no address left; make it larger, or remove instances that are \
         gone for good from {path}"
    )]
    PoolFull {
        /// The pool.
        pool: Ipv4Net,
        /// Where the places are recorded.
        path: PathBuf,
    },
    /// What the host reaches there would be taken for instances, and the other way round.
    #[error(
        "network.pool {pool} overlaps with {address}, where this host is; set network.pool to a \
         range that nothing here uses, for example \"10.218.0.0/16\""
    )]
    PoolTaken {
        /// The pool.
        pool: Ipv4Net,
        /// An address of the host, with its network.
        address: IpNet,
    },
    /// The kernel refused a step on the link.
    #[error("cannot {action} {link}; the unit needs CAP_NET_ADMIN")]
    Link {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        link: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that is not ours has the name.
    #[error("{link} {place} is not the link of this instance; remove it: {remedy}")]
    ForeignLink {
        /// The interface.
        link: String,
        /// `on the host` or `in the namespace`.
        place: &'static str,
        /// The command that removes it.
        remedy: String,
    },
    /// A setting below `/proc/sys`.
    #[error("cannot {action} {path}; the unit needs CAP_NET_ADMIN and a writable /proc/sys/net")]
    Setting {
        /// `read` or `write`.
        action: &'static str,
        /// The setting.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What was written is not there.
    #[error("{path} is {found} although {value} was written; another program changes it")]
    SettingIgnored {
        /// The setting.
        path: PathBuf,
        /// What it should be.
        value: String,
        /// What it is.
        found: String,
    },
    /// A way out that no policy was made for.
    #[error(
        "the namespace still has the IPv6 address {address} although this host has no IPv6; \
         another program adds it: find it with \"ip -6 monitor\" inside"
    )]
    Ipv6Left {
        /// The address.
        address: IpAddr,
    },
    /// An address of the host's may not be refused inside, so that the host's table must refuse it alone.
    #[error(
        "nft cannot fill the sets host4 and host6 of {name} ({status}): {stderr}; \
         `systemctl reload opencode-net@{name}` loads its policy anew"
    )]
    HostSets {
        /// The instance.
        name: String,
        /// How it ended.
        status: String,
        /// What it said, on one line.
        stderr: String,
    },
    /// The host's changes cannot be followed.
    #[error("cannot listen for changes of the host's addresses, routes and rules")]
    Listen(#[source] io::Error),
    /// Without its table the host would let nothing of any instance out.
    #[error(
        "nft cannot {action} the host's table inet opencode_host ({status}): {stderr}; \
         the kernel needs nft_nat, nft_masq and nft_fib_inet"
    )]
    HostTable {
        /// What was tried.
        action: &'static str,
        /// How it ended.
        status: String,
        /// What it said, on one line.
        stderr: String,
    },
}

/// What [`super::down`] could not do.
#[derive(Debug, Error)]
#[error("{}", self.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Teardown {
    /// Each failure; at least one.
    pub errors: Vec<Error>,
}
