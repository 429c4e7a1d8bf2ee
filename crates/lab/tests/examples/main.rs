//! The specifications in `examples`, applied as they stand, with the real server and the real programs beside it: what
//! each promises, and what an agent tries against that.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod caddy;
mod checks;
mod model;
mod postgresql;
#[path = "../lifecycle/view.rs"]
#[expect(dead_code, reason = "the other tests look at more")]
mod view;

use std::fs;

use instances_lab::{Agent, Machine, fleet, place};

use crate::view::sh;

const REACH: &str = include_str!("reach.py");

/// A file of the examples.
fn example(name: &str) -> String {
    let path = place::workspace().join("examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A machine with an example's specification and its projects, before it is applied.
fn boot(name: &str, projects: &[&str]) -> Machine {
    let spec = example(&format!("{name}.toml"));
    let machine = fleet::boot(&format!("example-{name}"), &spec, projects).unwrap();
    machine.put("/root/reach.py", REACH, 0o644).unwrap();
    for project in projects {
        machine.put(format!("{project}/reach.py"), REACH, 0o644).unwrap();
    }
    machine
}

/// What an agent gets from places, one word for each.
fn reached(agent: &Agent, places: &str) -> String {
    words(&agent.shell(&format!("python3 reach.py {places}")).unwrap())
}

/// The same for root on the host, so that a refusal is never the lack of somebody who answers.
fn reached_by_host(machine: &Machine, places: &str) -> String {
    words(&sh(machine, &format!("python3 /root/reach.py {places}")))
}

fn words(lines: &str) -> String {
    lines.trim_end().replace('\n', ", ")
}
