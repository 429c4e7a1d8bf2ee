//! What belongs to installed instances.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use instances_core::doctor::observed::{Link, Listener, Package, Secret, Switch};
use instances_core::layout::AUTH_ROOT;
use instances_core::network::Network;

use crate::files::Root;
use crate::installed::Record;
use crate::net::{self, able};
use crate::{opencode, systemctl, trust};

/// Where opencode is without any `package`, and where npm puts it.
const PLACES: [&str; 2] = ["/usr/bin/opencode", "/usr/local/bin/opencode"];

/// Packages, each with the instances that use it.
pub type Users = BTreeMap<PathBuf, Vec<String>>;

/// The links that are there.
pub(super) fn links(records: &[Record]) -> Vec<Link> {
    let there = able::links();
    let link = |record: &Record| {
        let name = able::link_of(&record.name);
        there.contains(&name).then(|| Link { name, instance: record.name.to_string() })
    };
    records.iter().filter_map(link).collect()
}

/// What those links need of the kernel's settings, and what is off.
pub(super) fn switched_off(
    root: &Root,
    records: &[Record],
    links: &[Link],
) -> Result<Vec<Switch>, net::Error> {
    let mut off: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Link { name, instance } in links {
        let record = records.iter().find(|record| record.name.as_str() == instance.as_str());
        // Without it, the way to the internet is what is looked at.
        let network = record.and_then(|record| record.network(root).ok().flatten());
        let destinations = network.as_ref().map(Network::destinations).unwrap_or_default();
        for setting in able::switched_off(name, &destinations)? {
            off.entry(setting).or_default().push(instance.clone());
        }
    }
    Ok(off.into_iter().map(|(setting, instances)| Switch { setting, instances }).collect())
}

/// Listeners that others than this host reach.
pub(super) fn listeners(records: &[Record]) -> Vec<Listener> {
    let open = records.iter().filter(|record| !record.listen.ip().is_loopback());
    open.map(|record| Listener { instance: record.name.to_string(), port: record.listen.port() })
        .collect()
}

/// Which opencode each package is. Where no instance is installed, those that the specification declares are looked
/// at, and without any what is at the usual places.
pub(super) fn packages(records: &[Record], declared: Users) -> Vec<Package> {
    let mut users = Users::new();
    for record in records {
        if let Ok(package) = record.package() {
            users.entry(package.to_owned()).or_default().push(record.name.to_string());
        }
    }
    if records.is_empty() {
        users = if declared.is_empty() { usual(&PLACES.map(Path::new)) } else { declared };
    }
    let package = |(path, instances): (PathBuf, Vec<String>)| Package {
        path: path.display().to_string(),
        instances,
        version: opencode::told(&path).map_err(|error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
    };
    users.into_iter().map(package).collect()
}

/// What is at these places, each program once.
fn usual(places: &[&Path]) -> Users {
    let mut known = BTreeSet::new();
    let there = places
        .iter()
        .filter(|place| fs::canonicalize(place).is_ok_and(|program| known.insert(program)));
    there.map(|place| (place.to_path_buf(), Vec::new())).collect()
}

/// What is wrong with secrets of the operator's, and with passwords that were made. No content is read.
pub(super) fn secrets(records: &[Record]) -> Vec<Secret> {
    let mut found = Vec::new();
    for record in records {
        let made = Path::new(AUTH_ROOT).join(record.name.as_str()).join("password");
        let is_made = record.auth_enable && record.auth_password_file.is_none() && made.exists();
        let made = is_made.then(|| ("auth.enable".to_owned(), made));
        let given = record.secrets().into_iter().map(|(option, file)| (option, file.to_owned()));
        found.extend(given.chain(made).filter_map(|(option, file)| secret(record, &option, &file)));
    }
    found
}

fn secret(record: &Record, option: &str, file: &Path) -> Option<Secret> {
    let instance = record.name.to_string();
    match trust::secret(option, file) {
        Ok(()) => {
            let is_empty = fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0);
            is_empty.then(|| Secret {
                instance,
                what: format!("{}, which {option} names, is empty", file.display()),
                remedy: "write the secret to it".to_owned(),
                is_empty,
            })
        }
        Err(trust::Error::Secret { part, what, remedy, .. }) => Some(Secret {
            instance,
            what: format!("{}, which {option} names: {} {what}", file.display(), part.display()),
            remedy,
            is_empty: false,
        }),
        Err(error) => Some(Secret {
            instance,
            what: format!("{}, which {option} names: {error}", file.display()),
            remedy: "see that root can look at it".to_owned(),
            is_empty: false,
        }),
    }
}

/// Units of ours that failed.
pub(super) fn failed() -> Result<Vec<String>, systemctl::Error> {
    let words =
        ["list-units", "--state=failed", "--plain", "--no-legend", "--full", "--", "opencode*"];
    let text = systemctl::run("systemctl", &words)?;
    let units = text.lines().filter_map(|line| line.split_whitespace().next());
    Ok(units.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_at_the_usual_places_is_found_once() {
        let directory = tempfile::tempdir().unwrap();
        let [one, same, other, missing] =
            ["one", "same", "other", "missing"].map(|name| directory.path().join(name));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&one, &same).unwrap();
        let found = usual(&[&one, &same, &missing, &other]);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [one, other]);
    }
}
