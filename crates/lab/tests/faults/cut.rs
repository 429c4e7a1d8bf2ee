//! A power cut in the midst of a command, and a boot.
//!
//! What a machine of the lab has written is all there after one: what was not synced is what `synced.rs` is about.

use instances_lab::faults::Fault;
use instances_lab::{Machine, fleet, stand_in, unavailable};

use crate::spec;
use crate::state::{Files, assert_same, assert_whole, files};
use crate::table::{Case, assert_says, each};
use crate::view::{SOON, apply, assert_healthy, done, engine, killed, sh, wait_until_served};

const CASES: &[Case] = &[
    ("a_change", a_change),
    ("a_first_apply", a_first_apply),
    ("a_removal", a_removal),
    ("a_backup", a_backup),
    ("a_restore_that_unpacks", a_restore_that_unpacks),
    ("a_restore_that_exchanges", a_restore_that_exchanges),
];

const ONE: &str = "[instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4102\n";
const CHANGED: &str =
    "[instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4103\nlogLevel = \"WARN\"\n";
const GONE: &str = "[instances.gone]\ndirectory = \"/srv/two\"\nlisten.port = 4104\n";
const NEW: &str = "[instances.new]\ndirectory = \"/srv/two\"\nlisten.port = 4104\n";

const STATES: &str = "/var/lib/opencode/instance-state";

#[test]
fn whatever_a_power_cut_ends_the_fleet_comes_back() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/kept", "/srv/one", "/srv/two"];
    let mut machine = stand_in::boot("faults-cut", &spec(&[]), &projects).unwrap();
    done(&machine, "apply");
    each("cut.rs", &mut machine, CASES);
}

/// The start of a program.
const STARTS: &str = "clone,clone3,vfork";

