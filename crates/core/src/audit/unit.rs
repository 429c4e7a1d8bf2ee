//! Unit files as systemd has them, compared with what was rendered.

use std::collections::BTreeMap;

use super::report::Row;
use crate::overrides;

/// The assignments of a unit file or a drop-in, in order.
pub type Assignments = Vec<(String, String)>;

/// Reads a unit file: assignments alone, with continued lines joined.
pub fn assignments(text: &str) -> Assignments {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    let said = lines.filter(|line| !line.starts_with(['#', ';', '[']));
    let pairs = said.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim_end().to_owned(), value.trim_start().to_owned())).collect()
}

/// A unit as systemd has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// What `systemctl show` says.
    pub properties: BTreeMap<String, String>,
    /// The file's path.
    pub path: String,
    /// The digest of the file's text.
    pub digest: String,
    /// What the file says.
    pub file: Assignments,
    /// What drop-ins say, each with its path.
    pub drop_ins: Vec<(String, Assignments)>,
}

impl Loaded {
    /// What systemd says of a property; nothing where it does not know it.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// Every value that the file gives a directive.
    pub fn values(&self, directive: &str) -> Vec<&str> {
        let said = self.file.iter().filter(|(name, _)| name == directive);
        said.map(|(_, value)| value.as_str()).collect()
    }

    /// The drop-in that says something of a directive last.
    pub fn drop_in_of(&self, directive: &str) -> Option<&str> {
        let says = |said: &&(String, Assignments)| said.1.iter().any(|(name, _)| name == directive);
        self.drop_ins.iter().rev().find(says).map(|(path, _)| path.as_str())
    }
}

/// Whether systemd's property says what the directive's values say.
///
/// Lists are compared as far as nothing that was said is missing.
pub fn same(directive: &str, values: &[&str], property: &str) -> bool {
    let last = values.last().copied().unwrap_or_default();
    let has = |words: &str| {
        let found: Vec<&str> = property.split_whitespace().collect();
        words.split_whitespace().all(|word| found.contains(&word))
    };
    match directive {
        "InaccessiblePaths" => values.iter().all(|words| has(words)),
        "RestrictAddressFamilies" => {
            let sorted = |text: &str| {
                let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                words.sort();
                words
            };
            sorted(last) == sorted(property)
        }
        // An allow-list that has none of what is taken away by name.
        "SystemCallFilter" => {
            let allowed: Vec<&str> = property.split_whitespace().collect();
            let words = |lines: Vec<&str>| -> Vec<String> {
                lines.iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect()
            };
            let taken = words(values.iter().filter_map(|value| value.strip_prefix('~')).collect());
            let given =
                words(values.iter().filter(|value| !value.starts_with('~')).copied().collect());
            let mut gone =
                taken.iter().filter(|word| !word.starts_with('@') && !given.contains(word));
            !property.is_empty()
                && !property.starts_with('~')
                && gone.all(|word| !allowed.contains(&word.as_str()))
                && (!allowed.contains(&"mount") || given.iter().any(|word| word == "@mount"))
        }
        // Without the name of the descriptor.
        "OpenFile" => {
            let path = |word: &str| word.split(':').next().map(str::to_owned);
            let opened: Vec<_> = property.split(' ').map(path).collect();
            values.iter().all(|value| opened.contains(&path(value)))
        }
        "SystemCallErrorNumber" => matches!((last, property), ("EPERM", "1" | "EPERM")),
        "ProtectControlGroups" | "PrivateTmp" | "PrivateUsers" => {
            property == last || property == "yes" && matches!(last, "strict" | "self" | "connected")
        }
        // The places are held against the kernel's list.
        "BindReadOnlyPaths" | "LoadCredential" | "Environment" => true,
        _ => plain(property) == plain(last),
    }
}

/// systemd says `yes` and `no`; an operator may have written another word for it.
fn plain(word: &str) -> &str {
    match word {
        "1" | "on" | "true" => "yes",
        "0" | "off" | "false" => "no",
        other => other,
    }
}

