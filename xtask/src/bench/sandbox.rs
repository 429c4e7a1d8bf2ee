//! What the sandbox costs at a start: until the server answers, whoever says that it is ready.

use std::time::{Duration, Instant};

use anyhow::Result;
use instances_lab::progress::say;
use instances_lab::{Machine, fleet, install, stand_in};
use serde_json::{Value, json};

use super::life::{BARE_HOME, Spread, answered, answers, bare_start, home, install_plugin};
use super::{Part, human, turns};
use crate::engine;

/// How many places of the host the second instance has.
const PLACES: usize = 300;
/// Where every server listens in its namespace.
const PORT: u16 = 4096;
/// How often the light servers start in each round: they take a tenth of the time.
const LIGHT: usize = 3;
/// What is measured, the baseline first.
const SERVERS: [&str; 3] = ["bare", "instance", "instance, 300 places"];

/// An instance without a password, so that it answers who asks as the bare server does.
fn instance(name: &str, port: u16, places: usize, more: &str) -> String {
    let places: Vec<String> = (0..places).map(|number| format!("\"/data/{number}\"")).collect();
    format!(
        "[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\nauth.enable = false\n\
         sandbox.readOnlyPaths = [{}]\n{more}",
        places.join(", ")
    )
}

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let light = format!("package = \"{}\"\n", stand_in::SERVER);
    let spec = [
        instance("plain", 4101, 0, ""),
        instance("places", 4102, PLACES, ""),
        instance("light", 4103, 0, &light),
        instance("light-places", 4104, PLACES, &light),
    ];
    let projects =
        ["/srv/plain", "/srv/places", "/srv/light", "/srv/light-places", "/srv/bare", BARE_HOME];
    let machine = stand_in::boot("bench-sandbox", &spec.concat(), &projects)?;
    machine.sh(&format!("mkdir /data; cd /data; mkdir $(seq 0 {})", PLACES - 1))?.ok()?;
    for name in ["plain", "places"] {
        // Where its words are looked for; the bare server's are in a file too.
        let text = format!("[Service]\nStandardOutput=file:{}\n", log(name));
        machine.put(format!("/etc/systemd/system/{}.d/log.conf", unit(name)), text, 0o644)?;
    }
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    machine
        .sh("systemctl stop opencode-plain opencode-places opencode-light opencode-light-places")?
        .ok()?;
    for home in [BARE_HOME, &home("plain"), &home("places")] {
        install_plugin(&machine, home)?;
    }
    let mut all: [Times; 2] = Default::default();
    for round in 0..=rounds {
        let mut one = [[Duration::ZERO; SERVERS.len()]; 2];
        for server in turns::order(round, SERVERS.len()) {
            let time = match server {
                0 => bare(&machine)?,
                1 => start(&machine, "plain")?,
                _ => start(&machine, "places")?,
            };
            for (times, time) in one.iter_mut().zip(time) {
                if let Some(slot) = times.get_mut(server) {
                    *slot = time;
                }
            }
        }
        if round > 0 {
            let [listening, _] = one;
            say(&format!("round {round}: {}", listening.map(human).join(", ")));
            for (servers, times) in all.iter_mut().zip(one) {
                servers.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
            }
        }
    }
    let mut light: [Vec<f64>; 2] = Default::default();
    for round in 0..=rounds * LIGHT {
        for server in turns::order(round, light.len()) {
            let names = ["opencode-light", "opencode-light-places"];
            let (Some(times), Some(name)) = (light.get_mut(server), names.get(server)) else {
                continue;
            };
            let time = ready(&machine, name)?;
            if round > 0 {
                times.push(time.as_secs_f64() * 1e3);
            }
        }
    }
    report(rounds, all, &light)
}

/// How long it takes until a server is ready, as systemd has it.
fn ready(machine: &Machine, unit: &str) -> Result<Duration> {
    machine.run(["systemctl", "reset-failed", unit])?.ok()?;
    let start = Instant::now();
    machine.run(["systemctl", "start", unit])?.ok()?;
    let time = start.elapsed();
    machine.run(["systemctl", "stop", unit])?.ok()?;
    Ok(time)
}

fn bare(machine: &Machine) -> Result<[Duration; 2]> {
    let time = bare_start(machine, || Ok(Instant::now()))?;
    machine.run(["systemctl", "stop", "bare"])?.ok()?;
    Ok(time)
}

fn unit(name: &str) -> String {
    format!("opencode-{name}.service")
}

fn log(name: &str) -> String {
    format!("/run/{name}.log")
}

/// How long it takes until an instance's server listens in its namespace, and until it answers.
fn start(machine: &Machine, name: &str) -> Result<[Duration; 2]> {
    let (unit, log) = (unit(name), log(name));
    // So many starts in a minute are more than the unit allows.
    machine.run(["systemctl", "reset-failed", &unit])?.ok()?;
    machine.run(["rm", "-f", &log])?.ok()?;
    let namespace = format!("opencode-{name}");
    let log = format!("/proc/{}/root{log}", machine.pid());
    let start = Instant::now();
    machine.run(["systemctl", "start", "--no-block", &unit])?.ok()?;
    let time = answered(&log, start, || machine.in_named_netns(&namespace, || answers(PORT)))?;
    machine.run(["systemctl", "start", &unit])?.ok()?;
    machine.run(["systemctl", "stop", &unit])?.ok()?;
    Ok(time)
}

fn seconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}

/// What was counted, in the order of [`SERVERS`].
type Times = [Vec<Duration>; SERVERS.len()];

fn report(rounds: usize, all: [Times; 2], [light, light_places]: &[Vec<f64>; 2]) -> Result<Part> {
    let mut text = format!(
        "## What the sandbox costs at a start\n\n\
         From the order to start until the server says `listening on`, which is what the sandbox can cost, and until \
         `GET /config` answers, asked at once from outside and whatever the supervisor says, which asks an instance too. The servers are a bare `opencode serve`, a \
         transient unit without any sandbox, an instance without its password, and one that shows {PLACES} places of the \
         host (`sandbox.readOnlyPaths`) besides. Their HOMEs have the traces of opencode's plugin. They take turns in one machine, {rounds} rounds each, after a round that \
         is not counted. A server's own start takes now more and now less, so the ratio is the median of those within a \
         round.\n\n\
         | until | server | min | median | max | ratio |\n|---|---|---|---|---|---|\n"
    );
    let mut data = serde_json::Map::new();
    for (until, times) in ["it listens", "it answers"].into_iter().zip(all) {
        let [bare, plain, places] = times.each_ref().map(|times| seconds(times));
        let ratios = [&bare, &plain, &places].map(|times| turns::ratio(&bare, times));
        for ((server, times), ratio) in SERVERS.iter().zip(times).zip(ratios) {
            let (spread, ratio) = (Spread::of(times)?, ratio?);
            text.push_str(&format!("| {until} | {server} | {} | {ratio:.3} |\n", spread.cells()));
            let row = json!({ "spread": spread.data(), "ratio": ratio });
            data.insert(format!("{server}, until {until}"), row);
        }
    }
    let difference = turns::middle(light, light_places, |light, places| places - light)?;
    text.push_str(&format!(
        "\n{PLACES} places cost {difference:.0} ms until a server is ready, with a light one in the place of opencode, whose start \
         hardly varies ({:.0} ms without them): the median of the differences within {} rounds.\n",
        turns::median(light)?,
        rounds * LIGHT
    ));
    data.insert("places, light server, milliseconds".to_owned(), json!(difference));
    Ok(Part { name: "sandbox", text, data: Value::Object(data), charts: Vec::new() })
}
