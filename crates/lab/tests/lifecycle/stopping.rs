//! A stop is quick, has no need of SIGKILL and leaves nothing behind, whatever the agent left.

use std::time::Duration;

use instances_lab::{Agent, Machine, fleet, unavailable};

use crate::view::{SOON, done, number, property, sh};

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

/// What systemd itself says of a stop that was not clean. A start that it lost (`protocol`) is none, and is begun anew.
pub(crate) const COMPLAINTS: &str = "journalctl --sync; journalctl --boot _PID=1 \
    | grep -E 'SIGKILL|Failed with result' | grep -v \"result 'protocol'\" || true";

#[test]
fn forty_stops() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("stopping").unwrap();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        for (number, instance) in INSTANCES.into_iter().enumerate() {
            let left = LEFT[(round + number) % LEFT.len()];
            if left != "true" {
                leave(&machine, instance, left);
            }
        }
        done(&machine, "stop --all");
        for instance in INSTANCES {
            times.push(judge(&machine, instance, round));
        }
        let complaints = sh(&machine, COMPLAINTS);
        assert_eq!(complaints, "", "round {round}");
        if round + 1 < ROUNDS {
            done(&machine, "start --all");
        }
    }
    // However busy this machine is with something else at times.
    times.sort_unstable();
    assert!(times[times.len() / 2] < Duration::from_secs(2), "{times:?}");
}

/// Who follows the host's addresses asks for a reload of each namespace when the way out changes, at any time.
#[test]
fn a_stop_holds_while_the_way_out_changes() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("stopping-way").unwrap();
    sh(
        &machine,
        "ip link add out type veth peer name far && ip address add 192.0.2.1/24 dev out && \
         ip link set far up && ip link set out up",
    );
    sh(
        &machine,
        "systemd-run --quiet --unit=changes sh -c 'ip route replace default via 192.0.2.2; while :; do \
         for mtu in 1400 1450; do ip link set out mtu $mtu; sleep 0.1; done; done'",
    );
    let said = |machine: &Machine, words: &str| -> u32 {
        let asked = "journalctl --sync; journalctl --boot --unit=opencode-host@addresses \
                     | grep -c 'WORDS.*website' || true";
        sh(machine, &asked.replace("WORDS", words)).parse().unwrap()
    };
    let reloads = |machine: &Machine| Ok(said(machine, "reloading") > 0);
    machine.wait_until("reloads are asked for", SOON, reloads).unwrap();
    for round in 0..ROUNDS {
        // The stop lasts for half a second, and its namespace goes last.
        leave(&machine, "website", LEFT[2]);
        done(&machine, "stop website");
        assert_eq!(property(&machine, "opencode-net@website.service", "ActiveState"), "inactive");
        judge(&machine, "website", round);
        if said(&machine, "not reloaded") > 2 {
            break;
        }
        done(&machine, "start website");
    }
    assert_ne!(said(&machine, "not reloaded"), 0, "no reload was asked for while it stopped");
    sh(&machine, "systemctl stop changes");
    // One that runs already waits for whoever changes links, and is not cut short.
    done(&machine, "start website");
    fleet::hold(&machine, "holder", "/var/lib/opencode/network").unwrap();
    sh(&machine, "systemctl reload --no-block opencode-net@website");
    let net =
        |machine: &Machine, name: &str| property(machine, "opencode-net@website.service", name);
    let runs = |machine: &Machine| Ok(net(machine, "ControlPID") != "0");
    machine.wait_until("the reload runs", SOON, runs).unwrap();
    // It has begun to be itself.
    let itself =
        "grep -qz net /proc/$(systemctl show -P ControlPID opencode-net@website)/cmdline; sleep 1";
    machine
        .wait_until("it is the engine", SOON, |machine| Ok(machine.sh(itself)?.success()))
        .unwrap();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| done(&machine, "stop website"));
        let stops = |machine: &Machine| {
            Ok(net(machine, "ActiveState") == "deactivating" && net(machine, "ControlPID") != "0")
        };
        machine.wait_until("its unit is to end", SOON, stops).unwrap();
        sh(&machine, "systemctl stop holder");
        stop.join().unwrap();
    });
    assert_eq!(property(&machine, "opencode-net@website.service", "ActiveState"), "inactive");
    judge(&machine, "website", ROUNDS);
    let failed = "journalctl --sync; journalctl --boot --unit=opencode-host@addresses \
                  | grep -i 'destructive\\|failed' || true";
    assert_eq!(sh(&machine, failed), "");
}

fn leave(machine: &Machine, instance: &str, script: &str) {
    Agent::connect(machine, instance).unwrap().shell(script).unwrap();
    // The shell has ended before what it left has begun to sleep.
    let sleeps = format!("pgrep -u opencode-{instance} -x sleep");
    let left = |machine: &Machine| Ok(machine.run(sleeps.split(' '))?.success());
    machine.wait_until("the agent has left what is to be ended", SOON, left).unwrap();
}

/// How long a stop took that left nothing.
pub(crate) fn judge(machine: &Machine, instance: &str, round: usize) -> Duration {
    let unit = format!("opencode-{instance}.service");
    assert_eq!(property(machine, &unit, "Result"), "success", "round {round}");
    assert_eq!(property(machine, &unit, "ActiveState"), "inactive", "round {round}");
    let left = machine.run(["pgrep", "-a", "-u", &format!("opencode-{instance}")]).unwrap();
    assert_eq!(left.stdout, "", "round {round}: {instance} left processes behind");
    let group = format!("/sys/fs/cgroup/opencode.slice/{unit}");
    assert!(!machine.run(["test", "-e", &group]).unwrap().success(), "round {round}: {group}");
    let took = number(machine, &unit, "InactiveEnterTimestampMonotonic")
        - number(machine, &unit, "ActiveExitTimestampMonotonic");
    Duration::from_micros(took)
}
