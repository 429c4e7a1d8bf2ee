//! `cargo xtask test`: every check, one after the other, and what came out of them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};
use std::{iter, thread};

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
    /// Of those that passed, how many did so only when they were run again.
    pub(crate) unsteady: u32,
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
            Tally { failed: 1, ..Tally::default() }
        });
        total.passed += tally.passed;
        total.failed += tally.failed;
        total.unsteady += tally.unsteady;
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        say(&format!("== {}: {verdict}, {:.1} s", step.name, start.elapsed().as_secs_f32()));
        if tally.failed > 0 {
            failed_steps.push(step.name);
        }
    }
    if !failed_steps.is_empty() {
        say(&format!("\nFailed: {}.", failed_steps.join(", ")));
    }
    if total.unsteady > 0 {
        say(&format!(
            "\nUNSTEADY: {} passed only when they were run again, alone.",
            total.unsteady
        ));
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

/// Targets whose tests wait for machines, and neither attack nor draw their cases at random: what got through once has got
/// through, whatever a second try says.
const WAITING: &[&str] = &["cleanup", "demand", "faults", "lifecycle", "machine", "package"];
/// So many of them may fail and be tried again.
const UNSTEADY: usize = 2;
/// How long cargo's last message may be on its way when it has ended.
const MESSAGES: Duration = Duration::from_secs(1);

/// Runs the workspace's tests. One or two that fail are run again, alone, as others beside them may have kept a machine
/// from what they wait for; that is said, and none is tried a third time.
fn tests() -> Result<Tally> {
    let first = workspace_tests(&["--workspace", "--no-fail-fast"], false)?;
    let Some(again) = first.again() else { return Ok(first.tally) };
    let mut tally = first.tally;
    for (target, test) in again {
        let command = format!("cargo test {target} -- --exact {test}");
        say(&format!("\nAgain, alone: {command}"));
        let mut arguments: Vec<&str> = target.split(' ').collect();
        arguments.extend(["--", "--exact", test]);
        let second = workspace_tests(&arguments, true)?.tally;
        if second == (Tally { passed: 1, ..Tally::default() }) {
            tally.passed += 1;
            tally.failed = tally.failed.saturating_sub(1);
            tally.unsteady += 1;
            say(&format!("UNSTEADY, failed beside others and passed alone: {command}"));
        }
    }
    Ok(tally)
}

/// What a run of cargo's came to.
#[derive(Debug, Default)]
struct Outcome {
    tally: Tally,
    /// The tests that failed, of each test binary with one, in the order in which they ran.
    failed: Vec<Vec<String>>,
    /// The same binaries, as what cargo takes to run them.
    targets: Vec<String>,
}

impl Outcome {
    /// What may be run again: nothing, unless it is all that failed, and known by name.
    fn again(&self) -> Option<Vec<(&str, &str)>> {
        let waits = |target: &String| {
            target
                .strip_prefix("-p instances-lab --test ")
                .is_some_and(|name| WAITING.contains(&name))
        };
        let known: usize = self.failed.iter().map(Vec::len).sum();
        let may = known == usize::try_from(self.tally.failed).ok()?
            && (1..=UNSTEADY).contains(&known)
            && self.targets.len() == self.failed.len()
            && self.targets.iter().all(waits);
        let pairs = self.targets.iter().zip(&self.failed);
        let all = pairs.flat_map(|(target, tests)| {
            tests.iter().map(move |test| (target.as_str(), test.as_str()))
        });
        may.then(|| all.collect())
    }
}

/// Runs `cargo test`, whose tests find the engine and the roots by the environment.
fn workspace_tests(arguments: &[&str], again: bool) -> Result<Outcome> {
    let mut command = cargo();
    if again {
        // A test that is skipped has not passed.
        command.env("CI", "1");
    }
    command.env(place::ENGINE_VAR, place::engine()).env(place::DIR_VAR, place::dir());
    // What cargo says is read.
    command.env("CARGO_TERM_COLOR", "never").arg("test").args(arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo's output is gone")?;
    let errors = child.stderr.take().context("cargo's messages are gone")?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || failed_targets(errors, io::stderr(), &tell));
    let (tally, failed) = read(output, io::stdout())?;
    let good = child.wait()?.success();
    // Not to the end of its messages, which a process that a test has left would keep open.
    let targets = iter::from_fn(|| told.recv_timeout(MESSAGES).ok()).collect();
    let mut outcome = Outcome { tally, failed, targets };
    if !good && outcome.tally.failed == 0 {
        // A test that did not compile, or a binary that did not live to its result.
        outcome.tally.failed = 1;
    }
    Ok(outcome)
}

/// Passes on what test binaries print, and adds up their results.
pub(crate) fn count(output: impl Read) -> Result<Tally> {
    Ok(read(output, io::stdout())?.0)
}

/// The same, and which tests failed of each binary with one.
fn read(output: impl Read, mut to: impl Write) -> Result<(Tally, Vec<Vec<String>>)> {
    let (mut total, mut all, mut failed) = (Tally::default(), Vec::new(), Vec::new());
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(to, "{line}")?;
        let name = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        failed.extend(name.map(|name| name.trim_end().to_owned()));
        if let Some(tally) = result(&line) {
            total.passed += tally.passed;
            total.failed += tally.failed;
            let names = std::mem::take(&mut failed);
            if tally.failed > 0 {
                all.push(names);
            }
        }
    }
    Ok((total, all))
}

