//! A light stand-in for opencode, for what is about the engine's own steps.

use anyhow::Result;

use crate::fleet;
use crate::machine::Machine;

/// Where it is in a machine, for `package`.
pub const SERVER: &str = "/usr/local/bin/stand-in";
/// What it says its version is.
pub const VERSION: &str = "stand-in";
/// Makes every instance take it.
pub const DEFAULTS: &str = "[defaults]\npackage = \"/usr/local/bin/stand-in\"\n";

const PROGRAM: &str = include_str!("stand_in.py");

/// Boots a machine that has the engine, the stand-in, the specification and the projects.
pub fn boot(name: &str, spec: &str, projects: &[&str]) -> Result<Machine> {
    let machine = fleet::boot(name, spec, projects)?;
    put(&machine)?;
    Ok(machine)
}

/// Puts it where [`SERVER`] says.
pub fn put(machine: &Machine) -> Result<()> {
    machine.put(SERVER, PROGRAM, 0o755)
}
