//! How the tests look at a machine, and act on it.

use std::collections::BTreeSet;
use std::time::Duration;

use instances_lab::{Machine, Output, fleet};
use serde_json::Value;

/// Long enough for a server to start on a busy host; nothing is proved by it.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// Every file that could be the engine's, with all that a rewrite would change.
pub(crate) const FILES: &str = "find /etc /run/opencode-instances /var/lib/opencode/instance-auth \
                     -printf '%p %i %T@ %C@ %m %u\\n' | sort";

/// Runs a script that must succeed, and returns what it prints without the last newline.
pub(crate) fn sh(machine: &Machine, script: &str) -> String {
    let output = machine.run_for(fleet::PATIENCE, ["/bin/sh", "-euc", script]).unwrap();
    output.ok().unwrap().trim_end().to_owned()
}

/// Runs the engine's command.
pub(crate) fn engine(machine: &Machine, arguments: &str) -> Output {
    let argv = ["opencode-instances"].into_iter().chain(arguments.split_whitespace());
    machine.run_for(fleet::PATIENCE, argv).unwrap()
}

/// Runs a command of the engine that must succeed, and returns its narration.
pub(crate) fn done(machine: &Machine, arguments: &str) -> String {
    let output = engine(machine, arguments);
    assert!(output.success(), "{output}");
    output.stderr
}

/// Replaces the specification and applies it.
pub(crate) fn apply(machine: &Machine, spec: &str) -> String {
    machine.put(fleet::SPEC, spec, 0o644).unwrap();
    done(machine, "apply")
}

/// What `status --json` says about one instance.
pub(crate) fn status(machine: &Machine, name: &str) -> Value {
    let output = engine(machine, &format!("status --json {name}"));
    assert!([0, 4].contains(&output.code()), "{output}");
    let mut answer: Value = serde_json::from_str(&output.stdout).unwrap();
    answer["instances"][0].take()
}

/// The server's version as `status` has it, once it is healthy.
pub(crate) fn assert_healthy(machine: &Machine, name: &str) {
    // A server has two seconds for its answer, which on a busy machine may be too few.
    let healthy = |machine: &Machine| {
        let status = status(machine, name);
        Ok(status["healthy"] == true && status["state"] == "running")
    };
    let waited = machine.wait_until(&format!("{name} is healthy"), SOON, healthy);
    assert!(waited.is_ok(), "{}", status(machine, name));
}

/// One property of a unit.
pub(crate) fn property(machine: &Machine, unit: &str, name: &str) -> String {
    sh(machine, &format!("systemctl show --value -p {name} '{unit}'"))
}

/// A property that is a number, such as a process or a time in microseconds.
pub(crate) fn number(machine: &Machine, unit: &str, name: &str) -> u64 {
    property(machine, unit, name).parse().unwrap()
}

/// The main process of an instance.
pub(crate) fn pid(machine: &Machine, instance: &str) -> u64 {
    number(machine, &format!("opencode-{instance}.service"), "MainPID")
}

/// The server, which is the first child of the supervisor.
pub(crate) fn server(machine: &Machine, instance: &str) -> u64 {
    sh(machine, &format!("pgrep -o -P {}", pid(machine, instance))).parse().unwrap()
}

/// The address of an instance with its password, without the last slash.
pub(crate) fn url(machine: &Machine, instance: &str) -> String {
    sh(machine, &format!("opencode-instances url {instance}")).trim_end_matches('/').to_owned()
}

/// The status of the answer to a request, 0 if there is none within the time.
pub(crate) fn http(machine: &Machine, url: &str, seconds: u32) -> u32 {
    let limit = seconds.to_string();
    let options = ["--silent", "--globoff", "--output", "/dev/null", "--max-time", &limit];
    let argv = ["curl"].into_iter().chain(options).chain(["--write-out", "%{http_code}", url]);
    machine.run(argv).unwrap().stdout.parse().unwrap()
}

/// Waits until the instance's server answers through its listener, without a word to systemd.
pub(crate) fn wait_until_served(machine: &Machine, instance: &str, patience: Duration) {
    let url = format!("{}/config", url(machine, instance));
    let what = format!("{instance} is served");
    machine.wait_until(&what, patience, |machine| Ok(http(machine, &url, 50) == 200)).unwrap();
}

/// Waits until a unit is in a state.
pub(crate) fn wait_for(machine: &Machine, unit: &str, state: &str) {
    let what = format!("{unit} is {state}");
    machine
        .wait_until(&what, SOON, |machine| Ok(property(machine, unit, "ActiveState") == state))
        .unwrap();
}

/// Every unit of an instance.
pub(crate) fn units(instance: &str) -> [String; 4] {
    [
        format!("opencode-listen@{instance}.socket"),
        format!("opencode-listen@{instance}.service"),
        format!("opencode-{instance}.service"),
        format!("opencode-net@{instance}.service"),
    ]
}

/// Runs a command until its Nth call of that name; false if it has ended before.
pub(crate) fn killed(machine: &Machine, command: &str, call: &str, number: usize) -> bool {
    let script = format!(
        "strace -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={number} \
         opencode-instances {command} 2>/root/narration || echo $?"
    );
    match sh(machine, &script).as_str() {
        "137" => true,
        "" => false,
        other => {
            panic!("{command} ended with {other}: {}", machine.get("/root/narration").unwrap())
        }
    }
}

/// Where the journal ends now.
pub(crate) fn cursor(machine: &Machine) -> String {
    let said = sh(machine, "journalctl --sync; journalctl -n 0 --show-cursor");
    said.rsplit("-- cursor: ").next().unwrap().trim().to_owned()
}

/// Requires that systemd had at most one server down at each moment since then, and returns who was.
pub(crate) fn one_at_a_time(machine: &Machine, cursor: &str) -> BTreeSet<String> {
    let script = format!(
        "journalctl --sync; journalctl --after-cursor='{cursor}' _PID=1 --output=cat \
         | grep -E '^(Stopping|Stopped|Starting|Started) opencode-[a-z]+\\.service'"
    );
    let text = sh(machine, &script);
    let (mut down, mut all) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let (what, rest) = line.split_once(" opencode-").unwrap();
        let name = rest.split_once('.').unwrap().0.to_owned();
        all.insert(name.clone());
        if what == "Started" {
            down.remove(&name);
        } else {
            down.insert(name);
        }
        assert!(down.len() <= 1, "{down:?} were down at {line:?} of:\n{text}");
    }
    assert!(down.is_empty(), "{down:?} did not come back:\n{text}");
    all
}