/// Passes on what cargo says, and tells which targets it lists as failed: "    `-p PACKAGE --test NAME`".
fn failed_targets(errors: impl Read, mut to: impl Write, tell: &Sender<String>) -> Result<()> {
    let mut listed = false;
    for line in BufReader::new(errors).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(to, "{line}")?;
        listed |= line.starts_with("error: ") && line.ends_with(" failed:");
        let target = line.strip_prefix("    `").and_then(|rest| rest.strip_suffix('`'));
        if let Some(target) = target.filter(|_| listed) {
            tell.send(target.to_owned())?;
        }
    }
    Ok(())
}

/// Counts each row of the demonstration as a test.
fn demonstration() -> Result<Tally> {
    let count = demo::check()?;
    Ok(Tally { passed: count.good, failed: count.bad, ..Tally::default() })
}

/// Runs a command that says by its status whether all is well.
fn check(command: &mut Command) -> Result<Tally> {
    let status = command.status().context("cannot start cargo")?;
    Ok(Tally { failed: u32::from(!status.success()), ..Tally::default() })
}

/// Reads the line with which each test binary ends.
fn result(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, unsteady: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_test_binary() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(result(line), Some(Tally { passed: 12, failed: 3, unsteady: 0 }));
        assert_eq!(result("test machine::boots ... ok"), None);
    }

    /// A binary with a failed test, one without, and one that fails twice.
    const OUTPUT: &str = "running 2 tests\ntest a::slow ... FAILED\ntest a::good ... ok\n\nfailures:\n    a::slow\n\n\
        test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n\
        test b ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n";
    const SAID: &str = "     Running tests/b.rs (target/b)\n    `not of cargo's list`\n\
        error: test failed, to rerun pass `-p instances-lab --test lifecycle`\nerror: 1 target failed:\n    `-p instances-lab --test lifecycle`\n";

    #[test]
    fn what_may_be_run_again() {
        let outcome = |output: &str, messages: &str| {
            let (tally, failed) = read(output.as_bytes(), io::sink()).unwrap();
            let (tell, told) = mpsc::channel();
            failed_targets(messages.as_bytes(), io::sink(), &tell).unwrap();
            Outcome { tally, failed, targets: told.try_iter().collect() }
        };
        let one = outcome(OUTPUT, SAID);
        assert_eq!(one.tally, Tally { passed: 2, failed: 1, unsteady: 0 });
        assert_eq!(one.again(), Some(vec![("-p instances-lab --test lifecycle", "a::slow")]));
        // An attack; a binary that did not come to its result; one too many.
        assert_eq!(
            outcome(OUTPUT, &SAID.replace("test lifecycle", "test isolation")).again(),
            None
        );
        let more = format!("{SAID}    `-p instances-lab --lib`\n");
        assert_eq!(outcome(OUTPUT, &more).again(), None);
        let three = OUTPUT.replace(
            "test a::slow ... FAILED\n",
            "test a::slow ... FAILED\ntest c ... FAILED\ntest d ... FAILED\n",
        );
        let three = three.replace(
            "1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\ntest b",
            "1 passed; 3 failed; 0 ignored\ntest b",
        );
        assert_eq!(outcome(&three, SAID).again(), None);
        assert_eq!(outcome("", "error: could not compile `lab`\n").again(), None);
    }
}
