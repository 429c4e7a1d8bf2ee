//! What servers take while nobody uses them: with 1, with 5 and with 20 of them.

mod servers;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use instances_lab::progress::{during, say};
use instances_lab::{Machine, install};
use serde_json::{Value, json};

use super::chart::{self, Bar, Chart};
use super::usage::{Owner, Usage, of_init, of_units, time_of_init};
use super::{Effort, Part, turns};
use crate::engine;
use servers::Kind;

/// How many servers there are.
const COUNTS: [usize; 3] = [1, 5, 20];
/// How long nothing is looked at after the last of them is ready.
const SETTLE: Duration = Duration::from_secs(10);

/// What so many servers of a kind take, in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    server: Usage,
    ours: Usage,
    host: Usage,
    /// What systemd has grown by.
    init: f64,
    /// What systemd used of the processor.
    init_busy: f64,
}

impl Sample {
    fn memory(self) -> f64 {
        self.server.memory + self.ours.memory
    }

    fn processor(self) -> f64 {
        self.server.processor + self.ours.processor
    }
}

/// By kind and count, one for each round.
type Samples = BTreeMap<(usize, usize), Vec<Sample>>;

pub(super) fn measure(effort: Effort) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let mut all = Samples::new();
    for round in 1..=effort.rounds {
        for index in turns::order(round, Kind::ALL.len()) {
            let Some(kind) = Kind::ALL.get(index) else { continue };
            let what = format!("round {round}: {}", kind.words());
            for (count, sample) in during(&what, || grown(*kind, effort.window))? {
                say(&format!("{count}: {:.1} MiB", mib(sample.memory()) / float(count)));
                all.entry((index, count)).or_default().push(sample);
            }
        }
    }
    report(effort, &all)
}

/// One machine, with more and more servers.
fn grown(kind: Kind, window: Duration) -> Result<Vec<(usize, Sample)>> {
    let most = COUNTS.last().copied().unwrap_or_default();
    let machine = servers::boot(kind, most)?;
    let before = of_init(&machine)?;
    let mut had = 0;
    let mut samples = Vec::new();
    for count in COUNTS {
        servers::bring(&machine, kind, had, count).with_context(|| format!("{count} servers"))?;
        had = count;
        thread::sleep(SETTLE);
        samples.push((count, sample(&machine, before, window)?));
    }
    Ok(samples)
}

/// Memory as it is, and the processor time of the window.
fn sample(machine: &Machine, before: f64, window: Duration) -> Result<Sample> {
    let first = of_units(machine, servers::PREFIX)?;
    let (init, begun) = (of_init(machine)? - before, time_of_init(machine));
    thread::sleep(window);
    let init_busy = (time_of_init(machine) - begun) * 60.0 / window.as_secs_f64();
    let last = of_units(machine, servers::PREFIX)?;
    let of = |owner: Owner| {
        let [first, last] = [&first, &last].map(|all| all.get(&owner).copied().unwrap_or_default());
        // For a minute, whatever the window.
        let each = 60.0 / window.as_secs_f64();
        Usage { processor: (last.processor - first.processor).max(0.0) * each, ..first }
    };
    Ok(Sample {
        server: of(Owner::Server),
        ours: of(Owner::Ours),
        host: of(Owner::Host),
        init,
        init_busy,
    })
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// The middle of the rounds.
fn middle(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Result<f64> {
    turns::median(&samples.iter().map(of).collect::<Vec<_>>())
}

fn report(effort: Effort, all: &Samples) -> Result<Part> {
    let mut text = format!(
        "## What an idle instance takes\n\n\
         A fresh machine for each kind, with 1, then 5, then 20 of them; {} round{}, in changing order. Memory is the proportional \
         share (PSS) of all processes of a unit, {} s after the last server was ready; processor time is what their control \
         groups used in the {} s after that, as milliseconds a minute. Everything is for one server, but for the last column. The baseline `bare` is `opencode \
         serve` as a transient unit that has answered one `GET /config`; its question and the supervisor's, every five seconds, cost the server some of its time. \
         `beside it` is what an instance has beside its server: supervisor, proxy, resolver, reader of refusals. On demand the servers have \
         each answered a client, and have ended. `PID 1` is what systemd's own memory has grown by since the machine had none, and its processor time. Not counted is what the \
         kernel keeps of an instance: its network namespace, rules and mounts, of which a bare server has none. No server has a password, or opencode's plugin in its HOME, which each start tries in vain to install. `for all` is what the \
         host's services for all instances take together. The ratios are those of server and what is beside it, medians of each round's.\n\n\
         | kind | servers | processes | server | beside it | of bare | server, a minute | beside it, a minute | of bare | PID 1 | for all |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
        effort.rounds,
        if effort.rounds == 1 { "" } else { "s" },
        SETTLE.as_secs(),
        effort.window.as_secs(),
    );
    let mut data = serde_json::Map::new();
    let mut drawn = Vec::new();
    for (index, kind) in Kind::ALL.iter().enumerate() {
        for count in COUNTS {
            let samples = all.get(&(index, count)).map(Vec::as_slice).unwrap_or_default();
            let bare = all.get(&(0, count)).map(Vec::as_slice).unwrap_or_default();
            let each = float(count);
            let one = |of: fn(&Sample) -> f64| middle(samples, of).map(|figure| figure / each);
            let ratio = |of: fn(Sample) -> f64| {
                let [bare, own] =
                    [bare, samples].map(|all| all.iter().map(|one| of(*one)).collect::<Vec<_>>());
                turns::ratio(&bare, &own)
            };
            let processes = one(|one| float(one.server.processes + one.ours.processes))?;
            let [server, ours, init] =
                [one(|one| one.server.memory)?, one(|one| one.ours.memory)?, one(|one| one.init)?];
            let [busy, beside, init_busy] = [
                one(|one| one.server.processor * 1e3)?,
                one(|one| one.ours.processor * 1e3)?,
                one(|one| one.init_busy * 1e3)?,
            ];
            let host = middle(samples, |one| one.host.memory)?;
            let host_busy = middle(samples, |one| one.host.processor * 1e3)?;
            let [memory, processor] = [ratio(Sample::memory)?, ratio(Sample::processor)?];
            text.push_str(&format!(
                "| {} | {count} | {processes:.0} | {:.1} MiB | {:.1} MiB | {memory:.3} | {busy:.0} ms | {beside:.0} ms | \
                 {processor:.3} | {:.0} KiB, {init_busy:.0} ms | {:.1} MiB, {host_busy:.0} ms |\n",
                kind.words(),
                mib(server),
                mib(ours),
                init / 1024.0,
                mib(host),
            ));
            drawn.push(Bar {
                label: format!("{}, {count}", kind.words()),
                parts: vec![mib(server), mib(ours)],
                figure: format!("{:.0} + {:.1} MiB", mib(server), mib(ours)),
            });
            data.insert(
                format!("{}, {count}", kind.words()),
                json!({
                    "processes": processes,
                    "memory": { "server": server, "ours": ours, "ofBare": memory },
                    "millisecondsAMinute": { "server": busy, "ours": beside, "ofBare": processor },
                    "init": init,
                    "initMillisecondsAMinute": init_busy,
                    "host": { "memory": host, "millisecondsAMinute": host_busy },
                }),
            );
        }
    }
    let title = "Memory of each idle server, by kind and number of them";
    let svg = chart::bars(title, &["server", "beside it"], &drawn);
    let charts = vec![Chart { name: "idle", words: title.to_owned(), svg }];
    Ok(Part { name: "idle", text, data: Value::Object(data), charts })
}
