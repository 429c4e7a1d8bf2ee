//! The controls that directives make: as rendered, as systemd has them, as the kernel has them.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::Declared;
use super::report::{Row, Verdict};
use super::unit::{Loaded, same};
use super::{NEWER, Newer};
use crate::controls::{Control, all};

/// A process of the instance, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// `/proc/PID/status`.
    pub status: BTreeMap<String, String>,
    /// Its namespaces: kind and identity.
    pub namespaces: BTreeMap<String, String>,
}

impl Process {
    fn status(&self, name: &str) -> &str {
        self.status.get(name).map(String::as_str).unwrap_or_default()
    }

    fn namespace(&self, kind: &str) -> &str {
        self.namespaces.get(kind).map(String::as_str).unwrap_or_default()
    }
}

/// Reads `/proc/PID/status`.
pub fn status(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// Every process of the server's control group, the supervisor first.
    pub processes: Vec<Process>,
    /// The host's own namespaces.
    pub host: BTreeMap<String, String>,
    /// The identity of the network namespace that is pinned for the instance.
    pub pinned: Option<String>,
    /// The number of the instance's user.
    pub user: Option<u32>,
}

/// Judges every control of the server's unit.
pub fn judge(
    unit: &Loaded,
    kernel: &Kernel,
    declared: &Declared,
    systemd: u32,
    restart: &str,
) -> Vec<Row> {
    let judge = |control| of_control(control, unit, kernel, declared, systemd, restart);
    all().iter().map(judge).collect()
}

fn of_control(
    control: &Control,
    unit: &Loaded,
    kernel: &Kernel,
    declared: &Declared,
    systemd: u32,
    restart: &str,
) -> Row {
    let names: BTreeSet<&str> = control.directives.iter().map(|one| one.name).collect();
    let mut row = Row::new(control.name, said(unit, &names), has(unit, &names));
    if declared.relax.contains(control.name) {
        row.give_up("given up by `sandbox.relax`");
    }
    for name in names.iter().filter(|name| declared.overridden.contains(**name)) {
        row.give_up(format!("`unitOverrides.main.{name}` says it"));
    }
    if declared.allow_nested_sandbox && nested(control) {
        row.give_up("given up in part by `sandbox.allowNestedSandbox`");
    }
    for newer in NEWER.iter().filter(|newer| newer.control == control.name && systemd < newer.since)
    {
        let Newer { directive, since, attempts, .. } = newer;
        row.note(
            Verdict::Partial,
            format!("systemd {systemd} has no {directive}: that needs {since}"),
        );
        row.expected.extend(attempts.iter().map(|id| (*id).to_owned()));
    }
    for name in &names {
        compare(&mut row, control, name, unit, declared, systemd, restart);
    }
    for wrong in in_kernel(control.name, kernel, declared, systemd) {
        row.find(wrong, format!("{restart}; if it stays so, this host ignores the directive"));
    }
    row
}

/// Whether nesting sandboxes takes something from the control.
fn nested(control: &Control) -> bool {
    use crate::controls::Weaker;
    crate::controls::NESTED.iter().any(|weaker| {
        let names = |name: &str| control.directives.iter().any(|one| one.name == name);
        match weaker {
            Weaker::Value(name, _) | Weaker::Without(name, _) => names(name),
            // What is taken away by name stays away.
            Weaker::Calls(_) => matches!(control.name, "system-calls" | "privileged-calls"),
            Weaker::Family(_) => names("RestrictAddressFamilies"),
        }
    })
}

