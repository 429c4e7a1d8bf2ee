//! The users and groups of all instances, as their namespaces' units wrote them down.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::sandbox_root;

/// Numbers of users and groups that agents run as.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) users: BTreeSet<u32>,
    pub(super) groups: BTreeSet<u32>,
}

/// They are in every sandbox, and no instance is one of them.
const OF_ALL: [u32; 2] = [0, 65534];

impl Accounts {
    /// Reads them anew: an instance may have come since. One whose namespace was not made since the boot runs
    /// nothing.
    pub(super) fn of_instances(directory: &Path) -> Self {
        let mut accounts = Self::default();
        let Ok(entries) = fs::read_dir(directory) else { return accounts };
        for entry in entries.flatten() {
            let numbers = |file: &str| {
                let path = entry.path().join(sandbox_root::ETC).join(file);
                let text = fs::read_to_string(path).unwrap_or_default();
                let number = |line: &str| line.split(':').nth(2)?.parse().ok();
                text.lines()
                    .filter_map(number)
                    .filter(|id| !OF_ALL.contains(id))
                    .collect::<Vec<u32>>()
            };
            accounts.users.extend(numbers("passwd"));
            accounts.groups.extend(numbers("group"));
        }
        accounts
    }
}
