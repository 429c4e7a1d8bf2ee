//! A fleet of light servers with a few real ones among them, as its operator has it: applied, looked at, restarted all
//! at once, removed; and what each of that grows like.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use instances_lab::progress::{during, say};
use instances_lab::{Image, Machine, Options, Release, fleet, install, stand_in};
use serde_json::json;

use super::chart::{self, Chart, Line};
use super::usage::{Owner, of_init, of_units};
use super::{Part, human_seconds, turns};
use crate::engine;

/// How many there are of each kind.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sizes {
    /// How many light servers each of the fleets has that `--only fleet` measures
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_values_t = [10, 25, 50])]
    light: Vec<u16>,
    /// How many real servers each of them has beside these
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    real: u16,
}

/// How long a fleet may take for one thing.
const ALL: Duration = Duration::from_mins(15);
/// How long nothing is looked at after the last server is ready.
const SETTLE: Duration = Duration::from_secs(10);
/// How often `status` is asked.
const LOOKS: usize = 5;
/// Before the number of a server, what its port begins with.
const PORT: u16 = 4100;
/// What is drawn.
const DRAWN: [usize; 5] = [0, 2, 3, 4, 5];

/// What is measured, with its unit.
const FIGURES: [(&str, Unit); 10] = [
    ("`apply`, until all are ready", Unit::Seconds),
    ("`apply`, nothing to do", Unit::Seconds),
    ("`status`", Unit::Seconds),
    ("`restart --all`, until all are ready", Unit::Seconds),
    ("`apply`, an option of all changed", Unit::Seconds),
    ("`remove`", Unit::Seconds),
    ("memory of servers", Unit::Bytes),
    ("memory of ours beside each", Unit::Bytes),
    ("memory of ours for all", Unit::Bytes),
    ("growth of PID 1", Unit::Bytes),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Bytes,
}

impl Unit {
    fn words(self, figure: f64) -> String {
        match self {
            Self::Seconds => human_seconds(figure),
            Self::Bytes => format!("{:.1} MiB", figure / f64::from(1 << 20)),
        }
    }
}

type Sample = [f64; FIGURES.len()];

pub(super) fn measure(rounds: usize, sizes: &Sizes) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let mut all: Vec<(u16, Vec<Sample>)> =
        sizes.light.iter().map(|light| (light + sizes.real, Vec::new())).collect();
    for round in 1..=rounds {
        for (light, (_, samples)) in sizes.light.iter().zip(&mut all) {
            let what = format!("round {round}: {light} light and {} real", sizes.real);
            let sample = during(&what, || one(*light, sizes.real)).context(what.clone())?;
            say(&format!("{sample:?}"));
            samples.push(sample);
        }
    }
    report(sizes, rounds, &all)
}

/// The last ones are real.
fn spec(light: u16, real: u16) -> String {
    let mut text = String::new();
    for number in 0..light + real {
        let port = PORT + number;
        text.push_str(&format!(
            "[instances.i{number}]\ndirectory = \"/srv/{number}\"\nlisten.port = {port}\nauth.enable = false\n"
        ));
        if number < light {
            text.push_str(&format!("package = \"{}\"\n", stand_in::SERVER));
        }
    }
    text
}

fn one(light: u16, real: u16) -> Result<Sample> {
    let image = Image::ensure(Release::Trixie)?;
    let machine = Machine::boot(&image, &Options::new().name("bench-fleet").engine())?;
    stand_in::put(&machine)?;
    let count = light + real;
    machine.sh(&format!("for n in $(seq 0 {}); do mkdir -p /srv/$n; done", count - 1))?.ok()?;
    machine.put(fleet::SPEC, spec(light, real), 0o644)?;
    let before = of_init(&machine)?;
    let apply = timed(&machine, "apply")?;
    all_ready(&machine, count)?;
    // What `status` has woken, each server's proxy, is up.
    std::thread::sleep(SETTLE);
    let again = timed(&machine, "apply")?;
    let looks: Vec<f64> = (0..LOOKS).map(|_| timed(&machine, "status")).collect::<Result<_>>()?;
    let init = of_init(&machine)? - before;
    let usage = of_units(&machine, "opencode-")?;
    let memory = |owner| usage.get(&owner).map_or(0.0, |usage| usage.memory);
    let restart = timed(&machine, "restart --all")?;
    all_ready(&machine, count)?;
    let changed = format!("[defaults]\nlogLevel = \"WARN\"\n{}", spec(light, real));
    machine.put(fleet::SPEC, changed, 0o644)?;
    let turns = timed(&machine, "apply")?;
    all_ready(&machine, count)?;
    let remove = timed(&machine, "remove")?;
    Ok([
        apply,
        again,
        turns::median(&looks)?,
        restart,
        turns,
        remove,
        memory(Owner::Server),
        memory(Owner::Ours),
        memory(Owner::Host),
        init,
    ])
}

