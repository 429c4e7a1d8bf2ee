//! SIGKILL for everything of ours that stays: systemd starts it again, and the servers are served.

use instances_lab::faults::Fault;
use instances_lab::{Machine, stand_in, unavailable};

use crate::spec;
use crate::table::{Case, each};
use crate::view::{SOON, assert_healthy, done, engine, property, sh, wait_until_served};

const CASES: &[Case] = &[("each_one_alone", each_one_alone), ("all_at_once", all_at_once)];

/// With what brings one more process of ours: a proxy, a resolver, a reader of refusals, sockets, secrets.
const MORE: &str = "[instances.more]\ndirectory = \"/srv/more\"\nlisten.port = 4102\nrestartOnSecretChange = true\n\
                    credentials.word = \"/etc/word\"\nsandbox.unixSockets = [\"/run/some.socket:/run/some/some.socket\"]\n\
                    network.outbound.policy = \"allow-list\"\nnetwork.dns.allowNames = [\"example.org\"]\n";

#[test]
fn what_is_killed_beside_servers_is_started_again() {
    if unavailable() {
        return;
    }
    let mut machine =
        stand_in::boot("faults-daemons", &spec(&[MORE]), &["/srv/kept", "/srv/more"]).unwrap();
    sh(&machine, "umask 077; echo word >/etc/word; systemd-run --collect nc -lkU /run/some.socket");
    done(&machine, "apply");
    for instance in ["kept", "more"] {
        wait_until_served(&machine, instance, SOON);
    }
    each("daemons.rs", &mut machine, CASES);
}

/// Every service of ours that runs.
fn running(machine: &Machine) -> Vec<String> {
    let list = "systemctl list-units --plain --no-legend --state=running 'opencode*.service' | cut -d' ' -f1 | sort";
    sh(machine, list).lines().map(str::to_owned).collect()
}

/// Waits until those run, and everybody is served.
fn come_back(machine: &Machine, wanted: &[String], killed: &str) {
    let what = format!("all run again after the end of {killed}");
    machine.wait_until(&what, SOON, |machine| Ok(running(machine) == wanted)).unwrap();
    for instance in ["kept", "more"] {
        wait_until_served(machine, instance, SOON);
        assert_healthy(machine, instance);
    }
    let output = engine(machine, "plan");
    assert!(output.stderr.ends_with("nothing to do\n"), "{killed}: {output}");
}

fn each_one_alone(machine: &mut Machine, _: &Fault) {
    let wanted = running(machine);
    let of = |part: &str| wanted.iter().any(|unit| unit.starts_with(part));
    for part in [
        "opencode-dns@more",
        "opencode-host@turns",
        "opencode-kept.",
        "opencode-listen@kept",
        "opencode-events@",
        "opencode-host@addresses",
        "opencode-secrets@",
        "opencode-sockets@",
    ] {
        assert!(of(part), "no {part} among {wanted:?}");
    }
    for unit in &wanted {
        let before = property(machine, unit, "MainPID");
        sh(machine, &format!("kill -9 {before}"));
        machine
            .wait_until("it has ended", SOON, |machine| {
                Ok(property(machine, unit, "MainPID") != before)
            })
            .unwrap();
        come_back(machine, &wanted, unit);
    }
}

fn all_at_once(machine: &mut Machine, _: &Fault) {
    let wanted = running(machine);
    let pids = |machine: &Machine| -> Vec<String> {
        wanted.iter().map(|unit| property(machine, unit, "MainPID")).collect()
    };
    let before = pids(machine);
    sh(machine, &format!("systemctl kill -s KILL {}", wanted.join(" ")));
    machine
        .wait_until("all have ended", SOON, |machine| {
            Ok(pids(machine).iter().zip(&before).all(|(now, before)| now != before))
        })
        .unwrap();
    come_back(machine, &wanted, "all");
}
