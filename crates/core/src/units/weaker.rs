//! `sandbox.relax` and `sandbox.allowNestedSandbox`: what stands in a unit when protections are given up.

use crate::controls::{NESTED, Weaker};
use crate::spec::Instance;
use crate::unit::{Entry, Section, Value};

/// The same section with the weaker lines, each in the place of what it replaces.
pub(super) fn apply(mut section: Section, instance: &Instance) -> Section {
    let nested = if instance.allow_nested_sandbox { NESTED } else { &[] };
    change(&mut section, nested, "sandbox.allowNestedSandbox");
    for control in &instance.relax {
        let weaker = control.relaxed.map_or(&[][..], |relaxed| relaxed.weaker);
        change(&mut section, weaker, "sandbox.relax");
    }
    section
}

fn change(section: &mut Section, weaker: &[Weaker], why: &'static str) {
    let entries = &mut section.entries;
    for one in weaker {
        match one {
            Weaker::Value(directive, value) => {
                replace(entries, directive, Value::word(value), why);
            }
            Weaker::Without(directive, value) => {
                let is_it = |entry: &Entry| {
                    entry.directive == *directive && entry.value.escaped() == *value
                };
                entries.retain(|entry| !is_it(entry));
            }
            Weaker::Calls(calls) => {
                let entry = Entry::new("SystemCallFilter", Value::word(calls)).because(why);
                let last = entries.iter().rposition(|one| one.directive == entry.directive);
                entries.insert(last.map_or(entries.len(), |last| last + 1), entry);
            }
            Weaker::Family(family) => {
                let first =
                    entries.iter_mut().find(|entry| entry.directive == "RestrictAddressFamilies");
                if let Some(entry) = first
                    && let Value::Words(words) = &entry.value
                    && !words.split(' ').any(|word| word == *family)
                {
                    entry.value = Value::words([words, *family]);
                }
            }
        }
    }
}

/// One line in the place of all that the section says of the directive.
fn replace(entries: &mut Vec<Entry>, directive: &'static str, value: Value, why: &'static str) {
    let first = entries.iter().position(|entry| entry.directive == directive);
    entries.retain(|entry| entry.directive != directive);
    let at = first.unwrap_or(entries.len());
    entries.insert(at, Entry::new(directive, value).because(why));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::controls::{WORDS, Weaker, find};
    use crate::facts::HostFacts;
    use crate::lower::read;
    use crate::node::Format;
    use crate::units::of_instance;

    /// The lines of a unit that are not comments.
    fn lines(options: &str, unit: &str) -> Vec<String> {
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}\n");
        let (spec, _) = read(&text, Format::Toml).unwrap();
        let units = of_instance(&spec.instances[0], &HostFacts::default(), "", "");
        let unit = units.iter().find(|one| one.name == unit).unwrap();
        let text = unit.render(257).0;
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn difference(options: &str, unit: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let (before, after) = (lines("", unit), lines(options, unit));
        let only = |one: &[String], other: &[String]| {
            one.iter().filter(|line| !other.contains(line)).cloned().collect()
        };
        (only(&before, &after), only(&after, &before))
    }

    #[test]
    fn a_protection_that_is_given_up_changes_its_own_lines_and_no_other() {
        for word in WORDS {
            let (gone, new) =
                difference(&format!("sandbox.relax = [\"{word}\"]"), "opencode-a.service");
            let (mut wanted_gone, mut wanted_new) = (BTreeSet::new(), BTreeSet::new());
            let control = find(word).unwrap();
            for weaker in control.relaxed.unwrap().weaker {
                match weaker {
                    Weaker::Value(name, value) => {
                        let of = control.directives.iter().filter(|one| one.name == *name);
                        let old = of.map(|one| format!("{name}={}", one.value.unwrap()));
                        let new = format!("{name}={value}");
                        wanted_gone.extend(old.filter(|old| *old != new));
                        wanted_new.insert(new);
                    }
                    Weaker::Without(name, value) => {
                        wanted_gone.insert(format!("{name}={value}"));
                    }
                    Weaker::Calls(calls) => {
                        wanted_new.insert(format!("SystemCallFilter={calls}"));
                    }
                    Weaker::Family(family) => {
                        let old = "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6";
                        wanted_gone.insert(old.to_owned());
                        wanted_new.insert(format!("{old} {family}"));
                    }
                }
            }
            // One of two lines of the directive stays as it was.
            wanted_new.retain(|line| !lines("", "opencode-a.service").contains(line));
            assert_eq!((gone, new), (wanted_gone, wanted_new), "{word}");
        }
    }

    #[test]
    fn what_is_allowed_again_stands_behind_what_takes_it_away() {
        let lines = lines("sandbox.relax = [\"debug-calls\", \"keyring\"]", "opencode-a.service");
        let filter: Vec<_> =
            lines.iter().filter_map(|line| line.strip_prefix("SystemCallFilter=")).collect();
        assert!(filter[0] == "@system-service" && filter[1].starts_with('~'), "{filter:?}");
        assert_eq!(filter[2..], ["ptrace pidfd_getfd perf_event_open", "@keyring"]);
    }

    #[test]
    fn the_setup_is_weaker_only_where_it_runs_scripts() {
        let relax =
            "sandbox.relax = [\"umask\", \"address-families\"]\npostInitScript = \"true\"\n";
        let new = lines(relax, "opencode-setup@a.service");
        for line in ["UMask=0022", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"] {
            assert!(new.iter().any(|one| one == line), "{new:?}");
        }
        let relax = "sandbox.relax = [\"umask\"]\nsandbox.allowNestedSandbox = true";
        let other = "unitOverrides.setup.TimeoutStartSec = 300\n";
        let setup = |options: &str| lines(&format!("{other}{options}"), "opencode-setup@a.service");
        assert_eq!(setup(relax), setup(""));
        // Nothing of what the agent cannot reach gets weaker.
        for unit in ["opencode-net@a.service", "opencode-listen@a.service"] {
            assert_eq!(difference(relax, unit), Default::default(), "{unit}");
        }
    }
}
