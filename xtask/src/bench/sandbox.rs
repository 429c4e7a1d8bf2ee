//! What the sandbox costs at a start: until the server answers, whoever says that it is ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use instances_lab::progress::say;
use instances_lab::{Machine, fleet, install};
use serde_json::{Value, json};

use super::life::{Spread, answered, answers, bare_start};
use super::{Part, human};
use crate::engine;

/// How many places of the host the second instance has.
const PLACES: usize = 300;
/// Where every server listens in its namespace.
const PORT: u16 = 4096;
/// What is measured, the baseline first.
const SERVERS: [&str; 3] = ["bare", "instance", "instance, 300 places"];

/// An instance without a password, so that it answers who asks as the bare server does.
fn instance(name: &str, port: u16, places: usize) -> String {
    let places: Vec<String> = (0..places).map(|number| format!("\"/data/{number}\"")).collect();
    format!(
        "[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\nauth.enable = false\n\
         sandbox.readOnlyPaths = [{}]\n",
        places.join(", ")
    )
}

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let spec = instance("plain", 4101, 0) + &instance("places", 4102, PLACES);
    let projects = ["/srv/plain", "/srv/places", "/srv/bare", "/var/lib/bare"];
    let machine = fleet::boot("bench-sandbox", &spec, &projects)?;
    machine.sh(&format!("mkdir /data; cd /data; mkdir $(seq 0 {})", PLACES - 1))?.ok()?;
    for name in ["plain", "places"] {
        // Where its words are looked for; the bare server's are in a file too.
        let text = format!("[Service]\nStandardOutput=file:{}\n", log(name));
        machine.put(format!("/etc/systemd/system/{}.d/log.conf", unit(name)), text, 0o644)?;
    }
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    machine.run(["systemctl", "stop", "opencode-plain", "opencode-places"])?.ok()?;
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let mut one = [Duration::ZERO; SERVERS.len()];
        let mut order = [0, 1, 2];
        // What came right before matters a little: each comes after each.
        order.rotate_left(round % SERVERS.len());
        if round % 2 == 1 {
            order.reverse();
        }
        for server in order {
            let time = match server {
                0 => bare(&machine)?,
                1 => start(&machine, "plain")?,
                _ => start(&machine, "places")?,
            };
            if let Some(slot) = one.get_mut(server) {
                *slot = time;
            }
        }
        if round > 0 {
            say(&format!("round {round}: {}", one.map(human).join(", ")));
            for (times, time) in all.iter_mut().zip(one) {
                times.push(time);
            }
        }
    }
    report(rounds, all)
}

fn bare(machine: &Machine) -> Result<Duration> {
    let time = bare_start(machine)?;
    machine.run(["systemctl", "stop", "bare"])?.ok()?;
    Ok(time)
}

fn unit(name: &str) -> String {
    format!("opencode-{name}.service")
}

fn log(name: &str) -> String {
    format!("/run/{name}.log")
}

/// How long it takes until an instance's server answers in its namespace.
fn start(machine: &Machine, name: &str) -> Result<Duration> {
    let (unit, log) = (unit(name), log(name));
    // So many starts in a minute are more than the unit allows.
    machine.run(["systemctl", "reset-failed", &unit])?.ok()?;
    machine.run(["rm", "-f", &log])?.ok()?;
    let namespace = format!("opencode-{name}");
    let log = format!("/proc/{}/root{log}", machine.pid());
    let start = Instant::now();
    machine.run(["systemctl", "start", "--no-block", &unit])?.ok()?;
    answered(&log, start, || machine.in_named_netns(&namespace, || answers(PORT)))?;
    let time = start.elapsed();
    machine.run(["systemctl", "start", &unit])?.ok()?;
    machine.run(["systemctl", "stop", &unit])?.ok()?;
    Ok(time)
}

/// The middle of what is made of each round's two times, in seconds.
fn middle(one: &[Duration], other: &[Duration], of: fn(f64, f64) -> f64) -> Result<f64> {
    let pairs = one.iter().zip(other);
    let mut all: Vec<f64> =
        pairs.map(|(one, other)| of(one.as_secs_f64(), other.as_secs_f64())).collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().context("no rounds")
}

fn report(rounds: usize, all: [Vec<Duration>; 3]) -> Result<Part> {
    let [bare, plain, places] = &all;
    let difference = middle(plain, places, |plain, places| (places - plain) * 1e3)?;
    let mut text = format!(
        "## What the sandbox costs at a start\n\n\
         From the order to start until `GET /config` answers after the words `listening on`, measured in the same way from outside, \
         whatever the supervisor says: a bare `opencode serve`, a transient unit without any sandbox, an instance without its \
         password, and one that shows {PLACES} places of the host (`sandbox.readOnlyPaths`) besides. They take turns in one machine, \
         {rounds} rounds each, after a round that is not counted. A server's own start takes now more and now less, so the ratio is \
         the median of those within a round.\n\n\
         | server | min | median | max | ratio |\n|---|---|---|---|---|\n"
    );
    let mut data = serde_json::Map::new();
    let ratios = all.each_ref().map(|times| middle(bare, times, |bare, time| time / bare));
    for ((server, times), ratio) in SERVERS.iter().zip(all).zip(ratios) {
        let (spread, ratio) = (Spread::of(times)?, ratio?);
        text.push_str(&format!("| {server} | {} | {ratio:.3} |\n", spread.cells()));
        data.insert((*server).to_owned(), json!({ "spread": spread.data(), "ratio": ratio }));
    }
    text.push_str(&format!(
        "\n{PLACES} places cost {difference:.0} ms: the median of the differences within a round.\n"
    ));
    data.insert("places, milliseconds".to_owned(), json!(difference));
    Ok(Part { name: "sandbox", text, data: Value::Object(data) })
}
