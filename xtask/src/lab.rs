//! Test machines for humans.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use instances_lab::progress::say;
use instances_lab::{Image, Machine, Options, Release, install};

use crate::engine;

/// Brings all that machines need.
pub(crate) fn install() -> Result<()> {
    install::missing()?;
    for release in Release::ALL {
        Image::ensure(release)?;
    }
    Ok(())
}

/// Gives a human a shell in a fresh machine.
pub(crate) fn shell(release: Release) -> Result<()> {
    install::missing()?;
    let image = Image::ensure(release)?;
    let mut options = Options::new().name("shell");
    match engine::build() {
        Ok(()) => options = options.engine(),
        Err(error) => say(&format!("Without the engine: {error:#}.")),
    }
    let machine = Machine::boot(&image, &options)?;
    say(&format!("A {release} machine; it ends with this shell."));
    machine.shell()
}

/// Measures from nothing to a machine that has finished its boot.
pub(crate) fn boot_time(release: Release, boots: u32) -> Result<()> {
    install::missing()?;
    let image = Image::ensure(release)?;
    let mut times = Vec::new();
    for _ in 0..boots {
        let start = Instant::now();
        let machine = Machine::boot(&image, &Options::new().name("boot-time"))?;
        times.push(start.elapsed());
        drop(machine);
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("no boots")?;
    let millis = |time: Option<&Duration>| time.map_or(0, Duration::as_millis);
    say(&format!(
        "{release}: median {} ms of {boots} boots ({} to {} ms)",
        median.as_millis(),
        millis(times.first()),
        millis(times.last()),
    ));
    Ok(())
}
