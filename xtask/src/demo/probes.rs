//! What the agent of one instance tries to reach of the machine.
//!
//! Each attempt is first made by the machine's root, where it must succeed: what is not there at
//! all would prove nothing by being out of reach.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use instances_lab::{Agent, GREETING, Internet, Machine};

use super::table::Row;

/// A text that stands in every file that must stay out of reach.
const SECRET: &str = "only-for-others-7b1e";
/// An address of the host's own in the demonstration, beside the one on its way out.
const HOST: &str = "192.0.2.1";
/// A place on the internet, one in a private network, and a cloud's metadata service.
const PLACES: [&str; 3] = [SITE, "10.1.2.3", "169.254.169.254"];
const SITE: &str = "1.1.1.1";

/// An attempt.
struct Probe {
    /// What it is, for the table.
    what: &'static str,
    /// The command, for a shell.
    command: String,
    /// The line that the command prints where it succeeds.
    success: &'static str,
    /// What the agent must be told, one of these.
    refusals: &'static [&'static str],
}

const NOTHING_THERE: &[&str] = &["No such file or directory"];

fn probes() -> Vec<Probe> {
    let read = |what, path: &str| Probe {
        what,
        command: format!("cat {path}"),
        success: SECRET,
        refusals: NOTHING_THERE,
    };
    let connect = |what, address: &str, refusals| Probe {
        what,
        command: format!(
            "curl --silent --show-error --max-time 5 --output /dev/null http://{address}/ && echo connected"
        ),
        success: "connected",
        refusals,
    };
    vec![
        read("read billing's project", "/srv/billing/ledger.txt"),
        read("read billing's state", "/var/lib/opencode/instance-state/billing/notes.txt"),
        Probe {
            what: "read billing's password",
            command: "wc -c </var/lib/opencode/instance-auth/billing/password".to_owned(),
            success: "43",
            refusals: NOTHING_THERE,
        },
        read("read a human's home", "/home/alice/diary.txt"),
        Probe {
            what: "list /home",
            command: "ls -A /home | grep . || echo nothing in it".to_owned(),
            success: "alice",
            refusals: &["nothing in it"],
        },
        Probe {
            what: "read /etc/shadow",
            command: "grep -c ^root: /etc/shadow".to_owned(),
            success: "1",
            refusals: NOTHING_THERE,
        },
        connect("connect to billing's port", "127.0.0.1:4102", &["onnection refused", "ould not connect"]),
        connect("connect to a loopback port of the host", "127.0.0.1:8080", &["onnection refused", "ould not connect"]),
        connect("connect to the host's own address", "192.0.2.1:8080", &["unreachable", "ould not connect"]),
        connect("connect to the host's address on the internet", "9.9.0.2:8080", &["unreachable", "ould not connect"]),
        greeted("connect to a private network", "10.1.2.3"),
        greeted("connect to a cloud's metadata service", "169.254.169.254"),
        Probe {
            what: "see the host's listener for billing",
            // 4102 in hexadecimal, in a table that shows one network namespace.
            command: "grep -q ':1006 00000000:0000 0A' /proc/self/net/tcp && echo seen || echo not seen"
                .to_owned(),
            success: "seen",
            refusals: &["not seen"],
        },
        Probe {
            what: "see billing's processes",
            command: "test $(cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx 'serv[e]') -ge 2 && echo seen || echo not seen".to_owned(),
            success: "seen",
            refusals: &["not seen"],
        },
        Probe {
            what: "write below /usr",
            command: "mktemp -p /usr/local/open >/dev/null && echo written".to_owned(),
            success: "written",
            refusals: &["Read-only file system"],
        },
    ]
}

/// Asks a place what it says.
fn greeting(address: &str) -> String {
    format!("timeout 5 bash -c 'cat </dev/tcp/{address}/80'")
}

fn greeted(what: &'static str, address: &str) -> Probe {
    let refusals = &["No route to host", "Connection refused", "Permission denied"];
    Probe { what, command: greeting(address), success: GREETING, refusals }
}

/// Puts into the machine what the probes look for.
pub(super) fn furnish(machine: &Machine, internet: &mut Internet<'_>) -> Result<()> {
    for place in PLACES {
        internet.greet(SocketAddr::new(place.parse()?, 80))?;
    }
    machine
        .sh(&format!(
            "mkdir -p /srv/website /srv/billing /home/alice /usr/local/open
             echo {SECRET} >/srv/billing/ledger.txt
             echo {SECRET} >/home/alice/diary.txt
             chmod -R a+rX /srv /home
             chmod 1777 /usr/local/open
             ip address add {HOST}/32 dev lo
             systemd-run --quiet --unit=neighbour python3 -m http.server --directory /srv/website 8080"
        ))?
        .ok()?;
    Ok(())
}

/// The rows of everything that website's agent tries.
pub(super) fn website(machine: &Machine) -> Result<Vec<Row>> {
    // The project is its own user's, as the README tells the operator to make it; the secret in the
    // state of billing is there for anybody who could get at it.
    machine
        .sh(&format!(
            "chown opencode-website: /srv/website
             echo {SECRET} >/var/lib/opencode/instance-state/billing/notes.txt
             chmod 0644 /var/lib/opencode/instance-state/billing/notes.txt"
        ))?
        .ok()?;
    let agent = Agent::connect(machine, "website")?;
    let mut rows = vec![identity(&agent)?, own_project(machine, &agent)?, internet(&agent)?];
    for probe in probes() {
        let control = machine.run(["/bin/sh", "-c", &probe.command])?;
        let succeeded = |text: &str| text.lines().any(|line| line.trim() == probe.success);
        if !succeeded(&control.stdout) {
            bail!(
                "{}: not even the machine's root can, so this proves nothing: {control}",
                probe.what
            );
        }
        let answer = agent.shell(&probe.command)?;
        let refused = probe.refusals.iter().any(|refusal| answer.contains(refusal));
        // Of a refusal the reason is enough; anything else is shown from its start.
        let good = refused && !succeeded(&answer);
        let came = if good { reason(&answer) } else { answer };
        rows.push(Row { what: probe.what.to_owned(), came, good });
    }
    Ok(rows)
}

/// What follows the last colon: programs put their name and the path in front.
fn reason(answer: &str) -> String {
    answer.trim().rsplit(": ").next().unwrap_or_default().to_owned()
}

/// Who the agent is.
fn identity(agent: &Agent<'_>) -> Result<Row> {
    let came = agent.shell("id -un")?;
    let good = came.trim() == "opencode-website";
    Ok(Row { what: "run as a user of its own".to_owned(), came, good })
}

/// What the default policy is for.
fn internet(agent: &Agent<'_>) -> Result<Row> {
    let came = agent.shell(&greeting(SITE))?;
    let good = came.trim() == GREETING;
    Ok(Row { what: "connect to the internet".to_owned(), came, good })
}

/// What an agent is there for.
fn own_project(machine: &Machine, agent: &Agent<'_>) -> Result<Row> {
    let path = "/srv/website/made-by-the-agent.txt";
    let came = agent.shell(&format!("echo hello >{path} && stat -c 'written by %U' {path}"))?;
    let there = machine.get(path).is_ok_and(|text| text == "hello\n");
    let good = there && came.trim() == "written by opencode-website";
    Ok(Row { what: "write to its own project".to_owned(), came, good })
}
