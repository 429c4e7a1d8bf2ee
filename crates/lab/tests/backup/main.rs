//! `backup` and `restore` on real machines: of a server that runs, of a hostile tree, killed at each step, and
//! with no room left.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod consistent;
mod hostile;
mod killed;
mod real;
mod signals;
#[path = "../lifecycle/view.rs"]
#[expect(dead_code, reason = "the others of lifecycle use the rest")]
mod view;

use instances_lab::{Machine, stand_in, unavailable};

use view::{done, sh};

/// Where states are.
const STATES: &str = "/var/lib/opencode/instance-state";

const WEB: &str = "[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\n";

/// A machine with one light server on it, whose state has a file.
fn with_stand_in(name: &str, more: &str) -> Option<Machine> {
    if unavailable() {
        return None;
    }
    let spec = format!("{}{WEB}{more}", stand_in::DEFAULTS);
    let machine = stand_in::boot(name, &spec, &["/srv/web", "/srv/other"]).unwrap();
    done(&machine, "apply");
    own(&machine, "echo first >kept");
    Some(machine)
}

/// Runs a script as the instance's user in its state.
fn own(machine: &Machine, script: &str) -> String {
    let script = script.replace('\'', r"'\''");
    let by = "setpriv --reuid=opencode-web --regid=opencode-web --clear-groups";
    sh(machine, &format!("cd {STATES}/web; {by} sh -euc '{script}'"))
}

/// Whether the server stands still.
fn is_frozen(machine: &Machine) -> bool {
    view::property(machine, "opencode-web.service", "FreezerState") != "running"
}

/// What stands beside the states of instances.
fn beside(machine: &Machine) -> String {
    sh(machine, &format!("ls -A {STATES}"))
}

/// Waits until no step runs any more.
fn settle(machine: &Machine) {
    let unit = "opencode-keep@web.service";
    machine
        .wait_until("no step runs", view::SOON, |machine| {
            Ok(view::property(machine, unit, "ActiveState") == "inactive")
        })
        .unwrap();
}

/// A command that fails, and what it says.
fn refused(machine: &Machine, arguments: &str) -> String {
    let output = view::engine(machine, arguments);
    assert_eq!(output.code(), 1, "{output}");
    output.stderr
}
