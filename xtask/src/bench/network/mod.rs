//! What the outbound policy costs, beside a path of the same shape without any rule, in one machine.

mod path;
mod refused;
mod traffic;

use std::time::Duration;

use anyhow::{Context, Result};
use instances_core::network::{Allowed, Network, Policy};
use instances_core::nft::namespace_table;
use instances_lab::progress::say;
use instances_lab::{Image, Internet, Machine, Options, Release, install};
use serde_json::{Value, json};

use super::Part;
use crate::engine;
use path::{BARE, MASQUERADED, PASTA, TARGET};
use refused::Flood;
use traffic::Kind;

/// How many ranges the lists have.
const LISTS: [usize; 3] = [1, 100, 10_000];
/// How many instances are up at the end.
const MANY: usize = 200;
/// The instance whose packets are timed.
const FIRST: &str = "list-1";
/// How long one figure is measured.
const SAMPLE: Duration = Duration::from_millis(250);

/// Figures of one path, one for each round, and as parts of those of the baselines in the same round.
struct Row {
    what: String,
    kind: Kind,
    figures: Vec<f64>,
    of_bare: Vec<f64>,
    of_masqueraded: Vec<f64>,
}

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let image = Image::ensure(Release::Trixie)?;
    let machine = Machine::boot(&image, &Options::new().name("bench-network").engine())?;
    let internet = Internet::attach(&machine, false)?;
    path::baselines(&machine)?;
    traffic::serve(&machine)?;

    path::instance(&machine, FIRST, &list(1))?;
    let alone = compare(&machine, rounds, &[FIRST.to_owned()], &[Kind::Packets])?;
    let mut names = Vec::new();
    for count in LISTS {
        let name = format!("list-{count}");
        path::instance(&machine, &name, &list(count))?;
        names.push(name);
        if count > 1 {
            let name = format!("rules-{count}");
            path::instance(&machine, &name, &one_rule_each(count))?;
            names.push(name);
        }
    }
    let pasta = path::pasta(&machine)?;
    let all: Vec<String> = names.iter().cloned().chain([PASTA.to_owned()]).collect();
    let mut rows =
        compare(&machine, rounds, &all, &[Kind::Stream, Kind::Connections, Kind::RoundTrips])?;
    let segments = traffic::segments(&machine, PASTA)?;
    let closed = [("list-0", list(0)), ("none", none())];
    for (name, policy) in &closed {
        path::instance(&machine, name, policy)?;
        names.push((*name).to_owned());
    }
    let closed = closed.map(|(name, _)| name.to_owned());
    rows.extend(compare(&machine, rounds, &closed, &[Kind::Refusals])?);
    let flood = refused::flood(&machine, FIRST)?;
    say(&format!("bringing up {MANY} instances"));
    for number in names.len()..MANY {
        path::instance(&machine, &format!("more-{number}"), &list(1))?;
    }
    let crowded = compare(&machine, rounds, &[FIRST.to_owned()], &[Kind::Packets])?;
    drop(internet);
    Ok(report(rounds, (&pasta, segments), &rows, &alone, &crowded, &flood))
}

/// A policy of so many ranges that do not touch, of which the last one is where everything goes.
fn list(count: usize) -> (String, Network) {
    let others = (0..count.saturating_sub(1)).map(|number| {
        let address = 0x0a00_0000 + u32::try_from(number).unwrap_or_default() * 512;
        format!("{}/24", std::net::Ipv4Addr::from(address))
    });
    let cidrs = others.chain((count > 0).then(|| format!("{TARGET}/32")));
    let allow = cidrs.filter_map(|cidr| {
        Some(Allowed { cidr: cidr.parse().ok()?, protocol: None, ports: Vec::new() })
    });
    let network =
        Network { policy: Policy::AllowList, allow: allow.collect(), ..Network::default() };
    (namespace_table("bench", &network), network)
}

/// The policy that has no link.
fn none() -> (String, Network) {
    let network = Network { policy: Policy::None, ..Network::default() };
    (namespace_table("bench", &network), network)
}

/// The same policy without sets: a rule for each range, in both directions.
fn one_rule_each(count: usize) -> (String, Network) {
    let (text, network) = list(count);
    let lines = text.lines().map(|line| {
        let Some((before, _)) = line.split_once("@allow4 accept") else {
            return format!("{line}\n");
        };
        network.allow.iter().map(|one| format!("{before}{} accept\n", one.cidr)).collect()
    });
    (lines.collect(), network)
}

