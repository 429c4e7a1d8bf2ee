//! The whole life of instances on real machines: the rendered units, and the real server unless a
//! module says otherwise.
//!
//! Starting the real server costs seconds of a processor, so each machine serves many cases.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod applying;
mod batches;
mod failing;
mod interrupted;
mod looking;
mod old_systemd;
mod options;
mod own;
mod prompting;
mod rebooting;
mod refusing;
mod serving;
mod stopping;
mod turns;
mod upgrading;
mod view;
