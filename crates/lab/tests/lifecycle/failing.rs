//! Starts that fail: clients are refused at once, the port stays open, and `status` says why.

use std::time::Duration;

use instances_lab::{Machine, fleet, unavailable};

use crate::view::{
    SOON, apply, assert_healthy, done, engine, http, number, property, sh, status, url, wait_for,
    wait_until_served,
};

const SPEC: &str = "[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\n";
const MAIN: &str = "opencode-web.service";
const NET: &str = "opencode-net@web.service";
const SOCKET: &str = "opencode-listen@web.socket";

/// The start limit of the server counts a minute.
const LIMIT: Duration = Duration::from_secs(75);

#[test]
fn failing_starts_refuse_clients_and_keep_the_port() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("failing", SPEC, &["/srv/web"]).unwrap();
    the_port_of_the_host_is_taken(&machine);
    a_server_that_systemd_loses(&machine);
    a_broken_policy(&machine);
    a_missing_project(&machine);
    a_port_taken_inside(&machine);
    an_invalid_configuration(&machine);
}

/// Opens twenty connections one after the other; each must be told or closed, not left waiting.
///
/// Most find a start that has just failed. One that starts the real server waits for its failure.
const KNOCK: &str = r"
import socket, time
slowest = 0
for _ in range(20):
    began = time.monotonic()
    try:
        client = socket.create_connection(('127.0.0.1', 4101), 20)
        client.sendall(b'GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
        answer = client.recv(4096)
        assert answer == b'' or answer.startswith(b'HTTP/1.1 503 '), answer
    except ConnectionError:
        pass
    slowest = max(slowest, time.monotonic() - began)
print(slowest)
";

fn knock(machine: &Machine) {
    machine.put("/root/knock.py", KNOCK, 0o644).unwrap();
    let slowest: f32 = sh(machine, "python3 /root/knock.py").parse().unwrap();
    assert!(slowest < 10.0, "a client hung for {slowest} s");
    assert_eq!(property(machine, SOCKET, "ActiveState"), "active");
}

fn reason(machine: &Machine) -> String {
    status(machine, "web")["reason"].as_str().unwrap().to_owned()
}

fn assert_reason(machine: &Machine, wanted: &[&str]) {
    let reason = reason(machine);
    assert!(wanted.iter().all(|word| reason.contains(word)), "{reason}");
    let table = engine(machine, "status");
    assert!(table.stdout.contains(&reason), "{table}");
}

fn the_port_of_the_host_is_taken(machine: &Machine) {
    sh(machine, "systemd-run --unit=thief --collect nc -l -k 127.0.0.1 4101");
    machine
        .wait_until("the port is taken", SOON, |machine| {
            Ok(machine.run(["nc", "-z", "127.0.0.1", "4101"])?.success())
        })
        .unwrap();
    let output = engine(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("4101 is taken by another program"), "{output}");
    assert_reason(machine, &["127.0.0.1:4101", "taken by another program"]);
    sh(machine, "systemctl stop thief");
    let again = done(machine, "apply");
    assert!(again.contains(SOCKET), "{again}");
    wait_until_served(machine, "web", SOON);
    assert_healthy(machine, "web");
}

/// What systemd does when it hears of the end of a unit's first process before it hears of process 1 of the
/// namespace: it takes the start for failed, and starts it again.
fn a_server_that_systemd_loses(machine: &Machine) {
    done(machine, "stop web");
    let command = sh(machine, &format!("sed -n 's/^ExecStart=//p' /etc/systemd/system/{MAIN}"));
    let state = "/var/lib/opencode/instance-state/web";
    let directory = format!("/run/systemd/system/{MAIN}.d");
    // Not again before it is looked at, and long before.
    for (begin, wait) in [("start web", "1h"), ("apply", "1h"), ("restart web", "1ms")] {
        let dropin = format!(
            "[Service]\nRestartSec={wait}\nExecStart=\nExecStart=/bin/sh -c 'if test -e $$HOME/lost; then exec \"$$@\"; \
             fi; touch $$HOME/lost' - {command}\n"
        );
        machine.put(format!("{directory}/lost.conf"), &dropin, 0o644).unwrap();
        sh(machine, &format!("systemctl daemon-reload; systemctl stop {MAIN}; rm -f {state}/lost"));
        done(machine, begin);
        wait_until_served(machine, "web", SOON);
        assert_eq!(sh(machine, &format!("ls {state}/lost")), format!("{state}/lost"), "{begin}");
    }
    let lost = sh(machine, &format!("journalctl -o cat -u {MAIN} | grep -c \"result 'protocol'\""));
    // systemd may have lost more of its own accord.
    assert!(lost.parse::<u32>().unwrap() >= 3, "{lost}");
    sh(machine, &format!("rm -r {directory}; systemctl daemon-reload"));
    // One that is stopped has no listener, and has one again.
    done(machine, "stop web");
    assert_eq!(property(machine, SOCKET, "ActiveState"), "inactive");
    done(machine, "restart web");
    wait_until_served(machine, "web", SOON);
}

fn a_broken_policy(machine: &Machine) {
    done(machine, "stop web");
    let rules = "/etc/opencode-instances/web/rules.nft";
    sh(machine, &format!("cp {rules} /root/rules; echo 'add rule nonsense' >>{rules}"));
    let output = engine(machine, "start web");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("opencode-net@web.service failed"), "{output}");
    // Without a namespace there is no proxy: who comes waits for both.
    let waits = "systemd-run --unit=waits --property=RemainAfterExit=yes --property=StandardOutput=file:/root/waited \
                 curl --silent --max-time 60 --write-out '%{http_code}' --output /dev/null http://127.0.0.1:4101/";
    sh(machine, waits);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(
        sh(machine, "cat /root/waited; systemctl show --value --property=SubState waits"),
        "running"
    );
    assert_eq!(property(machine, SOCKET, "ActiveState"), "active");
    assert_eq!(sh(machine, "ip netns list"), "", "an unproven policy has no namespace");
    sh(machine, &format!("cp /root/rules {rules}"));
    // Nobody touches a unit: traffic alone starts it.
    let answered = |machine: &Machine| Ok(sh(machine, "cat /root/waited") == "401");
    machine.wait_until("who waited is answered", SOON * 3, answered).unwrap();
    wait_until_served(machine, "web", SOON);
    assert_eq!(property(machine, NET, "ActiveState"), "active");
    assert_healthy(machine, "web");
}

