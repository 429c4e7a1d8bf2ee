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
    let again = match total.unsteady {
        0 => String::new(),
        unsteady => format!(" ({unsteady} of them UNSTEADY: only when run again, alone)"),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "\n{} passed{again}, {} failed", total.passed, total.failed)?;
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

/// How a panic goes on that is no more than a wait that took too long. One that shows what got through, or what was lost,
/// never does: that counts, whatever a second try says.
const LATE: [&str; 2] = [instances_lab::NO_END, instances_lab::NOT_WITHIN];
/// So many of such tests may be run again.
const UNSTEADY: usize = 2;
/// How long cargo's last message may be on its way when it has ended.
const MESSAGES: Duration = Duration::from_secs(1);

/// Runs the workspace's tests. One or two that have waited in vain are run again, alone, if no other has failed: those
/// beside them may have kept a machine from what they wait for. That is said, and none is tried a third time.
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
        if tally.takes(second) {
            say(&format!("UNSTEADY, waited in vain beside others and passed alone: {command}"));
        }
    }
    Ok(tally)
}

impl Tally {
    /// Counts a failed test as passed if that is what its second run, alone, came to.
    fn takes(&mut self, second: Self) -> bool {
        let passed = second == (Self { passed: 1, ..Self::default() });
        if passed {
            self.passed += 1;
            self.failed = self.failed.saturating_sub(1);
            self.unsteady += 1;
        }
        passed
    }
}

/// What a run of cargo's came to.
#[derive(Debug, Default)]
struct Outcome {
    tally: Tally,
    /// The tests that failed, of each test binary with one, in the order in which they ran.
    failed: Vec<Vec<Failed>>,
    /// The same binaries, as what cargo takes to run them.
    targets: Vec<String>,
}

/// A test that failed.
#[derive(Debug, Default)]
struct Failed {
    name: String,
    /// How many of its threads panicked.
    panics: u32,
    /// How many of them had waited in vain.
    late: u32,
}

