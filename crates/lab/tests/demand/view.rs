//! How the tests look at a machine, and act on it.

use std::time::Duration;

use instances_lab::{Machine, Release, fleet};
use serde_json::Value;

/// As long as an idle server may take to end: its timeout, two looks and the end.
pub(crate) const ENDS: Duration = Duration::from_secs(30);
/// Long enough for a server to start on a busy host; nothing is proved by it.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// An instance on demand with the project `/srv/NAME`.
pub(crate) fn instance(name: &str, port: u16, timeout: u32, more: &str) -> String {
    format!(
        "[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\nauth.enable = false\n\
         activation = \"on-demand\"\nidleTimeout = {timeout}\n{more}\n"
    )
}

/// Boots a machine with instances on demand.
pub(crate) fn boot(release: Release, name: &str, spec: &str, projects: &[&str]) -> Machine {
    let machine = fleet::boot_on(release, name, spec, projects).unwrap();
    sh(&machine, "opencode-instances apply");
    machine
}

/// Runs a script that must succeed, and returns what it prints without the last newline.
pub(crate) fn sh(machine: &Machine, script: &str) -> String {
    let output = machine.run_for(fleet::PATIENCE, ["/bin/sh", "-euc", script]).unwrap();
    output.ok().unwrap().trim_end().to_owned()
}

/// The server's unit.
pub(crate) fn main(name: &str) -> String {
    format!("opencode-{name}.service")
}

/// One property of a unit.
pub(crate) fn property(machine: &Machine, unit: &str, name: &str) -> String {
    sh(machine, &format!("systemctl show --value -p {name} '{unit}'"))
}

/// Whether the server runs.
pub(crate) fn active(machine: &Machine, name: &str) -> bool {
    machine.run(["systemctl", "is-active", "--quiet", &main(name)]).unwrap().success()
}

/// What `status --json` says about one instance.
pub(crate) fn status(machine: &Machine, name: &str) -> Value {
    let output = machine.run(["opencode-instances", "status", "--json", name]).unwrap();
    assert!([0, 4].contains(&output.code()), "{output}");
    let mut answer: Value = serde_json::from_str(&output.stdout).unwrap();
    answer["instances"][0].take()
}

/// What runs of an instance: what is left of its units when it is idle has no process.
fn processes(machine: &Machine, name: &str) -> String {
    let script = format!(
        "cd /sys/fs/cgroup; find . '(' -path '*opencode-{name}.service*' -o -path '*@{name}.*' ')' \
         -name cgroup.procs -exec cat {{}} + 2>/dev/null || true"
    );
    sh(machine, &script)
}

/// Waits until nothing of the instance runs; then it is as it was before its first client.
pub(crate) fn becomes_idle(machine: &Machine, name: &str) {
    let ended = |machine: &Machine| Ok(processes(machine, name).is_empty());
    machine.wait_until("nothing of the instance runs", ENDS, ended).unwrap();
    let status = machine.run(["opencode-instances", "status", name]).unwrap();
    assert!(status.success() && status.stdout.contains("idle (on demand)"), "{status}");
    assert_eq!(property(machine, &main(name), "ActiveState"), "inactive");
}

/// Waits until the server runs.
pub(crate) fn becomes_active(machine: &Machine, name: &str) {
    let up = |machine: &Machine| Ok(active(machine, name));
    machine.wait_until("the server runs", fleet::PATIENCE, up).unwrap();
}

/// How often the server was ready.
pub(crate) fn starts(machine: &Machine, name: &str) -> usize {
    let unit = main(name);
    let journal = machine.run(["journalctl", "--no-pager", "--unit", &unit]).unwrap().stdout;
    journal.lines().filter(|line| line.contains(&format!("]: Started {unit}"))).count()
}

/// The whole answer to a request, with its head; empty if there is none.
pub(crate) fn ask(machine: &Machine, port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}/config");
    machine.run(["curl", "-si", "--max-time", "50", &url]).unwrap().stdout
}

/// The status of the answer to a request.
pub(crate) fn code(machine: &Machine, port: u16) -> String {
    ask(machine, port).split(' ').nth(1).unwrap_or_default().to_owned()
}