/// The step at which a command is ended, and the whole machine with it: a call, and which of them.
type Step = (&'static str, usize);

/// Ends the machine at a step of a command, and boots it.
fn cut(machine: &mut Machine, command: &str, (call, number): Step) {
    assert!(killed(machine, command, call, number), "{command} has no {call} {number}");
    machine.power_cut().unwrap();
}

fn a_change(machine: &mut Machine, _: &Fault) {
    let (old, new) = (spec(&[ONE, GONE]), spec(&[CHANGED, NEW]));
    apply(machine, &new);
    let after = files(machine);
    apply(machine, &old);
    let before = files(machine);
    // After the notes, in the midst of the files, and when systemd has them.
    for step in [("rename", 3), ("rename", 12), (STARTS, 7)] {
        apply(machine, &old);
        machine.put(fleet::SPEC, &new, 0o644).unwrap();
        cut(machine, "apply", step);
        assert_whole(machine, &before, &after, &format!("{step:?}"));
        wait_until_served(machine, "kept", SOON);
        assert_healthy(machine, "kept");
        finished(machine, "apply", &after, step);
        for instance in ["kept", "one", "new"] {
            wait_until_served(machine, instance, SOON);
        }
    }
}

/// The next run ends where one ends that nobody has cut off.
fn finished(machine: &Machine, command: &str, wanted: &Files, step: Step) {
    done(machine, command);
    let mut wanted = wanted.clone();
    // What is in it besides the instances that are there depends on who was there before.
    let mut found = files(machine);
    let apart = |path: &String, _: &mut String| {
        !path.ends_with("/links.json") && !path.contains("/instance-auth/")
    };
    wanted.retain(apart);
    found.retain(apart);
    assert_eq!(found, wanted, "{step:?}");
    if command == "apply" {
        assert!(done(machine, "plan").ends_with("nothing to do\n"));
    }
}

fn a_first_apply(machine: &mut Machine, _: &Fault) {
    apply(machine, &spec(&[]));
    let after = files(machine);
    for step in [("rename", 2), ("rename", 9)] {
        done(machine, "remove");
        let before = files(machine);
        cut(machine, "apply", step);
        assert_whole(machine, &before, &after, &format!("{step:?}"));
        finished(machine, "apply", &after, step);
        wait_until_served(machine, "kept", SOON);
    }
}

fn a_removal(machine: &mut Machine, _: &Fault) {
    let word = format!("{STATES}/kept/work");
    sh(machine, &format!("echo mine >{word}"));
    done(machine, "remove");
    let after = files(machine);
    for step in [("unlink", 14), (STARTS, 3)] {
        done(machine, "apply");
        let before = files(machine);
        cut(machine, "remove", step);
        assert_whole(machine, &before, &after, &format!("{step:?}"));
        finished(machine, "remove", &after, step);
        assert_eq!(sh(machine, &format!("cat {word}")), "mine");
    }
    sh(machine, &format!("rm {word}"));
    done(machine, "apply");
    wait_until_served(machine, "kept", SOON);
    sh(
        machine,
        &format!("echo first >{STATES}/kept/word; chown opencode-kept: {STATES}/kept/word"),
    );
}

/// While the server stands still, which no server does after a boot.
fn a_backup(machine: &mut Machine, _: &Fault) {
    let many = "mkdir many; i=0; while [ $i -lt 3000 ]; do : >many/$i; i=$((i + 1)); done; chown -R opencode-kept: many";
    sh(machine, &format!("cd {STATES}/kept; {many}"));
    done(machine, "backup kept /root/whole");
    sh(
        machine,
        "opencode-instances backup kept /root/never >/dev/null 2>&1 &
         until [ \"$(systemctl show -P FreezerState opencode-kept)\" = frozen ]; do :; done",
    );
    machine.power_cut().unwrap();
    wait_until_served(machine, "kept", SOON);
    assert_healthy(machine, "kept");
    assert_eq!(sh(machine, &format!("cat {STATES}/kept/word; test ! -e /root/never")), "first");
    done(machine, "backup kept /root/again");
    assert_eq!(sh(machine, &format!("ls -A {STATES} | grep kept")), "kept");
    sh(machine, "zstd -dc /root/again | tar -t >/dev/null");
}

/// Beside a state that is changed, of which nothing may be lost.
fn a_restore_that_unpacks(machine: &mut Machine, _: &Fault) {
    done(machine, "stop kept");
    sh(machine, &format!("echo second >{STATES}/kept/word"));
    sh(
        machine,
        &format!(
            "mkfifo /run/slow; (opencode-instances restore kept - </run/slow >/dev/null 2>&1 || true) &
             exec 3>/run/slow; head -c 9000 /root/whole >&3
             until [ -n \"$(ls {STATES}/.kept.opencode-restore/state 2>/dev/null)\" ]; do :; done"
        ),
    );
    machine.power_cut().unwrap();
    wait_until_served(machine, "kept", SOON);
    assert_eq!(
        sh(machine, &format!("cat {STATES}/kept/word; ls {STATES}/kept/many | wc -l")),
        "second\n3000"
    );
    done(machine, "restore kept /root/whole --dry-run");
    assert_eq!(sh(machine, &format!("ls -A {STATES} | grep kept")), "kept");
}

/// Before and after the one step that exchanges both.
fn a_restore_that_exchanges(machine: &mut Machine, row: &Fault) {
    let around = format!("{STATES}/.kept.opencode-restore");
    for (number, word) in [(1, "second"), (2, "first")] {
        done(machine, "stop kept");
        let ids = sh(machine, "echo --uid=$(id -u opencode-kept) --gid=$(id -g opencode-kept)");
        sh(
            machine,
            &format!(
                "mkdir -m 700 {around}; install -d -m 700 -o opencode-kept -g opencode-kept {around}/state
                 opencode-instances keep unpack kept {ids} </root/whole >/dev/null"
            ),
        );
        fleet::wait_for_restore(machine, "kept").unwrap();
        cut(machine, "keep swap kept --time=T >/dev/null", ("renameat2", number));
        wait_until_served(machine, "kept", SOON);
        assert_eq!(
            sh(machine, &format!("cat {STATES}/kept/word; ls {STATES}/kept/many | wc -l")),
            format!("{word}\n3000")
        );
        let said = engine(machine, "restore kept /root/whole --dry-run");
        assert!(said.success(), "{said}");
        let left = sh(machine, &format!("ls -A {STATES} | grep kept"));
        if number == 1 {
            assert_eq!(left, "kept");
        } else {
            assert_says(row, &left);
            assert_eq!(
                sh(machine, &format!("cat {STATES}/.kept.opencode-before-T/state/word")),
                "second"
            );
        }
    }
    done(machine, "restore kept --forget");
    assert_same(machine, &files(machine), "forgotten");
}
