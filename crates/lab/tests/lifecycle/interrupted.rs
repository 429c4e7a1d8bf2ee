//! `apply` killed with SIGKILL at every step: run again, it ends where an unkilled one ends.
//!
//! It is killed by strace at its Nth call of a kind: at each `rename`, which ends the writing of a
//! file, at each `unlink` of one, before each of the programs that it starts and while some of them go on alone, and at
//! some of the `write`s, in the midst of a file. The server is a light stand-in: it is about the
//! engine's own steps. What is left to do must outlive a power cut, too.

use std::collections::BTreeSet;

use instances_lab::{Machine, fleet, stand_in, unavailable};

use crate::view::{SOON, apply, assert_healthy, done, engine, killed, pid, sh, wait_until_served};

const KEPT: &str = "[instances.kept]\ndirectory = \"/srv/kept\"\nlisten.port = 4101\n";
const MOVED: &str = "[instances.moved]\ndirectory = \"/srv/moved\"\nlisten.port = 4102\n";
const CHANGED: &str = "[instances.moved]\ndirectory = \"/srv/moved\"\nlisten.port = 4103\n\
                       logLevel = \"WARN\"\nstateDir = \"/srv/state\"\n";

/// A change from one specification to another.
struct Case {
    name: &'static str,
    from: String,
    to: String,
}

fn spec(instances: &[&str]) -> String {
    format!("{}{}", stand_in::DEFAULTS, instances.concat())
}

fn boot(name: &str) -> Option<Machine> {
    if unavailable() {
        return None;
    }
    Some(stand_in::boot(name, &spec(&[KEPT]), &["/srv/kept", "/srv/moved"]).unwrap())
}

#[test]
fn a_change_that_is_killed_at_any_step_is_finished_by_the_next_apply() {
    let Some(machine) = boot("interrupted-change") else { return };
    done(&machine, "apply");
    let (kept, both) = (spec(&[KEPT]), spec(&[KEPT, MOVED]));
    let cases = [
        Case { name: "an addition", from: kept.clone(), to: both.clone() },
        Case { name: "a change", from: both.clone(), to: spec(&[KEPT, CHANGED]) },
        Case { name: "a removal", from: both, to: kept },
    ];
    for case in &cases {
        killed_everywhere(&machine, case);
        what_runs_beside_is_killed(&machine, case);
    }
}

#[test]
fn a_first_install_and_a_removal_of_all_can_be_killed_too() {
    let Some(machine) = boot("interrupted-install") else { return };
    first_install(&machine);
    remove_everything(&machine);
}

/// At its place, `apply` dies where the next step would be to make accounts.
const DEADLY: &str = "/usr/local/bin/systemd-sysusers";

/// A boot makes no accounts, so only the next apply can.
#[test]
fn accounts_that_a_power_cut_left_unmade_are_made_by_the_next_apply() {
    let Some(mut machine) = boot("interrupted-power") else { return };
    done(&machine, "apply");
    machine.put(fleet::SPEC, spec(&[KEPT, CHANGED]), 0o644).unwrap();
    machine.put(DEADLY, "#!/bin/sh\nkill -KILL $PPID\n", 0o755).unwrap();
    assert_eq!(sh(&machine, "opencode-instances apply 2>/dev/null || echo $?"), "137");
    sh(&machine, &format!("rm {DEADLY}"));
    machine.power_cut().unwrap();
    sh(&machine, "test -e /etc/systemd/system/opencode-moved.service");
    assert_eq!(sh(&machine, "getent passwd opencode-moved || echo none"), "none");
    wait_until_served(&machine, "kept", SOON);
    let kept = pid(&machine, "kept");
    done(&machine, "apply");
    wait_until_served(&machine, "moved", SOON);
    assert_healthy(&machine, "moved");
    sh(&machine, "getent passwd opencode-moved");
    assert_eq!(sh(&machine, "stat -c '%U %a' /srv/state"), "opencode-moved 700");
    assert_eq!(pid(&machine, "kept"), kept, "the other instance was restarted");
    assert!(done(&machine, "plan").ends_with("nothing to do\n"));
}

