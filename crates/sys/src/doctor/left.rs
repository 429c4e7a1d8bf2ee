//! What belongs to no instance that is installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use instances_core::doctor::observed::{Kind, Leftover};
use instances_core::layout::{AUTH_ROOT, NETNS_DIR, NFT_HOST_TABLE, STATE_ROOT};
use instances_core::spec::InstanceName;

use crate::files::Root;
use crate::installed::{self, Record};
use crate::net::able;
use crate::shell;

/// Where `apply` writes units.
const UNITS: &str = "/etc/systemd/system";
/// The templates of an instance's units.
const TEMPLATES: [&str; 14] = [
    "listen",
    "net",
    "dns",
    "events",
    "hostport",
    "hostports",
    "endpoint",
    "identity",
    "secrets",
    "sockets",
    "places",
    "refusal",
    "judge",
    "setup",
];

/// All of it. What cannot be listed is as if it were empty.
pub(super) fn leftovers(
    root: &Root,
    records: &[Record],
) -> Result<Vec<Leftover>, installed::Error> {
    let owned = installed::owned(root)?;
    let names: BTreeSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
    let stranger = |name: &str| InstanceName::new(name).is_ok() && !names.contains(name);
    let mut left = Vec::new();
    let mut leave = |kind, name: String| left.push(Leftover { kind, name });
    for name in listed(NETNS_DIR) {
        if name.strip_prefix("opencode-").is_some_and(stranger) {
            leave(Kind::Namespace, name);
        }
    }
    let links: BTreeSet<String> =
        records.iter().map(|record| able::link_of(&record.name)).collect();
    for link in able::links().into_iter().filter(|link| !links.contains(link)) {
        leave(Kind::Link, link);
    }
    for unit in listed(UNITS) {
        let path = format!("{UNITS}/{unit}");
        if instance_of(&unit).is_some_and(stranger) && !owned.contains(&path) {
            leave(Kind::Unit, path);
        }
    }
    for directory in [STATE_ROOT, AUTH_ROOT] {
        for name in listed(directory).iter().filter(|name| stranger(name)) {
            leave(Kind::State, shell::word(Path::new(directory).join(name)));
        }
    }
    for user in users() {
        if user.strip_prefix("opencode-").is_some_and(stranger) {
            leave(Kind::User, user);
        }
    }
    Ok(left)
}

/// The table of the host, where no instance is installed.
pub(super) fn table(ruleset: Option<&serde_json::Value>, records: &[Record]) -> Option<Leftover> {
    let list = ruleset?.get("nftables")?.as_array()?;
    let ours = |object: &serde_json::Value| {
        object.pointer("/table/name").and_then(serde_json::Value::as_str) == Some(NFT_HOST_TABLE)
    };
    let left = records.is_empty() && list.iter().any(ours);
    left.then(|| Leftover { kind: Kind::Table, name: NFT_HOST_TABLE.to_owned() })
}

/// What is in a directory, in order.
fn listed(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The users of the host's own list.
fn users() -> Vec<String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

/// The instance that a unit's file names.
fn instance_of(unit: &str) -> Option<&str> {
    let (stem, kind) = unit.rsplit_once('.')?;
    if !matches!(kind, "service" | "socket" | "target") {
        return None;
    }
    let rest = stem.strip_prefix("opencode-")?;
    let Some((template, instance)) = rest.split_once('@') else {
        return (kind == "service").then_some(rest);
    };
    let instance = match template {
        "hostport" => instance.rsplit_once('-').map_or(instance, |(name, _)| name),
        _ => instance,
    };
    TEMPLATES.contains(&template).then_some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use instances_core::units::Names;

    #[test]
    fn a_unit_names_its_instance() {
        let name = InstanceName::new("a-web").unwrap();
        let names = Names(&name);
        let units = names.all().into_iter().chain(names.sometimes());
        let others = [
            names.dns(),
            names.dns_socket(),
            names.events(),
            names.endpoint(),
            names.identity(),
            names.refusal(),
            names.host_ports(),
            names.host_port(80),
            names.host_port_socket(80),
        ];
        for unit in units.chain(others) {
            assert_eq!(instance_of(&unit), Some("a-web"), "{unit}");
        }
        for unit in [
            "opencode.target",
            "opencode.slice",
            "opencode-host@turns.service",
            "opencode-x.d",
            "x",
        ] {
            assert_eq!(instance_of(unit), None, "{unit}");
        }
    }
}
