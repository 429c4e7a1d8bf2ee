//! What belongs to installed instances.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use instances_core::doctor::observed::{Link, Listener, Package, Secret};
use instances_core::layout::AUTH_ROOT;

use crate::installed::Record;
use crate::net::able;
use crate::{opencode, systemctl, trust};

/// The links that are there.
pub(super) fn links(records: &[Record]) -> Vec<Link> {
    let there = able::links();
    let link = |record: &Record| {
        let name = able::link_of(&record.name);
        let forwarding = able::is_forwarded(&name);
        let instance = record.name.to_string();
        there.contains(&name).then_some(Link { name, instance, forwarding })
    };
    records.iter().filter_map(link).collect()
}

/// Listeners that others than this host reach.
pub(super) fn listeners(records: &[Record]) -> Vec<Listener> {
    let open = records.iter().filter(|record| !record.listen.ip().is_loopback());
    open.map(|record| Listener { instance: record.name.to_string(), port: record.listen.port() })
        .collect()
}

/// Which opencode each package is.
pub(super) fn packages(records: &[Record]) -> Vec<Package> {
    let mut users: BTreeMap<&Path, Vec<String>> = BTreeMap::new();
    for record in records {
        if let Ok(package) = record.package() {
            users.entry(package).or_default().push(record.name.to_string());
        }
    }
    let package = |(path, instances): (&Path, Vec<String>)| Package {
        path: path.display().to_string(),
        instances,
        version: opencode::version(path),
    };
    users.into_iter().map(package).collect()
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
pub(super) fn failed() -> Vec<String> {
    let words =
        ["list-units", "--state=failed", "--plain", "--no-legend", "--full", "--", "opencode*"];
    let text = systemctl::run("systemctl", &words).unwrap_or_default();
    let units = text.lines().filter_map(|line| line.split_whitespace().next());
    units.map(str::to_owned).collect()
}
