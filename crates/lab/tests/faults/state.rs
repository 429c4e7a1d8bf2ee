//! What must be whole whatever happens: every file of the engine's, by its digest.

use std::collections::BTreeMap;

use instances_lab::Machine;

use crate::view::sh;

/// The digest of each file of ours, by its path; not of the specification, which is the operator's.
pub(crate) type Files = BTreeMap<String, String>;

/// Where files are that must be the old or the new ones.
const OURS: &str = "/etc/opencode-instances /etc/sysusers.d /etc/tmpfiles.d /etc/systemd/system \
                    /etc/systemd/network /var/lib/opencode/instance-auth /var/lib/opencode/network \
                    /var/lib/opencode/applied";

/// What is there now, links by where they lead.
pub(crate) fn files(machine: &Machine) -> Files {
    let script = format!(
        "for place in {OURS}; do [ -d $place ] || continue
           find $place -type f ! -path /etc/opencode-instances/instances.toml -exec sha256sum {{}} +
           find $place -type l -printf '%l  %p\\n'
         done"
    );
    let lines = sh(machine, &script);
    let pairs = lines.lines().map(|line| line.split_once("  ").unwrap());
    pairs.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect()
}

/// Requires of every file that it is the one before or the one after, as a whole, and that none is missing that is in
/// both.
pub(crate) fn assert_whole(machine: &Machine, before: &Files, after: &Files, when: &str) {
    let now = files(machine);
    for (path, digest) in &now {
        let name = path.rsplit('/').next().unwrap();
        match name {
            // Read by every run before it does anything.
            "manifest.json" | "pending.json" | "links.json" => {
                let read = format!("jq -e . {path} >/dev/null && echo read || echo broken");
                assert_eq!(sh(machine, &read), "read", "{when}: {path}");
            }
            // What is prepared, which the next run removes.
            name if name.starts_with('.') && name.ends_with("new") => {}
            _ => {
                let whole = [before, after].iter().any(|files| files.get(path) == Some(digest));
                assert!(whole, "{when}: {path} is neither the old nor the new file");
            }
        }
    }
    for path in before.keys().filter(|path| after.contains_key(*path)) {
        assert!(now.contains_key(path), "{when}: {path} is lost");
    }
}

/// Requires that nothing is there, and nothing else, than was said; and that no file was left that was being prepared.
pub(crate) fn assert_same(machine: &Machine, wanted: &Files, when: &str) {
    let found = files(machine);
    let differ = |a: &Files, b: &Files| -> Vec<String> {
        a.iter()
            .filter(|(path, digest)| b.get(*path) != Some(digest))
            .map(|one| one.0.clone())
            .collect()
    };
    let (missing, unwanted) = (differ(wanted, &found), differ(&found, wanted));
    assert!(missing.is_empty() && unwanted.is_empty(), "{when}: {missing:?}, {unwanted:?}");
}