/// Judges what is true of every unit: that systemd has read its file, and that no drop-in says what could be
/// less than was rendered.
pub fn judge(row: &mut Row, units: &[Loaded], rendered: &BTreeMap<String, String>) {
    for unit in units {
        let name = &unit.name;
        if unit.property("LoadState") != Some("loaded") {
            let state = unit.property("LoadState").unwrap_or("unknown");
            row.find(format!("{name} is {state} to systemd"), "opencode-instances apply");
            continue;
        }
        if unit.property("NeedDaemonReload") == Some("yes") {
            let what = format!("a file of {name} has changed since systemd read it");
            row.find(what, "systemctl daemon-reload, and restart the instance");
        }
        if rendered.get(name).is_some_and(|digest| *digest != unit.digest) {
            row.find(
                format!("{} is not as it was rendered", unit.path),
                "write it anew: `opencode-instances apply`, on NixOS `nixos-rebuild switch`",
            );
        }
        for (path, said) in &unit.drop_ins {
            for (directive, value) in said.iter().filter(|(name, _)| !overrides::is_harmless(name))
            {
                row.find(
                    format!("{path} sets {directive}={value} in {name}"),
                    format!(
                        "remove {path}, then systemctl daemon-reload, and restart the instance"
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_assignments() {
        let text = "# no\n[Service]\nUser=a\nExecStart=/bin/x \\\n  --y=z\n; no\nUMask = 0077\n";
        let expected = [("User", "a"), ("ExecStart", "/bin/x    --y=z"), ("UMask", "0077")];
        let expected: Assignments = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(assignments(text), expected);
    }

    #[test]
    fn drop_ins_are_found_unless_they_are_harmless() {
        let mut unit = Loaded { name: "opencode-a.service".into(), ..Loaded::default() };
        unit.properties.insert("LoadState".into(), "loaded".into());
        let found = |unit: &Loaded| {
            let mut row = Row::new("units", String::new(), String::new());
            let rendered = [("opencode-a.service".to_owned(), "1".to_owned())].into();
            judge(&mut row, std::slice::from_ref(unit), &rendered);
            row.findings.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert_eq!(found(&unit), [" is not as it was rendered"]);
        unit.digest = "1".to_owned();
        unit.drop_ins.push(("/etc/a.conf".into(), assignments("[Service]\nMemoryMax=1G\n")));
        assert_eq!(found(&unit), [""; 0]);
        unit.drop_ins.push(("/etc/b.conf".into(), assignments("[Service]\nPrivateUsers=no\n")));
        assert_eq!(found(&unit), ["/etc/b.conf sets PrivateUsers=no in opencode-a.service"]);
        unit.properties.insert("NeedDaemonReload".into(), "yes".into());
        assert_eq!(found(&unit).len(), 2);
        unit.properties.insert("LoadState".into(), "masked".into());
        assert_eq!(found(&unit), ["opencode-a.service is masked to systemd"]);
    }

    #[test]
    fn properties_say_what_directives_say() {
        let filter = ["@system-service", "~@privileged io_uring_setup"];
        for (directive, values, property, expected) in [
            ("ProtectClock", &["yes"][..], "yes", true),
            ("ProtectClock", &["yes"], "no", false),
            ("ProtectClock", &["true"], "yes", true),
            ("CapabilityBoundingSet", &[""], "", true),
            ("CapabilityBoundingSet", &[""], "cap_chown", false),
            ("RestrictAddressFamilies", &["AF_UNIX AF_INET"], "AF_INET AF_UNIX", true),
            ("RestrictAddressFamilies", &["AF_UNIX"], "AF_INET AF_UNIX", false),
            ("RestrictAddressFamilies", &["AF_UNIX"], "", false),
            ("InaccessiblePaths", &["-+/sys/bus", "-+/a"], "-+/sys/bus -+/a -/b", true),
            ("InaccessiblePaths", &["-+/sys/bus", "-+/a"], "-+/sys/bus", false),
            ("SystemCallFilter", &filter, "read write", true),
            ("SystemCallFilter", &filter, "read io_uring_setup", false),
            ("SystemCallFilter", &filter, "~mount", false),
            ("SystemCallFilter", &filter, "", false),
            ("OpenFile", &["/run/systemd/notify:notify"], "/run/systemd/notify", true),
            ("OpenFile", &["/run/systemd/notify:notify", "/a:b"], "/run/systemd/notify /a", true),
            ("OpenFile", &["/run/systemd/notify:notify", "/a:b"], "/a:b:graceful", false),
            ("ProtectControlGroups", &["yes", "strict"], "yes", true),
            ("ProtectControlGroups", &["yes", "strict"], "no", false),
        ] {
            assert_eq!(same(directive, values, property), expected, "{directive} {property}");
        }
    }
}
