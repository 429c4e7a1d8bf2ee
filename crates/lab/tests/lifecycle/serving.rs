//! Two instances that serve, lose their processes, and serve again.

use instances_lab::{Machine, fleet, unavailable};

use crate::view::{
    SOON, assert_healthy, done, engine, http, number, pid, property, server, sh, status, url,
    wait_for, wait_until_served,
};

const MAIN: &str = "opencode-website.service";

#[test]
fn two_instances_serve_whatever_ends_their_processes() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("serving").unwrap();
    health_and_password(&machine);
    the_supervisor_is_small(&machine);
    many_connections(&machine);
    let other = pid(&machine, "billing");
    restart(&machine);
    clients_wait_for_a_start(&machine);
    killed_processes(&machine);
    a_server_that_hangs(&machine);
    assert_eq!(pid(&machine, "billing"), other, "the other instance was not touched");
    start_and_stop(&machine);
}

fn health_and_password(machine: &Machine) {
    for (instance, port) in [("website", 4101), ("billing", 4102)] {
        assert_healthy(machine, instance);
        assert_eq!(status(machine, instance)["version"], instances_lab::install::OPENCODE_VERSION);
        let url = url(machine, instance);
        assert_eq!(http(machine, &format!("{url}/config"), 20), 200);
        for path in ["config", "global/health", "session"] {
            let open = format!("http://127.0.0.1:{port}/{path}");
            assert_eq!(http(machine, &open, 20), 401, "{path} without a password");
            let wrong = format!("http://opencode:wrong@127.0.0.1:{port}/{path}");
            assert_eq!(http(machine, &wrong, 20), 401, "{path} with a wrong one");
        }
    }
    let (one, two) = (url(machine, "website"), url(machine, "billing"));
    let crossed = one.replace("4101", "4102");
    assert_ne!(crossed, two);
    assert_eq!(http(machine, &crossed, 20), 401, "one instance's password opens another");
}

fn the_supervisor_is_small(machine: &Machine) {
    let main = pid(machine, "website");
    let kib = |name: &str| -> u64 {
        sh(machine, &format!("awk '/^{name}:/ {{ print $2 }}' /proc/{main}/status"))
            .parse()
            .unwrap()
    };
    // What each one has for itself; the rest is the program, which all supervisors share, and which is larger
    // here than the one that is shipped.
    let (own, all) = (kib("RssAnon"), kib("VmRSS"));
    assert!(
        own < 1 << 10 && all < 20 << 8,
        "the supervisor takes {own} KiB, with its program {all} KiB"
    );
}

/// Opens all connections before the first request is sent; prints how many were answered.
const MANY: &str = r"
import socket, sys
count, port, credentials = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
request = (f'GET /global/health HTTP/1.1\r\nhost: x\r\nauthorization: Basic {credentials}\r\n'
           'connection: close\r\n\r\n').encode()
clients = [socket.create_connection(('127.0.0.1', port), 50) for _ in range(count)]
for client in clients:
    client.sendall(request)
print(sum(client.recv(4096).startswith(b'HTTP/1.1 200') for client in clients))
";

fn many(machine: &Machine, count: u32) -> String {
    machine.put("/root/many.py", MANY, 0o644).unwrap();
    let url = url(machine, "website");
    let credentials = url.trim_start_matches("http://").split('@').next().unwrap();
    let script = format!(
        "python3 /root/many.py {count} 4101 $(printf %s '{credentials}' | base64 --wrap=0)"
    );
    sh(machine, &script)
}

fn many_connections(machine: &Machine) {
    assert_eq!(many(machine, 300), "300");
}

fn restart(machine: &Machine) {
    let before = pid(machine, "website");
    done(machine, "restart website");
    assert_ne!(pid(machine, "website"), before);
    wait_until_served(machine, "website", SOON);
    assert_healthy(machine, "website");
}

/// Whoever connects while the server is not there yet starts it and is answered.
fn clients_wait_for_a_start(machine: &Machine) {
    sh(machine, &format!("systemctl stop {MAIN}"));
    assert_eq!(property(machine, MAIN, "ActiveState"), "inactive");
    assert_eq!(many(machine, 40), "40");
    sh(machine, &format!("kill -9 {}", pid(machine, "website")));
    machine
        .wait_until("the server is gone", SOON, |machine| {
            Ok(property(machine, MAIN, "ActiveState") != "active")
        })
        .unwrap();
    assert_eq!(many(machine, 40), "40");
}

fn killed_processes(machine: &Machine) {
    // Five starts in a minute are a crash loop to systemd, and these tests need more.
    sh(machine, &format!("systemctl reset-failed {MAIN}"));
    for process in [server, pid] {
        let before = pid(machine, "website");
        sh(machine, &format!("kill -9 {}", process(machine, "website")));
        let what = "another server is up";
        machine
            .wait_until(what, SOON, |machine| {
                let now = pid(machine, "website");
                Ok(now != 0 && now != before && property(machine, MAIN, "SubState") == "running")
            })
            .unwrap();
        wait_until_served(machine, "website", SOON);
        assert_healthy(machine, "website");
    }
}

/// The supervisor gives it up, and before systemd would give up the supervisor. The bound is from the moment in which the
/// server stops to the start of its successor.
fn a_server_that_hangs(machine: &Machine) {
    sh(machine, &format!("systemctl reset-failed {MAIN}"));
    let before = pid(machine, "website");
    let script = format!(
        "kill -STOP {}; python3 -c 'import time; print(int(time.monotonic() * 1000000))'",
        server(machine, "website")
    );
    let stopped: u64 = sh(machine, &script).parse().unwrap();
    machine
        .wait_until("another server runs", SOON, |machine| {
            let now = pid(machine, "website");
            Ok(now != 0 && now != before)
        })
        .unwrap();
    let started = number(machine, MAIN, "ExecMainStartTimestampMonotonic");
    let took = started - stopped;
    assert!(took < 20_000_000, "restarted only after {took} µs");
    wait_until_served(machine, "website", SOON);
}

fn start_and_stop(machine: &Machine) {
    done(machine, "stop website");
    assert_eq!(status(machine, "website")["state"], "stopped");
    assert_eq!(http(machine, "http://127.0.0.1:4101/", 20), 0, "a stopped instance is closed");
    assert_eq!(property(machine, MAIN, "ActiveState"), "inactive", "and nothing starts it");
    done(machine, "start website");
    wait_until_served(machine, "website", SOON);
    done(machine, "stop --all");
    for instance in ["website", "billing"] {
        assert_eq!(status(machine, instance)["state"], "stopped");
        wait_for(machine, &format!("opencode-net@{instance}.service"), "inactive");
    }
    assert_eq!(sh(machine, "ip netns list"), "");
    assert_eq!(engine(machine, "status").code(), 0, "stopping is no failure");
}
