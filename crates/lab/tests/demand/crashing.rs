//! Servers that crash while clients are held. The server is a light stand-in.

use instances_lab::{Machine, stand_in, unavailable};

use crate::view::{SOON, ask, becomes_idle, code, instance, main, property, sh, status};

/// Says when it begins, takes as long as the project's file says, and is the stand-in then, unless it fails.
const SLOW: &str = "#!/bin/sh
echo it begins
sleep \"$(cat delay)\"
if [ -e crashes ]; then echo it cannot go on; exit 3; fi
if [ -e killed ]; then kill -KILL $$; fi
exec /usr/local/bin/stand-in \"$@\"
";

/// Opens connections, says that they are open, and prints the status and the words of each answer.
const HELD: &str = r"
import socket, sys
request = b'GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'
clients = [socket.create_connection(('127.0.0.1', int(sys.argv[1])), 100) for _ in range(5)]
for client in clients:
    client.sendall(request)
for client in clients:
    try:
        answer = client.makefile('rb').read().decode()
    except ConnectionError as error:
        answer = f'HTTP/1.1 {error}'
    print(answer.split(' ')[1], answer.splitlines()[-2:][0])
";

#[test]
fn clients_outlive_a_crash_of_a_server_that_starts() {
    if unavailable() {
        return;
    }
    let more = "package = \"/usr/local/bin/slow\"\nnetwork.outbound.policy = \"none\"";
    let machine =
        stand_in::boot("demand-crash", &instance("web", 4101, 4, more), &["/srv/web"]).unwrap();
    machine.put("/usr/local/bin/slow", SLOW, 0o755).unwrap();
    machine.put("/root/held.py", HELD, 0o644).unwrap();
    takes(&machine, "4");
    sh(&machine, "opencode-instances apply");
    who_tells_late_tells_nothing(&machine);
    the_server_is_killed(&machine);
    its_supervisor_is_killed(&machine);
    for (file, reason) in [
        ("crashes", "the server failed with status 3: it begins · it cannot go on"),
        ("killed", "the server was killed by SIGKILL: it begins"),
    ] {
        crashes_always(&machine, file, reason);
    }
}

fn takes(machine: &Machine, seconds: &str) {
    machine.put("/srv/web/delay", seconds, 0o644).unwrap();
}

fn begins(machine: &Machine) -> usize {
    let journal = "journalctl --no-pager --unit opencode-web | grep -c '\\]: it begins$' || true";
    sh(machine, journal).parse().unwrap()
}

/// Five clients that wait, and what they get.
fn hold(machine: &Machine) {
    let waits = "rm -f /root/got; systemctl reset-failed held 2>/dev/null || true; \
                 systemd-run --unit=held --property=StandardOutput=file:/root/got python3 /root/held.py 4101";
    sh(machine, waits);
}

fn got(machine: &Machine) -> String {
    let over = |machine: &Machine| Ok(property(machine, "held", "ActiveState") != "active");
    machine.wait_until("who was held is answered", SOON, over).unwrap();
    sh(machine, "cat /root/got")
}

fn all_begin(answers: &str, words: &str) {
    let good = answers.lines().filter(|line| line.starts_with(words));
    assert_eq!((good.count(), answers.lines().count()), (5, 5), "{answers}");
}

/// Clients that wait for a server that begins to start.
fn wait_for_one(machine: &Machine) -> usize {
    becomes_idle(machine, "web");
    let before = begins(machine);
    takes(machine, "30");
    hold(machine);
    let begun = |machine: &Machine| Ok(begins(machine) > before);
    machine.wait_until("it begins", SOON, begun).unwrap();
    takes(machine, "1");
    before
}

/// The refusals' unit of an earlier start looks while the next one goes from one unit to the other.
fn who_tells_late_tells_nothing(machine: &Machine) {
    becomes_idle(machine, "web");
    takes(machine, "0");
    let holds = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'\n";
    machine.put("/etc/systemd/system/holds.service", holds, 0o644).unwrap();
    let drop_in = "/etc/systemd/system/opencode-web.service.d/held.conf";
    machine.put(drop_in, "[Unit]\nAfter=holds.service\n", 0o644).unwrap();
    sh(machine, "systemctl daemon-reload; systemctl start --no-block holds");
    hold(machine);
    let between = |machine: &Machine| {
        let state = |unit: &str| property(machine, unit, "ActiveState");
        Ok(state("opencode-listen@web.service") == "active" && state(&main("web")) == "inactive")
    };
    machine.wait_until("its units are there", SOON, between).unwrap();
    sh(machine, "opencode-instances refusal web --systemctl /usr/bin/systemctl");
    assert_eq!(property(machine, "holds", "ActiveState"), "activating");
    sh(machine, "touch /run/go");
    all_begin(&got(machine), "200");
    sh(machine, &format!("rm {drop_in}; systemctl daemon-reload"));
}

/// They wait on, for the next start.
fn the_server_is_killed(machine: &Machine) {
    let before = wait_for_one(machine);
    let supervisor = property(machine, &main("web"), "MainPID");
    sh(machine, &format!("kill -KILL $(pgrep -o -P {supervisor})"));
    let answers = got(machine);
    all_begin(&answers, "200");
    assert_eq!(begins(machine), before + 2);
}

/// Nobody is left who could start it once more: they are told, and systemd restarts it.
fn its_supervisor_is_killed(machine: &Machine) {
    let before = wait_for_one(machine);
    sh(machine, &format!("kill -KILL {}", property(machine, &main("web"), "MainPID")));
    let answers = got(machine);
    all_begin(&answers, "503 the instance web ");
    assert_eq!(code(machine, 4101), "200");
    assert_eq!(begins(machine), before + 2);
}

/// Clients are told at once, each start is one that a client asked for, and the next client is served when the
/// cause is gone.
fn crashes_always(machine: &Machine, file: &str, reason: &str) {
    becomes_idle(machine, "web");
    takes(machine, "0");
    let (before, path) = (starts_of_supervisors(machine), format!("/srv/web/{file}"));
    machine.put(&path, "", 0o644).unwrap();
    hold(machine);
    let words = format!("the instance web cannot be started: {reason}");
    let answers = got(machine);
    all_begin(&answers, &format!("503 {words}"));
    for _ in 0..3 {
        let answer = ask(machine, 4101);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(&words), "{answer}");
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(starts_of_supervisors(machine), before + 4);
    let found = status(machine, "web");
    assert_eq!(
        (&found["state"], found["reason"].as_str()),
        (&"failed".into(), Some(reason)),
        "{found}"
    );
    sh(machine, &format!("rm {path}"));
    assert_eq!(code(machine, 4101), "200");
}

fn starts_of_supervisors(machine: &Machine) -> usize {
    let journal =
        "journalctl --no-pager --unit opencode-web | grep -c ']: Starting opencode-web' || true";
    sh(machine, journal).parse().unwrap()
}
