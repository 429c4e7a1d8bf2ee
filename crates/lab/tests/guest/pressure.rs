//! Idle servers on demand end early while the host is short of memory, and only those.

use std::thread::sleep;
use std::time::Duration;

use instances_lab::{Machine, outside};

use crate::up;

const SPEC: &str = "[fleet]\nmemoryPressure = \"5%\"\n[instances.old]\ndirectory = \"/srv/old\"\nlisten.port = 4101\n\
     [instances.new]\ndirectory = \"/srv/new\"\nlisten.port = 4102\n\
     [instances.used]\ndirectory = \"/srv/used\"\nlisten.port = 4103\n";
/// Of `[defaults]`, where the stand-in is.
const DEFAULTS: &str = "activation = \"on-demand\"\nidleTimeout = 3600\nauth.enable = false\n";
/// Takes more and more, and is slowed down from the limit on: it waits for memory, whatever the host has.
const HOARD: &str = "systemd-run --unit=hoard --property=MemoryHigh=16M --property=MemorySwapMax=0 \
     python3 -c 'kept = []\nwhile True: kept.append(bytearray(b\"x\") * (1 << 16))'";
/// A client that stays.
const HOLD: &str = "systemd-run --unit=client python3 -c 'import socket, time\n\
     client = socket.create_connection((\"127.0.0.1\", 4103))\ntime.sleep(3600)'";
/// As long as the kernel, a supervisor and a stop may take in an emulated machine.
const SOON: Duration = Duration::from_mins(2);

fn sh(machine: &Machine, script: &str) -> String {
    machine.run_for(SOON, ["sh", "-euc", script]).unwrap().ok().unwrap().trim_end().to_owned()
}

fn active(machine: &Machine, instance: &str) -> bool {
    let unit = format!("opencode-{instance}.service");
    machine.run(["systemctl", "is-active", "--quiet", &unit]).unwrap().success()
}

fn wake(machine: &Machine, port: u16) {
    sh(
        machine,
        &format!(
            "curl --silent --fail --max-time 60 --output /dev/null http://127.0.0.1:{port}/config"
        ),
    );
}

#[test]
#[ignore = "runs in a guest: cargo xtask lab guest --tests"]
fn idle_servers_end_the_oldest_first() {
    if outside() {
        return;
    }
    let spec = format!("{DEFAULTS}{SPEC}");
    let machine = up("pressure", &spec, &["/srv/old", "/srv/new", "/srv/used"]);
    wake(&machine, 4101);
    // Longer than from one look to the next, after which it says that it is idle.
    sleep(Duration::from_secs(8));
    wake(&machine, 4102);
    wake(&machine, 4103);
    sh(&machine, HOLD);
    sleep(Duration::from_secs(20));
    for instance in ["old", "new", "used"] {
        assert!(active(&machine, instance), "{instance} ended without pressure");
    }
    sh(&machine, HOARD);
    let ended = |machine: &Machine| Ok(!active(machine, "old") && !active(machine, "new"));
    machine.wait_until("the idle ones end", SOON, ended).unwrap();
    // While it goes on: one that is used stays.
    sleep(Duration::from_secs(10));
    assert!(active(&machine, "used"));
    sh(&machine, "systemctl stop hoard");
    let when = |instance: &str| -> u64 {
        let show = "systemctl show --value --property=InactiveEnterTimestampMonotonic";
        sh(&machine, &format!("{show} opencode-{instance}")).parse().unwrap()
    };
    assert!(when("old") < when("new"));
    let said = sh(&machine, "journalctl --output=cat --unit=opencode-old");
    assert!(said.contains("memory is short"), "{said}");
    // And the next client is served as ever.
    wake(&machine, 4101);
    let status = sh(&machine, "opencode-instances status");
    assert!(!status.contains("failed"), "{status}");
}
