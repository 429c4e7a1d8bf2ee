//! What an operator gives up of a sandbox, or adds to it, on real machines with the real server; and what
//! holds all the same.

#![expect(clippy::unwrap_used, reason = "clippy allows it in tests, but not in what tests share")]

mod devices;
mod fleet;
mod nested;
mod relaxed;
mod store;

use instances_lab::fleet::PATIENCE;
use instances_lab::{Agent, Machine};

/// Brings the machine to what is declared.
fn apply(machine: &Machine) {
    machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap().ok().unwrap();
}

/// What a script of the project prints, run as the agent's tools run.
fn said(machine: &Machine, instance: &str, script: &str) -> Vec<String> {
    machine.put(format!("/srv/{instance}/try.sh"), script, 0o644).unwrap();
    let agent = Agent::connect(machine, instance).unwrap();
    let said = agent.shell("sh try.sh 2>&1").unwrap();
    said.lines().map(str::to_owned).collect()
}