fn a_missing_project(machine: &Machine) {
    sh(machine, &format!("systemctl stop {MAIN}; mv /srv/web /srv/away"));
    knock(machine);
    assert_reason(machine, &["/srv/web", "does not exist"]);
    sh(machine, "mv /srv/away /srv/web");
    done(machine, "start web");
    wait_until_served(machine, "web", SOON);
}

fn a_port_taken_inside(machine: &Machine) {
    sh(machine, &format!("systemctl stop {MAIN}"));
    sh(
        machine,
        "systemd-run --unit=thief --collect ip netns exec opencode-web nc -l -k 127.0.0.1 4096",
    );
    sh(machine, &format!("systemctl reset-failed {MAIN}; systemctl start --no-block {MAIN}"));
    let has_failed = |machine: &Machine| Ok(number(machine, MAIN, "NRestarts") > 0);
    machine.wait_until("it is started again", SOON, has_failed).unwrap();
    // In between too, unless the next start takes longer than `status` waits, and says where it is.
    while property(machine, MAIN, "ActiveState") != "failed" {
        let reason = reason(machine);
        let said = ["port 4096 is already taken by another program", "the server is starting"];
        assert!(said.iter().any(|words| reason.contains(words)), "{reason}");
    }
    assert_reason(machine, &["port 4096 is already taken by another program"]);
    sh(machine, "systemctl stop thief");
    done(machine, "start web");
    wait_until_served(machine, "web", SOON);
}

fn an_invalid_configuration(machine: &Machine) {
    machine.put("/srv/web/opencode.json", "{ \"model\": 5 }\n", 0o644).unwrap();
    let output = engine(machine, "restart web");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("/srv/web/opencode.json is invalid: model"), "{output}");
    wait_for(machine, MAIN, "failed");
    assert_reason(machine, &["/srv/web/opencode.json is invalid: model"]);
    knock(machine);
    assert_reason(machine, &["/srv/web/opencode.json is invalid: model"]);
    sh(machine, "rm /srv/web/opencode.json");
    // Nobody touches a unit: once the start limit has run out, traffic starts it.
    let url = format!("{}/config", url(machine, "web"));
    let served = |machine: &Machine| {
        std::thread::sleep(Duration::from_secs(1));
        Ok(http(machine, &url, 50) == 200)
    };
    machine.wait_until("it is served again", LIMIT, served).unwrap();
    assert_healthy(machine, "web");
    let nothing = apply(machine, SPEC);
    assert!(nothing.ends_with("nothing to do\n"), "{nothing}");
}
