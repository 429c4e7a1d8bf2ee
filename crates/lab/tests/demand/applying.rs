//! Clients that come while `apply` changes their instance, or another one. The server is a light stand-in.

use std::time::Duration;

use instances_lab::{Machine, fleet, stand_in, unavailable};

use crate::view::{active, becomes_idle, code, instance, main, property, sh, starts, status};

fn spec(level: &str, other: &str) -> String {
    let more = |level| format!("network.outbound.policy = \"none\"\nlogLevel = \"{level}\"");
    let (web, other) =
        (instance("web", 4101, 2, &more(level)), instance("other", 4102, 900, &more(other)));
    format!("{}{web}{other}", stand_in::DEFAULTS)
}

#[test]
fn a_client_that_comes_while_its_instance_is_applied_is_served() {
    if unavailable() {
        return;
    }
    let text = spec("INFO", "INFO");
    let machine = stand_in::boot("demand-apply", &text, &["/srv/web", "/srv/other"]).unwrap();
    sh(&machine, "opencode-instances apply");
    its_own_change(&machine);
    another_ones_change(&machine);
    a_failed_one_is_left_to_its_clients(&machine);
}

/// Applies a specification, with a client that comes so much later; what that gets.
fn meanwhile(machine: &Machine, spec: &str, later: f32) -> String {
    machine.put(fleet::SPEC, spec, 0o644).unwrap();
    let script = format!(
        "(sleep {later}; curl -s --max-time 50 -o /root/body -w '%{{http_code}}' http://127.0.0.1:4101/config >/root/code || true) & \
         opencode-instances apply; wait; cat /root/code"
    );
    let code = sh(machine, &script);
    if code == "503" {
        let body = machine.get("/root/body").unwrap();
        assert!(body.starts_with("the instance web is being stopped\n"), "{body}");
    }
    code
}

/// Whenever it comes: before the new files, between them and systemd's reading of them, or after.
fn its_own_change(machine: &Machine) {
    let mut served = 0;
    for turn in 0_u8..12 {
        becomes_idle(machine, "web");
        let level = if turn % 2 == 0 { "WARN" } else { "ERROR" };
        let code = meanwhile(machine, &spec(level, "INFO"), f32::from(turn) * 0.06);
        assert!(["200", "503"].contains(&code.as_str()), "turn {turn}: {code}");
        served += usize::from(code == "200");
        let found = status(machine, "web");
        assert_eq!(found["pendingRestart"], false, "turn {turn}: {found}");
        assert_eq!(found["listening"], true, "turn {turn}: {found}");
        assert_ne!(found["state"], "failed", "turn {turn}: {found}");
        assert_eq!(self::code(machine, 4101), "200", "turn {turn}");
        let pid = property(machine, &main("web"), "MainPID");
        let line = sh(machine, &format!("tr '\\0' ' ' </proc/{pid}/cmdline"));
        assert!(line.contains(&format!("--log-level {level}")), "turn {turn}: {line}");
    }
    assert!(served > 0, "nobody was served at once");
}

fn another_ones_change(machine: &Machine) {
    for turn in 0_u8..4 {
        becomes_idle(machine, "web");
        let before = starts(machine, "web");
        let level = if turn % 2 == 0 { "WARN" } else { "ERROR" };
        let code = meanwhile(machine, &spec("ERROR", level), f32::from(turn) * 0.15);
        assert_eq!(code, "200", "turn {turn}");
        assert_eq!(starts(machine, "web"), before + 1, "turn {turn}");
    }
}

/// Nobody waits for a server that failed: it is not started, and no longer said to have failed.
fn a_failed_one_is_left_to_its_clients(machine: &Machine) {
    becomes_idle(machine, "web");
    let fails = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 69'\n";
    let drop_in = "/etc/systemd/system/opencode-web.service.d/fails.conf";
    machine.put(drop_in, fails, 0o644).unwrap();
    sh(machine, "systemctl daemon-reload");
    for text in [spec("ERROR", "ERROR"), spec("DEBUG", "ERROR")] {
        assert_eq!(code(machine, 4101), "503");
        let failed = |machine: &Machine| Ok(status(machine, "web")["state"] == "failed");
        machine.wait_until("it has failed", Duration::from_secs(30), failed).unwrap();
        machine.put(fleet::SPEC, text, 0o644).unwrap();
        sh(machine, "opencode-instances apply");
        let found = status(machine, "web");
        assert_eq!(
            (&found["state"], &found["listening"]),
            (&"idle".into(), &true.into()),
            "{found}"
        );
    }
    sh(machine, &format!("rm {drop_in}; systemctl daemon-reload"));
    assert!(!active(machine, "web"));
    assert_eq!(code(machine, 4101), "200");
}
