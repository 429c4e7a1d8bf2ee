//! How the tests look at a machine, and into its sandboxes.

use std::collections::BTreeSet;
use std::time::Duration;

use instances_lab::{Agent, Machine, fleet};
use serde_json::Value;

/// Long enough for a server to start on a busy host; nothing is proved by it.
const SOON: Duration = Duration::from_mins(1);

/// Runs a script that must succeed, and returns what it prints without the last newline.
pub(crate) fn sh(machine: &Machine, script: &str) -> String {
    let output = machine.run_for(fleet::PATIENCE, ["/bin/sh", "-euc", script]).unwrap();
    output.ok().unwrap().trim_end().to_owned()
}

/// What `status --json` says about one instance.
pub(crate) fn status(machine: &Machine, instance: &str) -> Value {
    let argv = ["opencode-instances", "status", "--json", instance];
    let output = machine.run(argv).unwrap();
    let mut answer: Value = serde_json::from_str(&output.stdout).unwrap();
    answer["instances"][0].take()
}

/// Waits until an instance is healthy in every respect. A client waits as long as a server starts, so
/// that hardly anybody has to ask twice.
pub(crate) fn wait_until_healthy(machine: &Machine, instance: &str) {
    let served = |machine: &Machine| {
        let script = format!(
            "curl --silent --fail --max-time 50 --output /dev/null \
             $(opencode-instances url {instance})config"
        );
        Ok(machine.sh(&script)?.success() && status(machine, instance)["healthy"] == true)
    };
    machine.wait_until(&format!("{instance} is healthy"), SOON, served).unwrap();
    assert_eq!(status(machine, instance)["state"], "running");
}

/// The main process of an instance.
pub(crate) fn pid(machine: &Machine, instance: &str) -> String {
    sh(machine, &format!("systemctl show --value -p MainPID opencode-{instance}.service"))
}

/// Runs a script where an agent's tools run; returns what it prints without the last newline. From a
/// file: the server itself expands what it is given once before the shell does.
pub(crate) fn agent(machine: &Machine, instance: &str, script: &str) -> String {
    let file = format!("/srv/{instance}/script");
    machine.put(&file, script, 0o644).unwrap();
    let said = Agent::connect(machine, instance).unwrap().shell(&format!("bash {file}")).unwrap();
    said.trim_end().to_owned()
}

/// What there is to see in the store. Where the instance's other sandboxes, and its former ones, have
/// mounted something, empty directories remain.
pub(crate) fn visible(machine: &Machine, instance: &str) -> BTreeSet<String> {
    let command = "cd /nix/store; for path in *; do \
                   test -n \"$(ls -A $path)\" && echo $path; done; true";
    agent(machine, instance, command).lines().map(|path| name(path).to_owned()).collect()
}

/// The lines of a text in a fixed order.
pub(crate) fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// The name of a store path without its hash, and of anything else the last part.
pub(crate) fn name(path: &str) -> &str {
    let last = path.rsplit('/').next().unwrap_or(path);
    match last.split_once('-') {
        Some((hash, name)) if hash.len() == 32 => name,
        _ => last,
    }
}
