//! The documents are true: their samples are accepted, their commands exist and run, their links
//! lead somewhere.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod blocks;
mod classes;
mod commands;
mod json_schema;
mod links;
mod requirements;
mod samples;
mod words;
