//! Everything that can keep a namespace from coming up or going away.

use std::io;
use std::path::PathBuf;

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
}

/// What [`super::down`] could not do.
#[derive(Debug, Error)]
#[error("{}", self.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Teardown {
    /// Each failure; at least one.
    pub errors: Vec<Error>,
}
