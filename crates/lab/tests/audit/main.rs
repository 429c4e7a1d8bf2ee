//! The audit, on machines with real servers: what holds is said to hold, and every control that is taken
//! away is found.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod doctor;
mod given_up;
mod holding;
mod hosts;
mod removed;
mod view;
