//! From an order, or from a client, to the first answer of a server that did not run.

mod peers;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use instances_lab::progress::say;
use instances_lab::{Machine, fleet, install};
use serde_json::{Value, json};

use super::chart::{self, Bar, Chart};
use super::life::{BARE_HOME, PATIENCE, Spread, answers_within, bare_start, home, install_plugin};
use super::{Part, human, turns};
use crate::engine;

/// Both answer without a password, as the others do.
const SPEC: &str = r#"
[instances.boot]
directory = "/srv/boot"
listen.port = 4101
auth.enable = false

[instances.demand]
directory = "/srv/demand"
listen.port = 4102
auth.enable = false
activation = "on-demand"
"#;

/// A way to a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Bare,
    Boot,
    Demand,
    Bubblewrap,
    Nspawn,
}

impl Way {
    /// All, the baseline first.
    const ALL: [Self; 5] = [Self::Bare, Self::Boot, Self::Demand, Self::Bubblewrap, Self::Nspawn];

    fn words(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Boot => "instance, ordered",
            Self::Demand => "instance, on demand",
            Self::Bubblewrap => "bubblewrap",
            Self::Nspawn => "systemd-nspawn",
        }
    }

    /// Starts the server, and ends it again.
    fn round(self, machine: &Machine, caches: Caches) -> Result<Duration> {
        match self {
            Self::Bare => {
                let [_, answered] = bare_start(machine, || caches.clock())?;
                machine.run(["systemctl", "stop", "bare"])?.ok()?;
                Ok(answered)
            }
            Self::Boot => ours(machine, caches, "boot", 4101, true),
            Self::Demand => ours(machine, caches, "demand", 4102, false),
            Self::Bubblewrap => peers::bubblewrap(machine, caches),
            Self::Nspawn => peers::nspawn(machine, caches),
        }
    }
}

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let projects = ["/srv/boot", "/srv/demand", "/srv/bare", BARE_HOME];
    let machine = fleet::boot("bench-cold", SPEC, &projects)?;
    let versions = peers::prepare(&machine)?;
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "start", "demand"])?.ok()?;
    for name in ["boot", "demand"] {
        rest(&machine, name)?;
    }
    for home in [BARE_HOME, peers::HOME, &home("boot"), &home("demand")] {
        install_plugin(&machine, home)?;
    }
    let warm = take_turns(&machine, rounds, Caches::Warm)?;
    let empty = take_turns(&machine, rounds, Caches::Empty)?;
    report(rounds, &versions, warm, empty)
}

/// What the kernel has kept of the disk when a server starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caches {
    /// All that the start before has read.
    Warm,
    /// Nothing that no process has mapped.
    Empty,
}

impl Caches {
    /// Has the kernel forget what it has read of the disk, which is the whole host's, if it is to; and starts the clock.
    fn clock(self) -> Result<Instant> {
        if self == Self::Empty {
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "3")
                .context("cannot drop the caches of the host")?;
        }
        Ok(Instant::now())
    }
}

/// The times of every way, in the order of [`Way::ALL`].
type Times = [Vec<Duration>; Way::ALL.len()];

/// The first round is not counted.
fn take_turns(machine: &Machine, rounds: usize, caches: Caches) -> Result<Times> {
    let mut all = Times::default();
    for round in 0..=rounds {
        let mut one = [Duration::ZERO; Way::ALL.len()];
        for index in turns::order(round, Way::ALL.len()) {
            if let (Some(way), Some(time)) = (Way::ALL.get(index), one.get_mut(index)) {
                *time = way.round(machine, caches).with_context(|| way.words())?;
            }
        }
        if round > 0 {
            say(&format!("round {round}, {caches:?}: {}", one.map(human).join(", ")));
            all.iter_mut().zip(one).for_each(|(all, time)| all.push(time));
        }
    }
    Ok(all)
}

/// One client, whose one request waits at the listener on the host's loopback.
fn ours(machine: &Machine, caches: Caches, name: &str, port: u16, order: bool) -> Result<Duration> {
    let unit = format!("opencode-{name}.service");
    // So many starts in a minute are more than the unit allows.
    machine.run(["systemctl", "reset-failed", &unit])?.ok()?;
    let start = caches.clock()?;
    if order {
        machine.run(["systemctl", "start", "--no-block", &unit])?.ok()?;
    }
    if !machine.in_netns(|| answers_within(port, PATIENCE))? {
        let status = machine.run(["opencode-instances", "status"])?;
        bail!("{name} does not answer: {status}");
    }
    let time = start.elapsed();
    rest(machine, name)?;
    Ok(time)
}

