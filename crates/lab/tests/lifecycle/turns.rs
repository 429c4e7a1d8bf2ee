//! Servers that start in turn, so many at once.

use std::collections::BTreeSet;
use std::time::Duration;

use instances_lab::fleet::{BEGIN, PATIENCE};
use instances_lab::{Machine, stand_in, unavailable};

/// Says when it begins, takes as long as the project's file says, says so, and is the stand-in then.
const SLOW: &str = "#!/bin/sh
echo it begins
sleep \"$(cat delay)\"
echo it goes on
exec /usr/local/bin/stand-in \"$@\"
";
/// How many connections of supervisors are open.
const HELD: &str = "ss -Hx state established | grep -cF /run/opencode-instances/.turns || true";
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn spec(names: &[&str]) -> String {
    let mut text =
        "[fleet]\nmaxConcurrentStarts = 2\n[defaults]\npackage = \"/usr/local/bin/slow\"\n\
                    network.outbound.policy = \"none\"\n"
            .to_owned();
    for (name, port) in names.iter().zip(4101..) {
        let line =
            format!("[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\n");
        text.push_str(&line);
    }
    text
}

fn sh(machine: &Machine, script: &str) -> String {
    machine.run_for(PATIENCE, ["/bin/sh", "-euc", script]).unwrap().ok().unwrap().trim().to_owned()
}

fn takes(machine: &Machine, name: &str, seconds: f32) {
    machine.put(format!("/srv/{name}/delay"), format!("{seconds}"), 0o644).unwrap();
}

fn state(machine: &Machine, name: &str) -> String {
    sh(machine, &format!("systemctl show --value -p ActiveState opencode-{name}"))
}

fn becomes(machine: &Machine, name: &str, wanted: &str, time: Duration) {
    let what = format!("{name} is {wanted}");
    machine.wait_until(&what, time, |machine| Ok(state(machine, name) == wanted)).unwrap();
}

/// How many starts there were since a second of the epoch, and how many of them at once at most: from the server's
/// first word to the last one before the stand-in. That it listens is said in the moment in which another may begin,
/// and journald may read the two streams in either order.
fn at_once(machine: &Machine, since: &str) -> (usize, usize) {
    let lines = "journalctl --no-pager --output=short-monotonic --unit='opencode-?.service'";
    let journal = sh(machine, &format!("{lines} --since=@{since} || true"));
    let (mut now, mut most, mut all) = (BTreeSet::new(), 0, 0);
    for line in journal.lines() {
        let Some((_, rest)) = line.split_once(" opencode-") else { continue };
        let name = rest.split('[').next().unwrap().to_owned();
        if line.ends_with("]: it goes on") {
            assert!(now.remove(&name), "{name} goes on without a beginning:\n{journal}");
        } else if line.ends_with("]: it begins") {
            now.insert(name);
            (all, most) = (all + 1, most.max(now.len()));
        }
    }
    (all, most)
}

#[test]
fn servers_start_in_turn() {
    if unavailable() {
        return;
    }
    let projects = NAMES.map(|name| format!("/srv/{name}"));
    let projects = projects.each_ref().map(String::as_str);
    let machine = stand_in::boot("turns", &spec(&NAMES), &projects).unwrap();
    machine.put("/usr/local/bin/slow", SLOW, 0o755).unwrap();
    for name in NAMES {
        takes(&machine, name, 1.0);
    }
    sh(&machine, "opencode-instances apply");
    assert_eq!(at_once(&machine, "0"), (5, 2));
    // Nothing of it is left to the agent, which is the supervisor's user.
    let pid = sh(&machine, "systemctl show --value -p MainPID opencode-a");
    let seen = format!("nsenter --target {pid} --mount ls -A /run/opencode-instances 2>&1 || true");
    let seen = sh(&machine, &seen);
    assert!(!seen.contains("turns"), "{seen}");
    assert_eq!(sh(&machine, HELD), "0");
    slow_ones_keep_nobody_waiting(&machine);
    without_turns_all_start(&machine);
}

/// Two starts that hang take both turns for a while only, and who waits can be stopped, and is said to wait.
fn slow_ones_keep_nobody_waiting(machine: &Machine) {
    sh(machine, "systemctl stop opencode-a opencode-b opencode-c opencode-d");
    for name in ["a", "b"] {
        takes(machine, name, 90.0);
        sh(machine, &format!("systemctl start --no-block opencode-{name}"));
        let begun = format!("journalctl --no-pager --unit opencode-{name} | grep -c 'it begins'");
        let begins = |machine: &Machine| Ok(sh(machine, &begun) == "2");
        machine.wait_until("it begins", PATIENCE, begins).unwrap();
    }
    sh(machine, "systemctl start --no-block opencode-c opencode-d");
    assert_ne!(sh(machine, HELD), "0");
    let waits = |machine: &Machine| {
        let status = machine.run(["opencode-instances", "status", "c"])?;
        Ok(status.stdout.contains("waiting for its turn"))
    };
    machine.wait_until("it is said to wait", Duration::from_secs(10), waits).unwrap();
    sh(machine, "systemctl stop opencode-c");
    assert_eq!(state(machine, "c"), "inactive");
    becomes(machine, "d", "active", Duration::from_secs(30));
    assert_eq!([state(machine, "a"), state(machine, "b")], ["activating"; 2]);
    sh(
        machine,
        "systemctl kill --signal=KILL opencode-a opencode-b; systemctl stop opencode-a opencode-b",
    );
}

/// Who gives turns is killed, and then not there at all: nobody waits for it.
fn without_turns_all_start(machine: &Machine) {
    sh(machine, "opencode-instances stop a b c d e; systemctl reset-failed 'opencode-*'");
    let since = sh(machine, "sleep 1; date +%s");
    for name in NAMES {
        takes(machine, name, 30.0);
    }
    sh(
        machine,
        "systemctl start --no-block opencode-a opencode-b opencode-c opencode-d opencode-e",
    );
    let two = |machine: &Machine| Ok(at_once(machine, &since).1 == 2);
    machine.wait_until("two begin", PATIENCE, two).unwrap();
    let asked = |machine: &Machine| Ok(sh(machine, HELD) == "5");
    machine.wait_until("all have asked for a turn", PATIENCE, asked).unwrap();
    sh(machine, "systemctl kill --signal=KILL opencode-host@turns");
    let five = |machine: &Machine| Ok(at_once(machine, &since).1 == 5);
    machine.wait_until("all begin", Duration::from_secs(20), five).unwrap();
    for name in NAMES {
        becomes(machine, name, "active", PATIENCE);
        takes(machine, name, 0.5);
    }
    // It cannot run, which closes its socket.
    let broken = "[Service]\nExecStart=\nExecStart=/bin/false\n";
    machine
        .put("/etc/systemd/system/opencode-host@turns.service.d/broken.conf", broken, 0o644)
        .unwrap();
    sh(
        machine,
        "systemctl daemon-reload; systemctl stop opencode-a opencode-b opencode-host@turns",
    );
    let start = format!("{BEGIN} begin opencode-a opencode-b");
    sh(machine, &start);
    // It is not there.
    let gone = "systemctl stop opencode-host@turns.socket opencode-host@turns.service opencode-a opencode-b";
    sh(machine, gone);
    sh(machine, "systemctl mask --runtime opencode-host@turns.socket");
    sh(machine, &start);
}
