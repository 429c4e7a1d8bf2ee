//! The resolver of an instance runs in the host's network and reads what the agent writes: whoever took it
//! over would reach the host's resolvers, and nobody else.

use std::net::SocketAddr;
use std::time::Duration;

use instances_lab::{Agent, Internet, Machine, fleet, unavailable};

use crate::dns::resolvers;
use crate::view::{SOON, done, property, sh, wait_for, wait_until_served};

const SPEC: &str = "[instances.open]\ndirectory = \"/srv/open\"\nlisten.port = 4130\n";
const STUB: &str = "opencode-dns@open.service";
const ADDRESSES: &str = "opencode-host@addresses.service";
const ATTACK: &str = include_str!("stub.py");
const PORT: &str = include_str!("port.py");

/// On the host's loopback and at its address, in the internet; none of them a resolver of the host's.
const ELSEWHERE: [&str; 7] = [
    "tcp 127.0.0.1 7000",
    "tcp ::1 7000",
    "tcp 9.9.0.2 7000",
    "tcp 1.1.1.1 443",
    "udp 1.1.1.1 443",
    "tcp 2606:4700::1111 443",
    "udp 127.0.0.2 53",
];
/// Resolvers that are, or may become, the host's.
const NEAR: [&str; 2] = ["udp 127.0.0.1 53", "tcp 127.0.0.1 53"];
const FAR: [&str; 2] = ["udp 8.8.8.8 53", "tcp 8.8.8.8 53"];

#[test]
fn a_stub_reaches_the_hosts_resolvers_alone() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("stub", SPEC, &["/srv/open"]).unwrap();
    resolvers(&machine);
    let mut internet = Internet::attach(&machine, true).unwrap();
    for address in ["1.1.1.1:443", "[2606:4700::1111]:443"] {
        let address: SocketAddr = address.parse().unwrap();
        internet.greet(address).unwrap();
        internet.echo(address).unwrap();
    }
    let serve = "systemd-run -q --unit=far ip netns exec internet python3 /usr/local/sbin/resolver.py /run/far 8.8.8.8
        systemd-run -q --unit=bait socat TCP6-LISTEN:7000,fork,reuseaddr,ipv6only=0 EXEC:true";
    sh(&machine, serve);
    machine.put("/root/stub.py", ATTACK, 0o644).unwrap();
    done(&machine, "apply");
    wait_until_served(&machine, "open", SOON);
    wait_for(&machine, STUB, "active");

    let all: Vec<&str> = ELSEWHERE.iter().chain(&NEAR).chain(&FAR).copied().collect();
    let nothing_else = |allowed: &[&str]| {
        for (target, answer) in all.iter().zip(attempt(&machine, &stub(&machine), &all)) {
            let wanted = allowed.contains(target);
            assert_eq!(answer == "reached", wanted, "{target}: {answer}, allowed: {allowed:?}");
            assert!(answer != "silence", "{target}: it should be refused at once");
        }
    };
    // Somebody else reaches all of them, so each refusal is about this user.
    assert_eq!(attempt(&machine, "54321", &all), vec!["reached"; all.len()]);
    assert!(resolves(&machine));
    nothing_else(&NEAR);
    it_gets_no_port(&machine);
    it_is_confined_whenever_it_runs(&machine, &nothing_else);
    the_list_is_followed(&machine, &nothing_else);
    without_the_rule(&machine, &all);
}

/// The user of the stub that runs.
fn stub(machine: &Machine) -> String {
    // It begins anew for a list that is another file, and before it is executed it is systemd's, of root.
    let uid = format!(
        "main=$(systemctl show -P MainPID {STUB}); \
         test \"$(readlink /proc/$main/exe)\" = /usr/bin/opencode-instances && stat -c %u /proc/$main"
    );
    let mut found = String::new();
    let runs = |machine: &Machine| {
        machine.sh(&uid)?.stdout.trim().clone_into(&mut found);
        Ok(!matches!(found.as_str(), "" | "0"))
    };
    machine.wait_until("the stub runs", Duration::from_secs(20), runs).unwrap();
    found
}

/// What becomes of these targets as this user, in the host's network.
fn attempt(machine: &Machine, user: &str, targets: &[&str]) -> Vec<String> {
    let words: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    let run = format!(
        "setpriv --reuid={user} --regid={user} --clear-groups python3 - {} </root/stub.py",
        words.join(" ")
    );
    sh(machine, &run).lines().map(str::to_owned).collect()
}

/// Whether the agent gets an answer.
fn resolves(machine: &Machine) -> bool {
    let ask = "dig +short +tries=1 +timeout=3 good.example.org";
    Agent::connect(machine, "open").unwrap().shell(ask).unwrap().trim() == "1.1.1.1"
}

