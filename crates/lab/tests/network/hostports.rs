//! Ports of the host's loopback inside, one at a time and for one instance at a time; and what the program
//! says of an instance's network.

use std::collections::BTreeSet;

use instances_lab::fleet::BEGIN;
use instances_lab::{Agent, Internet, Machine, fleet, unavailable};

use crate::view::{SOON, apply, done, engine, property, sh, wait_until_served};

const SPEC: &str = r#"
[instances.web]
directory = "/srv/web"
listen.port = 4101
network.hostPorts = [11434]

# Its name begins as that of the other one, and its units' names must not.
[instances.web-1]
directory = "/srv/web-1"
listen.port = 4102
network.hostPorts = [11434]
network.outbound.policy = "none"

[instances.without]
directory = "/srv/without"
listen.port = 4103
"#;

/// Prints what a port of 127.0.0.1 says until it closes, or the error, and after how many seconds.
const ASK: &str = "
import socket, sys, time
start, said = time.monotonic(), b''
try:
    with socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=8) as stream:
        while part := stream.recv(4096):
            said += part
    word = said.decode() or 'closed'
except ConnectionRefusedError:
    word = 'refused'
except ConnectionResetError:
    word = 'closed'
except OSError as error:
    word = str(error)
print(word, int(time.monotonic() - start))
";

fn boot(name: &str) -> Machine {
    let projects = ["/srv/web", "/srv/web-1", "/srv/without"];
    let machine = fleet::boot(name, SPEC, &projects).unwrap();
    for project in projects {
        machine.put(format!("{project}/ask.py"), ASK, 0o644).unwrap();
    }
    machine
}

/// A service that is on the host's loopback alone.
fn provide(machine: &Machine, port: u16, word: &str) {
    let script = format!(
        "systemd-run -q --collect --unit=provider-{port} socat \
         TCP4-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr SYSTEM:'printf {word}'"
    );
    machine.sh(&script).unwrap().ok().unwrap();
    machine
        .wait_until("the provider listens", SOON, |machine| {
            Ok(machine.sh(&format!("ss -Hltn sport = :{port}"))?.ok()?.contains("127.0.0.1"))
        })
        .unwrap();
}

/// What an agent's shell gets from a port of its loopback, and after how many seconds.
fn ask(machine: &Machine, instance: &str, port: u16) -> (String, u32) {
    let agent = Agent::connect(machine, instance).unwrap();
    let said = agent.shell(&format!("python3 /srv/{instance}/ask.py {port}")).unwrap();
    let (word, seconds) = said.trim().rsplit_once(' ').unwrap();
    (word.to_owned(), seconds.parse().unwrap())
}

fn pid(machine: &Machine, unit: &str) -> String {
    let pid = property(machine, unit, "MainPID");
    assert_ne!(pid, "0", "{unit}");
    pid
}

#[test]
fn one_port_of_the_host_is_inside_and_no_other() {
    if unavailable() {
        return;
    }
    let machine = boot("hostports");
    provide(&machine, 11434, "model");
    provide(&machine, 9999, "secret");
    done(&machine, "apply");
    for instance in ["web", "web-1", "without"] {
        wait_until_served(&machine, instance, SOON);
    }
    let servers = ["web", "web-1", "without"].map(|one| format!("opencode-{one}.service"));
    let before = servers.each_ref().map(|unit| pid(&machine, unit));
    for instance in ["web", "web-1"] {
        assert_eq!(ask(&machine, instance, 11434).0, "model", "{instance}");
        assert_eq!(ask(&machine, instance, 9999).0, "refused", "{instance}");
    }
    assert_eq!(ask(&machine, "without", 11434).0, "refused");
    // The proxy is in the host's network, and never the instance's user.
    let proxy = pid(&machine, "opencode-hostport@web-11434.service");
    let links = format!("readlink /proc/{proxy}/ns/net /proc/1/ns/net | uniq | wc -l");
    assert_eq!(machine.sh(&links).unwrap().ok().unwrap().trim(), "1");
    let user = |pid: &str| {
        machine.run(["stat", "-c", "%u", &format!("/proc/{pid}")]).unwrap().ok().unwrap()
    };
    let helpers = ["hostport@web-1-11434", "dns@web", "dns@without", "listen@web", "listen@web-1"];
    let helpers = helpers.map(|unit| pid(&machine, &format!("opencode-{unit}.service")));
    let users: Vec<_> = helpers.iter().chain([&proxy, &before[0]]).map(|pid| user(pid)).collect();
    let different: BTreeSet<_> = users.iter().collect();
    assert!(different.len() == users.len() && !users.contains(&"0\n".to_owned()), "{users:?}");
    // Nobody is there: the connection ends, and the next one is served as soon as somebody is.
    machine.sh("systemctl stop provider-11434").unwrap().ok().unwrap();
    let (word, seconds) = ask(&machine, "web", 11434);
    assert!(word == "closed" && seconds < 8, "{word} after {seconds} s");
    provide(&machine, 11434, "again");
    assert_eq!(ask(&machine, "web", 11434).0, "again");
    // It goes and comes without the agent's noticing.
    let (first, rest) = SPEC.split_once("network.hostPorts = [11434]\n").unwrap();
    apply(&machine, &format!("{first}{rest}"));
    assert_eq!(ask(&machine, "web", 11434).0, "refused");
    assert_eq!(ask(&machine, "web-1", 11434).0, "again");
    apply(&machine, SPEC);
    assert_eq!(ask(&machine, "web", 11434).0, "again");
    let more = format!("{first}network.hostPorts = [11434, 9999]\n{rest}");
    apply(&machine, &more);
    assert_eq!(ask(&machine, "web", 9999).0, "secret");
    assert_eq!(servers.each_ref().map(|unit| pid(&machine, unit)), before);
    // Nor does the agent's namespace keep what began with it when it is made anew.
    sh(&machine, &format!("{BEGIN} begin opencode-net@web opencode-web"));
    wait_until_served(&machine, "web", SOON);
    assert_eq!(ask(&machine, "web", 11434).0, "again");
    let logs = machine.sh("opencode-instances logs web --lines 500").unwrap().ok().unwrap();
    assert!(logs.contains("opencode-hostport@web-11434"), "{logs}");
    assert!(!logs.contains("opencode-hostport@web-1-"), "{logs}");
    a_port_that_is_taken_inside_is_named(&machine, &format!("{first}{rest}"), (first, rest));
}

