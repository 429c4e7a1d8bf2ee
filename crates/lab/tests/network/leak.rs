//! Nothing gets out that the policy refuses, whatever happens to the services and the host's rules
//! meanwhile: an agent sends without pause, and the internet counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use instances_lab::{ADDRESSES, Agent, HOST, Internet, Machine, fleet, unavailable};

use crate::view::{SOON, apply, done, sh, wait_until_served};

const ALLOWED: [&str; 2] = ["1.1.1.1", "2606:4700::1111"];
const SEND: &str = include_str!("send.py");
/// Where the sender inside says how far it is.
const COUNT: &str = "/srv/busy/sent";
/// What goes to the addresses that are allowed, so that silence elsewhere means something.
const FLOWS: [(&str, u64); 6] = [
    (ALLOWED[0], 1),
    (ALLOWED[0], 6),
    (ALLOWED[0], 17),
    (ALLOWED[1], 6),
    (ALLOWED[1], 17),
    (ALLOWED[1], 58),
];

/// What happens to a machine under load, and whether the agent survives it.
const EVENTS: &[(&str, bool, &str)] = &[
    ("the reader of refusals is killed", true, "systemctl kill -s KILL opencode-events@busy"),
    ("it is restarted", true, "systemctl restart opencode-events@busy"),
    ("the resolver is killed", true, "systemctl kill -s KILL opencode-dns@busy"),
    (
        "it is restarted with its socket",
        true,
        "systemctl restart opencode-dns@busy.socket opencode-dns@busy",
    ),
    (
        "the policy is reloaded",
        true,
        "for i in 1 2 3 4; do systemctl reload opencode-net@busy; done",
    ),
    (
        "a reload is killed on its way",
        true,
        "up=$(sed -n 's/^ExecReload=//p' /etc/systemd/system/opencode-net@busy.service)
         for time in 0.002 0.005 0.01 0.02 0.03 0.05; do timeout -s KILL $time $up || true; done
         systemctl reload opencode-net@busy",
    ),
    ("everything is applied again", true, "opencode-instances apply"),
    (
        "the host's rules are flushed",
        true,
        "nft flush ruleset; sleep 0.5; systemctl reload opencode-net@busy",
    ),
    (
        "the host's firewall is restarted",
        true,
        "systemctl restart nftables; sleep 0.5; systemctl reload opencode-net@busy",
    ),
    ("the supervisor is killed", false, "systemctl kill -s KILL --kill-whom=main opencode-busy"),
    ("the namespace is made anew", false, "systemctl restart opencode-net@busy"),
];

fn spec(policy: &str) -> String {
    let list = format!("allowCidrs = [\"{}/32\", \"{}/128\"]\n", ALLOWED[0], ALLOWED[1]);
    let list = if policy == "none" { String::new() } else { list };
    format!(
        "[instances.busy]\ndirectory = \"/srv/busy\"\nlisten.port = 4105\n\
         [instances.busy.network.outbound]\npolicy = \"{policy}\"\n{list}"
    )
}

/// A unit that is there from the first moment of a boot.
fn at_boot(machine: &Machine, name: &str, unit: &str, service: &str) {
    let text = format!(
        "[Unit]\nDefaultDependencies=no\nBefore=opencode-net@busy.service\n{unit}\n\
         [Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n"
    );
    machine.put(format!("/etc/systemd/system/{name}.service"), text, 0o644).unwrap();
    sh(machine, &format!("systemctl daemon-reload; systemctl enable --now {name}"));
}

fn serve(machine: &Machine) -> Internet<'_> {
    let mut internet = Internet::of(machine);
    for address in ADDRESSES {
        let address: IpAddr = address.parse().unwrap();
        internet.greet(SocketAddr::new(address, 443)).unwrap();
    }
    internet
}

/// Has the agent send from its shell, in the background.
fn send(machine: &Machine) {
    wait_until_served(machine, "busy", SOON);
    let targets = ADDRESSES.join(" ");
    let command = format!(
        "rm -f {COUNT}; setsid python3 /srv/busy/send.py {COUNT} {targets} </dev/null >/srv/busy/said 2>&1 & sleep 0.2"
    );
    Agent::connect(machine, "busy").unwrap().shell(&command).unwrap();
    machine.wait_until("the agent has begun", SOON, |machine| Ok(sent(machine).is_some())).unwrap();
}

/// How often the agent has sent to everybody.
fn sent(machine: &Machine) -> Option<u64> {
    machine.get(COUNT).ok()?.split(' ').next()?.parse().ok()
}

/// Waits until the agent has sent some more to everybody, and what is allowed comes through.
fn wait_until_sending(machine: &Machine, internet: &Internet<'_>, after: &str) {
    let before = internet.packets().unwrap();
    let rounds = sent(machine).unwrap_or_default();
    let count = |packets: &BTreeMap<(IpAddr, u64), u64>, flow: &(&str, u64)| {
        packets.get(&(flow.0.parse().unwrap(), flow.1)).copied().unwrap_or_default()
    };
    let what = format!("the agent sends, after: {after}");
    machine
        .wait_until(&what, Duration::from_secs(20), |machine| {
            thread::sleep(Duration::from_millis(50));
            let now = internet.packets()?;
            let flows = FLOWS.iter().all(|flow| count(&now, flow) > count(&before, flow));
            Ok(flows && sent(machine).is_some_and(|now| now > rounds + 20))
        })
        .unwrap();
}

