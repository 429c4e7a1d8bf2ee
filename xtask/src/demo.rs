//! `cargo xtask demo`: two projects, two servers, one machine, and what one agent can reach of it.

mod emulated;
mod probes;
mod table;

use std::io::{self, BufRead};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Error, Result, bail};
use instances_lab::guest::{self, Guest};
use instances_lab::progress::{during, say};
use instances_lab::{
    Forward, Image, Internet, Machine, Options, Release, fleet, install, place, stand_in,
};

use crate::engine;
use table::Row;

/// The specification that the README shows.
const SPEC: &str = "examples/two-projects.toml";
/// The instances in it: their names, projects and ports.
const INSTANCES: [(&str, &str, u16); 2] =
    [("website", "/srv/website", 4101), ("billing", "/srv/billing", 4102)];
/// How long both may take from their start to their first answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long all of it may take where the processor is emulated.
const GUEST_TIME: Duration = Duration::from_mins(30);
/// The highest score of `systemd-analyze security` that is accepted, for each unit of an instance.
const EXPOSURE: [(&str, f32); 5] = [
    ("opencode-website.service", 0.7),
    ("opencode-listen@website.service", 0.7),
    ("opencode-net@website.service", 4.3),
    ("opencode-dns@website.service", 1.0),
    ("opencode-events@website.service", 0.7),
];

/// How many rows of the tables were as they should be, and how many were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) good: u32,
    pub(crate) bad: u32,
}

/// Runs the demonstration for a human; fails if any row is not as it should be.
pub(crate) fn run(keep: bool) -> Result<()> {
    install::missing()?;
    let image = Image::ensure(Release::Trixie)?;
    say("Building the engine.");
    engine::build()?;
    let machine = match boot(&image) {
        Ok(machine) => machine,
        Err(error) if guest::obstacle().is_none() => return in_guest(keep, &error),
        Err(error) => return Err(error),
    };
    let count = show(&machine)?;
    if keep {
        look_around(&machine)?;
    }
    if count.bad > 0 {
        bail!("{} of {} rows are not as they should be", count.bad, count.good + count.bad);
    }
    say(&format!("All {} rows are as they should be.", count.good));
    Ok(())
}

/// Runs the demonstration as a test.
pub(crate) fn check() -> Result<Count> {
    show(&boot(&Image::ensure(Release::Trixie)?)?)
}

/// Shows the same in a virtual machine, where this host has not what a machine needs.
fn in_guest(keep: bool, error: &Error) -> Result<()> {
    say(&format!("\nThis host boots no machine: {error:#}\n"));
    say(
        "Going on in an emulated one with a kernel of its own. That needs no rights but to install it, and minutes.",
    );
    if keep {
        say(
            "Nothing is kept there: use `cargo xtask lab guest`, and in it `cargo xtask demo --keep`.",
        );
    }
    let mut command = Command::new(env::current_exe().context("this program has no file")?);
    command.arg("demo").env(place::ENGINE_VAR, place::engine()).env(place::DIR_VAR, place::dir());
    match Guest::start(&command, Stdio::inherit(), GUEST_TIME)?.wait()? {
        0 => Ok(()),
        status => bail!("the demonstration in the guest ended with {status}"),
    }
}

fn boot(image: &Image) -> Result<Machine> {
    say("Booting a machine: Debian 13 with its own systemd, in memory.");
    Machine::boot(image, &Options::new().name("demo").engine())
}

/// Applies the specification in a machine and prints the tables.
fn show(machine: &Machine) -> Result<Count> {
    let spec = place::workspace().join(SPEC);
    let mut spec =
        fs::read_to_string(&spec).with_context(|| format!("cannot read {}", spec.display()))?;
    let mut version = install::OPENCODE_VERSION;
    let mut what = "two real servers";
    let mut internet = Internet::attach(machine, false)?;
    probes::furnish(machine, &mut internet)?;
    if guest::is_inside() {
        spec = emulated::prepare(machine, &spec)?;
        version = stand_in::VERSION;
        what = "two stand-ins";
    }
    machine.put(fleet::SPEC, spec, 0o644)?;
    during(&format!("opencode-instances apply: starts {what}"), || {
        machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()
    })?;
    during("waiting for both servers to answer", || {
        INSTANCES.iter().try_for_each(|(_, _, port)| wait_for(machine, *port))
    })?;

    let servers = servers(machine, version)?;
    table::print("The servers, as `opencode-instances status` sees them", &servers);
    let reach = during("asking the agent of website", || probes::website(machine))?;
    table::print("What website's agent tried, through its server's own shell endpoint", &reach);
    let exposure = exposure(machine)?;
    table::print("Exposure by `systemd-analyze security` (0 is none, 10 is all)", &exposure);

    let mut count = Count { good: 0, bad: 0 };
    for row in servers.iter().chain(&reach).chain(&exposure) {
        *(if row.good { &mut count.good } else { &mut count.bad }) += 1;
    }
    Ok(count)
}

