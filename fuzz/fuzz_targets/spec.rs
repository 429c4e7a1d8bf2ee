//! Any text, as TOML and as JSON: read, and rendered where it is accepted.

#![no_main]

#[path = "../../crates/core/tests/judge/mod.rs"]
mod judge;

use instances_core::node::Format;

libfuzzer_sys::fuzz_target!(|text: &str| {
    for format in [Format::Toml, Format::Json] {
        drop(judge::judged(text, format));
    }
});
