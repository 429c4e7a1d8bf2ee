//! What the host's packet filter can do, and what is in it. Nothing of the host is changed.

use std::io;
use std::path::Path;

use instances_core::nft::LINK_PREFIX;
use instances_core::spec::InstanceName;
use serde_json::Value;

use super::link::host_end;
use super::{Error, namespace, nft, sysctl};

/// A rule such as those of policies.
const PROBE: &str = "table inet opencode_probe {\n\tchain output {\n\t\ttype filter hook output priority \
                     filter; policy drop;\n\t\tip daddr { 192.0.2.0/24 } counter reject with icmpx \
                     admin-prohibited\n\t}\n}\n";

/// What nft says of its version, or why it does not.
pub fn version(nft: &Path) -> Result<String, String> {
    let printed = nft::run(nft, &["--version"], "").map_err(words)?;
    let text = String::from_utf8_lossy(&printed);
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    Ok(version.trim_start_matches('v').to_owned())
}

/// Whether a table can be made, in a network namespace that nobody else sees.
pub fn makes_table(nft: &Path) -> Result<(), String> {
    let probe = || Ok::<_, Error>(nft::run(nft, &["-f", "-"], PROBE).map(drop).map_err(words));
    match namespace::fresh(probe) {
        Ok((_, made)) => made,
        Err(error) => Err(match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
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
        nft::Failure::Refused { status, stderr } => format!("{status}: {stderr}"),
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

/// Whether IPv4 is forwarded for a link; `None` where there is none.
pub fn is_forwarded(link: &str) -> Option<bool> {
    sysctl::read(&format!("net/ipv4/conf/{link}/forwarding")).ok().map(|value| value == "1")
}
