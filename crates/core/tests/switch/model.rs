//! What `switch-to-configuration` of NixOS decides between two generations, as a function.
//!
//! The functions named here are those of `switch-to-configuration-ng` in nixpkgs. Left out is what no
//! unit of ours meets: mounts, swap, templates without a file of their own, requests of activation
//! scripts, units of users.

use std::collections::BTreeSet;

use crate::text::{Files, UnitText};

/// Directives of `[Unit]` whose change alone asks for nothing. Mirrors `compare_units`.
const IGNORED: &[&str] = &[
    "AllowIsolate",
    "CollectMode",
    "Description",
    "Documentation",
    "IgnoreOnIsolate",
    "OnFailure",
    "OnFailureJobMode",
    "OnSuccess",
    "RefuseManualStart",
    "RefuseManualStop",
    "SourcePath",
    "StopWhenUnneeded",
    TRIGGERS,
];
const TRIGGERS: &str = "X-Reload-Triggers";

/// What the program asks systemd to do, in this order of steps; within a step there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Stopped before anything else, with the units that systemd has read before.
    pub(crate) stop: BTreeSet<String>,
    /// Changed, and left as they are.
    pub(crate) skip: BTreeSet<String>,
    /// Reloaded once systemd has read the new units; started instead if they are stopped by then.
    pub(crate) reload: BTreeSet<String>,
    /// Restarted after that.
    pub(crate) restart: BTreeSet<String>,
    /// Started at last.
    pub(crate) start: BTreeSet<String>,
    /// Started with them, and not shown: every target that was active.
    pub(crate) targets: BTreeSet<String>,
}

/// What a change of a unit asks for, as far as its text alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// To be reloaded.
    Reload,
    /// To be restarted, unless the new unit says otherwise.
    Restart,
}

/// Compares two texts of a unit. Mirrors `compare_units`.
pub(crate) fn compare(old: &UnitText, new: &UnitText) -> Change {
    let mut change = Change::None;
    for section in old.sections().chain(new.sections().filter(|section| !old.has(section))) {
        let sides = [old.has(section), new.has(section)];
        // Another section that comes or goes as a whole counts even if nothing is in it.
        if sides != [true, true] && !matches!(section, "Unit" | "Service") {
            return Change::Restart;
        }
        let gone = old.directives(section);
        let come = new.directives(section).filter(|name| old.values(section, name).is_none());
        for directive in gone.chain(come) {
            let (before, after) = (old.values(section, directive), new.values(section, directive));
            if before == after {
                continue;
            }
            match (section, directive, after) {
                // An older version of the program restarts for a changed ExecReload=.
                ("Unit", TRIGGERS, Some(_)) | ("Service", "ExecReload", Some(_)) => {
                    change = Change::Reload;
                }
                ("Service", "ExecReload", None) => {}
                ("Unit", name, _) if IGNORED.contains(&name) => {}
                _ => return Change::Restart,
            }
        }
    }
    change
}

/// What happens to units that are active, when `new` replaces `old`. Mirrors `collect_unit_changes`.
pub(crate) fn decide(old: &Files, new: &Files, active: &BTreeSet<String>) -> Actions {
    let mut actions = Actions::default();
    for unit in active {
        let Some(before) = UnitText::of(old, unit) else { continue };
        let Some(after) = UnitText::of(new, unit) else {
            if before.flag("Unit", "X-StopOnRemoval", true) {
                actions.stop.insert(unit.clone());
            }
            continue;
        };
        if unit.ends_with(".target") {
            target(&mut actions, unit, &after);
            continue;
        }
        match compare(&before, &after) {
            Change::Restart => modified(&mut actions, new, active, unit, &after),
            Change::Reload => {
                actions.reload.insert(unit.clone());
            }
            Change::None => {}
        }
    }
    actions
}

/// An active target is started again, so that it pulls in what is new. Its text does not matter.
fn target(actions: &mut Actions, unit: &str, after: &UnitText) {
    let refuses = ["RefuseManualStart", "X-OnlyManualStart"];
    if !refuses.iter().any(|flag| after.flag("Unit", flag, false)) {
        actions.targets.insert(unit.to_owned());
    }
    if after.flag("Unit", "X-StopOnReconfiguration", false) {
        actions.stop.insert(unit.to_owned());
    }
}