/// The directives of a control as the unit's file has them, on one line.
fn said(unit: &Loaded, names: &BTreeSet<&str>) -> String {
    let lines = names.iter().filter_map(|name| {
        let values = unit.values(name);
        Some(format!("{name}={}", short(values.last()?, values.len())))
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// The same as systemd has them.
fn has(unit: &Loaded, names: &BTreeSet<&str>) -> String {
    let lines = names.iter().filter(|name| !unit.values(name).is_empty()).map(|name| {
        match unit.property(name) {
            Some(value) => format!("{name}={}", short(value, 1)),
            None => format!("{name} unknown"),
        }
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn short(value: &str, lines: usize) -> String {
    let words = value.split_whitespace().count();
    if lines == 1 && words < 4 {
        value.to_owned()
    } else {
        format!("({lines} lines, {words} words)")
    }
    .replace("(1 lines, ", "(")
}

fn compare(
    row: &mut Row,
    control: &Control,
    name: &str,
    unit: &Loaded,
    declared: &Declared,
    systemd: u32,
    restart: &str,
) {
    let values = unit.values(name);
    let overridden = declared.overridden.contains(name);
    let relaxed =
        declared.relax.contains(control.name) || declared.allow_nested_sandbox && nested(control);
    // What was rendered, against the file: somebody edited it.
    let standard =
        control.directives.iter().filter(|one| one.name == name).filter_map(|one| one.value);
    for value in standard {
        let filter = name == "SystemCallFilter";
        let words: Vec<&str> = values.iter().flat_map(|line| line.split_whitespace()).collect();
        let there = match name {
            _ if filter && words.is_empty() => false,
            // Words of one line; another control may take single ones away.
            "SystemCallFilter" => true,
            "InaccessiblePaths" => value.split_whitespace().all(|word| words.contains(&word)),
            _ => values.contains(&value),
        };
        let newer = NEWER.iter().any(|newer| {
            // Before there was `OpenFile=`, messages went another way.
            let its = newer.directive.starts_with(name) || control.name == "systemd-messages";
            newer.control == control.name && its && systemd < newer.since
        });
        if !there && !overridden && !relaxed && !newer {
            row.find(
                format!("{} does not say {name}={value}", unit.path),
                "write the units anew: `opencode-instances apply`, on NixOS `nixos-rebuild switch`",
            );
        }
    }
    if values.is_empty() {
        return;
    }
    let Some(property) = unit.property(name) else {
        let what = format!("this systemd ignores {name}=, which {} says", unit.path);
        return row.find(what, "use a newer systemd, or give the control up in `sandbox.relax`");
    };
    if same(name, &values, property) {
        return;
    }
    let what = format!("systemd has {name}={}, {} says otherwise", short(property, 1), unit.path);
    match unit.drop_in_of(name) {
        Some(path) => row.find(
            format!("{what}: {path} replaces it"),
            format!("remove {name}= from {path}; then systemctl daemon-reload, and {restart}"),
        ),
        None => row.find(what, format!("systemctl daemon-reload, and {restart}")),
    }
}

/// What the kernel has otherwise, for the controls that it shows.
fn in_kernel(control: &str, kernel: &Kernel, declared: &Declared, systemd: u32) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(first) = kernel.processes.first() else { return wrong };
    let overridden = |name: &str| declared.overridden.contains(name);
    // Who is in a user namespace of the agent's own is confined by the outer one.
    let outer = |process: &&Process| {
        let user = process.namespace("user");
        user == first.namespace("user")
            || kernel.host.get("user").is_some_and(|host| host == user)
            || !declared.allow_nested_sandbox
    };
    let processes: Vec<&Process> = kernel.processes.iter().filter(outer).collect();
    let mut each = |is_wrong: &dyn Fn(&Process) -> Option<String>| {
        for process in &processes {
            wrong.extend(is_wrong(process).map(|what| format!("process {}: {what}", process.pid)));
        }
    };
    let shares = |kind: &'static str| {
        move |process: &Process| {
            let host = kernel.host.get(kind).map(String::as_str).unwrap_or_default();
            let shared = process.namespace(kind) == host && !host.is_empty();
            shared.then(|| format!("it is in the host's {kind} namespace"))
        }
    };
    let not = |name: &'static str, wanted: &'static str| {
        move |process: &Process| {
            let found = process.status(name);
            (found != wanted).then(|| format!("{name} is {found:?} instead of {wanted:?}"))
        }
    };
    match control {
        "user" => {
            if !overridden("PrivateUsers") {
                each(&shares("user"));
            }
            each(&|process| {
                let wanted = kernel.user?;
                let found = process.status("Uid").split_whitespace();
                let other =
                    found.filter_map(|uid| uid.parse().ok()).find(|uid: &u32| *uid != wanted)?;
                Some(format!("it runs as user {other} instead of {wanted}"))
            });
        }
        "capabilities" => {
            for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
                each(&not(name, "0000000000000000"));
            }
        }
        "no-new-privileges" => each(&not("NoNewPrivs", "1")),
        "network" => each(&|process| {
            let found = process.namespace("net");
            if declared.allow_nested_sandbox
                && found != kernel.host.get("net").map(String::as_str).unwrap_or_default()
            {
                return None;
            }
            let pinned = kernel.pinned.as_deref()?;
            (found != pinned).then(|| "it is not in the instance's network namespace".to_owned())
        }),
        "file-system" => each(&shares("mnt")),
        "ipc" => each(&shares("ipc")),
        "process-visibility" if systemd >= 257 && !overridden("PrivatePIDs") => {
            each(&shares("pid"));
        }
        "hostname" if !relaxed(declared, "hostname") => each(&shares("uts")),
        "control-groups" if systemd >= 257 && !relaxed(declared, "control-groups") => {
            each(&shares("cgroup"));
        }
        "system-calls" if !overridden("SystemCallFilter") => each(&not("Seccomp", "2")),
        "umask" if !relaxed(declared, "umask") => {
            // The agent's own programs may set theirs.
            wrong.extend(not("Umask", "0077")(first));
        }
        _ => {}
    }
    wrong
}

fn relaxed(declared: &Declared, control: &str) -> bool {
    let directives = crate::controls::find(control).map(|control| control.directives);
    let mut directives = directives.into_iter().flatten();
    declared.relax.contains(control)
        || declared.allow_nested_sandbox && crate::controls::find(control).is_some_and(nested)
        || directives.any(|one| declared.overridden.contains(one.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::unit::assignments;
    use crate::facts::HostFacts;
    use crate::lower::read;
    use crate::node::Format;

    fn loaded(systemd: u32) -> Loaded {
        let (spec, _) = read("[instances.a]\ndirectory = \"/srv/a\"\n", Format::Toml).unwrap();
        let units = crate::units::of_instance(&spec.instances[0], &HostFacts::usr(systemd), "", "");
        let main = units.iter().find(|unit| unit.name == "opencode-a.service").unwrap();
        let file = assignments(&main.render(systemd).0);
        let mut properties: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &file {
            let value = match name.as_str() {
                "SystemCallFilter" => "read write",
                "SystemCallErrorNumber" => "1",
                _ => value,
            };
            let all = properties.entry(name.clone()).or_default();
            *all = match name.as_str() {
                "InaccessiblePaths" | "OpenFile" => format!("{all} {value}"),
                _ => value.to_owned(),
            };
        }
        let (name, path) = (main.name.clone(), format!("/etc/systemd/system/{}", main.name));
        Loaded { name, properties, path, file, ..Loaded::default() }
    }

    fn kernel() -> Kernel {
        let kinds = ["user", "mnt", "net", "ipc", "pid", "uts", "cgroup"];
        let named = |of: &str| {
            kinds.iter().map(|kind| ((*kind).to_owned(), format!("{kind}:{of}"))).collect()
        };
        let status = status(
            "Uid:\t996\t996\t996\t996\nCapEff:\t0000000000000000\nCapPrm:\t0000000000000000\n\
             CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
             Umask:\t0077\n",
        );
        Kernel {
            processes: vec![Process { pid: 7, status, namespaces: named("own") }],
            host: named("host"),
            pinned: Some("net:own".to_owned()),
            user: Some(996),
        }
    }

    fn findings(unit: &Loaded, kernel: &Kernel, systemd: u32) -> Vec<(String, String)> {
        let rows = judge(unit, kernel, &Declared::default(), systemd, "restart");
        let each = rows.into_iter().flat_map(|row| {
            row.findings.into_iter().map(move |finding| (row.control.clone(), finding.what))
        });
        each.collect()
    }

    #[test]
    fn as_rendered_everything_holds() {
        for systemd in [252, 257] {
            assert_eq!(findings(&loaded(systemd), &kernel(), systemd), []);
        }
    }

    #[test]
    fn what_an_older_systemd_cannot_give_is_what_is_left_out() {
        let rows = judge(&loaded(252), &kernel(), &Declared::default(), 252, "restart");
        let partial: BTreeSet<String> = rows
            .into_iter()
            .filter(|row| row.verdict == Verdict::Partial)
            .map(|row| row.control)
            .collect();
        let (spec, _) = read("[instances.a]\ndirectory = \"/srv/a\"\n", Format::Toml).unwrap();
        let desired = crate::desired::desire(&spec, &HostFacts::usr(252));
        let omitted = desired.omitted.get("opencode-a.service").unwrap();
        let of = |directive: &str| {
            let named =
                |control: &&Control| control.directives.iter().any(|one| one.name == directive);
            all().iter().find(named).map(|control| control.name.to_owned())
        };
        let mut expected: BTreeSet<String> = omitted
            .iter()
            .filter_map(|one| of(one.assignment.split('=').next().unwrap()))
            .collect();
        // Rendered otherwise before 253, not left out.
        expected.insert("systemd-messages".to_owned());
        assert_eq!(partial, expected);
    }

    #[test]
    fn a_directive_that_systemd_ignores_or_a_drop_in_replaces_is_found() {
        let mut unit = loaded(257);
        unit.properties.remove("PrivatePIDs");
        unit.properties.insert("ProtectClock".into(), "no".into());
        let drop_in = vec![("ProtectClock".to_owned(), "no".to_owned())];
        unit.drop_ins.push(("/etc/x.conf".into(), drop_in));
        let found = findings(&unit, &kernel(), 257);
        let said: Vec<&str> = found.iter().map(|(control, _)| control.as_str()).collect();
        assert_eq!(said, ["process-visibility", "clock"]);
        assert!(found[0].1.contains("ignores PrivatePIDs="), "{found:?}");
        assert!(found[1].1.contains("/etc/x.conf replaces it"), "{found:?}");
    }

    #[test]
    fn a_file_that_was_edited_is_found() {
        for control in all() {
            for directive in control.directives.iter().filter(|one| one.value.is_some()) {
                let mut unit = loaded(257);
                unit.file.retain(|(name, _)| name != directive.name);
                let found = findings(&unit, &kernel(), 257);
                let named = found.iter().any(|(name, _)| name == control.name);
                assert!(named, "{} without {}: {found:?}", control.name, directive.name);
            }
        }
    }

    #[test]
    fn what_the_kernel_has_otherwise_is_found() {
        for (control, change) in [
            ("user", &(|one: &mut Process| one.set("Uid", "0\t0\t0\t0")) as &dyn Fn(&mut Process)),
            ("user", &|one| one.share("user")),
            ("capabilities", &|one| one.set("CapBnd", "00000000a80425fb")),
            ("no-new-privileges", &|one| one.set("NoNewPrivs", "0")),
            ("network", &|one| one.share("net")),
            ("file-system", &|one| one.share("mnt")),
            ("ipc", &|one| one.share("ipc")),
            ("process-visibility", &|one| one.share("pid")),
            ("hostname", &|one| one.share("uts")),
            ("control-groups", &|one| one.share("cgroup")),
            ("system-calls", &|one| one.set("Seccomp", "0")),
            ("umask", &|one| one.set("Umask", "0022")),
        ] {
            let mut kernel = kernel();
            change(&mut kernel.processes[0]);
            let found = findings(&loaded(257), &kernel, 257);
            assert!(
                !found.is_empty() && found.iter().all(|(name, _)| name == control),
                "{found:?}"
            );
        }
    }

    impl Process {
        fn set(&mut self, name: &str, value: &str) {
            self.status.insert(name.to_owned(), value.to_owned());
        }

        fn share(&mut self, kind: &str) {
            self.namespaces.insert(kind.to_owned(), format!("{kind}:host"));
        }
    }
}
