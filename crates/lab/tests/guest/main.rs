//! What needs controllers of control groups and a kernel of a known version: it runs in a guest of the
//! lab's, with a light stand-in for the server.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod limits;
mod pressure;
mod tenants;

use instances_lab::fleet::PATIENCE;
use instances_lab::{Machine, stand_in};

/// Boots a machine with the stand-in, and applies the specification.
fn up(name: &str, spec: &str, projects: &[&str]) -> Machine {
    let spec = format!("{}{spec}", stand_in::DEFAULTS);
    let machine = stand_in::boot(name, &spec, projects).unwrap();
    machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap().ok().unwrap();
    machine
}

/// Runs a script in the control group of an instance's server and in its network.
fn inside(machine: &Machine, instance: &str, script: &str) -> instances_lab::Output {
    let group = format!("/sys/fs/cgroup/opencode.slice/opencode-{instance}.service/cgroup.procs");
    let enter = format!("echo $$ >{group}; exec ip netns exec opencode-{instance} sh -c \"$1\"");
    machine.run(["sh", "-euc", &enter, "sh", script]).unwrap()
}
