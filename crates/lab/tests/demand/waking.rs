//! The first client starts the server, with all who come meanwhile; it ends without any; and what clients get where
//! it does not start.

use instances_lab::{Machine, Release, unavailable};

use crate::keeping;
use crate::view::{becomes_idle, boot, instance, sh, starts, status};

/// Opens all connections before the first request is sent; prints how many were answered.
const MANY: &str = r"
import socket
request = b'GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'
clients = [socket.create_connection(('127.0.0.1', 4101), 50) for _ in range(60)]
for client in clients:
    client.sendall(request)
print(sum(client.recv(4096).startswith(b'HTTP/1.1 200') for client in clients))
";

fn wakes_once_and_sleeps(machine: &Machine) {
    becomes_idle(machine, "web");
    machine.put("/root/many.py", MANY, 0o644).unwrap();
    assert_eq!(sh(machine, "python3 /root/many.py"), "60");
    assert_eq!(starts(machine, "web"), 1);
    becomes_idle(machine, "web");
    assert_eq!(sh(machine, "python3 /root/many.py"), "60");
    assert_eq!(starts(machine, "web"), 2);
}

#[test]
fn the_first_clients_start_one_server_and_it_ends_without_any() {
    if unavailable() {
        return;
    }
    let quiet = instance("quiet", 4102, 4, "idleClients = \"active\"");
    let spec = instance("web", 4101, 4, "") + &quiet;
    let machine = boot(Release::Trixie, "demand", &spec, &["/srv/web", "/srv/quiet"]);
    wakes_once_and_sleeps(&machine);
    keeping::what_is_used_stays(&machine);
    keeping::who_only_listens_is_cut(&machine);
    a_failing_start_is_told(&machine);
}

#[test]
fn instances_on_demand_live_on_systemd_252() {
    if unavailable() {
        return;
    }
    let spec = instance("web", 4101, 4, "");
    wakes_once_and_sleeps(&boot(Release::Bookworm, "demand-252", &spec, &["/srv/web"]));
}

fn a_failing_start_is_told(machine: &Machine) {
    becomes_idle(machine, "web");
    sh(machine, "mv /srv/web /srv/away");
    for _ in 0..3 {
        let answer = sh(machine, "curl -si --max-time 20 http://127.0.0.1:4101/config");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("/srv/web does not exist; run: "), "{answer}");
    }
    let said = status(machine, "web");
    assert_eq!(said["state"], "failed", "{said}");
    assert!(said["reason"].as_str().unwrap().contains("/srv/web does not exist"), "{said}");
    sh(machine, "mv /srv/away /srv/web");
    assert_eq!(sh(machine, "python3 /root/many.py"), "60");
}
