//! Real servers that nobody uses, of each kind.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use instances_lab::{Machine, fleet};

use crate::bench::life::{PATIENCE, QUIET, answers, answers_within};

/// What the units of bare servers are called, before a number.
pub(super) const PREFIX: &str = "bare-";
/// Before the number of a server, what its port begins with.
const BARE_PORT: usize = 4200;
const OUR_PORT: usize = 4100;
/// How long all of them together may take.
const ALL: Duration = Duration::from_mins(10);
/// How soon an instance on demand ends.
const IDLE: u32 = 5;

/// How a server is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bare,
    Boot,
    Demand,
}

impl Kind {
    /// All, the baseline first.
    pub(super) const ALL: [Self; 3] = [Self::Bare, Self::Boot, Self::Demand];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Boot => "instance",
            Self::Demand => "instance, on demand",
        }
    }
}

/// A machine with the places of so many servers.
pub(super) fn boot(kind: Kind, most: usize) -> Result<Machine> {
    let machine = fleet::boot("bench-idle", "", &[])?;
    let place = match kind {
        Kind::Bare => "mkdir -p /srv/$number /var/lib/bare/$number",
        Kind::Boot | Kind::Demand => "mkdir -p /srv/$number",
    };
    machine.sh(&format!("for number in $(seq 0 {}); do {place}; done", most - 1))?.ok()?;
    Ok(machine)
}

/// Adds servers until there are so many, and waits until each has answered.
pub(super) fn bring(machine: &Machine, kind: Kind, from: usize, to: usize) -> Result<()> {
    match kind {
        Kind::Bare => bare(machine, from, to),
        Kind::Boot => apply(machine, kind, to),
        Kind::Demand => {
            apply(machine, kind, to)?;
            for number in from..to {
                let port = port(OUR_PORT, number);
                if !machine.in_netns(|| answers_within(port, PATIENCE))? {
                    bail!("the instance at {port} does not answer");
                }
            }
            machine.wait_until("all instances are idle", ALL, |machine| {
                thread::sleep(Duration::from_secs(1));
                let list = "systemctl list-units --no-legend --state=active,activating,deactivating \
                            'opencode-i*.service'";
                Ok(machine.sh(list)?.ok()?.trim().is_empty())
            })
        }
    }
}

fn port(first: usize, number: usize) -> u16 {
    u16::try_from(first + number).unwrap_or_default()
}

fn apply(machine: &Machine, kind: Kind, count: usize) -> Result<()> {
    let more = match kind {
        Kind::Demand => format!("activation = \"on-demand\"\nidleTimeout = {IDLE}\n"),
        Kind::Bare | Kind::Boot => String::new(),
    };
    let one = |number: usize| {
        let port = port(OUR_PORT, number);
        format!(
            "[instances.i{number}]\ndirectory = \"/srv/{number}\"\nlisten.port = {port}\nauth.enable = false\n{more}"
        )
    };
    machine.put(fleet::SPEC, (0..count).map(one).collect::<String>(), 0o644)?;
    machine.run_for(ALL, ["opencode-instances", "apply"])?.ok().map(drop)
}

/// One after the other, as the turns of instances would have it on a small host.
fn bare(machine: &Machine, from: usize, to: usize) -> Result<()> {
    for number in from..to {
        let port = port(BARE_PORT, number);
        let [unit, place, home, text] = [
            format!("--unit={PREFIX}{number}"),
            format!("--working-directory=/srv/{number}"),
            format!("--setenv=HOME=/var/lib/bare/{number}"),
            port.to_string(),
        ];
        let run = ["systemd-run", "--quiet", &unit, &place, &home];
        let server = ["/usr/bin/opencode", "serve", "--hostname", "127.0.0.1", "--port", &text];
        machine.run(run.into_iter().chain(QUIET.iter().copied()).chain(server))?.ok()?;
        machine.wait_until("a bare server answers", PATIENCE, |machine| {
            machine.in_netns(|| answers(port))
        })?;
    }
    Ok(())
}
