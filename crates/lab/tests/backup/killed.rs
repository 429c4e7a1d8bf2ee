//! Killed with SIGKILL at every step: nobody stands still, nothing is lost, and the next run cleans up.

use instances_lab::{Machine, fleet};

use crate::view::{assert_healthy, done, engine, killed, sh};
use crate::{STATES, beside, is_frozen, own, refused, settle, with_stand_in};

#[test]
fn whoever_is_killed_leaves_a_server_that_runs_and_a_state_that_is_whole() {
    let Some(machine) = with_stand_in("backup-killed", "") else { return };
    let machine = &machine;
    own(machine, "mkdir many; i=0; while [ $i -lt 20000 ]; do : >many/$i; i=$((i + 1)); done");
    the_copier(machine);
    a_backup(machine);
    done(machine, "backup web /root/b --force");
    done(machine, "stop web");
    own(machine, "echo second >kept");
    a_restore(machine);
    the_exchange(machine);
}

/// The one that copies while the server stands still, and systemd-run, which waits for it.
fn the_copier(machine: &Machine) {
    for victim in ["systemctl kill -s KILL opencode-keep@web.service", "pkill -KILL -x systemd-run"]
    {
        // What has just changed is copied once more while the server stands still, which takes its time.
        own(machine, "find many -exec touch {} +");
        let script = format!(
            "opencode-instances backup web /root/never 2>/dev/null & \
             until [ \"$(systemctl show -P FreezerState opencode-web)\" = frozen ]; do :; done; \
             {victim}; wait"
        );
        sh(machine, &script);
        settle(machine);
        assert!(!is_frozen(machine), "after {victim}");
        assert_eq!(
            sh(
                machine,
                &format!("ls -A {STATES} /root | grep -c -e never -e opencode-backup || true")
            ),
            "0"
        );
        assert_healthy(machine, "web");
    }
}

/// The command itself, at each program that it starts and each name that it gives.
fn a_backup(machine: &Machine) {
    for call in ["clone,clone3,vfork", "rename,renameat2", "openat"] {
        let step = if call == "openat" { 31 } else { 1 };
        for number in (1..).step_by(step) {
            sh(machine, "rm -f /root/b");
            let killed = killed(machine, "backup web /root/b", call, number);
            settle(machine);
            assert!(!is_frozen(machine), "{call} {number}");
            let whole = "! test -e /root/b || zstd -dc /root/b | tar -t >/dev/null";
            sh(machine, whole);
            if !killed {
                break;
            }
        }
        done(machine, "backup web /root/b --force");
        assert_eq!(beside(machine), "web");
        assert_eq!(sh(machine, "ls -A /root | grep -c opencode-new || true"), "0");
    }
    assert_healthy(machine, "web");
}

fn state(machine: &Machine) -> String {
    sh(machine, &format!("cat {STATES}/web/kept; ls {STATES}/web/many | wc -l"))
}

const OLD: &str = "second\n20000";
const NEW: &str = "first\n20000";

/// Which state there is: one of both, whole, and the other one kept if it is the new one.
fn assert_whole(machine: &Machine, when: &str) -> bool {
    match state(machine).as_str() {
        OLD => false,
        NEW => {
            let kept = sh(machine, &format!("cat {STATES}/.web.opencode-*/state/kept"));
            assert_eq!(kept, "second", "{when}: the previous state is lost");
            true
        }
        other => panic!("{when}: {other}"),
    }
}

/// The old state again.
fn reset(machine: &Machine) {
    if state(machine) == NEW {
        own(machine, "echo second >kept");
    }
    done(machine, "restore web --forget");
    assert_eq!(beside(machine), "web");
    assert_eq!(state(machine), OLD);
}

/// A script beside a restore that has read the beginning of its archive, and waits for the rest at descriptor 3.
fn slowly(machine: &Machine, script: &str) {
    let script = format!(
        "rm -f /run/slow; mkfifo /run/slow
         (opencode-instances restore web - </run/slow 2>/dev/null || true) &
         restore=$!
         exec 3>/run/slow; head -c 4096 /root/b >&3
         {script}"
    );
    sh(machine, &script);
}

fn a_restore(machine: &Machine) {
    for number in 1.. {
        let killed = killed(machine, "restore web /root/b", "clone,clone3,vfork", number);
        // The unit goes on by itself where it has been started.
        settle(machine);
        let new = assert_whole(machine, &format!("clone {number}"));
        reset(machine);
        if !killed {
            assert!(new);
            break;
        }
    }
    // The one that unpacks: nothing has changed.
    slowly(
        machine,
        "while kill -0 $restore 2>/dev/null; do
           systemctl kill -s KILL opencode-keep@web.service 2>/dev/null || :
         done; wait",
    );
    settle(machine);
    assert!(!assert_whole(machine, "the one that unpacks"));
    reset(machine);
    // Whoever asked for it: what was begun goes on, but not over the state.
    slowly(
        machine,
        "until [ \"$(systemctl show -P ActiveState opencode-keep@web)\" = activating ]; do :; done
         pkill -KILL -f '^opencode-instances restore'; pkill -KILL -x systemd-run
         tail -c +4097 /root/b >&3; exec 3>&-; wait",
    );
    settle(machine);
    assert!(!assert_whole(machine, "the one who asked"));
    reset(machine);
    // Whoever starts it meanwhile waits.
    slowly(
        machine,
        "until [ \"$(systemctl show -P ActiveState opencode-keep@web)\" = activating ]; do :; done
         opencode-instances start web 3>&- &
         until systemctl list-jobs | grep -q opencode-web.service; do :; done
         tail -c +4097 /root/b >&3; exec 3>&-; wait; opencode-instances stop web",
    );
    assert!(assert_whole(machine, "a start in the midst"));
    reset(machine);
    done(machine, "start web");
    assert!(refused(machine, "restore web /root/b").contains("opencode-instances stop web"));
    done(machine, "stop web");
}

/// The step that exchanges, at each of its calls.
fn the_exchange(machine: &Machine) {
    let ids = sh(machine, "echo --uid=$(id -u opencode-web) --gid=$(id -g opencode-web)");
    let around = format!("{STATES}/.web.opencode-restore");
    let unpack = format!(
        "mkdir -m 700 {around}; install -d -m 700 -o opencode-web -g opencode-web {around}/state; \
         opencode-instances keep unpack web {ids} </root/b >/dev/null"
    );
    sh(machine, &unpack);
    let said = refused(machine, "keep swap web --time=T");
    assert!(said.contains("nobody waits for the restore"), "{said}");
    done(machine, "restore web /root/b --dry-run");
    assert_eq!((state(machine).as_str(), beside(machine).as_str()), (OLD, "web"));
    let mut seen = [0, 0];
    for call in ["renameat2", "fsync", "syncfs", "unlinkat"] {
        for number in 1.. {
            sh(machine, &unpack);
            fleet::wait_for_restore(machine, "web").unwrap();
            let killed = killed(machine, "keep swap web --time=T >/dev/null", call, number);
            sh(machine, "systemctl stop waiting");
            seen[usize::from(assert_whole(machine, &format!("{call} {number}")))] += 1;
            // The next command of any kind ends it.
            let new = state(machine) == NEW;
            done(machine, "restore web /root/b --dry-run");
            assert_eq!(state(machine) == NEW, new);
            let left = sh(machine, &format!("ls -A {STATES}"));
            assert_eq!(left, if new { ".web.opencode-before-T\nweb" } else { "web" });
            reset(machine);
            if !killed {
                break;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 2), "{seen:?}");
    assert!(engine(machine, "start web").success());
}
