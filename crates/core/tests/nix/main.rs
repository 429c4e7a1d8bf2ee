//! The NixOS module, evaluated: its options are the engine's, and what it makes of a configuration is
//! what the engine takes.
//!
//! The first tier needs `nix-instantiate` alone; the second one also nixpkgs' `lib`, which
//! `NIXPKGS_LIB` names (a checkout of nixpkgs or of nixpkgs.lib).

#![expect(clippy::unwrap_used, reason = "a broken fixture fails the test")]

mod cases;
mod cost;
mod evaluate;
mod machines;
mod options;
