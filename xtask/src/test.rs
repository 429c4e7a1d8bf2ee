//! `cargo xtask test`: every check, one after the other, and what came out of them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use instances_lab::progress::say;
use instances_lab::{install, place};

use crate::engine::{self, cargo};
use crate::{deb, demo, docs, fuzz, guest, lab};

/// One check, and how it is done. Later steps run even when an earlier one has failed.
struct Step {
    name: &'static str,
    run: fn() -> Result<Tally>,
}

/// All checks in their order: add new ones here.
const STEPS: &[Step] = &[
    Step { name: "what machines need", run: install },
    Step { name: "formatting", run: || check(cargo().args(["fmt", "--all", "--check"])) },
    Step { name: "lints", run: lints },
    Step { name: "engine", run: || engine::build().map(|()| Tally::default()) },
    Step { name: "package", run: || deb::for_tests().map(|()| Tally::default()) },
    Step { name: "documentation", run: documentation },
    Step { name: "generated documents", run: || docs::run(true).map(|()| Tally::default()) },
    Step { name: "tests", run: tests },
    Step { name: "slow tier", run: guest::check },
    Step { name: "fuzzing", run: || fuzz::run(20).map(|()| Tally::default()) },
    Step { name: "demonstration", run: demonstration },
];

/// How many tests ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

/// Runs all steps.
pub(crate) fn run() -> Result<ExitCode> {
    let mut total = Tally::default();
    let mut failed_steps = Vec::new();
    for step in STEPS {
        say(&format!("\n== {}", step.name));
        let start = Instant::now();
        let tally = (step.run)().unwrap_or_else(|error| {
            say(&format!("error: {error:#}"));
            Tally { passed: 0, failed: 1 }
        });
        total.passed += tally.passed;
        total.failed += tally.failed;
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        say(&format!("== {}: {verdict}, {:.1} s", step.name, start.elapsed().as_secs_f32()));
        if tally.failed > 0 {
            failed_steps.push(step.name);
        }
    }
    if !failed_steps.is_empty() {
        say(&format!("\nFailed: {}.", failed_steps.join(", ")));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "\n{} passed, {} failed", total.passed, total.failed)?;
    Ok(if failed_steps.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What machines need, what the fuzzer is linked with, and what evaluates the NixOS module.
fn install() -> Result<Tally> {
    install::tool("c++", "g++")?;
    install::tool("nix-instantiate", "nix-bin")?;
    lab::install().map(|()| Tally::default())
}

fn lints() -> Result<Tally> {
    check(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> Result<Tally> {
    let mut doc = cargo();
    doc.env("RUSTDOCFLAGS", "-D warnings");
    check(doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"]))
}

/// Runs the workspace's tests, which find the engine and the roots by the environment.
fn tests() -> Result<Tally> {
    let mut command = cargo();
    command.env(place::ENGINE_VAR, place::engine()).env(place::DIR_VAR, place::dir());
    command.args(["test", "--workspace", "--no-fail-fast"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo's output is gone")?;
    let mut total = count(output)?;
    if !child.wait()?.success() && total.failed == 0 {
        // A test that did not compile, or a binary that did not live to its result.
        total.failed = 1;
    }
    Ok(total)
}

/// Passes on what test binaries print, and adds up their results.
pub(crate) fn count(output: impl Read) -> Result<Tally> {
    let mut total = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(io::stdout(), "{line}")?;
        if let Some(tally) = result(&line) {
            total.passed += tally.passed;
            total.failed += tally.failed;
        }
    }
    Ok(total)
}

/// Counts each row of the demonstration as a test.
fn demonstration() -> Result<Tally> {
    let count = demo::check()?;
    Ok(Tally { passed: count.good, failed: count.bad })
}

/// Runs a command that says by its status whether all is well.
fn check(command: &mut Command) -> Result<Tally> {
    let status = command.status().context("cannot start cargo")?;
    Ok(Tally { passed: 0, failed: u32::from(!status.success()) })
}

/// Reads the line with which each test binary ends.
fn result(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_test_binary() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(result(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(result("test machine::boots ... ok"), None);
    }
}
