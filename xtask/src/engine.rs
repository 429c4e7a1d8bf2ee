//! The engine binary that goes into machines.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};
use instances_lab::{guest, place};

/// Builds the engine the way machines run it. A guest runs what its host has built.
pub(crate) fn build() -> Result<()> {
    if guest::is_inside() {
        return Ok(());
    }
    let mut build = cargo();
    build.args(["build", "--package", "opencode-instances", "--profile", "lab", "--target-dir"]);
    let status = build.arg(place::engine_target()).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the engine does not build");
    }
    Ok(())
}

/// The cargo that runs us, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(place::workspace());
    command
}