impl Outcome {
    /// What may be run again: nothing, unless it is all that failed, and known by name.
    fn again(&self) -> Option<Vec<(&str, &str)>> {
        let known: usize = self.failed.iter().map(Vec::len).sum();
        let may = known == usize::try_from(self.tally.failed).ok()?
            && (1..=UNSTEADY).contains(&known)
            && self.targets.len() == self.failed.len()
            && self.failed.iter().flatten().all(|test| (test.panics, test.late) == (1, 1));
        let pairs = self.targets.iter().zip(&self.failed);
        let all = pairs.flat_map(|(target, tests)| {
            tests.iter().map(move |test| (target.as_str(), test.name.as_str()))
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
fn read(output: impl Read, mut to: impl Write) -> Result<(Tally, Vec<Vec<Failed>>)> {
    let (mut total, mut all) = (Tally::default(), Vec::new());
    let mut failed: Vec<Failed> = Vec::new();
    let mut told = None;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(to, "{line}")?;
        if let Some(name) = named(&line, "test ", " ... FAILED") {
            failed.push(Failed { name: name.to_owned(), ..Failed::default() });
        }
        if let Some(name) = named(&line, "---- ", " stdout ----") {
            told = failed.iter().position(|test| test.name == name);
        } else if let Some(test) = told.and_then(|at| failed.get_mut(at)) {
            test.panics +=
                u32::from(line.starts_with("thread '") && line.contains(" panicked at "));
            test.late += u32::from(is_late(&line));
        }
        if let Some(tally) = result(&line) {
            total.passed += tally.passed;
            total.failed += tally.failed;
            told = None;
            let tests = std::mem::take(&mut failed);
            if tally.failed > 0 {
                all.push(tests);
            }
        }
    }
    Ok((total, all))
}

/// A test's name in a line of its binary's.
fn named<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(line.strip_prefix(before)?.strip_suffix(after)?.trim_end())
}

/// Whether a line is a panic's message for a wait that took too long.
fn is_late(line: &str) -> bool {
    let error = line.strip_prefix("called `Result::unwrap()` on an `Err` value: ");
    error.is_some_and(|error| LATE.iter().any(|words| error.starts_with(words)))
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

    /// A binary with a test that has waited in vain, and one without a failed test.
    const OUTPUT: &str = "running 2 tests\ntest a::slow ... FAILED\ntest a::good ... ok\n\nfailures:\n\n\
        ---- a::slow stdout ----\n\nthread 'a::slow' (1) panicked at a.rs:1:1:\n\
        called `Result::unwrap()` on an `Err` value: not within 60 s: web is healthy\n\nfailures:\n    a::slow\n\n\
        test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n\
        test b ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n";
    const SAID: &str = "     Running tests/b.rs (target/b)\n    `not of cargo's list`\n\
        error: test failed, to rerun pass `-p instances-lab --test lifecycle`\nerror: 1 target failed:\n    `-p instances-lab --test lifecycle`\n";
    const WAITED: &str =
        "called `Result::unwrap()` on an `Err` value: not within 60 s: web is healthy";
    const LIFECYCLE: (&str, &str) = ("-p instances-lab --test lifecycle", "a::slow");

    fn outcome(output: &str, messages: &str) -> Outcome {
        let (tally, failed) = read(output.as_bytes(), io::sink()).unwrap();
        let (tell, told) = mpsc::channel();
        failed_targets(messages.as_bytes(), io::sink(), &tell).unwrap();
        Outcome { tally, failed, targets: told.try_iter().collect() }
    }

    #[test]
    fn who_has_waited_in_vain_may_be_run_again() {
        let one = outcome(OUTPUT, SAID);
        assert_eq!(one.tally, Tally { passed: 2, failed: 1, unsteady: 0 });
        assert_eq!(one.again(), Some(vec![LIFECYCLE]));
        assert_eq!(
            outcome(&OUTPUT.replace("not within 60 s", "no end after 120 s"), SAID).again(),
            Some(vec![LIFECYCLE])
        );
        // One of each of two binaries.
        let two = format!("{OUTPUT}{}", OUTPUT.replace("a::slow", "c"));
        let said = format!("{SAID}    `-p instances-sys --test net`\n");
        assert_eq!(
            outcome(&two, &said).again(),
            Some(vec![LIFECYCLE, ("-p instances-sys --test net", "c")])
        );
    }

    #[test]
    fn nothing_else_is_run_again() {
        // Something got through, also beside a wait; somebody else's words; no words at all.
        let also = format!("{WAITED}\n\nthread 'b' (2) panicked at b.rs:1:1:\nit got through");
        for panic in [
            &also,
            "assertion `left == right` failed: not within 60 s",
            "called `Result::unwrap()` on an `Err` value: cat failed: not within 60 s",
            "",
        ] {
            assert_eq!(outcome(&OUTPUT.replace(WAITED, panic), SAID).again(), None, "{panic}");
        }
        // One that waited beside one that did not, in one binary; three; one more than is named.
        let beside = |more: &str, count: u32| {
            OUTPUT
                .replace("test a::slow ... FAILED\n", &format!("test a::slow ... FAILED\n{more}"))
                .replace("1 passed; 1 failed", &format!("1 passed; {count} failed"))
        };
        assert_eq!(outcome(&beside("test c ... FAILED\n", 2), SAID).again(), None);
        let late = OUTPUT.replace("a::slow", "c");
        let three = format!("{OUTPUT}{late}{late}");
        let said = format!("{SAID}    `-p c --lib`\n    `-p d --lib`\n");
        assert_eq!(outcome(&three, &said).failed.len(), 3);
        assert_eq!(outcome(&three, &said).again(), None);
        assert_eq!(outcome(&beside("", 2), SAID).again(), None);
        // A binary that did not come to its result.
        let more = format!("{SAID}    `-p instances-lab --test demand`\n");
        assert_eq!(outcome(OUTPUT, &more).again(), None);
        assert_eq!(outcome("", "error: could not compile `lab`\n").again(), None);
    }

    #[test]
    fn only_a_pass_of_one_test_makes_up_for_a_failure() {
        let first = Tally { passed: 5, failed: 1, unsteady: 0 };
        let mut tally = first;
        for (passed, failed) in [(0, 0), (0, 1), (1, 1), (2, 0)] {
            assert!(!tally.takes(Tally { passed, failed, unsteady: 0 }));
            assert_eq!(tally, first);
        }
        assert!(tally.takes(Tally { passed: 1, ..Tally::default() }));
        assert_eq!(tally, Tally { passed: 6, failed: 0, unsteady: 1 });
    }
}
