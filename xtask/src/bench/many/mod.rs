//! A host with many servers: how long they take to be applied and to be there after a reboot, what they take, and
//! how the host answers meanwhile.

mod fleets;

use std::time::Duration;

use anyhow::{Context as _, Result};
use instances_lab::progress::{during, say};
use instances_lab::{Machine, install};
use serde_json::{Value, json};

use super::chart::{self, Bar, Chart};
use super::usage::{Owner, of_init, of_units};
use super::{Part, human_seconds, turns};
use crate::engine;
use fleets::{Fleet, Kind, PREFIX, Server};

/// How long all servers of a machine together may take for one thing.
const ALL: Duration = Duration::from_mins(15);
/// How long nothing is looked at after the last server is ready.
const SETTLE: Duration = Duration::from_secs(10);
/// For how long after its start a machine is asked at least.
const LEAST: Duration = Duration::from_secs(10);

/// The fleets that are compared, each after its baseline: of light servers,
const LIGHT: &[Fleet] = &[
    Fleet { kind: Kind::Bare, server: Server::Light, count: 50 },
    Fleet { kind: Kind::Boot, server: Server::Light, count: 50 },
    Fleet { kind: Kind::Demand, server: Server::Light, count: 50 },
    Fleet { kind: Kind::Bare, server: Server::Light, count: 200 },
    Fleet { kind: Kind::Boot, server: Server::Light, count: 200 },
    Fleet { kind: Kind::Demand, server: Server::Light, count: 200 },
];
/// and of real ones.
const REAL: &[Fleet] = &[
    Fleet { kind: Kind::Bare, server: Server::Real, count: 50 },
    Fleet { kind: Kind::Boot, server: Server::Real, count: 50 },
    Fleet { kind: Kind::AtOnce, server: Server::Real, count: 50 },
];

/// What one fleet took, in seconds and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// From an installed machine without servers to one whose servers are ready.
    apply: f64,
    /// The same command again.
    again: f64,
    memory: f64,
    processes: f64,
    init: f64,
    /// From the start of the machine's systemd until the last server was ready.
    boot: f64,
    /// A question to systemd in that time: half of them took less, and the longest.
    answer: [f64; 2],
    /// A new process that does nothing, in the same way.
    process: [f64; 2],
}

/// Of light servers.
pub(super) fn light(rounds: usize) -> Result<Part> {
    measure("many", "Many light servers on one machine", LIGHT, rounds)
}

/// Of real ones.
pub(super) fn real(rounds: usize) -> Result<Part> {
    measure("fifty", "Fifty real servers on one machine", REAL, rounds)
}

fn measure(name: &'static str, title: &str, fleets: &[Fleet], rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let mut all: Vec<Vec<Sample>> = vec![Vec::new(); fleets.len()];
    for round in 1..=rounds {
        for (fleet, samples) in fleets.iter().zip(&mut all) {
            let what = format!("round {round}: {}", fleet.words());
            let sample = during(&what, || one(*fleet)).with_context(|| fleet.words())?;
            say(&format!("{sample:?}"));
            samples.push(sample);
        }
    }
    report(name, title, fleets, rounds, &all)
}

fn one(fleet: Fleet) -> Result<Sample> {
    let mut machine = fleets::boot(fleet)?;
    let before = of_init(&machine)?;
    let apply = fleets::bring(&machine, fleet)?;
    let again = fleets::bring(&machine, fleet)?;
    std::thread::sleep(SETTLE);
    let init = of_init(&machine)? - before;
    let usage = of_units(&machine, PREFIX)?;
    let servers = [Owner::Server, Owner::Ours, Owner::Host].map(|owner| usage.get(&owner).copied());
    let servers = servers.into_iter().flatten();
    let (memory, processes) = servers.fold((0.0, 0), |(memory, processes), one| {
        (memory + one.memory, processes + one.processes)
    });
    fleets::pulse(&machine)?;
    machine.reboot()?;
    let [from, ready] = fleets::span(&machine, fleet)?;
    std::thread::sleep(LEAST);
    let [answer, process] = waits(&machine, from, ready.max(from + LEAST.as_secs_f64()))?;
    Ok(Sample {
        apply,
        again,
        memory,
        processes: float(processes),
        init,
        boot: ready - from,
        answer,
        process,
    })
}

