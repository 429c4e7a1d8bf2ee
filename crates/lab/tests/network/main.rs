//! What leaves an instance and what does not, on real machines with the real server and an internet
//! that counts what comes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod attacks;
mod dns;
mod flows;
mod host;
mod hostports;
mod layers;
mod leak;
mod names;
mod policies;
mod refusals;
mod stub;
mod tuning;
mod walls;

#[path = "../lifecycle/view.rs"]
#[expect(dead_code, reason = "the other tests look at more")]
mod view;
