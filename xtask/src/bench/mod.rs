//! `cargo xtask bench`: how long things take, always beside a baseline of the same run.

mod backup;
mod chart;
mod cold;
mod evaluation;
mod fleet;
mod growth;
mod idle;
mod life;
mod many;
mod network;
mod page;
mod proxy;
mod sandbox;
mod turns;
mod usage;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use instances_lab::place;
use instances_lab::progress::say;
use serde_json::Value;

use chart::Chart;
pub(crate) use fleet::Sizes;

/// Where the figures go.
const OUTPUT: &str = "target/bench";
/// Where the pictures are, seen from the page.
const PICTURES: &str = "benchmarks";
/// Where they stand for readers.
const PAGE: &str = "docs/reference/benchmarks.md";

/// What one part measured.
struct Part {
    /// The name of its file below [`OUTPUT`].
    name: &'static str,
    /// A table with the words around it, in Markdown.
    text: String,
    /// The same as data.
    data: Value,
    /// The same as pictures, which come behind the words.
    charts: Vec<Chart>,
}

/// How much is done for the figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How often everything is measured in turn.
    pub(crate) rounds: usize,
    /// For how long the processor time of what is idle is counted.
    pub(crate) window: Duration,
}

/// A part that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// The pure half with more and more instances.
    Growth,
    /// Start and stop beside a bare server.
    Life,
    /// The first answer of a server that does not run, beside a bare one and in other sandboxes.
    Cold,
    /// Start in the whole sandbox, and with many places of the host in it, beside a bare server.
    Sandbox,
    /// What servers take that nobody uses, beside bare ones.
    Idle,
    /// Fifty and two hundred light servers on one machine, beside bare ones.
    Many,
    /// The same with fifty real ones.
    Fifty,
    /// Fleets of light servers and a few real ones: apply, status, a restart of all, remove, and how that grows.
    Fleet,
    /// Packets through the outbound policy beside a path without rules.
    Network,
    /// The proxy beside a direct connection and systemd's own.
    Proxy,
    /// A backup while the server runs, beside tar and zstd of a stopped one.
    Backup,
    /// The NixOS module beside the same units written by hand.
    Evaluation,
}

/// Measures and prints it; `write` also puts each part in the place of its section of the page.
pub(crate) fn run(effort: Effort, only: Option<Only>, sizes: &Sizes, write: bool) -> Result<()> {
    let rounds = effort.rounds;
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Only::Growth) {
        note(&growth::measure()?, write)?;
    }
    if wanted(Only::Life) {
        note(&life::measure(rounds)?, write)?;
    }
    if wanted(Only::Cold) {
        note(&cold::measure(rounds)?, write)?;
    }
    if wanted(Only::Sandbox) {
        note(&sandbox::measure(rounds)?, write)?;
    }
    if wanted(Only::Idle) {
        note(&idle::measure(effort)?, write)?;
    }
    if wanted(Only::Many) {
        note(&many::light(rounds)?, write)?;
    }
    if wanted(Only::Fifty) {
        note(&many::real(rounds)?, write)?;
    }
    if wanted(Only::Fleet) {
        note(&fleet::measure(rounds, sizes)?, write)?;
    }
    if wanted(Only::Network) {
        note(&network::measure(rounds)?, write)?;
    }
    if wanted(Only::Proxy) {
        note(&proxy::measure(rounds)?, write)?;
    }
    if wanted(Only::Backup) {
        note(&backup::measure(rounds)?, write)?;
    }
    if wanted(Only::Evaluation)
        && let Some(part) = evaluation::measure()?
    {
        note(&part, write)?;
    }
    Ok(())
}

/// Keeps what a part measured at once: a later one may fail.
fn note(part: &Part, write: bool) -> Result<()> {
    let mut text = part.text.clone();
    for Chart { name, words, .. } in &part.charts {
        text.push_str(&format!("\n![{words}]({PICTURES}/{name}.svg)\n"));
    }
    let section = page::section(&text, &machine());
    say(&section);
    let root = place::workspace();
    let data = root.join(OUTPUT).join(format!("{}.json", part.name));
    put(&data, &format!("{:#}\n", part.data))?;
    for Chart { name, svg, .. } in &part.charts {
        put(&root.join(OUTPUT).join(format!("{name}.svg")), svg)?;
    }
    if write {
        let path = root.join(PAGE);
        for Chart { name, svg, .. } in &part.charts {
            put(&path.with_file_name(PICTURES).join(format!("{name}.svg")), svg)?;
        }
        put(&path, &page::with(&fs::read_to_string(&path).unwrap_or_default(), &section))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// This machine in words.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = kernel.trim().split('.').take(2).collect();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    format!(
        "The machine has {cores} processor cores and Linux {}; its load was {load} when the run \
         ended.",
        kernel.join(".")
    )
}

/// The same of seconds.
fn human_seconds(seconds: f64) -> String {
    human(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A time as a human reads it.
fn human(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds >= 1.0 => format!("{seconds:.2} s"),
        _ if seconds >= 0.1 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds >= 0.001 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.0} µs", seconds * 1e6),
    }
}