/// How many seconds a command takes.
fn timed(machine: &Machine, command: &str) -> Result<f64> {
    let start = Instant::now();
    let argv = ["opencode-instances"].into_iter().chain(command.split(' '));
    machine.run_for(ALL, argv)?.ok()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The command has waited until they are: requires that they say so.
fn all_ready(machine: &Machine, count: u16) -> Result<()> {
    let answer = machine.run_for(ALL, ["opencode-instances", "status", "--json"])?.ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let instances = answer.pointer("/instances").and_then(serde_json::Value::as_array);
    let healthy = instances.into_iter().flatten();
    let healthy = healthy
        .filter(|one| one.get("healthy").and_then(serde_json::Value::as_bool) == Some(true))
        .count();
    if healthy != usize::from(count) {
        bail!("{healthy} of {count} servers are healthy: {answer}");
    }
    Ok(())
}

fn report(sizes: &Sizes, rounds: usize, all: &[(u16, Vec<Sample>)]) -> Result<Part> {
    let real = sizes.real;
    let mut text = format!(
        "## A fleet of light servers with {real} real ones\n\n\
         A fresh machine for each column, {rounds} round{}, medians where there are more. A light server is a small Python program in the place of \
         opencode. `apply` is from a machine without servers; it and `restart --all` end when all servers are ready, which `status` then confirms. \
         `status` asks each server and the journal; the median of {LOOKS}. Memory is PSS, {} s after the last server was ready. With an option of all changed, \
         servers restart one after the other. Behind each figure stands what each further instance has added since the column before, and in the \
         last one that of the last column divided by that of the one before: 1 is linear.\n\n\
         | what |",
        if rounds == 1 { "" } else { "s" },
        SETTLE.as_secs(),
    );
    for (count, _) in all {
        text.push_str(&format!(" {} + {real} |", count - real));
    }
    text.push_str(&format!(" growth |\n|---|{}\n", "---|".repeat(all.len() + 1)));
    let mut data = serde_json::Map::new();
    let mut lines = Vec::new();
    for (place, (name, unit)) in FIGURES.iter().enumerate() {
        let mut row = Vec::new();
        for (count, samples) in all {
            let figures: Vec<f64> =
                samples.iter().filter_map(|one| one.get(place).copied()).collect();
            row.push((f64::from(*count), turns::median(&figures)?));
        }
        text.push_str(&format!("| {name} |"));
        let added: Vec<f64> = row
            .windows(2)
            .filter_map(|pair| match pair {
                [(fewer, less), (count, figure)] => Some((figure - less) / (count - fewer)),
                _ => None,
            })
            .collect();
        for (column, (_, figure)) in row.iter().enumerate() {
            let each = column.checked_sub(1).and_then(|before| added.get(before));
            let each =
                each.map_or_else(String::new, |each| format!(", {} each", unit.words(*each)));
            text.push_str(&format!(" {}{each} |", unit.words(*figure)));
        }
        let growth = match added.as_slice() {
            [.., before, last] => format!("{:.2}", last / before),
            _ => String::new(),
        };
        text.push_str(&format!(" {growth} |\n"));
        data.insert((*name).to_owned(), json!(row));
        if DRAWN.contains(&place) {
            lines.push(Line { label: name.replace('`', ""), points: row });
        }
    }
    let title = "Time over the number of instances, on one machine";
    let svg = chart::lines(title, "instances", human_seconds, &lines);
    let charts = vec![Chart { name: "fleet", words: title.to_owned(), svg }];
    Ok(Part { name: "fleet", text, data: data.into(), charts })
}