/// A changed unit that is no target. Mirrors `handle_modified_unit`.
///
/// The directives that begin with `X-` are those of the new unit, and all but one of them are read
/// in `[Service]`.
fn modified(
    actions: &mut Actions,
    new: &Files,
    active: &BTreeSet<String>,
    unit: &str,
    after: &UnitText,
) {
    // Slices and paths take effect when systemd reads them. A socket is not touched at all, which
    // is why ours needs a unit beside it that is.
    if [".slice", ".path", ".socket"].iter().any(|suffix| unit.ends_with(suffix)) {
        return;
    }
    if after.flag("Service", "X-ReloadIfChanged", false) {
        actions.reload.insert(unit.to_owned());
        return;
    }
    if !after.flag("Service", "X-RestartIfChanged", true)
        || after.flag("Unit", "RefuseManualStop", false)
        || after.flag("Unit", "X-OnlyManualStart", false)
    {
        actions.skip.insert(unit.to_owned());
        return;
    }
    let Some(name) = unit.strip_suffix(".service") else {
        actions.restart.insert(unit.to_owned());
        return;
    };
    if !after.flag("Service", "X-StopIfChanged", true) {
        actions.restart.insert(unit.to_owned());
        return;
    }
    actions.stop.insert(unit.to_owned());
    let mut socket_starts_it = false;
    let mut sockets: Vec<String> = after.words("Service", "Sockets").map(str::to_owned).collect();
    if sockets.is_empty() {
        sockets.push(format!("{name}.socket"));
    }
    for socket in sockets {
        let stays = new.contains_key(&socket);
        socket_starts_it |= stays;
        if active.contains(&socket) {
            actions.stop.insert(socket.clone());
            if stays {
                actions.start.insert(socket);
            }
        }
    }
    if !socket_starts_it || after.flag("Service", "X-NotSocketActivated", false) {
        actions.start.insert(unit.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Actions, Change, compare, decide};
    use crate::text::{Files, UnitText};

    fn files(units: &[(&str, &str)]) -> Files {
        units.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn change(old: &str, new: &str) -> Change {
        let read = |text| UnitText::of(&files(&[("a.service", text)]), "a.service").unwrap();
        compare(&read(old), &read(new))
    }

    #[test]
    fn what_a_text_asks_for() {
        let table = [
            ("[Unit]\nA=1\n", "[Unit]\nA=1\n", Change::None),
            ("[Unit]\nA=1\n", "[Unit]\n\n# why\nA = 1\n", Change::None),
            ("[Unit]\nA=1\n", "[Unit]\nA=2\n", Change::Restart),
            ("[Unit]\nA=1\nA=2\n", "[Unit]\nA=2\nA=1\n", Change::Restart),
            ("[Unit]\nDescription=a\n", "[Unit]\nDescription=b\n", Change::None),
            ("[Unit]\nDescription=a\n", "", Change::None),
            ("[Unit]\nA=1\n", "", Change::Restart),
            ("[Unit]\nX-Reload-Triggers=a\n", "[Unit]\nX-Reload-Triggers=b\n", Change::Reload),
            ("[Unit]\nX-Reload-Triggers=a\n", "[Unit]\n", Change::None),
            ("[Unit]\nA=1\n", "[Unit]\nA=1\nX-Reload-Triggers=b\n", Change::Reload),
            (
                "[Unit]\nX-Reload-Triggers=a\n",
                "[Unit]\nX-Reload-Triggers=b\nA=1\n",
                Change::Restart,
            ),
            ("", "[Unit]\nX-Reload-Triggers=b\n", Change::Reload),
            ("[Service]\nExecReload=/a\n", "[Service]\nExecReload=/b\n", Change::Reload),
            ("[Service]\nA=1\nExecReload=/a\n", "[Service]\nA=1\n", Change::None),
            ("[Service]\nA=1\n", "[Service]\nA=1\nExecReload=/a\n", Change::Reload),
            ("[Service]\nA=1\n", "[Service]\nA=1\nB=1\n", Change::Restart),
            ("[Unit]\nA=1\n", "[Unit]\nA=1\n[Service]\nB=1\n", Change::Restart),
            ("[Unit]\nA=1\n[Socket]\nB=1\n", "[Unit]\nA=1\n", Change::Restart),
            ("[Unit]\nA=1\n", "[Unit]\nA=1\n[Install]\nWantedBy=b\n", Change::None),
        ];
        for (old, new, expected) in table {
            assert_eq!(change(old, new), expected, "{old}→\n{new}");
        }
    }

    #[test]
    fn what_is_done_to_a_changed_unit() {
        let stop_and_start =
            Actions { stop: set(&["a.service"]), start: set(&["a.service"]), ..Actions::default() };
        let table = [
            ("", stop_and_start.clone()),
            ("X-StopIfChanged=no", Actions { restart: set(&["a.service"]), ..Actions::default() }),
            ("X-RestartIfChanged=no", Actions { skip: set(&["a.service"]), ..Actions::default() }),
            (
                "X-ReloadIfChanged=yes\nX-RestartIfChanged=no",
                Actions { reload: set(&["a.service"]), ..Actions::default() },
            ),
            // It is read in [Service], and nowhere else.
            ("[Unit]\nX-RestartIfChanged=no", stop_and_start),
        ];
        for (flags, expected) in table {
            let unit = |command| format!("[Service]\nExecStart=/{command}\n{flags}\n");
            let old = files(&[("a.service", &unit("a"))]);
            let new = files(&[("a.service", &unit("b"))]);
            assert_eq!(decide(&old, &new, &set(&["a.service"])), expected, "{flags}");
            assert_eq!(decide(&old, &new, &set(&[])), Actions::default(), "inactive");
            assert_eq!(decide(&old, &old, &set(&["a.service"])), Actions::default(), "same");
        }
    }

    #[test]
    fn a_removed_unit_stops_unless_it_says_not_to() {
        let old = files(&[
            ("a.service", "[Service]\nA=1\n"),
            ("b.service", "[Unit]\nX-StopOnRemoval=false\n"),
            ("c.socket", "[Socket]\nA=1\n"),
        ]);
        let active = set(&["a.service", "b.service", "c.socket", "elsewhere.service"]);
        let stop = set(&["a.service", "c.socket"]);
        assert_eq!(decide(&old, &files(&[]), &active), Actions { stop, ..Actions::default() });
    }

    #[test]
    fn a_changed_socket_is_left_alone() {
        let old =
            files(&[("a.socket", "[Socket]\nListenStream=1\n"), ("b.slice", "[Slice]\nA=1\n")]);
        let new =
            files(&[("a.socket", "[Socket]\nListenStream=2\n"), ("b.slice", "[Slice]\nA=2\n")]);
        assert_eq!(decide(&old, &new, &set(&["a.socket", "b.slice"])), Actions::default());
    }

    #[test]
    fn a_changed_service_goes_with_its_socket() {
        let socket = ("a.socket", "[Socket]\nListenStream=1\n");
        let old = files(&[("a.service", "[Service]\nA=1\n"), socket]);
        let new = files(&[("a.service", "[Service]\nA=2\n"), socket]);
        let both = set(&["a.service", "a.socket"]);
        let expected =
            Actions { stop: both.clone(), start: set(&["a.socket"]), ..Actions::default() };
        assert_eq!(decide(&old, &new, &both), expected);
        // Nothing is known of a service that waits for its first client.
        assert_eq!(decide(&old, &new, &set(&["a.socket"])), Actions::default());
        // The socket that is not open will open, and starts it.
        let expected = Actions { stop: set(&["a.service"]), ..Actions::default() };
        assert_eq!(decide(&old, &new, &set(&["a.service"])), expected);

        let new = files(&[("a.service", "[Service]\nA=2\nX-NotSocketActivated=yes\n"), socket]);
        let expected = Actions { stop: both.clone(), start: both.clone(), ..Actions::default() };
        assert_eq!(decide(&old, &new, &both), expected);

        let new = files(&[("a.service", "[Service]\nA=2\n")]);
        let start = set(&["a.service"]);
        assert_eq!(decide(&old, &new, &both), Actions { stop: both, start, ..Actions::default() });
    }

    #[test]
    fn an_active_target_is_started_whatever_changed() {
        let old = files(&[("a.target", "[Unit]\nWants=b\n"), ("b.target", "[Unit]\nA=1\n")]);
        let new = files(&[
            ("a.target", "[Unit]\nWants=c\n"),
            ("b.target", "[Unit]\nX-OnlyManualStart=true\n"),
        ]);
        let expected = Actions { targets: set(&["a.target"]), ..Actions::default() };
        assert_eq!(decide(&old, &new, &set(&["a.target", "b.target"])), expected);
        assert_eq!(decide(&old, &new, &set(&[])), Actions::default());
    }
}
