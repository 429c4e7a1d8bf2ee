//! The NixOS front end on a real machine: derivations that the real Nix builds with the engine, and
//! the units that come out of them, with the real server and nothing but its closure.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod building;
mod module;
mod running;
mod view;
