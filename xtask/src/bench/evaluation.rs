//! What an instance costs when NixOS evaluates its configuration, beside the same units by hand.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use instances_lab::place;
use instances_lab::progress::say;
use serde_json::{Value, json};

use super::{Part, human};

/// How often an evaluation is done; the fastest one counts. Short ones vary more.
const fn rounds(count: u32) -> usize {
    if count < 1000 { 25 } else { 5 }
}

/// How many instances, beside one, and none for what an evaluation costs without any.
const COUNTS: [u32; 2] = [100, 1000];
/// What is evaluated, as `nix/tests/eval/bench.nix` and the table call it.
const SUBJECTS: [(&str, &str); 3] = [
    ("hand", "units and accounts by hand (baseline)"),
    ("module", "this module"),
    ("accounts", "of which `users.users` and `users.groups`, by hand"),
];

/// What the evaluator used.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    bytes: f64,
}

impl Cost {
    /// What each of `count` instances adds to an evaluation without any.
    fn each(self, nothing: Self, count: u32) -> Self {
        let each = |all: f64, nothing: f64| (all - nothing) / f64::from(count);
        Self {
            seconds: each(self.seconds, nothing.seconds),
            bytes: each(self.bytes, nothing.bytes),
        }
    }

    fn time(self) -> String {
        human(Duration::try_from_secs_f64(self.seconds).unwrap_or_default())
    }
}

/// Nothing where Nix or nixpkgs' `lib` is not here.
pub(super) fn measure() -> Result<Option<Part>> {
    let lib = env::var_os("NIXPKGS_LIB").map(|root| PathBuf::from(root).join("lib"));
    let Some(lib) = lib.filter(|lib| lib.is_dir()) else {
        say(
            "SKIP nixos evaluation: NIXPKGS_LIB does not name a checkout of nixpkgs, or of its lib",
        );
        return Ok(None);
    };
    let mut rows = Vec::new();
    for (by, name) in SUBJECTS {
        let nothing = fastest(&lib, by, 0)?;
        let first = fastest(&lib, by, 1)?;
        let mut each = Vec::new();
        for count in COUNTS {
            each.push(fastest(&lib, by, count)?.each(nothing, count));
        }
        rows.push((by, name, first, each));
    }
    let baseline = rows.first().and_then(|(_, _, _, each)| each.last().copied());
    let baseline = baseline.context("there is no baseline")?;
    let mut text = String::from(
        "## Evaluation of the NixOS module\n\n\
         What each instance adds to an evaluation of NixOS's modules with nixpkgs' own `lib`, \
         down to the derivations: the time of the fastest run with 100 and with 1,000 \
         instances, and what the evaluator allocates with 1,000; first the whole evaluation \
         with one instance. `systemd.services` and `users.users` are stand-ins of the real size \
         (48 and 28 options); by hand an instance is three services and a socket with a sandbox \
         of the same size. NixOS looks at every account for each group, so that accounts cost \
         more the more there are. The ratios are those with 1,000 instances.\n\n\
         | what | one alone | each of 100 | each of 1,000 | ratio | allocated | ratio |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut data = Vec::new();
    for (by, name, first, each) in &rows {
        let last = each.last().copied().unwrap_or(baseline);
        let times: Vec<String> =
            std::iter::once(first).chain(each).map(|cost| cost.time()).collect();
        text.push_str(&format!(
            "| {name} | {} | {:.2} | {:.2} MB | {:.2} |\n",
            times.join(" | "),
            last.seconds / baseline.seconds,
            last.bytes / 1e6,
            last.bytes / baseline.bytes,
        ));
        data.push(
            json!({ "by": by, "instances": 1, "seconds": first.seconds, "bytes": first.bytes }),
        );
        for (count, cost) in COUNTS.iter().zip(each) {
            data.push(json!({
                "by": by,
                "instances": count,
                "secondsEach": cost.seconds,
                "bytesEach": cost.bytes,
            }));
        }
    }
    Ok(Some(Part { name: "evaluation", text, data: data.into(), charts: Vec::new() }))
}

fn fastest(lib: &Path, by: &str, count: u32) -> Result<Cost> {
    let mut best: Option<Cost> = None;
    for _ in 0..rounds(count) {
        let cost = evaluate(lib, by, count)?;
        if best.is_none_or(|best| cost.seconds < best.seconds) {
            best = Some(cost);
        }
    }
    best.context("nothing was evaluated")
}

fn evaluate(lib: &Path, by: &str, count: u32) -> Result<Cost> {
    let mut nix = Command::new("nix-instantiate");
    nix.current_dir(place::workspace()).env("NIX_SHOW_STATS", "1").env_remove("NIX_PATH");
    nix.args(["--store", "dummy://", "--eval", "--strict", "nix/tests/eval/bench.nix"]);
    nix.args(["--argstr", "by", by, "--argstr", "count", &count.to_string()]);
    let output = nix.arg("--argstr").arg("nixpkgsLib").arg(lib).output();
    let output = output.context("cannot start nix-instantiate (Debian: nix-bin)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the evaluation failed: {errors}");
    }
    let figures = errors.find("{\n").and_then(|start| errors.get(start..));
    let figures: Value = serde_json::from_str(figures.context("Nix printed no statistics")?)?;
    let figure = |pointer: &str| {
        figures.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer}"))
    };
    Ok(Cost { seconds: figure("/cpuTime")?, bytes: figure("/gc/totalBytes")? })
}
