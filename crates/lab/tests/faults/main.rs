//! Faults in the midst of commands: no room left, a power cut, SIGKILL for what runs beside servers. What is done and
//! what comes of it is a table, `crates/lab/src/faults.toml`; its rows are what these tests iterate over.
//!
//! The server is a light stand-in: it is about the engine's own steps.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod cut;
mod daemons;
mod full;
mod killed;
mod state;
mod synced;
mod table;
#[path = "../lifecycle/view.rs"]
#[expect(dead_code, reason = "the others of lifecycle use the rest")]
mod view;

/// One that is there throughout, and must not be restarted.
const KEPT: &str = "[instances.kept]\ndirectory = \"/srv/kept\"\nlisten.port = 4101\n";

/// The specification with these instances beside the one that is kept.
fn spec(instances: &[&str]) -> String {
    format!("{}{KEPT}{}", instances_lab::stand_in::DEFAULTS, instances.concat())
}
