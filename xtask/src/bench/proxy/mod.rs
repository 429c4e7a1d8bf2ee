//! What the proxy costs beside a direct connection, and beside `systemd-socket-proxyd`, in one machine.

mod footprint;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use instances_lab::progress::say;
use instances_lab::{Image, Machine, Options, Release, install};
use serde_json::{Value, json};

use super::Part;
use crate::engine;
use footprint::Footprint;
use traffic::Kind;

/// Where the server listens in the machine.
const SERVER: u16 = 4096;
/// The ways to it, the baseline first: the name, the port that clients connect to, and the program in between.
const WAYS: [Way; 3] = [
    Way { name: "direct", port: SERVER, program: None },
    Way { name: "this proxy", port: 4101, program: Some("/usr/bin/opencode-instances proxy") },
    Way {
        name: "systemd-socket-proxyd",
        port: 4102,
        program: Some("/usr/lib/systemd/systemd-socket-proxyd --connections-max=4096"),
    },
];

struct Way {
    name: &'static str,
    port: u16,
    program: Option<&'static str>,
}

impl Way {
    fn address(&self) -> SocketAddr {
        address(self.port)
    }

    fn unit(&self) -> String {
        format!("bench-{}", self.port)
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Figures of one kind over one way, and as parts of the direct one's in the same round.
#[derive(Default)]
struct Row {
    figures: Vec<f64>,
    of_direct: Vec<f64>,
}

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let image = Image::ensure(Release::Trixie)?;
    let machine = Machine::boot(&image, &Options::new().name("bench-proxy").engine())?;
    traffic::serve(&machine)?;
    for way in &WAYS {
        install_way(&machine, way)?;
    }
    // Before anything has gone through them.
    let mut footprints = Vec::new();
    for way in WAYS.iter().filter(|way| way.program.is_some()) {
        footprints.push((way.name, Footprint::of(&machine, way)?));
    }
    let mut rows: Vec<(Kind, [Row; 3])> =
        Kind::ALL.into_iter().map(|kind| (kind, Default::default())).collect();
    for (kind, ways) in &mut rows {
        // The first round warms everything up and is not counted.
        for round in 0..=rounds {
            let mut direct = None;
            for (way, row) in WAYS.iter().zip(ways.iter_mut()) {
                let figure = traffic::measure(&machine, way.address(), *kind)?;
                let direct = *direct.get_or_insert(figure);
                if round > 0 {
                    row.figures.push(figure);
                    row.of_direct.push(figure / direct);
                }
            }
        }
        let shown = WAYS.iter().zip(ways.iter());
        let shown = shown.map(|(way, row)| format!("{} {:.3}", way.name, median(&row.of_direct)));
        say(&format!("{}: {}", kind.words(), shown.collect::<Vec<_>>().join(", ")));
    }
    Ok(report(rounds, &rows, &footprints))
}

/// A socket and its service, as an instance's units have them.
fn install_way(machine: &Machine, way: &Way) -> Result<()> {
    let Some(program) = way.program else { return Ok(()) };
    let unit = way.unit();
    let socket = format!("[Socket]\nListenStream={}\nBacklog=4096\nNoDelay=yes\n", way.address());
    let service = format!(
        "[Service]\nType=notify\nDynamicUser=yes\nLimitNOFILE=16384\nExecStart={program} {}\n",
        address(SERVER)
    );
    machine.put(format!("/etc/systemd/system/{unit}.socket"), socket, 0o644)?;
    machine.put(format!("/etc/systemd/system/{unit}.service"), service, 0o644)?;
    machine.sh("systemctl daemon-reload")?.ok()?;
    machine.run(["systemctl", "start", &format!("{unit}.socket"), &unit])?.ok()?;
    Ok(())
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figure that other work on the machine disturbed least.
fn best(row: &Row) -> f64 {
    row.figures.iter().copied().fold(f64::NAN, f64::max)
}

fn report(rounds: usize, rows: &[(Kind, [Row; 3])], footprints: &[(&str, Footprint)]) -> Part {
    let mut text = format!(
        "## The proxy\n\n\
         A client, a server that answers at once, and what is between them, all over loopback in one machine: nothing, `opencode-instances \
         proxy`, or `systemd-socket-proxyd` of systemd 257, both started by a socket unit and with the same limits. \
         {rounds} rounds after one that is not counted, the ways taking turns. The ratio is the median of each round's figure \
         divided by the direct one of the same round; higher is better. The best round of each is what other work on the machine disturbed least. Over a direct connection two processes share the processors, \
         over a proxy three, and every byte passes TCP twice.\n\n\
         | what | way | median | of direct | best | of direct's best |\n|---|---|---|---|---|---|\n"
    );
    let mut data = serde_json::Map::new();
    for (kind, ways) in rows {
        let direct = ways.first().map_or(f64::NAN, best);
        for (way, row) in WAYS.iter().zip(ways) {
            let (figure, ratio) = (median(&row.figures), median(&row.of_direct));
            text.push_str(&format!(
                "| {} | {} | {} | {ratio:.3} | {} | {:.3} |\n",
                kind.words(),
                way.name,
                kind.figure(figure),
                kind.figure(best(row)),
                best(row) / direct
            ));
            data.insert(
                format!("{}, {}", kind.words(), way.name),
                json!({ "median": figure, "of_direct": ratio, "best": best(row) }),
            );
        }
    }
    text.push_str(&format!(
        "\nMemory is the process's proportional share (PSS), and what of it is not the program's file, freshly started and then with {} \
         connections that have each been answered once. The file is counted whole here, where no other process runs it; an instance's \
         supervisor and resolver share it.\n\n\
         | what | idle | with {0} connections | descriptors a connection |\n|---|---|---|---|\n",
        footprint::MANY
    ));
    for (name, footprint) in footprints {
        text.push_str(&format!("| {name} | {} |\n", footprint.cells()));
        data.insert(format!("footprint, {name}"), footprint.data());
    }
    Part { name: "proxy", text, data: Value::Object(data), charts: Vec::new() }
}
