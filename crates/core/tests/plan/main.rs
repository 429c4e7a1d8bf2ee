//! Plans against a model of a host: they lead to what is desired, from anywhere, also when they are
//! killed on the way.

#![expect(clippy::unwrap_used, reason = "clippy allows it in tests, but not in what tests share")]
#![expect(
    clippy::indexing_slicing,
    reason = "clippy allows it in tests, but not in what tests share"
)]

mod host;

use std::fmt;

use instances_core::desired::{Desired, Effect, desire};
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::plan::{Activity, Found, Plan, plan};
use instances_core::spec::Spec;
use proptest::collection::vec;
use proptest::prelude::*;

use host::{Host, unit_of};

/// One instance, or none, with what changes each class of file.
fn instance(name: &'static str, port: u16) -> impl Strategy<Value = String> {
    let option = |line: &'static str| prop_oneof![3 => Just(""), 1 => Just(line)];
    let options = [
        option("logLevel = \"WARN\"\n"),
        option("listen.address = \"127.0.0.2\"\n"),
        option("autoStart = false\n"),
        option("enable = false\n"),
        option("extraGroups = [\"zoo\"]\n"),
        option("group = \"zoo\"\n"),
        option("auth.enable = false\n"),
    ];
    let state =
        prop_oneof![3 => Just(String::new()), 1 => Just(format!("stateDir = \"/data/{name}\"\n"))];
    let text = (options, state).prop_map(move |(options, state)| {
        let start =
            format!("[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\n");
        format!("{start}{state}{}", options.concat())
    });
    prop_oneof![1 => Just(String::new()), 4 => text]
}

/// A specification's text, which is what a failure shows, and what it asks for.
#[derive(Clone)]
struct Case(String, Desired);

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn desired() -> impl Strategy<Value = Case> {
    // With four of them a batch may have two.
    (instance("a", 1), instance("b", 2), instance("c", 3), instance("d", 4)).prop_map(
        |(a, b, c, d)| {
            let text = [a, b, c, d].concat();
            let spec = if text.is_empty() {
                Spec::default()
            } else {
                read(&text, Format::Toml).unwrap().0
            };
            let desired = desire(&spec, &HostFacts::default());
            Case(text, desired)
        },
    )
}

/// How a host differs from one that has settled: files by number, units by number, effects that an
/// earlier run left.
#[derive(Clone, Debug)]
struct Drift {
    files: Vec<(prop::sample::Index, Option<Found>)>,
    units: Vec<(prop::sample::Index, Activity)>,
    pending: Vec<prop::sample::Index>,
    empty: bool,
}

fn drift() -> impl Strategy<Value = Drift> {
    let file = prop_oneof![
        Just(None),
        Just(Some(Found::Text("edited".into()))),
        Just(Some(Found::Link("/dev/null".into()))),
        Just(Some(Found::Other("a directory".into()))),
    ];
    let states = [Activity::Active, Activity::Changing, Activity::Failed, Activity::Inactive];
    (
        vec((any::<prop::sample::Index>(), file), 0..4),
        vec((any::<prop::sample::Index>(), prop::sample::select(states.to_vec())), 0..6),
        vec(any::<prop::sample::Index>(), 0..3),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(files, units, pending, empty)| Drift { files, units, pending, empty })
}

fn drifted(before: &Desired, drift: &Drift) -> Host {
    if drift.empty {
        let mut host = Host::default();
        host.observed.manager = true;
        return host;
    }
    let mut host = Host::settled(before);
    let units: Vec<String> = before.files.keys().filter_map(|path| unit_of(path)).collect();
    for (index, state) in drift.units.iter().filter(|_| !units.is_empty()) {
        let unit = index.get(&units);
        // What was never started does not run.
        if host.observed.units.contains_key(unit) {
            let was_inactive = host.observed.units.get(unit) == Some(&Activity::Inactive);
            if !was_inactive {
                host.set(unit, *state);
            }
        }
    }
    let paths: Vec<&String> = before.files.keys().collect();
    for (index, found) in drift.files.iter().filter(|_| !paths.is_empty()) {
        let path = *index.get(&paths);
        match found {
            Some(found) => drop(host.observed.files.insert(path.clone(), found.clone())),
            None => drop(host.observed.files.remove(path)),
        }
    }
    let effects: Vec<&Effect> = before.files.values().flat_map(|file| &file.effects).collect();
    for index in drift.pending.iter().filter(|_| !effects.is_empty()) {
        host.observed.pending.insert((*index.get(&effects)).clone());
    }
    host
}

