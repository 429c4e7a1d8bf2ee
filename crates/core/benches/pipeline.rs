//! How long the pure half takes, and how that grows with the number of instances.
//!
//! `cargo xtask bench` runs this and prints ratios; `cargo bench -p instances-core` runs it alone.

#![expect(clippy::unwrap_used, reason = "a broken workload ends the benchmark")]

mod workload;

use std::collections::BTreeMap;

use divan::{Bencher, black_box};
use instances_core::desired::{Content, Desired, UNIT_DIR, desire};
use instances_core::diagnostic::Diagnostic;
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::plan::{Activity, Found, Observed, digest, plan};
use instances_core::suited;

/// The sizes whose growth is looked at.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    divan::main();
}

fn desired(text: &str, format: Format) -> Desired {
    desire(&read(text, format).unwrap().0, &HostFacts::default())
}

/// TOML text to every file that should be on the host.
#[divan::bench(args = SIZES)]
fn check_and_render(bencher: Bencher<'_, '_>, count: usize) {
    let text = workload::fleet(count);
    bencher.bench(|| desired(black_box(&text), Format::Toml));
}

/// The same from JSON.
#[divan::bench(args = SIZES)]
fn check_and_render_json(bencher: Bencher<'_, '_>, count: usize) {
    let text = workload::fleet_json(count);
    bencher.bench(|| desired(black_box(&text), Format::Json));
}

/// TOML text to a specification, without rendering.
#[divan::bench(args = SIZES)]
fn check(bencher: Bencher<'_, '_>, count: usize) {
    let text = workload::fleet(count);
    bencher.bench(|| read(black_box(&text), Format::Toml).unwrap());
}

/// The same where each instance has settings, which are held against opencode's schema.
#[divan::bench(args = SIZES)]
fn check_settings(bencher: Bencher<'_, '_>, count: usize) {
    let text = workload::configured(count);
    let facts = HostFacts {
        opencode: [("/usr/bin/opencode".to_owned(), "1.18.33".to_owned())].into(),
        ..HostFacts::default()
    };
    bencher.bench(|| {
        let (spec, _) = read(black_box(&text), Format::Toml).unwrap();
        let found = suited::judge(&spec, &facts);
        assert!(found.is_empty(), "{found:?}");
        spec
    });
}

fn findings(bencher: Bencher<'_, '_>, count: usize, text: &str) {
    let found = |text: &str| -> Vec<Diagnostic> {
        match read(text, Format::Toml) {
            Ok((_, warnings)) => warnings,
            Err(errors) => errors,
        }
    };
    assert!(found(text).len() >= count - 1, "the workload is not as wrong as it should be");
    bencher.bench(|| found(black_box(text)));
}

/// All instances with the same fault.
#[divan::bench(args = SIZES)]
fn same_port(bencher: Bencher<'_, '_>, count: usize) {
    findings(bencher, count, &workload::same_port(count));
}

/// All instances with the same fault.
#[divan::bench(args = SIZES)]
fn same_directory(bencher: Bencher<'_, '_>, count: usize) {
    findings(bencher, count, &workload::same_directory(count));
}

/// All instances with the same faults.
#[divan::bench(args = SIZES)]
fn same_user(bencher: Bencher<'_, '_>, count: usize) {
    findings(bencher, count, &workload::same_user(count));
}

/// All instances with the same fault, in the costliest way: long paths with many parts.
#[divan::bench(args = SIZES)]
fn nested_directories(bencher: Bencher<'_, '_>, count: usize) {
    findings(bencher, count, &workload::nested_directories(count));
}

/// All instances with the same fault.
#[divan::bench(args = SIZES)]
fn unknown_keys(bencher: Bencher<'_, '_>, count: usize) {
    findings(bencher, count, &workload::unknown_keys(count));
}

/// A host that already holds all of it.
fn settled(desired: &Desired) -> Observed {
    let found = |content: &Content| match content {
        Content::Text(text) => Found::Text(digest(text.as_bytes())),
        Content::Link(target) => Found::Link(target.clone()),
    };
    let files: BTreeMap<_, _> =
        desired.files.iter().map(|(path, file)| (path.clone(), found(&file.content))).collect();
    Observed { owned: files.keys().cloned().collect(), files, manager: true, ..Observed::default() }
}

/// The plan for an empty host.
#[divan::bench(args = SIZES)]
fn plan_first(bencher: Bencher<'_, '_>, count: usize) {
    let desired = desired(&workload::fleet(count), Format::Toml);
    let observed = Observed { manager: true, ..Observed::default() };
    bencher.bench(|| plan(black_box(&desired), black_box(&observed)).unwrap());
}

/// The plan for a host that already holds every file.
#[divan::bench(args = SIZES)]
fn plan_again(bencher: Bencher<'_, '_>, count: usize) {
    let desired = desired(&workload::fleet(count), Format::Toml);
    let observed = settled(&desired);
    bencher.bench(|| plan(black_box(&desired), black_box(&observed)).unwrap());
}

/// The plan for a host where every server restarts in its turn: all run, another program is installed, and an option
/// of all has changed.
#[divan::bench(args = SIZES)]
fn plan_restarts(bencher: Bencher<'_, '_>, count: usize) {
    let text = workload::fleet(count);
    let mut observed = settled(&desired(&text, Format::Toml));
    let unit = |path: &String| Some(path.strip_prefix(UNIT_DIR)?.strip_prefix('/')?.to_owned());
    let units: Vec<String> = observed.owned.iter().filter_map(unit).collect();
    observed.units = units.iter().map(|unit| (unit.clone(), Activity::Active)).collect();
    observed.outdated = units.into_iter().collect();
    let desired = desired(&text.replace("WARN", "INFO"), Format::Toml);
    let plan = || plan(black_box(&desired), black_box(&observed)).unwrap();
    assert_eq!(plan().turns.len(), count);
    bencher.bench(plan);
}

/// The plan that takes everything away.
#[divan::bench(args = SIZES)]
fn plan_removal(bencher: Bencher<'_, '_>, count: usize) {
    let observed = settled(&desired(&workload::fleet(count), Format::Toml));
    bencher.bench(|| instances_core::plan::plan_removal(black_box(&observed)));
}
