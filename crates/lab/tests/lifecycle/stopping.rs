//! A stop is quick, has no need of SIGKILL and leaves nothing behind, whatever the agent left.

use instances_lab::{Agent, Machine, fleet, unavailable};

use crate::view::{done, number, property, sh};

/// With two instances: forty stops. systemd 257 loses track of a quarter of such main processes,
/// so a few stops prove nothing.
const ROUNDS: usize = 20;
const INSTANCES: [&str; 2] = ["website", "billing"];

/// What the agent leaves: nothing, orphans of a shell, and orphans that take no hint.
const LEFT: [&str; 3] = [
    "true",
    "(sleep 1001 & setsid sleep 1002 & setsid sh -c 'sleep 1003; true' &) >/dev/null 2>&1",
    "(setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1004; done' &) >/dev/null 2>&1",
];

/// What systemd itself says of a stop that was not clean.
pub(crate) const COMPLAINTS: &str =
    "journalctl --sync; journalctl --boot _PID=1 | grep -E 'SIGKILL|Failed with result' || true";

#[test]
fn forty_stops() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("stopping").unwrap();
    for round in 0..ROUNDS {
        for (number, instance) in INSTANCES.into_iter().enumerate() {
            let left = LEFT[(round + number) % LEFT.len()];
            if left != "true" {
                leave(&machine, instance, left);
            }
        }
        done(&machine, "stop --all");
        for instance in INSTANCES {
            judge(&machine, instance, round);
        }
        let complaints = sh(&machine, COMPLAINTS);
        assert_eq!(complaints, "", "round {round}");
        if round + 1 < ROUNDS {
            done(&machine, "start --all");
        }
    }
}

fn leave(machine: &Machine, instance: &str, script: &str) {
    Agent::connect(machine, instance).unwrap().shell(script).unwrap();
    let user = format!("opencode-{instance}");
    let sleeps = sh(machine, &format!("pgrep -u {user} -x sleep | wc -l"));
    assert_ne!(sleeps, "0", "the agent left nothing to end");
}

pub(crate) fn judge(machine: &Machine, instance: &str, round: usize) {
    let unit = format!("opencode-{instance}.service");
    assert_eq!(property(machine, &unit, "Result"), "success", "round {round}");
    assert_eq!(property(machine, &unit, "ActiveState"), "inactive", "round {round}");
    let took = number(machine, &unit, "InactiveEnterTimestampMonotonic")
        - number(machine, &unit, "ActiveExitTimestampMonotonic");
    assert!(took < 2_000_000, "round {round}: {instance} took {took} µs to stop");
    let left = machine.run(["pgrep", "-a", "-u", &format!("opencode-{instance}")]).unwrap();
    assert_eq!(left.stdout, "", "round {round}: {instance} left processes behind");
    let group = format!("/sys/fs/cgroup/opencode.slice/{unit}");
    assert!(!machine.run(["test", "-e", &group]).unwrap().success(), "round {round}: {group}");
}