fn planned(host: &Host, desired: &Desired) -> Plan {
    plan(desired, &host.observed).unwrap()
}

/// Takes all steps, or as many as `killed` says.
fn run(host: &mut Host, desired: &Desired, killed: Option<usize>) {
    let plan = planned(host, desired);
    let mut parts = vec![(plan.remembered(), plan.steps.iter().collect::<Vec<_>>())];
    for batch in plan.batches() {
        let turns = batch.turns.iter().map(|turn| turn.steps.iter().collect());
        let steps = std::iter::once(batch.opening().collect()).chain(turns);
        // None of its turns is over when its files are written, nor while the first one is taken.
        let all = batch.turns.len();
        let over = std::iter::once(0).chain(0..all);
        parts.extend(over.map(|over| batch.remembered(over..all)).zip(steps));
    }
    let mut left = killed.unwrap_or(usize::MAX);
    for (remembered, steps) in parts {
        // What is to be achieved is written down first, by a run that comes that far.
        host.begin(desired, remembered);
        for step in steps.iter().take(left) {
            host.take(desired, step);
        }
        if left <= steps.len() {
            return;
        }
        left -= steps.len();
    }
    if killed.is_none() {
        host.finish(desired);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_leads_there_and_then_nothing_is_left(
        before in desired(), after in desired(), drift in drift(),
    ) {
        let (Case(_, before), Case(_, after)) = (before, after);
        let mut host = drifted(&before, &drift);
        run(&mut host, &after, None);
        host.assert_is(&after);
        prop_assert_eq!(planned(&host, &after), Plan::default());
    }

    /// Killed after each number of steps in turn, once or twice, and planned again.
    #[test]
    fn a_killed_run_ends_in_the_same_place(
        before in desired(), after in desired(), drift in drift(), again in 0..12_usize,
    ) {
        let (Case(_, before), Case(_, after)) = (before, after);
        let start = drifted(&before, &drift);
        let mut whole = start.clone();
        run(&mut whole, &after, None);
        for killed in 0..=planned(&start, &after).all().count() {
            let mut host = start.clone();
            run(&mut host, &after, Some(killed));
            let mut twice = host.clone();
            run(&mut host, &after, None);
            run(&mut twice, &after, Some(again));
            run(&mut twice, &after, None);
            for host in [&host, &twice] {
                host.assert_is(&after);
                prop_assert_eq!(host.active(), whole.active(), "killed after {}", killed);
                prop_assert_eq!(planned(host, &after), Plan::default());
            }
        }
    }

    /// The operator changes their mind between the killed run and the next.
    #[test]
    fn a_killed_run_is_no_obstacle_for_another_specification(
        before in desired(), half in desired(), after in desired(), killed in 0..40_usize,
    ) {
        let (Case(_, before), Case(_, half), Case(_, after)) = (before, half, after);
        let mut host = Host::settled(&before);
        run(&mut host, &half, Some(killed));
        run(&mut host, &after, None);
        host.assert_is(&after);
        prop_assert_eq!(planned(&host, &after), Plan::default());
    }

    #[test]
    fn what_does_not_change_is_left_alone(before in desired(), after in desired()) {
        let (Case(_, before), Case(_, after)) = (before, after);
        let mut host = Host::settled(&before);
        run(&mut host, &after, None);
        for name in ["a", "b", "c", "d"] {
            let own = |path: &str| {
                path.contains(&format!("/{name}/")) || path.contains(&format!("@{name}."))
                    || path.contains(&format!("opencode-{name}."))
            };
            let files = |desired: &Desired| -> Vec<_> {
                let own = desired.files.iter().filter(|(path, _)| own(path));
                own.map(|(path, file)| (path.clone(), file.clone())).collect()
            };
            if files(&before) == files(&after) {
                let touched: Vec<_> = host.touched.keys().filter(|unit| own(unit)).collect();
                prop_assert!(touched.is_empty(), "{:?}", touched);
            }
        }
    }
}
