//! What keeps a server that has no client, and what does not.

use std::time::Duration;

use instances_lab::{Agent, Machine};

use crate::view::{ENDS, active, becomes_active, becomes_idle, sh};

/// Longer than a server of these tests stays that nobody uses.
fn stays(machine: &Machine, name: &str, what: &str) {
    std::thread::sleep(Duration::from_secs(13));
    assert!(active(machine, name), "{what}");
}

/// A client that is gone while its session works, a process that was left, a terminal, and a client that is
/// connected.
pub(crate) fn what_is_used_stays(machine: &Machine) {
    let agent = Agent::connect(machine, "web").unwrap();
    agent.shell("(setsid sleep 1004 >/dev/null 2>&1 &)").unwrap();
    stays(machine, "web", "a process was left");
    sh(machine, "kill $(pgrep -f '^sleep 1004')");
    becomes_idle(machine, "web");

    let script = "session=$(curl -sf -XPOST -H 'content-type: application/json' -d '{}' \
                  http://127.0.0.1:4101/session | grep -o 'ses_[A-Za-z0-9]*' | head -n 1); \
                  curl -s --max-time 1 -H 'content-type: application/json' \
                  -d '{\"agent\":\"build\",\"command\":\"sleep 1003\"}' \
                  http://127.0.0.1:4101/session/$session/shell || true; \
                  curl -s \"http://127.0.0.1:4101/session/status?directory=/srv/web\"";
    let status = sh(machine, &format!("{script} || true"));
    assert!(status.contains("busy"), "{status}");
    stays(machine, "web", "a session works");
    sh(machine, "kill $(pgrep -f '^sleep 1003')");
    becomes_idle(machine, "web");

    let terminal = "curl -sf -XPOST -H 'content-type: application/json' \
                    -d '{\"command\":\"sleep\",\"args\":[\"1005\"]}' http://127.0.0.1:4101/pty";
    let answer = sh(machine, terminal);
    let runs = |machine: &Machine| Ok(!sh(machine, "pgrep -f '^sleep 1005' || true").is_empty());
    machine.wait_until(&format!("a terminal of {answer}"), ENDS, runs).unwrap();
    stays(machine, "web", "a terminal is open");
    sh(machine, "kill $(pgrep -f '^sleep 1005')");
    becomes_idle(machine, "web");

    listens(machine, 4101);
    becomes_active(machine, "web");
    stays(machine, "web", "a client is connected");
    sh(machine, "systemctl stop stream");
    becomes_idle(machine, "web");
}

/// A client that only listens to a server with `idleClients = "active"`.
pub(crate) fn who_only_listens_is_cut(machine: &Machine) {
    listens(machine, 4102);
    becomes_active(machine, "quiet");
    let heard = "journalctl --no-pager --unit stream | grep -c server.connected || true";
    let heard = |machine: &Machine| Ok(sh(machine, heard) != "0");
    machine.wait_until("the stream is there", Duration::from_secs(20), heard).unwrap();
    becomes_idle(machine, "quiet");
    let over = |machine: &Machine| {
        Ok(!machine.run(["systemctl", "is-active", "--quiet", "stream"])?.success())
    };
    machine.wait_until("the stream is cut", Duration::from_secs(5), over).unwrap();
}

fn listens(machine: &Machine, port: u16) {
    let stream = format!("curl -sN http://127.0.0.1:{port}/event");
    sh(machine, &format!("systemd-run --collect --unit=stream {stream}"));
}

/// With `idleChildren = false`, processes and terminals end with the server.
pub(crate) fn who_was_left_ends(machine: &Machine) {
    for left in ["setsid sleep 1006", "setsid script -qc 'sleep 1006' /dev/null"] {
        let agent = Agent::connect(machine, "alone").unwrap();
        agent.shell(&format!("({left} >/dev/null 2>&1 &) ; sleep 0.5")).unwrap();
        assert_ne!(sh(machine, "pgrep -f '^sleep 1006' || true"), "", "{left}");
        becomes_idle(machine, "alone");
        assert_eq!(sh(machine, "pgrep -f '^sleep 1006' || true"), "", "{left}");
    }
}

/// A child of the server's own, as a language server is one.
pub(crate) fn children_of_the_server_do_not_count(machine: &Machine) {
    assert_eq!(
        sh(machine, "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:4103/config"),
        "200"
    );
    assert_ne!(sh(machine, "pgrep -f '^sleep 1007' || true"), "");
    becomes_idle(machine, "parent");
    // The same process, left by somebody else, does.
    let agent = Agent::connect(machine, "parent").unwrap();
    agent.shell("(setsid sleep 1008 >/dev/null 2>&1 &)").unwrap();
    stays(machine, "parent", "a process was left");
    sh(machine, "kill $(pgrep -f '^sleep 1008')");
    becomes_idle(machine, "parent");
}
