//! Instances on demand: the first client starts the server, and it ends when nobody uses it.
//!
//! Booting and starting the real server cost seconds of a processor, so each machine serves many cases.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod applying;
mod asking;
mod crashing;
mod cycles;
mod keeping;
mod view;
mod waking;
