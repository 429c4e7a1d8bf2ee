//! What operators bring themselves: programs, a password, directives, and the time of a restart.

use instances_lab::{Agent, Machine, fleet, unavailable};

use crate::view::{
    SOON, apply, assert_healthy, done, http, pid, property, sh, status, url, wait_until_served,
};

const SPEC: &str = r#"
[instances.own]
directory = "/srv/own"
listen.port = 4301
path = ["/opt/tools", "/opt/plain"]
auth.passwordFile = "/etc/secrets/own"
restartOnSwitch = false

[instances.own.unitOverrides.main]
TimeoutStopSec = 33
SystemCallFilter = ["@system-service", "~@mount"]

[instances.own.unitOverrides.setup]
TimeoutStartSec = 300

[instances.own.unitOverrides.net]
TimeoutStartSec = 61
"#;

const PREPARE: &str = "
mkdir -p /opt/tools/bin /opt/plain
printf '#!/bin/sh\\necho from the tools\\n' >/opt/tools/bin/tac
printf '#!/bin/sh\\necho from the plain directory\\n' >/opt/plain/plain-tool
chmod 755 /opt/tools/bin/tac /opt/plain/plain-tool
install -d -m 700 /etc/secrets
printf 'a secret: 100%%/ü\\n' >/etc/secrets/own
chmod 600 /etc/secrets/own
";

#[test]
fn what_operators_bring_themselves() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("own", SPEC, &["/srv/own"]).unwrap();
    sh(&machine, PREPARE);
    apply(&machine, SPEC);
    wait_until_served(&machine, "own", SOON);
    assert_healthy(&machine, "own");
    programs(&machine);
    a_password(&machine);
    directives(&machine);
    a_restart_that_waits(&machine);
    what_is_never_put_off(&machine);
    a_restart_that_comes_after_all(&machine);
}

fn programs(machine: &Machine) {
    let agent = Agent::connect(machine, "own").unwrap();
    let said = agent.shell("tac; plain-tool; echo \"$(command -v tac)\"").unwrap();
    let wanted = "from the tools\nfrom the plain directory\n/opt/tools/bin/tac";
    assert_eq!(said.trim_end(), wanted);
    let said = agent.shell("touch /opt/tools/bin/x 2>&1 && echo written; ls /opt").unwrap();
    assert!(!said.contains("written") && said.ends_with("plain\ntools\n"), "{said}");
}

fn a_password(machine: &Machine) {
    assert!(url(machine, "own").contains(":a%20secret%3A%20100%25%2F%C3%BC@"));
    assert_eq!(http(machine, "http://127.0.0.1:4301/config", 20), 401);
    let made = machine.run(["test", "-e", "/var/lib/opencode/instance-auth/own/password"]);
    assert!(!made.unwrap().success(), "a password that nobody asks for");
}

fn directives(machine: &Machine) {
    let main = "opencode-own.service";
    assert_eq!(property(machine, main, "TimeoutStopUSec"), "33s");
    assert_eq!(property(machine, "opencode-setup@own.service", "TimeoutStartUSec"), "5min");
    assert_eq!(property(machine, "opencode-net@own.service", "TimeoutStartUSec"), "1min 1s");
    let filter = property(machine, main, "SystemCallFilter");
    assert!(!filter.contains("umount2") && filter.contains("userfaultfd"), "{filter}");
}

/// The agent goes on; its listener moves all the same.
fn a_restart_that_waits(machine: &Machine) {
    let before = pid(machine, "own");
    assert_eq!(status(machine, "own")["pendingRestart"], false);
    let changed = SPEC
        .replace("listen.port = 4301", "listen.port = 4302\nlogLevel = \"WARN\"")
        .replace("= 61", "= 62");
    apply(machine, &changed);
    assert_eq!(pid(machine, "own"), before);
    let now = status(machine, "own");
    assert_eq!(now["pendingRestart"], true);
    let reason = now["reason"].as_str().unwrap();
    assert!(reason.contains("pending restart: `opencode-instances restart own`"), "{reason}");
    assert_eq!(http(machine, "http://127.0.0.1:4301/config", 20), 0, "the old port refuses");
    assert_eq!(http(machine, "http://127.0.0.1:4302/config", 20), 401);
    done(machine, "restart own");
    wait_until_served(machine, "own", SOON);
    assert_ne!(pid(machine, "own"), before);
    assert_eq!(status(machine, "own")["pendingRestart"], false);
    let command = format!("tr '\\0' ' ' </proc/{}/cmdline", pid(machine, "own"));
    assert!(sh(machine, &command).contains("--log-level WARN"));
}

/// A server that asks for no password never answers at an address for the network, however long its
/// restart was put off.
fn what_is_never_put_off(machine: &Machine) {
    let open = SPEC.replace("auth.passwordFile = \"/etc/secrets/own\"", "auth.enable = false");
    apply(machine, &open);
    wait_until_served(machine, "own", SOON);
    assert_eq!(http(machine, "http://127.0.0.1:4301/config", 20), 200);
    let before = pid(machine, "own");
    let closed = SPEC.replace("listen.port", "listen.address = \"0.0.0.0\"\nlisten.port");
    apply(machine, &closed);
    assert_ne!(pid(machine, "own"), before);
    wait_until_served(machine, "own", SOON);
    assert_eq!(http(machine, "http://127.0.0.1:4301/config", 20), 401);
    assert_eq!(status(machine, "own")["pendingRestart"], false);
}

/// Switched on again, the option does what was put off.
fn a_restart_that_comes_after_all(machine: &Machine) {
    let before = pid(machine, "own");
    let changed = SPEC.replace("listen.port", "logLevel = \"ERROR\"\nlisten.port");
    apply(machine, &changed);
    assert_eq!(pid(machine, "own"), before);
    apply(machine, &changed.replace("restartOnSwitch = false", "restartOnSwitch = true"));
    assert_ne!(pid(machine, "own"), before);
    wait_until_served(machine, "own", SOON);
    assert_eq!(status(machine, "own")["pendingRestart"], false);
    let now = pid(machine, "own");
    apply(machine, &changed);
    assert_eq!(pid(machine, "own"), now, "switching it off restarts nothing");
}