/// The calls, and which of them: 1 for all, 2 for every other, and so on.
type Calls = [(&'static str, usize); 5];
/// As whichever C library starts a program, and as one is waited for that has been started.
const STARTS: &str = "clone,clone3,vfork,fork";
const WAITS: &str = "poll,ppoll";
/// Each file is removed with two calls: first what a killed run may have left beside it.
const ALL: Calls = [("rename", 1), ("unlink", 2), (STARTS, 1), (WAITS, 4), ("write", 17)];
const SOME: Calls = [("rename", 7), ("unlink", 7), (STARTS, 3), (WAITS, 5), ("write", 23)];
/// A removal writes little but its notes.
const REMOVAL: Calls = [("rename", 1), ("unlink", 7), (STARTS, 1), (WAITS, 2), ("write", 23)];

fn first_install(machine: &Machine) {
    done(machine, "apply");
    let wanted = view(machine);
    for (call, step) in SOME {
        for number in (step..).step_by(step) {
            done(machine, "remove");
            let killed = killed(machine, "apply", call, number);
            done(machine, "apply");
            same(machine, &wanted, &format!("a first apply killed at {call} {number}"));
            if !killed {
                assert!(number > step, "there is no {call} {step}");
                break;
            }
        }
    }
}

fn killed_everywhere(machine: &Machine, case: &Case) {
    apply(machine, &case.from);
    let kept = pid(machine, "kept");
    apply(machine, &case.to);
    let wanted = view(machine);
    for (call, step) in ALL {
        for number in (step..).step_by(step) {
            apply(machine, &case.from);
            machine.put(fleet::SPEC, &case.to, 0o644).unwrap();
            let killed = killed(machine, "apply", call, number);
            done(machine, "apply");
            same(machine, &wanted, &format!("{} killed at {call} {number}", case.name));
            if !killed {
                assert!(number > step, "there is no {call} {step}");
                break;
            }
        }
    }
    assert_eq!(pid(machine, "kept"), kept, "{}: the other instance was restarted", case.name);
}

/// It may fail then, or not; the next one does not.
fn what_runs_beside_is_killed(machine: &Machine, case: &Case) {
    apply(machine, &case.from);
    let kept = pid(machine, "kept");
    apply(machine, &case.to);
    let wanted = seen(machine);
    apply(machine, &case.from);
    machine.put(fleet::SPEC, &case.to, 0o644).unwrap();
    let script = "opencode-instances apply 2>/dev/null & apply=$!; count=0
        while kill -0 $apply 2>/dev/null; do
            systemctl kill --signal=KILL 'opencode-host@*' 'opencode-dns@*' 'opencode-events@*' \
                'opencode-net@*' 2>/dev/null || true
            count=$((count + 1)); sleep 0.1
        done; echo $count";
    let count: u32 = sh(machine, script).parse().unwrap();
    assert!(count > 2, "killed {count} times");
    done(machine, "apply");
    let what = "all run again";
    machine.wait_until(what, SOON, |machine| Ok(seen(machine) == wanted)).unwrap_or_else(|_| {
        same(machine, &wanted, &format!("{} with everything beside it killed", case.name));
    });
    assert_eq!(pid(machine, "kept"), kept, "{}: the other instance was restarted", case.name);
}

/// The view once each listener has had a client, as it may have had when a run looks for who is not well.
fn seen(machine: &Machine) -> BTreeSet<String> {
    sh(machine, "opencode-instances status >/dev/null || true");
    view(machine)
}

fn remove_everything(machine: &Machine) {
    done(machine, "remove");
    let wanted = view(machine);
    for (call, step) in REMOVAL {
        for number in (step..).step_by(step) {
            done(machine, "apply");
            let killed = killed(machine, "remove", call, number);
            done(machine, "remove");
            same(machine, &wanted, &format!("a removal of all killed at {call} {number}"));
            if !killed {
                assert!(number > step, "there is no {call} {step}");
                break;
            }
        }
    }
}

/// Shows only the lines in which the machine is not as it should be.
fn same(machine: &Machine, wanted: &BTreeSet<String>, when: &str) {
    let found = view(machine);
    let missing: Vec<_> = wanted.difference(&found).collect();
    let unwanted: Vec<_> = found.difference(wanted).collect();
    assert!(
        missing.is_empty() && unwanted.is_empty(),
        "{when}: missing {missing:#?}, unwanted {unwanted:#?}"
    );
}

/// Everything that an apply decides: the files, the state of the units and whether systemd knows
/// their text, the servers' command lines, the namespaces.
fn view(machine: &Machine) -> BTreeSet<String> {
    let script = r"
find /etc /run/opencode-instances /run/netns /var/lib/opencode/applied ! -name '*-' -printf '%p %y %m %u %l\n' | sort
find /etc/opencode-instances /etc/systemd/system /etc/sysusers.d /etc/tmpfiles.d /var/lib/opencode/applied -type f \
    -exec sha256sum {} + | sort
systemctl list-units --all --plain --no-legend 'opencode*' | sort
systemctl show -p Id,NeedDaemonReload 'opencode*' | paste -s -d' ' | sed 's/  /\n/g'
pgrep -fa 'opencode-instances supervise' | cut -d' ' -f2- | sort
ss -Hltn | awk '{ print $4 }' | sort
cat /etc/passwd
";
    let plan = engine(machine, "plan");
    let lines = [sh(machine, script), plan.stdout, plan.stderr].join("\n");
    lines.lines().map(str::to_owned).collect()
}