/// Waits until something answers HTTP there, even if it first asks for a password.
fn wait_for(machine: &Machine, port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/config");
    machine.wait_until(&format!("port {port} answers"), PATIENCE, |machine| {
        Ok(machine
            .run(["curl", "--silent", "--max-time", "10", "--output", "/dev/null", &url])?
            .success())
    })
}

/// One row for each server.
fn servers(machine: &Machine, version: &str) -> Result<Vec<Row>> {
    INSTANCES
        .iter()
        .map(|(name, directory, port)| {
            // Exit status 4 tells of a finding; the answer is in the text either way.
            let answer = machine.run(["opencode-instances", "status", "--json", name])?;
            let status: serde_json::Value = serde_json::from_str(&answer.stdout)
                .with_context(|| format!("status gives no JSON: {answer}"))?;
            let field = |key: &str| {
                let value = status.pointer(&format!("/instances/0/{key}")).cloned();
                value.unwrap_or_default()
            };
            let word = |key: &str| field(key).as_str().unwrap_or("?").to_owned();
            let healthy = field("healthy") == true;
            let listen = word("listen");
            Ok(Row {
                what: format!("{name}, in {directory}"),
                came: format!(
                    "{}, {}, opencode {}, on {listen}",
                    word("state"),
                    if healthy { "healthy" } else { "not healthy" },
                    word("version"),
                ),
                good: healthy
                    && word("state") == "running"
                    && word("version") == version
                    && listen == format!("127.0.0.1:{port}"),
            })
        })
        .collect()
}

/// One row for each unit.
fn exposure(machine: &Machine) -> Result<Vec<Row>> {
    EXPOSURE
        .iter()
        .map(|(unit, most)| {
            let text = machine.run(["systemd-analyze", "security", "--no-pager", unit])?.ok()?;
            let score = text
                .lines()
                .rev()
                .find_map(|line| line.split_once("exposure level for ")?.1.split_once(": "))
                .and_then(|(_, score)| score.split_whitespace().next()?.parse::<f32>().ok())
                .with_context(|| format!("no score of {unit} in:\n{text}"))?;
            Ok(Row {
                what: (*unit).to_owned(),
                came: format!("{score:.1}, at most {most:.1} is accepted"),
                good: score <= *most,
            })
        })
        .collect()
}

/// Lets a human look around until they have seen enough.
fn look_around(machine: &Machine) -> Result<()> {
    let forwards: Vec<Forward> = INSTANCES
        .iter()
        .map(|(_, _, port)| machine.reach_from_host(*port))
        .collect::<Result<_>>()?;
    say("\nThe machine runs on. For a browser on this host, password included:");
    for ((name, _, port), forward) in INSTANCES.iter().zip(&forwards) {
        let url = machine.run(["opencode-instances", "url", name])?.ok()?;
        let inside = format!("127.0.0.1:{port}");
        say(&format!("  {name}: {}", url.trim().replace(&inside, &forward.address().to_string())));
    }
    say(&format!("From another terminal, as root:\n  {}", machine.way_in()));
    say("Then try: opencode-instances status; opencode-instances logs website");
    let mut input = io::stdin().lock();
    loop {
        say("\nType `shell` and Enter for a shell in the machine; Enter alone ends it.");
        let mut line = String::new();
        let read = input.read_line(&mut line)?;
        match line.trim() {
            "shell" => machine.shell()?,
            "" => {
                if read == 0 {
                    say("Standard input has ended, and the machine with it.");
                }
                return Ok(());
            }
            other => say(&format!("`{other}` means nothing here.")),
        }
    }
}
