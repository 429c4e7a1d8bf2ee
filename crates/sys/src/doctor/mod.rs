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

pub use owned::Users;

/// Looks at everything. `declared` are the packages of a specification that may not have been applied yet.
///
/// # Errors
///
/// When it cannot be said which instances are installed.
pub fn observe(facts: &HostFacts, declared: Users) -> Result<Observed, installed::Error> {
    let root = Root::new("/".as_ref());
    let records = installed::instances(&root)?;
    let is_root = net::can_look();
    let mut seen = Observed {
        systemd: systemd(),
        nft: nft(facts, is_root),
        veth: is_root.then(able::makes_link),
        control_groups: host::control_groups(),
        ruleset: is_root.then(|| able::ruleset(Path::new(facts.nft.as_str()))).flatten(),
        legacy: host::legacy(),
        uplink: host::uplink(),
        links: owned::links(&records),
        listeners: owned::listeners(&records),
        ipv6: host::ipv6(),
        resolvers: resolvers::ask(),
        rooms: host::rooms(&records),
        clock: host::clock(&records),
        kernel: host::kernel(),
        leftovers: left::leftovers(&root, &records)?,
        ..Observed::default()
    };
    if is_root {
        seen.packages = owned::packages(&records, declared);
        seen.secrets = owned::secrets(&records);
    }
    match owned::failed() {
        Ok(failed) => seen.failed = failed,
        // Without systemd there is nothing to fail, and its absence is a finding of its own.
        Err(_) if seen.systemd == Some(0) => {}
        Err(error) => seen.unseen.push(format!("units that failed: {error}")),
    }
    match owned::switched_off(&root, &records, &seen.links) {
        Ok(off) => seen.switched_off = off,
        Err(error) => seen.unseen.push(format!("forwarding: {error}")),
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
    let rules = (is_root && version.is_ok()).then(|| able::loads_rules(path));
    Nft { path: facts.nft.to_string(), version: Some(version), rules }
}

/// What only root sees, and what even root could not.
fn unseen(is_root: bool, records: &[Record], seen: &Observed) -> Vec<String> {
    if !is_root {
        let mut words = vec![
            "rules of other firewalls, and whether the kernel takes ours: only root may load and list them",
            "state directories and passwords: only root may look into their directory",
        ];
        words.push(if records.is_empty() {
            "which opencode a package is: only root can say who else could replace it"
        } else {
            "secrets, and which opencode a package is: only root can say who else could read or replace them"
        });
        return words.into_iter().map(str::to_owned).collect();
    }
    let works = seen.nft.version.as_ref().is_some_and(Result::is_ok);
    let rules = (works && seen.ruleset.is_none())
        .then(|| "rules of other firewalls: nft does not list them".to_owned());
    rules.into_iter().collect()
}
