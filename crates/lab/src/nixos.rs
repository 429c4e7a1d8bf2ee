//! As much of a NixOS host as its instances see: a `/nix/store` that the real Nix has laid out, and
//! units that enter and change as its switch does it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::fleet::PATIENCE;
use crate::image::{Image, Release};
use crate::machine::{Machine, Options};
use crate::run::Output;

/// What [`EXPRESSIONS`] holds.
const FILES: &[(&str, &str)] = &[
    ("store.nix", include_str!("nixos/store.nix")),
    ("fleet.nix", include_str!("nixos/fleet.nix")),
    ("module.nix", include_str!("nixos/module.nix")),
    ("switch.sh", include_str!("nixos/switch.sh")),
];
/// Nix writes to the store in a mount namespace of its own, as root does. The daemon's socket is there
/// before any sandbox shows it, and the daemon builds as it does by default.
const PREPARE: &str = "mkdir -p /nix/store; mount --bind -o ro /nix/store /nix/store; \
                       systemd-run --quiet --unit=nix-daemon '--setenv=NIX_CONFIG=sandbox = true' nix-daemon; \
                       until test -S /nix/var/nix/daemon-socket/socket; do sleep 0.05; done";
/// Builds as root, without a network and with Nix's sandbox for all that does not ask to be without.
const SETTINGS: &str = "build-users-group =\nsandbox = relaxed\nsubstituters =\n\
                        experimental-features = nix-command\n";
/// Where the expressions are in a machine.
pub const EXPRESSIONS: &str = "/etc/nixos";
/// How long a build may take that lays out the whole store.
const BUILD_TIMEOUT: Duration = Duration::from_mins(2);

/// Boots a machine with Nix and the engine, and with nothing in its store.
pub fn boot(options: Options) -> Result<Machine> {
    let machine = Machine::boot(&Image::ensure(Release::Trixie)?, &options.engine())?;
    machine.put("/etc/nix/nix.conf", SETTINGS, 0o644)?;
    for (name, text) in FILES {
        machine.put(format!("{EXPRESSIONS}/{name}"), text, 0o644)?;
    }
    machine.sh(PREPARE)?.ok()?;
    Ok(machine)
}

/// Builds with `nix-build`, whose arguments these are.
pub fn try_build(machine: &Machine, arguments: &[&str]) -> Result<Output> {
    let argv = ["nix-build", "--no-out-link"].into_iter().chain(arguments.iter().copied());
    machine.run_for(BUILD_TIMEOUT, argv)
}

/// Does the same for what must succeed, and returns the path of the one output.
pub fn build(machine: &Machine, arguments: &[&str]) -> Result<String> {
    let built = try_build(machine, arguments)?.ok()?;
    Ok(built.trim().to_owned())
}

/// Makes the output of a fleet that of the host; returns the services that had to stop for it.
pub fn switch(machine: &Machine, fleet: &str) -> Result<Vec<String>> {
    let script = format!("{EXPRESSIONS}/switch.sh");
    let said = machine.run_for(PATIENCE, ["sh", "-eu", &script, fleet])?.ok()?;
    let changed = said.trim().strip_prefix("changed:").context("no list of changes")?;
    Ok(changed.split_whitespace().map(str::to_owned).collect())
}

/// Boots a machine that runs a generation of the common fleet: `website` on 4101, `billing` on
/// 4102 and, with Nix in its sandbox, `builder` on 4103.
pub fn fleet(name: &str, generation: u32) -> Result<Machine> {
    let machine = boot(Options::new().name(name))?;
    machine.sh("mkdir -p /srv/website /srv/billing /srv/builder")?.ok()?;
    build(&machine, &[&format!("{EXPRESSIONS}/store.nix"), "--attr", "decoy"])?;
    let output = self::generation(&machine, generation)?;
    let changed = switch(&machine, &output)?;
    ensure!(changed.is_empty(), "nothing ran that could change: {changed:?}");
    Ok(machine)
}

/// Builds a generation of the common fleet.
pub fn generation(machine: &Machine, generation: u32) -> Result<String> {
    let generation = generation.to_string();
    let expression = format!("{EXPRESSIONS}/fleet.nix");
    build(machine, &[&expression, "--arg", "generation", &generation])
}
