//! The pure half: its benchmarks in `crates/core`, as time per instance.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::chart::{self, Chart, Line};
use super::{Part, human, human_seconds};
use crate::engine::cargo;

/// What is drawn too.
const DRAWN: [&str; 5] =
    ["check", "check_and_render", "plan_first", "plan_again", "check_settings"];

/// One line of divan's table.
#[derive(Debug, PartialEq)]
struct Row {
    what: String,
    count: u32,
    fastest: Duration,
    median: Duration,
}

impl Row {
    fn each(&self) -> f64 {
        self.fastest.as_secs_f64() / f64::from(self.count)
    }
}

pub(super) fn measure() -> Result<Part> {
    let mut bench = cargo();
    bench.args(["bench", "--quiet", "--package", "instances-core", "--bench", "pipeline", "--"]);
    bench.args(["--sample-count", "20", "--max-time", "3"]);
    let output = bench.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the benchmarks failed ({})", output.status);
    }
    let rows = parse(&String::from_utf8_lossy(&output.stdout))?;
    let mut text = String::from(
        "## Growth with the number of instances\n\n\
         From text to findings, files or steps, without the host. The columns hold the fastest of \
         up to 20 runs as time per instance, divided by the time per instance of 10 instances: 1 is \
         linear. The last column is the median of a whole run with 1,000 instances.\n\n\
         | what | 10 | 100 | 1,000 | 10,000 | 1,000 instances take |\n\
         |---|---|---|---|---|---|\n",
    );
    for group in rows.chunk_by(|a, b| a.what == b.what) {
        let base = group.first().map_or(1.0, Row::each);
        let ratios: Vec<String> =
            group.iter().map(|row| format!("{:.2}", row.each() / base)).collect();
        let whole = group.iter().find(|row| row.count == 1000).map(|row| human(row.median));
        let name = group.first().map(|row| row.what.replace('_', " ")).unwrap_or_default();
        text.push_str(&format!(
            "| {name} | {} | {} |\n",
            ratios.join(" | "),
            whole.unwrap_or_default()
        ));
    }
    let lines: Vec<Line> = rows
        .chunk_by(|a, b| a.what == b.what)
        .filter(|group| group.first().is_some_and(|row| DRAWN.contains(&row.what.as_str())))
        .map(|group| Line {
            label: group.first().map(|row| row.what.replace('_', " ")).unwrap_or_default(),
            points: group
                .iter()
                .map(|row| (f64::from(row.count), row.median.as_secs_f64()))
                .collect(),
        })
        .collect();
    let title = "Time over the number of instances, without the host";
    let svg = chart::lines(title, "instances", human_seconds, &lines);
    let charts = vec![Chart { name: "growth", words: title.to_owned(), svg }];
    let data = rows.iter().map(|row| {
        json!({
            "what": row.what,
            "instances": row.count,
            "fastest": row.fastest.as_secs_f64(),
            "median": row.median.as_secs_f64(),
        })
    });
    Ok(Part { name: "growth", text, data: data.collect(), charts })
}

/// Reads divan's table: a line without figures names the benchmark, those below it its sizes.
fn parse(table: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut what = String::new();
    for line in table.lines() {
        let columns: Vec<&str> = line.split('│').map(str::trim).collect();
        let name = line.trim_start_matches(['├', '╰', '─', '│', ' ']);
        let name = name.split([' ', '│']).next().unwrap_or_default();
        if !line.contains('─') {
            continue;
        }
        let Ok(count) = name.parse() else {
            name.clone_into(&mut what);
            continue;
        };
        // The first cell is the tree with the size and the fastest time.
        let cells: Vec<&str> = columns.into_iter().filter(|cell| !cell.is_empty()).collect();
        let fastest = cells.first().and_then(|cell| time(cell));
        let median = cells.get(2).and_then(|cell| time(cell));
        let unknown = || format!("cannot read the benchmarks' line {line:?}");
        rows.push(Row {
            what: what.clone(),
            count,
            fastest: fastest.with_context(unknown)?,
            median: median.with_context(unknown)?,
        });
    }
    if rows.is_empty() {
        bail!("the benchmarks printed no table");
    }
    Ok(rows)
}

/// The time at the end of a cell, `1.5 ms`.
fn time(cell: &str) -> Option<Duration> {
    let mut words = cell.rsplit(' ');
    let (unit, number) = (words.next()?, words.next()?);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_benchmarks() {
        let table = "Timer precision: 20 ns\n\
            pipeline      fastest       │ slowest       │ median        │ mean          │ samples │ iters\n\
            ├─ check                    │               │               │               │         │\n\
            │  ├─ 10      111.8 µs      │ 266.4 µs      │ 121.9 µs      │ 134 µs        │ 20      │ 20\n\
            │  ╰─ 1000    1.107 s       │ 1.483 ms      │ 1.152 ms      │ 1.177 ms      │ 20      │ 20\n";
        let rows = parse(table).unwrap();
        let row = |count, fastest, median| Row { what: "check".into(), count, fastest, median };
        let micros = Duration::from_nanos;
        assert_eq!(
            rows,
            [
                row(10, micros(111_800), micros(121_900)),
                row(1000, micros(1_107_000_000), micros(1_152_000))
            ]
        );
        assert!(parse("nothing").is_err());
    }
}