/// What came that should not have, and from where.
fn leaks(internet: &Internet<'_>, allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut leaks = Vec::new();
    for ((address, protocol), count) in internet.packets().unwrap() {
        let text = address.to_string();
        if ADDRESSES.contains(&text.as_str()) && !allowed(&text) {
            leaks.push(format!("{count} packets of protocol {protocol} to {text}"));
        }
    }
    for source in internet.sources().unwrap() {
        let text = source.to_string();
        // The host's own, and what every machine says on its link.
        if !HOST.contains(&text.as_str()) && !text.starts_with("fe80:") && text != "::" {
            leaks.push(format!("packets from {text}"));
        }
    }
    leaks
}

fn assert_tight(internet: &Internet<'_>, after: &str) {
    let leaks = leaks(internet, |address| ALLOWED.contains(&address));
    assert!(leaks.is_empty(), "after: {after}: {leaks:#?}");
}

#[test]
fn nothing_refused_leaves_whatever_happens() {
    if unavailable() {
        return;
    }
    let mut machine = fleet::boot("leak", &spec("internet"), &["/srv/busy"]).unwrap();
    machine.put("/srv/busy/send.py", SEND, 0o644).unwrap();
    sh(&machine, "chmod 777 /srv/busy");
    machine.put("/usr/local/sbin/internet", Internet::script(true), 0o755).unwrap();
    at_boot(
        &machine,
        "internet",
        "",
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=sh /usr/local/sbin/internet",
    );
    done(&machine, "apply");
    // Somebody who is in the namespace before its link is, and in a new one as soon as there is one.
    let stowaway = format!(
        "ExecStart=python3 /srv/busy/send.py --enter /run/netns/opencode-busy {}\nRestart=always\nNice=5",
        ADDRESSES.join(" ")
    );
    at_boot(&machine, "stowaway", "After=internet.service\nStartLimitIntervalSec=0", &stowaway);
    {
        let internet = serve(&machine);
        send(&machine);
        wait_until_sending(&machine, &internet, "the start");
        let global = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888"];
        assert_eq!(leaks(&internet, |address| global.contains(&address)), [""; 0]);
        // From open to closed, under load.
        let process = sh(&machine, &format!("cut -d' ' -f2 {COUNT}"));
        assert!(internet.packets().unwrap().contains_key(&("8.8.8.8".parse().unwrap(), 17)));
        apply(&machine, &spec("allow-list"));
        internet.forget().unwrap();
        wait_until_sending(&machine, &internet, "the change of the policy");
        assert_tight(&internet, "the change of the policy");
        assert_eq!(sh(&machine, &format!("cut -d' ' -f2 {COUNT}")), process, "it was restarted");
        for round in 1..=2 {
            // The agent's own end takes most of the time.
            for (what, survives, script) in EVENTS.iter().filter(|one| one.1 || round == 1) {
                sh(&machine, script);
                if !survives {
                    send(&machine);
                }
                wait_until_sending(&machine, &internet, what);
                assert_tight(&internet, &format!("{what}, round {round}"));
            }
        }
        // To nothing at all, and back.
        apply(&machine, &spec("none"));
        internet.forget().unwrap();
        let rounds = sent(&machine);
        machine.wait_until("it goes on", SOON, |machine| Ok(sent(machine) > rounds)).unwrap();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(leaks(&internet, |_| false), [""; 0]);
        apply(&machine, &spec("allow-list"));
        wait_until_sending(&machine, &internet, "nothing was allowed");
        assert_tight(&internet, "nothing was allowed");
        the_test_would_notice(&machine, &internet);
    }
    machine.reboot().unwrap();
    let internet = serve(&machine);
    send(&machine);
    wait_until_sending(&machine, &internet, "the reboot");
    assert_tight(&internet, "the reboot");
}

/// The same look at a namespace with a hole in it, made by hand; and a reload closes it.
fn the_test_would_notice(machine: &Machine, internet: &Internet<'_>) {
    sh(machine, "ip netns exec opencode-busy nft insert rule inet opencode output accept");
    wait_until_sending(machine, internet, "the hole");
    let found = leaks(internet, |address| ALLOWED.contains(&address));
    for address in ["8.8.8.8", "10.1.2.3", "169.254.169.254", "2001:4860:4860::8888"] {
        let protocols = found.iter().filter(|leak| leak.ends_with(&format!(" {address}"))).count();
        assert_eq!(protocols, 3, "{address}: {found:#?}");
    }
    sh(machine, "systemctl reload opencode-net@busy");
    internet.forget().unwrap();
    wait_until_sending(machine, internet, "the hole was closed");
    assert_tight(internet, "the hole was closed");
}
