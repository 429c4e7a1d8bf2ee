//! `cargo xtask`: the project's own chores.

mod bench;
mod cli;
mod deb;
mod demo;
mod docs;
mod engine;
mod fuzz;
mod guest;
mod lab;
mod test;

use std::process::ExitCode;

use clap::Parser;
use instances_lab::progress::say;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
