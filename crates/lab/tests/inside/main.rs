//! What an operator declares about an instance's inside, on real machines with the real server: its
//! configuration, its environment and secrets, how its state is set up.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod attach;
mod configuration;
mod enforced;
mod environment;
mod paths;
mod places;
mod secrets;
mod setup;
mod sockets;
#[path = "../lifecycle/view.rs"]
#[expect(dead_code, reason = "the other tests look at more")]
mod view;
