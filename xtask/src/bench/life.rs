//! Start and stop of an instance beside a bare server, taking turns in one machine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use instances_lab::progress::say;
use instances_lab::{Machine, fleet, install};
use instances_sys::http;
use serde_json::{Value, json};

use super::{Part, human};
use crate::engine;

/// One instance with nothing declared inside, and one with something of everything.
const SPEC: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101

[instances.inside]
directory = "/srv/inside"
listen.port = 4102
trustProject = false
instructions = "Answer in English."
agents.review = "---\ndescription: Reviews.\n---\nReview."
commands.say = "Say something."
skills.release = "---\nname: release\ndescription: Releases.\n---\nRelease."
environment.EDITOR = "vim"
settings = { model = "fake/m", permission = [{ "*" = "ask" }, { edit = "allow" }] }
enforcedSettings = { share = "disabled", permission.webfetch = "deny" }
"#;
/// The bare server's port, and where it says that it listens.
const BARE_PORT: u16 = 4201;
const BARE_LOG: &str = "/run/bare.log";
/// The bare server's HOME.
pub(super) const BARE_HOME: &str = "/var/lib/bare";
/// How long a start may take.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long one answer is waited for: a question that comes before the server has said `listening on` may have none.
const TRY: Duration = Duration::from_secs(1);

/// The times of one kind of server, in the order of the rounds.
#[derive(Default)]
struct Times {
    start: Vec<Duration>,
    stop: Vec<Duration>,
}

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let machine =
        fleet::boot("bench", SPEC, &["/srv/website", "/srv/inside", "/srv/bare", BARE_HOME])?;
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    machine.run(["systemctl", "stop", "opencode-website", "opencode-inside"])?.ok()?;
    for home in [BARE_HOME, &home("website"), &home("inside")] {
        install_plugin(&machine, home)?;
    }
    // The first start of each fills its HOME and is not counted.
    let mut all = [Times::default(), Times::default(), Times::default()];
    for round in 0..=rounds {
        let one = [
            bare_round(&machine)?,
            our_round(&machine, "opencode-website")?,
            our_round(&machine, "opencode-inside")?,
        ];
        if round > 0 {
            let starts: Vec<String> = one.iter().map(|(start, _)| human(*start)).collect();
            say(&format!("round {round}: {}", starts.join(", ")));
            for (times, (start, stop)) in all.iter_mut().zip(one) {
                times.start.push(start);
                times.stop.push(stop);
            }
        }
    }
    report(rounds, all)
}

/// The HOME of an instance.
pub(super) fn home(name: &str) -> String {
    format!("/var/lib/opencode/instance-state/{name}")
}

/// The three servers, the baseline first.
const SERVERS: [&str; 3] = ["bare", "instance", "instance, configured"];

/// What the instance's unit also sets: a server that looks for models and updates starts slower.
pub(super) const QUIET: &[&str] = &[
    "--setenv=OPENCODE_DISABLE_AUTOUPDATE=1",
    "--setenv=OPENCODE_DISABLE_LSP_DOWNLOAD=1",
    "--setenv=OPENCODE_DISABLE_MODELS_FETCH=1",
    "--setenv=OPENCODE_DISABLE_SHARE=1",
    "--setenv=npm_config_fetch_retries=0",
    "--setenv=npm_config_offline=true",
];

/// A server with a HOME and a project and nothing around it, as a transient unit.
fn bare_round(machine: &Machine) -> Result<(Duration, Duration)> {
    let [_, started] = bare_start(machine, || Ok(Instant::now()))?;
    let stop = Instant::now();
    machine.run(["systemctl", "stop", "bare"])?.ok()?;
    Ok((started, stop.elapsed()))
}

/// How long it takes until that server listens, and until it answers, by a clock that is started right before the order.
pub(super) fn bare_start(
    machine: &Machine,
    clock: impl FnOnce() -> Result<Instant>,
) -> Result<[Duration; 2]> {
    let log = format!("/proc/{}/root{BARE_LOG}", machine.pid());
    machine.run(["rm", "-f", BARE_LOG])?.ok()?;
    let port = BARE_PORT.to_string();
    let output = format!("--property=StandardOutput=file:{BARE_LOG}");
    let unit = ["systemd-run", "--quiet", "--unit=bare", "--working-directory=/srv/bare", &output];
    let home = format!("--setenv=HOME={BARE_HOME}");
    let unit = unit.into_iter().chain([home.as_str()]);
    let server = ["/usr/bin/opencode", "serve", "--hostname", "127.0.0.1", "--port", &port];
    let start = clock()?;
    machine.run(unit.chain(QUIET.iter().copied()).chain(server))?.ok()?;
    answered(&log, start, || machine.in_netns(|| answers(BARE_PORT)))
}