/// Ends server and proxy. The namespace stays, as when the server of an instance on demand has ended by itself.
fn rest(machine: &Machine, name: &str) -> Result<()> {
    let unit = format!("opencode-{name}.service");
    let proxy = format!("opencode-listen@{name}.service");
    // A resolver that starts for the server's first question needs the server: its start cancels a stop.
    let stopped = |machine: &Machine| Ok(machine.run(["systemctl", "stop", &unit])?.success());
    machine.wait_until("the server is stopped", PATIENCE, stopped)?;
    machine.run(["systemctl", "stop", &proxy])?.ok().map(drop)
}

fn report(rounds: usize, versions: &str, warm: Times, empty: Times) -> Result<Part> {
    let mut text = format!(
        "## Until the first answer\n\n\
         From the order to start a server that does not run until `GET /config` is answered with 200; for the instance on \
         demand from the client's connection. An earlier start that is not counted has filled the HOME. With warm caches it \
         has filled the page cache too, so that no disk is waited for; with empty ones the kernel has been told to forget what it has \
         read (`vm.drop_caches`), as far as no process has it mapped. That spares an instance the engine, which its resolver and its reader of refusals still run; \
         HOME and project are in memory in both. {rounds} rounds of each in one machine, where the order changes; the ratio is the \
         median of those within a round. None has a password, and all have the environment that keeps the server from looking \
         for models and updates.\n\n\
         - `bare`: `opencode serve` as a transient unit without any sandbox, root's.\n\
         - `instance, ordered`: `systemctl start` and, at once, one client at the listener on the host's loopback, whose \
           request the proxy holds. Its namespace is there, as after `systemctl stop`.\n\
         - `instance, on demand`: one client at the listener, and no order. Its namespace is there from an earlier start.\n\
         - `bubblewrap`: `bwrap --unshare-all` for a user of its own, with `/usr`, a dozen places of `/etc`, the project and HOME. \
           It has a network namespace with a loopback and no link, and no way in but from inside: the client is put there. No \
           filter of system calls, no limit of memory or processes, no listener, nothing that restarts the server or says that \
           it is ready, and no policy: that would take a second program.\n\
         - `systemd-nspawn`: a directory with the same places, `--private-network --register=no --keep-unit --as-pid2`, the same user \
           without a user namespace, and nspawn's own filter of system calls. The \
           client is put inside too.\n\n\
         A server without a proxy is asked when it has said `listening on`. The program that gives the order, and its question to systemd, are in all times but those on demand. Each HOME has the traces of the plugin that opencode \
         installs in its first start with a network; without one it would try again in each, before its first answer or after it (seen in its log, *not verified here* by a test). {versions}\n\n\
         | caches | server | min | median | max | ratio |\n|---|---|---|---|---|---|\n"
    );
    let mut data = serde_json::Map::new();
    let mut drawn = Vec::new();
    for (caches, all) in [("warm", warm), ("empty", empty)] {
        let [bare, ..] = &all;
        let baseline: Vec<f64> = bare.iter().map(Duration::as_secs_f64).collect();
        for (way, times) in Way::ALL.into_iter().zip(all) {
            let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
            let (spread, ratio) = (Spread::of(times)?, turns::ratio(&baseline, &seconds)?);
            let words = way.words();
            text.push_str(&format!("| {caches} | {words} | {} | {ratio:.3} |\n", spread.cells()));
            drawn.push(Bar {
                label: format!("{caches}: {words}"),
                parts: vec![spread.median.as_secs_f64()],
                figure: format!("{}, {ratio:.2}", human(spread.median)),
            });
            let row = json!({ "spread": spread.data(), "ratio": ratio });
            data.insert(format!("{words}, {caches} caches"), row);
        }
    }
    let title = "Until the first answer: median, and ratio to bare";
    let charts =
        vec![Chart { name: "cold", words: title.to_owned(), svg: chart::bars(title, &[], &drawn) }];
    Ok(Part { name: "cold", text, data: Value::Object(data), charts })
}
