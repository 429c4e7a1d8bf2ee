//! What an operator gave up or showed in the specification is noted, and is no finding.

use instances_core::controls::WORDS;
use instances_lab::{Machine, stand_in, unavailable};
use serde_json::Value;

use crate::view::{audit, findings, rows, without_controllers};

/// Two of three give something up; the third is as it comes.
fn spec() -> String {
    format!(
        "{}
[instances.all]
directory = \"/srv/all\"
listen.port = 4101
sandbox.relax = {WORDS:?}

[instances.nested]
directory = \"/srv/nested\"
listen.port = 4102
sandbox.allowNestedSandbox = true
unitOverrides.main.ProtectClock = false

[instances.sockets]
directory = \"/srv/sockets\"
listen.port = 4103
sandbox.unixSockets = [\"/run/provider/one.sock\", \"-/run/later/two.sock\"]
",
        stand_in::DEFAULTS
    )
}

const PROVIDER: &str = "[Service]\nRuntimeDirectory=provider\n\
                        ExecStart=socat UNIX-LISTEN:/run/provider/one.sock,fork,mode=666 EXEC:cat\n";

fn verdicts(report: &Value, verdict: &str) -> Vec<String> {
    let rows = rows(report).iter().filter(|row| row["verdict"] == verdict);
    rows.map(|row| row["control"].as_str().unwrap().to_owned()).collect()
}

fn nothing_found(machine: &Machine, name: &str) -> Value {
    let (_, report) = audit(machine, name);
    let found = findings(&report);
    assert_eq!(without_controllers(&found), [""; 0], "{name}");
    report
}

#[test]
fn what_was_given_up_is_noted_and_a_stale_socket_is_found() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/all", "/srv/nested", "/srv/sockets"];
    let machine = stand_in::boot("audit-given-up", &spec(), &projects).unwrap();
    machine.put("/run/systemd/system/provider.service", PROVIDER, 0o644).unwrap();
    machine.sh("systemctl start provider").unwrap().ok().unwrap();
    let apply = ["opencode-instances", "apply"];
    machine.run_for(std::time::Duration::from_mins(1), apply).unwrap().ok().unwrap();

    let report = nothing_found(&machine, "all");
    let mut relaxed = verdicts(&report, "relaxed");
    relaxed.sort();
    assert_eq!(relaxed, WORDS);

    let report = nothing_found(&machine, "nested");
    let relaxed = verdicts(&report, "relaxed");
    for control in ["namespaces", "system-calls", "clock", "units"] {
        assert!(relaxed.iter().any(|name| name == control), "{control}: {relaxed:?}");
    }
    assert!(!relaxed.iter().any(|name| name == "io-uring"), "{relaxed:?}");

    nothing_found(&machine, "sockets");
    let stale = "systemctl stop --job-mode=ignore-dependencies opencode-sockets@sockets; \
                 umount /run/opencode-instances/sockets/sockets/*/* || true; systemctl restart provider";
    machine.sh(stale).unwrap().ok().unwrap();
    let (code, report) = audit(&machine, "sockets");
    let found = findings(&report);
    assert_eq!(code, 4);
    assert!(found.iter().any(|finding| finding.starts_with("sockets: ")), "{found:?}");
}