/// The middle and the longest of both kinds of wait between two moments.
fn waits(machine: &Machine, from: f64, to: f64) -> Result<[[f64; 2]; 2]> {
    let text = machine.get(fleets::BEATS)?;
    let beats: Vec<[f64; 3]> = text.lines().filter_map(beat).collect();
    let of = |column: fn(&[f64; 3]) -> f64| -> Result<[f64; 2]> {
        let within = beats.iter().filter(|[at, ..]| (from..=to).contains(at));
        let waits: Vec<f64> = within.map(column).collect();
        let longest = waits.iter().copied().fold(0.0, f64::max);
        Ok([turns::median(&waits).context("nothing was asked during the boot")?, longest])
    };
    Ok([of(|[_, answer, _]| *answer)?, of(|[_, _, process]| *process)?])
}

fn beat(line: &str) -> Option<[f64; 3]> {
    let mut numbers = line.split(' ').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn report(
    name: &'static str,
    title: &str,
    fleets: &[Fleet],
    rounds: usize,
    all: &[Vec<Sample>],
) -> Result<Part> {
    let mut text = format!(
        "## {title}\n\n\
         A fresh machine for each line, {rounds} round{}, medians where there are more. `apply` is from a machine without servers until all are ready, by \
         `opencode-instances apply`; bare, by `systemctl daemon-reload` and the start of a target of plain services without \
         any sandbox, each with a short program that waits until the port is open. `again` is the same once more, with \
         nothing to do. Memory is what servers and everything of ours beside them take (PSS), `PID 1` what systemd's own has \
         grown by, both {} s after the last was ready. `boot` is from the start of systemd to the last server's readiness after a reboot; \
         on demand, to the last listener's. From then to there, and for {} s at least, a program in the machine asks systemd a question and starts a \
         process that does nothing, ten times a second: the columns are the median and the longest of these waits. The ratios are to the \
         bare servers of the same number and kind, of memory without PID 1. A light server is a small Python program in \
         the place of opencode. A real server's HOME is without opencode's plugin, which each start tries in vain to install; an \
         instance is ready when it has answered, a bare server when its port is open. What a packet costs with 200 instances up stands with the outbound policy.\n\n\
         | servers | apply | ratio | again | memory | ratio | processes | PID 1 | boot | ratio | systemd answers | a process |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        if rounds == 1 { "" } else { "s" },
        SETTLE.as_secs(),
        LEAST.as_secs(),
    );
    let mut data = serde_json::Map::new();
    let mut drawn = Vec::new();
    let mut bare: &[Sample] = &[];
    for (fleet, samples) in fleets.iter().zip(all) {
        if fleet.kind == Kind::Bare {
            bare = samples;
        }
        let middle = |of: fn(&Sample) -> f64| -> Result<f64> {
            turns::median(&samples.iter().map(of).collect::<Vec<_>>())
        };
        let ratio = |of: fn(&Sample) -> f64| -> Result<f64> {
            let [bare, own] = [bare, samples].map(|all| all.iter().map(of).collect::<Vec<_>>());
            turns::ratio(&bare, &own)
        };
        let wait = |middle: f64, longest: f64| {
            format!("{}, {}", human_seconds(middle), human_seconds(longest))
        };
        let answer = [middle(|one| one.answer[0])?, middle(|one| one.answer[1])?];
        let process = [middle(|one| one.process[0])?, middle(|one| one.process[1])?];
        let [apply, again, boot] =
            [middle(|one| one.apply)?, middle(|one| one.again)?, middle(|one| one.boot)?];
        let [memory, init] = [middle(|one| one.memory)?, middle(|one| one.init)?];
        let ratios = [ratio(|one| one.apply)?, ratio(|one| one.memory)?, ratio(|one| one.boot)?];
        let processes = middle(|one| one.processes)?;
        let [of_apply, of_memory, of_boot] = ratios;
        text.push_str(&format!(
            "| {} | {} | {of_apply:.2} | {} | {:.0} MiB | {of_memory:.2} | {processes:.0} | {:.1} MiB | {} | {of_boot:.2} | {} | {} |\n",
            fleet.words(),
            human_seconds(apply),
            human_seconds(again),
            mib(memory),
            mib(init),
            human_seconds(boot),
            wait(answer[0], answer[1]),
            wait(process[0], process[1]),
        ));
        drawn.push(Bar {
            label: fleet.words(),
            parts: vec![boot],
            figure: format!("{}, {of_boot:.2}", human_seconds(boot)),
        });
        data.insert(
            fleet.words(),
            json!({
                "apply": apply, "again": again, "memory": memory, "processes": processes, "init": init,
                "boot": boot, "answer": answer, "process": process,
                "ofBare": { "apply": of_apply, "memory": of_memory, "boot": of_boot },
            }),
        );
    }
    let title = "From the start of systemd until the last server is ready, and ratio to bare";
    let svg = chart::bars(title, &[], &drawn);
    let charts = vec![Chart { name, words: title.to_owned(), svg }];
    Ok(Part { name, text, data: Value::Object(data), charts })
}
