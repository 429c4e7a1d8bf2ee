//! What belongs to no instance that is installed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use instances_core::doctor::observed::{Kind, Leftover};
use instances_core::layout::{AUTH_ROOT, NETNS_DIR, NFT_HOST_TABLE, STATE_ROOT};
use instances_core::spec::InstanceName;
use instances_core::unit::HEADER;

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
        let is_left = instance_of(&unit).is_some_and(stranger) && !owned.contains(&path);
        if is_left && (unit.contains('@') || is_rendered(Path::new(&path))) {
            leave(Kind::Unit, path);
        }
    }
    for directory in [STATE_ROOT, AUTH_ROOT] {
        for name in listed(directory) {
            let path = Path::new(directory).join(&name);
            let state = put_aside(&name).unwrap_or(&name);
            let is_used = |path: &Path| records.iter().any(|record| uses(record, path));
            if stranger(state) && !is_used(&path) && !is_used(&path.with_file_name(state)) {
                leave(Kind::State, shell::word(path));
            }
        }
    }
    for user in users() {
        let is_used = records.iter().any(|record| record.user == user);
        if user.strip_prefix("opencode-").is_some_and(stranger) && !is_used {
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

/// Of which state a directory is that a restore put aside, or that a killed backup or restore left.
fn put_aside(name: &str) -> Option<&str> {
    let (state, what) = name.strip_prefix('.')?.split_once(".opencode-")?;
    (matches!(what, "backup" | "restore") || what.starts_with("before-")).then_some(state)
}

/// Whether an instance would lose its state or project with the directory, as both are written or as links lead.
fn uses(record: &Record, directory: &Path) -> bool {
    let meet = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    [&record.state_dir, &record.directory]
        .into_iter()
        .map(Path::new)
        .any(|own| meet(own, directory) || meet(&real(own), &real(directory)))
}

/// Whether a unit's file is of our making: others have units of such names too.
fn is_rendered(path: &Path) -> bool {
    let mut head = String::new();
    let read =
        File::open(path).and_then(|file| file.take(HEADER.len() as u64).read_to_string(&mut head));
    read.is_ok() && head == HEADER
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

    #[test]
    fn a_unit_of_ours_has_our_first_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("opencode-metrics.service");
        assert!(!is_rendered(&path));
        for (text, ours) in [
            (format!("{HEADER}\n[Service]\n"), true),
            ("[Service]\nType=oneshot\n".to_owned(), false),
            ("# generated by".to_owned(), false),
            (String::new(), false),
        ] {
            fs::write(&path, &text).unwrap();
            assert_eq!(is_rendered(&path), ours, "{text}");
        }
    }

    #[test]
    fn what_stands_beside_a_state_names_it() {
        for (name, state) in [
            (".web.opencode-before-20250102T030405Z", Some("web")),
            (".web.opencode-backup", Some("web")),
            (".web.opencode-restore", Some("web")),
            (".web.opencode-new", None),
            ("web.opencode-backup", None),
            ("web.opencode-before-1", None),
            ("web", None),
        ] {
            assert_eq!(put_aside(name), state, "{name}");
        }
    }

    #[test]
    fn no_state_of_an_instance_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        let link = directory.path().join("link");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let record = |state: &Path| -> Record {
            serde_json::from_value(serde_json::json!({
                "version": 1, "name": "web", "directory": "/srv/web", "stateDir": state,
                "user": "web", "listen": "127.0.0.1:4101", "autoStart": true, "authEnable": false
            }))
            .unwrap()
        };
        for (state, path, used) in [
            ("/s/old", "/s/old", true),
            ("/s/old/", "/s/old", true),
            ("/s/old/below", "/s/old", true),
            ("/s", "/s/old", true),
            ("/s/older", "/s/old", false),
            ("/s/web", "/s/old", false),
        ] {
            assert_eq!(uses(&record(Path::new(state)), Path::new(path)), used, "{state} {path}");
        }
        assert!(uses(&record(&link), &real) && uses(&record(&real), &link));
    }
}
