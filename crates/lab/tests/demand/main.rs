//! Instances on demand: the first client starts the server, and it ends when nobody uses it.

#![expect(clippy::unwrap_used, reason = "clippy allows it in tests, but not in what tests share")]

use std::time::Duration;

use instances_lab::fleet::PATIENCE;
use instances_lab::{Agent, Machine, Release, fleet, stand_in, unavailable};

const MAIN: &str = "opencode-web.service";
/// As long as an idle server may take to end: its timeout, two looks and the end.
const ENDS: Duration = Duration::from_secs(30);

fn spec(timeout: u32, more: &str) -> String {
    format!(
        "[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\nauth.enable = false\n\
         activation = \"on-demand\"\nidleTimeout = {timeout}\n{more}\n"
    )
}

fn boot(release: Release, name: &str, spec: &str) -> Machine {
    let machine = fleet::boot_on(release, name, spec, &["/srv/web"]).unwrap();
    sh(&machine, "opencode-instances apply");
    machine
}

fn sh(machine: &Machine, script: &str) -> String {
    let output = machine.run_for(PATIENCE, ["/bin/sh", "-euc", script]).unwrap();
    output.ok().unwrap().trim_end().to_owned()
}

fn active(machine: &Machine) -> bool {
    machine.run(["systemctl", "is-active", "--quiet", MAIN]).unwrap().success()
}

/// Nothing of the instance's runs: what is left of its units has no process.
const PROCESSES: &str = "cd /sys/fs/cgroup; find . -path '*opencode*' -name cgroup.procs -exec cat {} + \
                         | while read -r pid; do tr '\\0' ' ' </proc/$pid/cmdline; echo; done \
                         | grep -v 'net watch\\|instances turns' || true";

fn becomes_idle(machine: &Machine) {
    let ended = |machine: &Machine| Ok(sh(machine, PROCESSES).is_empty());
    machine.wait_until("nothing of the instance runs", ENDS, ended).unwrap();
    let status = machine.run(["opencode-instances", "status"]).unwrap();
    assert!(status.success() && status.stdout.contains("idle (on demand)"), "{status}");
    let said = machine.run(["systemctl", "is-failed", MAIN]).unwrap();
    assert_eq!(said.stdout.trim(), "inactive");
}

/// Opens all connections before the first request is sent; prints how many were answered.
const MANY: &str = r"
import socket
request = b'GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'
clients = [socket.create_connection(('127.0.0.1', 4101), 50) for _ in range(60)]
for client in clients:
    client.sendall(request)
print(sum(client.recv(4096).startswith(b'HTTP/1.1 200') for client in clients))
";

fn starts(machine: &Machine) -> usize {
    let journal = machine.run(["journalctl", "--no-pager", "--unit", MAIN]).unwrap().stdout;
    journal.lines().filter(|line| line.contains("]: Started opencode-web.service")).count()
}

fn wakes_once_and_sleeps(machine: &Machine) {
    becomes_idle(machine);
    machine.put("/root/many.py", MANY, 0o644).unwrap();
    assert_eq!(sh(machine, "python3 /root/many.py"), "60");
    assert_eq!(starts(machine), 1);
    becomes_idle(machine);
    assert_eq!(sh(machine, "python3 /root/many.py"), "60");
    assert_eq!(starts(machine), 2);
}

#[test]
fn the_first_clients_start_one_server_and_it_ends_without_any() {
    if unavailable() {
        return;
    }
    let machine = boot(Release::Trixie, "demand", &spec(4, ""));
    wakes_once_and_sleeps(&machine);
    what_is_used_stays(&machine);
    a_failing_start_is_told(&machine);
}

#[test]
fn instances_on_demand_live_on_systemd_252() {
    if unavailable() {
        return;
    }
    wakes_once_and_sleeps(&boot(Release::Bookworm, "demand-252", &spec(4, "")));
}

/// A client that is gone while its session works, a process that was left, and one that is connected.
fn what_is_used_stays(machine: &Machine) {
    let stays = |machine: &Machine, what: &str| {
        std::thread::sleep(Duration::from_secs(13));
        assert!(active(machine), "{what}");
    };
    let agent = Agent::connect(machine, "web").unwrap();
    agent.shell("(setsid sleep 1004 >/dev/null 2>&1 &)").unwrap();
    stays(machine, "a process was left");
    sh(machine, "kill $(pgrep -f '^sleep 1004')");
    becomes_idle(machine);

    let script = "session=$(curl -sf -XPOST -H 'content-type: application/json' -d '{}' \
                  http://127.0.0.1:4101/session | grep -o 'ses_[A-Za-z0-9]*' | head -n 1); \
                  curl -s --max-time 1 -H 'content-type: application/json' \
                  -d '{\"agent\":\"build\",\"command\":\"sleep 1003\"}' \
                  http://127.0.0.1:4101/session/$session/shell || true; \
                  curl -s \"http://127.0.0.1:4101/session/status?directory=/srv/web\"";
    let status = sh(machine, &format!("{script} || true"));
    assert!(status.contains("busy"), "{status}");
    stays(machine, "a session works");
    sh(machine, "kill $(pgrep -f '^sleep 1003')");
    becomes_idle(machine);

    sh(machine, "systemd-run --unit=stream curl -sN http://127.0.0.1:4101/event");
    let up = |machine: &Machine| Ok(active(machine));
    machine.wait_until("the server runs", ENDS, up).unwrap();
    stays(machine, "a client is connected");
    sh(machine, "systemctl stop stream");
    becomes_idle(machine);
}

fn a_failing_start_is_told(machine: &Machine) {
    sh(machine, "mv /srv/web /srv/away");
    for _ in 0..3 {
        let answer = sh(machine, "curl -si --max-time 20 http://127.0.0.1:4101/config");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("/srv/web does not exist; run: "), "{answer}");
    }
    sh(machine, "mv /srv/away /srv/web");
    assert_eq!(sh(machine, "python3 /root/many.py"), "60");
}

/// Comes at any moment of the server's life and end; prints how many servers there were.
const COMES: &str = r"
import random, socket, time
random.seed(7)
for turn in range(40):
    client = socket.create_connection(('127.0.0.1', 4101), 20)
    client.sendall(b'GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    answer = client.recv(4096)
    client.close()
    assert answer.startswith(b'HTTP/1.1 200'), (turn, answer)
    time.sleep(random.uniform(1.5, 4.5))
";

#[test]
fn no_client_is_lost_at_the_end_of_a_server() {
    if unavailable() {
        return;
    }
    let spec = format!("{}{}", stand_in::DEFAULTS, spec(1, ""));
    let machine = stand_in::boot("demand-race", &spec, &["/srv/web"]).unwrap();
    sh(&machine, "opencode-instances apply");
    machine.put("/root/comes.py", COMES, 0o644).unwrap();
    let patience = Duration::from_mins(6);
    machine.run_for(patience, ["python3", "/root/comes.py"]).unwrap().ok().unwrap();
    assert!(starts(&machine) > 5, "{} starts", starts(&machine));
}
