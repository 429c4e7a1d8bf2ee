//! Clients that come at any moment of a server's life and end, again and again. The servers are light stand-ins.

use std::time::Duration;

use instances_lab::progress::say;
use instances_lab::{stand_in, unavailable};

use crate::view::{instance, sh};

/// How many times clients come, unless this variable says otherwise.
const TURNS: usize = 40;
const TURNS_VAR: &str = "INSTANCES_DEMAND_TURNS";
/// How many instances take part, each with a client of its own.
const INSTANCES: usize = 8;

/// Comes to each instance in turn, mostly about when its server ends, and says how often it came, how often it
/// found no server, who was lost, and who was told that there is none.
///
/// A server ends about two seconds after its last client: `idleTimeout`, and when the supervisor looks.
const COMES: &str = r"
import random, socket, subprocess, sys, threading, time
turns, ports = int(sys.argv[1]), [int(port) for port in sys.argv[2:]]
counted, left, lost, told = threading.Lock(), turns, [], []

def comes(port):
    global left
    chance = random.Random(port)
    while True:
        with counted:
            if left == 0:
                return
            left -= 1
        answer = b''
        try:
            client = socket.create_connection(('127.0.0.1', port), 60)
            client.sendall(b'GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
            answer = client.recv(4096)
            client.close()
        except OSError as error:
            answer = str(error).encode()
        if not answer.startswith(b'HTTP/1.1 200'):
            (told if answer.startswith(b'HTTP/1.1 503') else lost).append((port, time.time(), answer))
        time.sleep(chance.uniform(1.5, 3.0))

threads = [threading.Thread(target=comes, args=[port]) for port in ports]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(lost), len(told), lost, told)
";

#[test]
fn no_client_is_lost_at_the_end_of_a_server() {
    if unavailable() {
        return;
    }
    let turns = std::env::var(TURNS_VAR).map_or(TURNS, |turns| turns.parse().unwrap());
    let names: Vec<String> = (1..=INSTANCES).map(|number| format!("web{number}")).collect();
    let mut spec = stand_in::DEFAULTS.to_owned();
    let mut ports = Vec::new();
    for (name, port) in names.iter().zip(4101..) {
        spec += &instance(name, port, 1, "network.outbound.policy = \"none\"");
        ports.push(port.to_string());
    }
    let projects: Vec<String> = names.iter().map(|name| format!("/srv/{name}")).collect();
    let projects: Vec<&str> = projects.iter().map(String::as_str).collect();
    let machine = stand_in::boot("demand-cycles", &spec, &projects).unwrap();
    // Clients that come and go are many starts in a minute, and many lines.
    let quiet = "[Unit]\nStartLimitIntervalSec=0\n";
    for name in &names {
        let drop_in = format!("/etc/systemd/system/opencode-{name}.service.d/often.conf");
        machine.put(drop_in, quiet, 0o644).unwrap();
    }
    machine
        .put("/etc/systemd/journald.conf.d/all.conf", "[Journal]\nRateLimitIntervalSec=0\n", 0o644)
        .unwrap();
    sh(&machine, "systemctl restart systemd-journald; opencode-instances apply");
    machine.put("/root/comes.py", COMES, 0o644).unwrap();
    let patience = Duration::from_mins(3) + Duration::from_secs(3) * u32::try_from(turns).unwrap();
    let script = format!("python3 /root/comes.py {turns} {}", ports.join(" "));
    let lost = machine.run_for(patience, ["/bin/sh", "-euc", &script]).unwrap().ok().unwrap();
    let count = |words: &str| -> usize {
        let count = format!(
            "journalctl --no-pager --unit 'opencode-web?.service' | grep -c '{words}' || true"
        );
        sh(&machine, &count).parse().unwrap()
    };
    let wakes = count("\\]: Started opencode-web");
    let again = count("status=75");
    // A wake that is asked for while the server before it still ends.
    let at_the_end = at_the_end(&sh(
        &machine,
        "journalctl --no-pager --output=short-unix --unit 'opencode-*web*'",
    ));
    say(&format!(
        "{turns} clients, {wakes} wakes, {at_the_end} of them asked for while a server ended, {again} servers \
         that a client found ending; lost: {lost}"
    ));
    assert!(lost.starts_with("0 "), "{lost}");
    // Of a start that systemd itself loses, which it tries again, the client is told.
    let (told, unlucky) = (lost.split(' ').nth(1).unwrap(), count("result .protocol."));
    assert!(told.parse::<usize>().unwrap() <= unlucky, "{lost}; {unlucky} starts");
    assert!(wakes > turns / 8, "{wakes} wakes");
}

/// How many proxies began while their server had been told to end, and was not gone yet.
fn at_the_end(journal: &str) -> usize {
    let (mut ending, mut count) = (std::collections::BTreeSet::new(), 0);
    for line in journal.lines() {
        let Some((_, words)) = line.split_once("]: ") else { continue };
        let unit = |before: &str, after: &str| -> Option<String> {
            Some(words.strip_prefix(before)?.split_once(after)?.0.to_owned())
        };
        if let Some(name) = unit("Starting opencode-listen@", ".service") {
            count += usize::from(ending.contains(&name));
        }
        if let Some(name) = unit("opencode-listen@", ".service: Deactivated") {
            ending.insert(name);
        }
        if let Some(name) = unit("opencode-", ".service: Deactivated") {
            ending.remove(&name);
        }
    }
    count
}
