//! A machine with instances on it, as most tests begin.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::image::{Image, Release};
use crate::machine::{Machine, Options};
use crate::place;

/// Where the engine looks for the specification.
pub const SPEC: &str = "/etc/opencode-instances/instances.toml";
/// How long an apply may take that starts real servers.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The shell's `begin UNIT`: begins a server anew, and once more where systemd lost it while it started, as it does at times
/// with `PrivatePIDs=` (`Result=protocol`). The engine's own commands do the same.
pub const BEGIN: &str = "begin() { systemctl restart \"$@\" || systemctl start \"$@\"; };";

/// Boots a trixie machine that has the engine, the specification and the projects' directories.
pub fn boot(name: &str, spec: &str, projects: &[&str]) -> Result<Machine> {
    boot_on(Release::Trixie, name, spec, projects)
}

/// The same of any release.
pub fn boot_on(release: Release, name: &str, spec: &str, projects: &[&str]) -> Result<Machine> {
    let image = Image::ensure(release)?;
    let machine = Machine::boot(&image, &Options::new().name(name).engine())?;
    for project in projects {
        machine.run(["mkdir", "-p", project])?.ok()?;
    }
    machine.put(SPEC, spec, 0o644)?;
    Ok(machine)
}

/// Has somebody wait for a restore of an instance to its end, as the command does, until its unit `waiting` is stopped.
pub fn wait_for_restore(machine: &Machine, name: &str) -> Result<()> {
    hold(machine, "waiting", &format!("/run/opencode-instances/.state-{name}.lock"))
}

/// Has somebody hold a lock until this unit of theirs is stopped.
pub fn hold(machine: &Machine, unit: &str, lock: &str) -> Result<()> {
    let script = format!(
        "systemd-run --quiet --unit={unit} flock {lock} sleep infinity; \
         while flock -n {lock} true; do :; done"
    );
    machine.sh(&script)?.ok().map(drop)
}

/// Boots a machine and applies the example of the README: `website` on 4101, `billing` on 4102.
pub fn two_projects(name: &str) -> Result<Machine> {
    let spec = place::workspace().join("examples/two-projects.toml");
    let spec = read(&spec)?;
    let machine = boot(name, &spec, &["/srv/website", "/srv/billing"])?;
    machine.run_for(PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    Ok(machine)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