/// Measures each path in turn, round after round, and right before it the baselines.
fn compare(machine: &Machine, rounds: usize, names: &[String], kinds: &[Kind]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for kind in kinds {
        let row = |what: &str| Row {
            what: what.to_owned(),
            kind: *kind,
            figures: Vec::new(),
            of_bare: Vec::new(),
            of_masqueraded: Vec::new(),
        };
        let figure = |path: &str| {
            traffic::measure(machine, &path::namespace(path), *kind, SAMPLE)
                .with_context(|| format!("{} of {path}", kind.words()))
        };
        let [mut bare, mut masqueraded] = [BARE, MASQUERADED].map(row);
        let mut of_kind: Vec<Row> = names.iter().map(|name| row(name)).collect();
        // The first round warms everything up and is not counted.
        for round in 0..=rounds {
            for row in &mut of_kind {
                let [no_rule, translated] = [figure(BARE)?, figure(MASQUERADED)?];
                let own = figure(&row.what)?;
                if round > 0 {
                    bare.note(no_rule, no_rule, translated);
                    masqueraded.note(translated, no_rule, translated);
                    row.note(own, no_rule, translated);
                }
            }
        }
        rows.extend([bare, masqueraded]);
        rows.extend(of_kind);
    }
    Ok(rows)
}

impl Row {
    fn note(&mut self, own: f64, bare: f64, masqueraded: f64) {
        self.figures.push(own);
        self.of_bare.push(own / bare);
        self.of_masqueraded.push(own / masqueraded);
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(
    rounds: usize,
    (pasta, segments): (&str, [u64; 3]),
    rows: &[Row],
    alone: &[Row],
    crowded: &[Row],
    flood: &Flood,
) -> Part {
    let mut text = format!(
        "## The outbound policy\n\n\
         One machine, {rounds} rounds after one that is not counted, {} ms for each figure. The \
         baseline `bare` is a namespace behind a router of its own, with as many links and no rule, no \
         connection tracking and no translation of addresses. `masqueraded` is the same with what a \
         private address needs to get anywhere: its router tracks connections and translates, by one \
         rule. An instance's packets pass its table, the host's table and the translation. Each figure \
         is divided by those of the baselines that were measured right before it, and the ratios are the \
         medians of the rounds'; higher is better. `list-N` is an allow-list of N ranges, `rules-N` the \
         same with one rule for each range, where the last one matches. With `list-0` and `none` nothing can be \
         reached, so that a refusal is timed: the policy's own, or without a link the kernel's; those of the baselines come \
         from the other end, where nobody listens. `{PASTA}` is what a user without \
         privileges has, for bubblewrap or a rootless container ({pasta}, `--config-net`): a namespace whose packets \
         a process of that user's takes from a tap device and makes sockets of. It has no policy, and its way has no router \
         and one link less.\n\n\
         | what | path | median | of bare | of masqueraded |\n|---|---|---|---|---|\n",
        SAMPLE.as_millis()
    );
    let mut data = serde_json::Map::new();
    for row in rows {
        line(&mut text, row, "");
        data.insert(format!("{}, {}", row.kind.words(), row.what), datum(row));
    }
    let mut packets = Vec::new();
    for (count, rows) in [(1, alone), (MANY, crowded)] {
        for row in rows {
            line(&mut text, row, &format!(", {count} up"));
            data.insert(format!("{}, {}, {count} up", row.kind.words(), row.what), datum(row));
        }
        packets.push(rows.last().map_or(f64::NAN, |row| median(&row.of_bare)));
    }
    if let [one, many] = packets.as_slice() {
        let cost = one / many;
        text.push_str(&format!(
            "\nA packet costs {cost:.3} times as much with {MANY} instances up as with one.\n"
        ));
        data.insert("cost of a packet".to_owned(), json!(cost));
    }
    let [sent, again, timeouts] = segments;
    text.push_str(&format!(
        "\nOf {sent} segments of TCP that `{PASTA}`'s clients sent, {again} were sent again, {timeouts} times after a timeout of \
         200 ms and more: the ones before were lost.\n"
    ));
    data.insert("segments of pasta".to_owned(), json!(segments));
    text.push_str(&flood.words());
    data.insert("refused".to_owned(), flood.data());
    Part { name: "network", text, data: Value::Object(data), charts: Vec::new() }
}

fn line(text: &mut String, row: &Row, more: &str) {
    let (words, figure) = (row.kind.words(), row.kind.figure(median(&row.figures)));
    let (bare, masqueraded) = (median(&row.of_bare), median(&row.of_masqueraded));
    let what = &row.what;
    text.push_str(&format!(
        "| {words} | {what}{more} | {figure} | {bare:.3} | {masqueraded:.3} |\n"
    ));
}

fn datum(row: &Row) -> Value {
    json!({
        "median": median(&row.figures),
        "of_bare": median(&row.of_bare),
        "of_masqueraded": median(&row.of_masqueraded),
    })
}