/// Waits for a server as the supervisor does it, first for its words in a log, then for an answer, and says when
/// each came.
pub(super) fn answered(
    log: &str,
    start: Instant,
    mut answers: impl FnMut() -> Result<bool>,
) -> Result<[Duration; 2]> {
    while !fs::read_to_string(log).is_ok_and(|text| text.contains("listening on http")) {
        give_up(start)?;
        thread::sleep(POLL);
    }
    let listens = start.elapsed();
    while !answers()? {
        give_up(start)?;
        thread::sleep(POLL);
    }
    Ok([listens, start.elapsed()])
}

fn our_round(machine: &Machine, unit: &str) -> Result<(Duration, Duration)> {
    // So many starts in a minute are more than the unit allows.
    machine.run(["systemctl", "reset-failed", unit])?.ok()?;
    let start = Instant::now();
    let done = machine.run(["systemctl", "start", unit])?;
    if !done.success() {
        let journal =
            machine.run(["journalctl", "--no-pager", "--lines=60", "--output=short-precise"])?;
        bail!("the instance does not start: {done}\n{journal}");
    }
    let started = start.elapsed();
    let stop = Instant::now();
    machine.run(["systemctl", "stop", unit])?.ok()?;
    Ok((started, stop.elapsed()))
}

fn give_up(start: Instant) -> Result<()> {
    if start.elapsed() > PATIENCE {
        bail!("a server does not answer");
    }
    Ok(())
}

/// Whether the configuration can be had with one question, by a client that waits so long.
pub(super) fn answers_within(port: u16, patience: Duration) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // The end of an answer is where it says: opencode's first one leaves the connection open.
    http::get(address, "/config", None, patience).is_ok_and(|answer| answer.is_json_success())
}

/// The same, by one that asks again.
pub(super) fn answers(port: u16) -> bool {
    answers_within(port, TRY)
}

/// Gives a server's HOME the traces of what its first start with a network installs. Without a network every start would
/// load npm's library and fail, and nothing else is answered meanwhile: before the first answer in some starts, after it in others.
pub(super) fn install_plugin(machine: &Machine, home: &str) -> Result<()> {
    let dependencies = r#""dependencies":{"@opencode-ai/plugin":"*"}"#;
    let script = format!(
        "place={home}/.config/opencode\nmkdir -p $place/node_modules\n\
         echo '{{{dependencies}}}' >$place/package.json\n\
         echo '{{\"lockfileVersion\":3,\"packages\":{{\"\":{{{dependencies}}}}}}}' >$place/package-lock.json\n\
         chown --recursive --no-dereference --reference={home} {home}/.config"
    );
    machine.sh(&script)?.ok().map(drop)
}

fn report(rounds: usize, all: [Times; 3]) -> Result<Part> {
    let mut text = format!(
        "## Start and stop\n\n\
         Two warm instances and one bare `opencode serve` take turns in one machine, {rounds} rounds \
         each, after a round that is not counted. All have the environment that keeps the server from \
         looking for models and updates, and HOMEs with the traces of opencode's plugin. An instance is ready when `systemctl start` \
         returns; the bare server, a transient unit without any sandbox, when `GET /config` answers \
         after its words `listening on`. The configured instance has settings, content, \
         `enforcedSettings` and `trustProject = false`. The ratio is that of the medians.\n\n\
         | what | server | min | median | max | ratio |\n|---|---|---|---|---|---|\n"
    );
    let mut data = serde_json::Map::new();
    let mut starts = Vec::new();
    let mut stops = Vec::new();
    for times in all {
        starts.push(Spread::of(times.start)?);
        stops.push(Spread::of(times.stop)?);
    }
    for (what, spreads) in [("start", starts), ("stop", stops)] {
        let base = spreads.first().map_or(1.0, |spread| spread.median.as_secs_f64());
        for (server, spread) in SERVERS.iter().zip(spreads) {
            let ratio = spread.median.as_secs_f64() / base;
            let words =
                if *server == "bare" { "1 (baseline)".to_owned() } else { format!("{ratio:.3}") };
            text.push_str(&format!("| {what} | {server} | {} | {words} |\n", spread.cells()));
            let key = format!("{what}, {server}");
            data.insert(key, json!({ "spread": spread.data(), "ratio": ratio }));
        }
    }
    Ok(Part { name: "life", text, data: Value::Object(data), charts: Vec::new() })
}

/// The ends and the middle of some times.
pub(super) struct Spread {
    min: Duration,
    pub(super) median: Duration,
    max: Duration,
}

impl Spread {
    pub(super) fn of(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().context("no rounds");
        Ok(Self {
            min: at(0)?,
            median: at(times.len() / 2)?,
            max: at(times.len().saturating_sub(1))?,
        })
    }

    pub(super) fn cells(&self) -> String {
        [self.min, self.median, self.max].map(human).join(" | ")
    }

    pub(super) fn data(&self) -> Value {
        json!({
            "min": self.min.as_secs_f64(),
            "median": self.median.as_secs_f64(),
            "max": self.max.as_secs_f64(),
        })
    }
}
