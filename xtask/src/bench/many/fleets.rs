//! Machines with many servers of one kind.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use instances_lab::{Image, Machine, Options, Release, fleet, stand_in};

use super::ALL;

/// What the units of bare servers are called, before a number; those of instances are called `opencode-` and this.
pub(super) const PREFIX: &str = "bare-";
/// Where the program that asks notes how long it waited.
pub(super) const BEATS: &str = "/var/lib/beats";
const PULSE: &str = include_str!("pulse.py");
/// Before the number of a server, what its port begins with.
const PORT: usize = 4100;

/// What servers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Light,
    Real,
}

/// How they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bare,
    Boot,
    /// As many starts at once as there are servers.
    AtOnce,
    Demand,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fleet {
    pub(super) kind: Kind,
    pub(super) server: Server,
    pub(super) count: usize,
}

impl Fleet {
    pub(super) fn words(self) -> String {
        let Self { count, .. } = self;
        let server = match self.server {
            Server::Light => "light",
            Server::Real => "real",
        };
        match self.kind {
            Kind::Bare => format!("{count} {server}, bare"),
            Kind::Boot => format!("{count} {server}, instances"),
            Kind::AtOnce => format!("{count} {server}, all at once"),
            Kind::Demand => format!("{count} {server}, on demand"),
        }
    }

    /// The units whose readiness counts.
    fn units(self) -> &'static str {
        match self.kind {
            Kind::Bare => "bare-*.service",
            Kind::Boot | Kind::AtOnce => "opencode-i*.service",
            Kind::Demand => "opencode-listen@*.socket",
        }
    }
}

/// A machine in which everything is but the servers.
pub(super) fn boot(wanted: Fleet) -> Result<Machine> {
    let image = Image::ensure(Release::Trixie)?;
    let options = Options::new().name("bench-many").engine().boot_timeout(ALL);
    let machine = Machine::boot(&image, &options)?;
    stand_in::put(&machine)?;
    let last = wanted.count - 1;
    machine
        .sh(&format!("for n in $(seq 0 {last}); do mkdir -p /srv/$n /var/lib/bare/$n; done"))?
        .ok()?;
    match wanted.kind {
        Kind::Bare => bare(&machine, wanted)?,
        Kind::Boot | Kind::AtOnce | Kind::Demand => {
            machine.put(fleet::SPEC, spec(wanted), 0o644)?;
        }
    }
    Ok(machine)
}

fn spec(wanted: Fleet) -> String {
    let mut text = String::new();
    if wanted.kind == Kind::AtOnce {
        text.push_str(&format!("[fleet]\nmaxConcurrentStarts = {}\n", wanted.count));
    }
    if wanted.server == Server::Light {
        text.push_str(stand_in::DEFAULTS);
    }
    for number in 0..wanted.count {
        let port = PORT + number;
        text.push_str(&format!(
            "[instances.i{number}]\ndirectory = \"/srv/{number}\"\nlisten.port = {port}\nauth.enable = false\n"
        ));
        if wanted.kind == Kind::Demand {
            text.push_str("activation = \"on-demand\"\n");
        }
    }
    text
}

/// Plain services, which count as started when their port is open.
fn bare(machine: &Machine, wanted: Fleet) -> Result<()> {
    let server = match wanted.server {
        Server::Light => stand_in::SERVER,
        Server::Real => "/usr/bin/opencode",
    };
    let wait = "until (: </dev/tcp/127.0.0.1/%i) 2>/dev/null; do sleep 0.1; done";
    let quiet: String = crate::bench::life::QUIET
        .iter()
        .filter_map(|one| one.strip_prefix("--setenv="))
        .map(|variable| format!("Environment={variable}\n"))
        .collect();
    let unit = format!(
        "[Service]\nWorkingDirectory=/var/lib/bare\n{quiet}Environment=HOME=/var/lib/bare/%i\n\
         ExecStart={server} serve --hostname 127.0.0.1 --port %i\n\
         ExecStartPost=/bin/bash -c '{wait}'\nTimeoutStartSec=infinity\n"
    );
    machine.put("/etc/systemd/system/bare-@.service", unit, 0o644)?;
    let last = PORT + wanted.count - 1;
    let wants: Vec<String> = (PORT..=last).map(|port| format!("bare-@{port}.service")).collect();
    let target =
        format!("[Unit]\nWants={}\n[Install]\nWantedBy=multi-user.target\n", wants.join(" "));
    machine.put("/etc/systemd/system/bare.target", target, 0o644)?;
    machine
        .sh(&format!("for n in $(seq {PORT} {last}); do mkdir -p /var/lib/bare/$n; done"))?
        .ok()?;
    machine.run(["systemctl", "enable", "--quiet", "bare.target"])?.ok().map(drop)
}

/// Has all servers run, and says how many seconds that took.
pub(super) fn bring(machine: &Machine, wanted: Fleet) -> Result<f64> {
    let start = Instant::now();
    match wanted.kind {
        Kind::Bare => {
            let script = "systemctl daemon-reload; systemctl start bare.target";
            machine.run_for(ALL, ["/bin/sh", "-euc", script])?.ok()?;
        }
        Kind::Boot | Kind::AtOnce | Kind::Demand => {
            machine.run_for(ALL, ["opencode-instances", "apply"])?.ok()?;
        }
    }
    let time = start.elapsed().as_secs_f64();
    let [_, _] = span(machine, wanted)?;
    Ok(time)
}

/// Has the next boots note how long small things take.
pub(super) fn pulse(machine: &Machine) -> Result<()> {
    machine.put("/usr/local/bin/pulse", PULSE, 0o755)?;
    let unit = format!(
        "[Service]\nExecStart=/usr/local/bin/pulse {BEATS}\n[Install]\nWantedBy=basic.target\n"
    );
    machine.put("/etc/systemd/system/pulse.service", unit, 0o644)?;
    machine.run(["systemctl", "enable", "--quiet", "pulse.service"])?.ok().map(drop)
}

/// When the machine's systemd was started and when the last of all servers was ready, in seconds of the kernel's
/// clock.
pub(super) fn span(machine: &Machine, wanted: Fleet) -> Result<[f64; 2]> {
    let seconds = |text: &str| text.trim().parse::<f64>().map(|micros| micros / 1e6);
    let value = ["systemctl", "show", "--value", "--property"];
    let from = machine.run(value.iter().chain(&["UserspaceTimestampMonotonic"]))?.ok()?;
    let show = ["systemctl", "show", "--property=Id,ActiveState,ActiveEnterTimestampMonotonic"];
    let text = machine.run(show.iter().chain(&[wanted.units()]))?.ok()?;
    let mut last: f64 = 0.0;
    let mut active = 0;
    for unit in text.split("\n\n") {
        let property =
            |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        if property("ActiveState") == Some("active") {
            active += 1;
            last =
                last.max(seconds(property("ActiveEnterTimestampMonotonic").unwrap_or_default())?);
        }
    }
    if active != wanted.count {
        bail!("{active} of {} servers are ready: {text}", wanted.count);
    }
    Ok([seconds(&from).context("systemd does not say when it was started")?, last])
}
