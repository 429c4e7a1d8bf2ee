//! What a reboot and a power cut leave.

use instances_lab::{Agent, Machine, fleet, unavailable};

use crate::view::{SOON, assert_healthy, engine, sh, url, wait_until_served};

#[test]
fn instances_come_back_after_a_reboot_and_a_power_cut() {
    if unavailable() {
        return;
    }
    let mut machine = fleet::two_projects("rebooting").unwrap();
    sh(&machine, "chown opencode-website: /srv/website");
    let agent = Agent::connect(&machine, "website").unwrap();
    agent.shell("echo kept >~/kept; echo kept >kept").unwrap();
    let before = memory(&machine);
    assert!(before.contains("ses_"), "{before}");
    machine.reboot().unwrap();
    assert_eq!(memory(&machine), before);
    machine.power_cut().unwrap();
    assert_eq!(memory(&machine), before);
    let again = engine(&machine, "apply");
    assert!(again.success() && again.stderr.ends_with("nothing to do\n"), "{again}");
}

/// Passwords, sessions, and files at home and in the project.
fn memory(machine: &Machine) -> String {
    let mut memory = Vec::new();
    for instance in ["website", "billing"] {
        wait_until_served(machine, instance, SOON);
        assert_healthy(machine, instance);
        let url = url(machine, instance);
        memory.push(sh(machine, &format!("curl -sS '{url}/session' | jq -r '.[].id'")));
        memory.push(url);
    }
    memory.push(sh(machine, "cat /var/lib/opencode/instance-state/website/kept /srv/website/kept"));
    memory.join("\n")
}