fn a_port_that_is_taken_inside_is_named(machine: &Machine, without: &str, spec: (&str, &str)) {
    apply(machine, without);
    let take = "(socat TCP4-LISTEN:9999,fork SYSTEM:true </dev/null >/dev/null 2>&1 &); sleep 0.5";
    Agent::connect(machine, "web").unwrap().shell(take).unwrap();
    let (first, rest) = spec;
    let taken = format!("{first}network.hostPorts = [9999]\n{rest}");
    machine.put(fleet::SPEC, taken, 0o644).unwrap();
    let refused = engine(machine, "apply");
    assert!(!refused.success(), "the port was free: {refused}");
    let status = engine(machine, "status web").stdout;
    let words = "opencode-hostport@web-9999.socket failed: its port cannot be opened";
    assert!(status.contains(words), "{status}");
}

#[test]
fn what_is_in_force_is_said() {
    if unavailable() {
        return;
    }
    let machine = boot("what-is-in-force");
    let _internet = Internet::attach(&machine, true).unwrap();
    done(&machine, "apply");
    for instance in ["web", "web-1"] {
        wait_until_served(&machine, instance, SOON);
    }
    let said = |instance: &str, code: i32| -> String {
        let answer = engine(&machine, &format!("net {instance}"));
        assert_eq!(answer.code(), code, "{answer}");
        answer.stdout
    };
    let text = said("web", 0);
    for words in [
        "internet: everything",
        "all are resolved",
        "127.0.0.1:11434 inside",
        "127.0.0.1:4101, the one way in",
        "eth0 10.219.",
        "eth0 fd",
        "loaded as declared",
        "the table is there",
        "ip netns exec opencode-web nft list table inet opencode",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let text = said("web-1", 0);
    assert!(text.contains("none: nothing") && text.contains("loaded as declared"), "{text}");
    // The commands are to be copied.
    let json = machine.run(["opencode-instances", "net", "web", "--json"]).unwrap().ok().unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for command in json["commands"].as_array().unwrap() {
        machine.sh(command.as_str().unwrap()).unwrap().ok().unwrap();
    }
    let reload = "systemctl reload opencode-net@web";
    let inside = "ip netns exec opencode-web nft";
    for (change, words) in [
        (format!("{inside} insert rule inet opencode output accept"), "NOT those"),
        (format!("{inside} flush set inet opencode host4"), "other addresses of the host"),
        (format!("{inside} delete table inet opencode"), "NONE are loaded"),
        // Who watches the host's table would have it back before anybody looks.
        (
            "systemctl kill --signal=STOP opencode-host@addresses; \
             nft delete table inet opencode_host"
                .to_owned(),
            "NO table",
        ),
    ] {
        machine.sh(&change).unwrap().ok().unwrap();
        let text = said("web", 4);
        assert!(text.contains(words), "{change}\n{text}");
        machine.sh("systemctl kill --signal=CONT opencode-host@addresses").unwrap().ok().unwrap();
        machine.sh(reload).unwrap().ok().unwrap();
        said("web", 0);
    }
    machine.sh("opencode-instances stop web").unwrap().ok().unwrap();
    assert!(said("web", 0).contains("the instance is down"));
}
