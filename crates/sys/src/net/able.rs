//! What the host's packet filter can do, and what is in it. Nothing of the host is changed.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use instances_core::layout::{NFT_HOST_TABLE, NFT_TABLE};
use instances_core::nft::{LINK_PREFIX, trial};
use instances_core::spec::InstanceName;
use serde_json::Value;

use super::link::{self, host_end, nowhere};
use super::{Error, namespace, nft, sysctl};

/// As much of nft's words as says which rule it was; it shows each that was refused.
const WORDS: usize = 300;

/// What nft says of its version, or why it does not.
pub fn version(nft: &Path) -> Result<String, String> {
    let printed = nft::run(nft, &["--version"], "").map_err(words)?;
    let text = String::from_utf8_lossy(&printed);
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    Ok(version.trim_start_matches('v').to_owned())
}

/// Whether rules as an instance and the host have them can be loaded and listed, in a network namespace that
/// nobody else sees.
pub fn loads_rules(nft: &Path) -> Result<(), String> {
    let tables = || -> Result<(), nft::Failure> {
        for text in trial() {
            nft::run(nft, &["-f", "-"], &text)?;
        }
        // What is loaded is proven by its listing.
        for table in [NFT_TABLE, NFT_HOST_TABLE] {
            nft::run(nft, &["-j", "list", "table", "inet", table], "")?;
        }
        Ok(())
    };
    let (_, loaded) =
        namespace::fresh(|| Ok(tables().map_err(words))).map_err(|error| said(&error))?;
    loaded
}

/// Whether a pair of interfaces can be made there.
pub fn makes_link() -> Result<(), String> {
    let (namespace, ()) = namespace::fresh(|| Ok(())).map_err(|error| said(&error))?;
    nowhere::make(namespace.as_fd()).map_err(|error| match error {
        Error::Link { action, link, source } => format!("cannot {action} {link}: {source}"),
        other => said(&other),
    })
}

fn said(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// All tables of the host, as JSON; `None` where they cannot be listed.
pub fn ruleset(nft: &Path) -> Option<Value> {
    let printed = nft::run(nft, &["-j", "list", "ruleset"], "").ok()?;
    serde_json::from_slice(&printed).ok()
}

fn words(failure: nft::Failure) -> String {
    match failure {
        nft::Failure::Start(error) if error.kind() == io::ErrorKind::NotFound => {
            "there is no such program".to_owned()
        }
        nft::Failure::Start(error) => error.to_string(),
        nft::Failure::Refused { status, stderr } => {
            let pointers = |word: &&str| !word.trim_matches(['^', '~']).is_empty();
            let said: Vec<&str> = stderr.split(' ').filter(pointers).collect();
            format!("{status}: {}", said.join(" ").chars().take(WORDS).collect::<String>())
        }
    }
}

/// The links of instances that are there, by the names of their ends on the host.
pub fn links() -> Vec<String> {
    let mut names = sysctl::names("net/ipv4/conf").unwrap_or_default();
    names.retain(|name| name.starts_with(LINK_PREFIX));
    names.sort_unstable();
    names
}

/// What the end of an instance's link on the host is called.
pub fn link_of(instance: &InstanceName) -> String {
    host_end(instance.as_str())
}

/// The settings that a link which is there needs, on it and on the ways out, and that are off: as sysctl(8) takes
/// them when it separates by slashes.
///
/// # Errors
///
/// When the routes around or a setting cannot be read.
pub fn switched_off(link: &str, destinations: &[IpAddr]) -> Result<Vec<String>, Error> {
    link::off(link, destinations)
}
