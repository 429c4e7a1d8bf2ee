//! Looks at the host for `doctor`. Nothing is changed, and what cannot be seen is said.

mod host;
mod left;
mod owned;
mod resolvers;

use std::path::Path;

use instances_core::doctor::observed::{Nft, Observed};
use instances_core::facts::HostFacts;

use crate::files::Root;
use crate::installed::{self, Record};
use crate::net::{self, able};
use crate::systemctl;

/// Looks at everything.
///
/// # Errors
///
/// When it cannot be said which instances are installed.
pub fn observe(facts: &HostFacts) -> Result<Observed, installed::Error> {
    let root = Root::new("/".as_ref());
    let records = installed::instances(&root)?;
    let is_root = net::can_look();
    let mut seen = Observed {
        systemd: systemd(),
        nft: nft(facts, is_root),
        control_groups: host::control_groups(),
        ruleset: is_root.then(|| able::ruleset(Path::new(facts.nft.as_str()))).flatten(),
        uplink: host::uplink(),
        links: owned::links(&records),
        listeners: owned::listeners(&records),
        ipv6: host::ipv6(),
        resolvers: resolvers::ask(),
        rooms: host::rooms(&records),
        clock: host::clock(&records),
        kernel: host::kernel(),
        leftovers: left::leftovers(&root, &records)?,
        failed: owned::failed(),
        ..Observed::default()
    };
    if is_root {
        seen.packages = owned::packages(&records);
        seen.secrets = owned::secrets(&records);
    }
    seen.leftovers.extend(left::table(seen.ruleset.as_ref(), &records));
    if seen.systemd.is_none() {
        seen.unseen.push("systemd's version: systemctl says none".to_owned());
    }
    seen.unseen.extend(unseen(is_root, &records, &seen));
    Ok(seen)
}

fn systemd() -> Option<u32> {
    if systemctl::booted() { systemctl::version().ok() } else { Some(0) }
}

fn nft(facts: &HostFacts, is_root: bool) -> Nft {
    let path = Path::new(facts.nft.as_str());
    let version = able::version(path);
    let table = (is_root && version.is_ok()).then(|| able::makes_table(path));
    Nft { path: facts.nft.to_string(), version: Some(version), table }
}

/// What only root sees, and what even root could not.
fn unseen(is_root: bool, records: &[Record], seen: &Observed) -> Vec<String> {
    if !is_root {
        let mut words = vec![
            "rules of other firewalls, and whether a table can be made: only root may list them",
            "state directories and passwords: only root may look into their directory",
        ];
        if !records.is_empty() {
            words.push("secrets, and which opencode a package is: only root can say who else could read or \
                        replace them");
        }
        return words.into_iter().map(str::to_owned).collect();
    }
    let works = seen.nft.version.as_ref().is_some_and(Result::is_ok);
    let rules = (works && seen.ruleset.is_none())
        .then(|| "rules of other firewalls: nft does not list them".to_owned());
    rules.into_iter().collect()
}
