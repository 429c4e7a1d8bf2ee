//! One tenant that takes whatever it gets, beside two others; and how tenants share processors.

use std::thread;
use std::time::{Duration, Instant};

use instances_lab::fleet::{PATIENCE, SPEC};
use instances_lab::{Machine, outside, stand_in};
use serde_json::Value;

use crate::{inside, up};

const PROJECTS: [&str; 3] = ["/srv/greedy", "/srv/one", "/srv/two"];
/// Two of them with lines of their own, and all without a link, which takes time to make.
fn spec(first: &str, second: &str) -> String {
    format!(
        "network.outbound.policy = \"none\"\n[instances.greedy]\ndirectory = \"/srv/greedy\"\nlisten.port = 4101\n{first}\
         [instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4102\n{second}\
         [instances.two]\ndirectory = \"/srv/two\"\nlisten.port = 4103\n"
    )
}

/// Processes until there may be no more, kept until the time is over: small ones, so that memory is not
/// what stops them.
const CROWD: &str = "
import os, signal, time
end = time.monotonic() + 30
children = []
while time.monotonic() < end:
    try:
        child = os.fork()
    except OSError:
        time.sleep(0.1)
        continue
    if child == 0:
        os.execv('/bin/sleep', ['sleep', '1000'])
    children.append(child)
for child in children:
    os.kill(child, signal.SIGKILL)
";
/// Processes without end that take memory without end, until the time is over.
const BOMB: &str = "
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.monotonic() + 30
kept = []
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
    kept.append(bytearray(b'x') * (1 << 20))
";

fn group_file(instance: &str, file: &str) -> String {
    format!("/sys/fs/cgroup/opencode.slice/opencode-{instance}.service/{file}")
}

fn group(machine: &Machine, instance: &str, file: &str) -> String {
    machine.get(group_file(instance, file)).unwrap()
}

/// A figure of a file with a name and a number in each line.
fn figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

/// If an instance does not answer at once, then before its supervisor would end it.
fn assert_healthy(machine: &Machine, instance: &str) {
    let answers = |machine: &Machine| {
        let answer = machine.run(["opencode-instances", "status", "--json", instance])?;
        // systemd itself may take too long to answer on an emulated processor.
        let Ok(found) = serde_json::from_str::<Value>(&answer.stdout) else {
            instances_lab::progress::say(&answer.to_string());
            return Ok(false);
        };
        Ok(found.pointer("/instances/0/healthy") == Some(&Value::Bool(true)))
    };
    let what = format!("{instance} is healthy");
    machine.wait_until(&what, Duration::from_secs(30), answers).unwrap();
}

#[test]
#[ignore = "runs in a guest: cargo xtask lab guest --tests"]
fn one_that_takes_everything_leaves_the_others_healthy() {
    if outside() {
        return;
    }
    let limits = "resources.memoryMax = \"100M\"\nresources.tasksMax = 64\n";
    let machine = up("greedy", &spec(limits, ""), &PROJECTS);
    let pids = "systemctl show --value -p MainPID -p NRestarts opencode-one opencode-two";
    let before = machine.sh(pids).unwrap().ok().unwrap();
    let others_beside = |script: &str, file: &str, name: &str| {
        machine.put("/root/greedy.py", script, 0o644).unwrap();
        // As what the agent starts: more likely to be ended than the server.
        let start = "echo 300 >/proc/self/oom_score_adj; exec python3 /root/greedy.py";
        let mut most = 0;
        thread::scope(|scope| {
            let greedy = scope.spawn(|| inside(&machine, "greedy", start));
            let mut looks = 0;
            while looks == 0 || !greedy.is_finished() {
                for other in ["one", "two"] {
                    assert_healthy(&machine, other);
                }
                // Its own server may be ended with it, and a new control group counts from zero.
                let path = group_file("greedy", file);
                let counted = machine.run(["cat", &path]).unwrap();
                if counted.success() {
                    most = most.max(figure(&counted.stdout, name));
                }
                looks += 1;
            }
            // It may itself be what was ended.
            let _ended = greedy.join().unwrap();
        });
        assert_ne!(most, 0, "no limit was reached: {name} of {file}");
    };
    others_beside(CROWD, "pids.events", "max");
    others_beside(BOMB, "memory.events", "oom_kill");
    assert_eq!(machine.sh(pids).unwrap().ok().unwrap(), before, "the others were restarted");
    for other in ["one", "two"] {
        assert_eq!(figure(&group(&machine, other, "memory.events"), "oom_kill"), 0);
        assert_eq!(figure(&group(&machine, other, "pids.events"), "max"), 0);
    }
    assert_healthy(&machine, "greedy");
}

/// What part of one processor each instance uses while all of these want the whole of the same one.
fn shares<const N: usize>(machine: &Machine, instances: [&str; N]) -> [f64; N] {
    const TIME: Duration = Duration::from_secs(10);
    let spin = "(timeout 16 taskset -c 0 sh -c 'while :; do :; done' >/dev/null 2>&1 &)";
    for instance in instances {
        let started = inside(machine, instance, spin);
        assert!(started.success(), "{started}");
    }
    thread::sleep(Duration::from_secs(1));
    let used = |instance| figure(&group(machine, instance, "cpu.stat"), "usage_usec");
    let start = Instant::now();
    let before = instances.map(used);
    thread::sleep(TIME);
    let after = instances.map(used);
    let time = start.elapsed().as_micros();
    // Until they are gone.
    thread::sleep(Duration::from_secs(6));
    let mut shares = [0.0; N];
    for ((share, before), after) in shares.iter_mut().zip(before).zip(after) {
        *share = u32::try_from(after - before).map_or(f64::INFINITY, f64::from)
            / u32::try_from(time).map_or(f64::INFINITY, f64::from);
    }
    shares
}

#[test]
#[ignore = "runs in a guest: cargo xtask lab guest --tests"]
fn processors_are_shared_by_weight_and_up_to_the_quota() {
    if outside() {
        return;
    }
    let machine = up("processors", &spec("", ""), &PROJECTS);
    let [heavy, light] = shares(&machine, ["greedy", "one"]);
    assert!((0.5..2.0).contains(&(heavy / light)), "equal ones: {heavy:.2} and {light:.2}");
    let [free] = shares(&machine, ["two"]);
    assert!(free > 0.3, "without a quota: {free:.2}");
    let text = spec("resources.cpuWeight = 400\n", "resources.cpuWeight = 100\n")
        + "resources.cpuQuota = \"20%\"\n";
    machine.put(SPEC, format!("{}{text}", stand_in::DEFAULTS), 0o644).unwrap();
    machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap().ok().unwrap();
    let [heavy, light] = shares(&machine, ["greedy", "one"]);
    // An emulated processor is no good measure: 2.6 was seen on a busy host.
    assert!((2.0..12.0).contains(&(heavy / light)), "4 to 1: {heavy:.2} and {light:.2}");
    let [capped] = shares(&machine, ["two"]);
    assert!((0.05..0.3).contains(&capped), "a fifth of a processor: {capped:.2}");
}
