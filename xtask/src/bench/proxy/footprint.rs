//! What a proxy takes of the host while nothing happens.

use anyhow::{Context, Result};
use instances_lab::Machine;
use serde_json::{Value, json};

use super::{Way, traffic};

/// How many connections there are at once.
pub(super) const MANY: usize = 1000;

/// Memory in KiB, all of it and what is nobody else's file, and descriptors.
pub(super) struct Footprint {
    idle: [usize; 2],
    crowded: [usize; 2],
    descriptors: usize,
}

impl Footprint {
    pub(super) fn of(machine: &Machine, way: &Way) -> Result<Self> {
        let idle = memory(machine, way)?;
        let before = descriptors(machine, way)?;
        let crowd = traffic::crowd(machine, way.address(), MANY)?;
        let crowded = memory(machine, way)?;
        let descriptors = descriptors(machine, way)?.saturating_sub(before);
        drop(crowd);
        Ok(Self { idle, crowded, descriptors })
    }

    fn each(&self) -> usize {
        // Rounded to the nearest.
        (self.descriptors + MANY / 2) / MANY
    }

    pub(super) fn cells(&self) -> String {
        let Self { idle: [idle, own], crowded: [crowded, more], .. } = self;
        format!("{idle} KiB, {own} KiB | {crowded} KiB, {more} KiB | {}", self.each())
    }

    pub(super) fn data(&self) -> Value {
        json!({ "idle": self.idle, "crowded": self.crowded, "descriptors": self.each() })
    }
}

fn ask(machine: &Machine, way: &Way, script: &str) -> Result<usize> {
    let unit = way.unit();
    let output =
        machine.sh(&format!("cd /proc/$(systemctl show -P MainPID {unit}) && {script}"))?.ok()?;
    output.trim().parse().with_context(|| format!("{script}: {output:?}"))
}

fn memory(machine: &Machine, way: &Way) -> Result<[usize; 2]> {
    let one = |what: &str| {
        ask(machine, way, &format!("sed -n 's/^{what}: *\\([0-9]*\\) kB/\\1/p' smaps_rollup"))
    };
    Ok([one("Pss")?, one("Pss_Anon")?])
}

fn descriptors(machine: &Machine, way: &Way) -> Result<usize> {
    ask(machine, way, "ls fd | wc -l")
}