fn soon(machine: &Machine, what: &str, is: impl Fn() -> bool) {
    machine.wait_until(what, Duration::from_secs(20), |_| Ok(is())).unwrap();
}

/// In a unit as the stub's, with another program, nothing can be bound or listened at; it is the filter that says so.
fn it_gets_no_port(machine: &Machine) {
    machine.put("/usr/local/lib/port.py", PORT, 0o644).unwrap();
    for (without, expected) in
        [("^$", "bind EPERM\nlisten EPERM"), ("~bind", "bind done\nlisten done")]
    {
        let script = format!(
            "sed -e '/^Exec/d; /^Restart/d; /^SystemCallFilter={without}/d; s/^Type=.*/Type=oneshot/' \
             -e '/^\\[Service\\]/a ExecStart=/usr/bin/python3 /usr/local/lib/port.py' \
             -e '/^\\[Service\\]/a StandardOutput=truncate:/run/port' \
             -e '/^\\[Service\\]/a BindReadOnlyPaths=/usr' \
             /etc/systemd/system/{STUB} >/run/systemd/system/port.service
             systemctl daemon-reload; systemctl start port.service; cat /run/port"
        );
        assert_eq!(sh(machine, &script), expected);
    }
}

fn it_is_confined_whenever_it_runs(machine: &Machine, nothing_else: &dyn Fn(&[&str])) {
    for script in [
        "systemctl kill -s KILL opencode-dns@open",
        "systemctl restart opencode-dns@open.socket opencode-dns@open",
        "systemctl reload opencode-net@open",
        "opencode-instances apply",
    ] {
        sh(machine, script);
        soon(machine, script, || resolves(machine));
        nothing_else(&NEAR);
    }
    // Flushed, the table comes back with what it held.
    sh(machine, "nft flush ruleset");
    soon(machine, "the table is back", || {
        machine.sh("nft list table inet opencode_host").unwrap().success()
    });
    nothing_else(&NEAR);
    // Who cannot be confined does not run.
    let nft = sh(machine, "readlink -f $(command -v nft)");
    sh(machine, &format!("mv {nft} /root/nft; systemctl kill -s KILL opencode-dns@open"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(property(machine, STUB, "MainPID"), "0");
    assert!(!resolves(machine));
    sh(machine, &format!("mv /root/nft {nft}"));
    soon(machine, "it is back", || resolves(machine));
    nothing_else(&NEAR);
}

fn the_list_is_followed(machine: &Machine, nothing_else: &dyn Fn(&[&str])) {
    let asks = |user: &str, target: &str| attempt(machine, user, &[target]) == ["reached"];
    let all = [NEAR, FAR].concat();
    for (script, allowed) in [
        ("echo nameserver 8.8.8.8 >/etc/resolv.conf", FAR.to_vec()),
        ("echo nameserver 127.0.0.1 >/etc/new; mv /etc/new /etc/resolv.conf", NEAR.to_vec()),
        // A stub that began without this directory does not see it, and goes on with the other list.
        (
            "mkdir -p /run/systemd/resolve; echo nameserver 8.8.8.8 >/run/systemd/resolve/resolv.conf",
            [FAR, NEAR].concat(),
        ),
        ("rm /run/systemd/resolve/resolv.conf", NEAR.to_vec()),
    ] {
        sh(machine, script);
        soon(machine, script, || {
            let (first, last) = (allowed[0], allowed[allowed.len() - 1]);
            let user = stub(machine);
            let refused = all.iter().filter(|target| !allowed.contains(target));
            asks(&user, first)
                && asks(&user, last)
                && !refused.clone().any(|one| asks(&user, one))
                && resolves(machine)
        });
        nothing_else(&allowed);
    }
    let journal = sh(machine, &format!("journalctl -o cat -u {ADDRESSES}"));
    assert!(journal.contains("names are asked of 8.8.8.8 from now on"), "{journal}");
    sh(machine, ": >/etc/resolv.conf");
    soon(machine, "there is none", || !asks(&stub(machine), NEAR[0]));
    nothing_else(&[]);
    sh(machine, "echo nameserver 127.0.0.1 >/etc/resolv.conf");
    soon(machine, "there is one again", || resolves(machine));
}

/// It was the rule; and the stub itself, with its sockets, is under it.
fn without_the_rule(machine: &Machine, all: &[&str]) {
    sh(machine, &format!("systemctl stop {ADDRESSES}"));
    sh(machine, "nft flush set inet opencode_host resolvers4");
    assert!(!resolves(machine));
    let list = "nft -a list chain inet opencode_host output | sed -n 's/.*@stubs.*handle //p'";
    sh(machine, &format!("nft delete rule inet opencode_host output handle $({list})"));
    assert!(resolves(machine));
    assert_eq!(attempt(machine, &stub(machine), all), vec!["reached"; all.len()]);
}
