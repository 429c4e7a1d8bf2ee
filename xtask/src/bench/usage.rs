//! What units take: the memory of their processes and the processor time of their control groups.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use instances_lab::Machine;

/// How the engine's program is called, wherever it is.
const ENGINE: &str = "opencode-instances";

/// What some processes take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) processes: usize,
    /// The proportional share (PSS) in bytes.
    pub(super) memory: f64,
    /// In seconds, since they were started.
    pub(super) processor: f64,
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The server and what it started.
    Server,
    /// What an instance has beside it.
    Ours,
    /// What one host has for all its instances.
    Host,
}

/// What everything takes whose unit is called `opencode-…`, or has the given prefix.
pub(super) fn of_units(machine: &Machine, prefix: &str) -> Result<BTreeMap<Owner, Usage>> {
    let root = PathBuf::from(format!("/proc/{}/root/sys/fs/cgroup", machine.pid()));
    let mut all = BTreeMap::new();
    for unit in units(&root)? {
        let name = unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("opencode-") || name.starts_with(prefix) {
            of_unit(&unit, &name, &mut all)?;
        }
    }
    Ok(all)
}

/// What the machine's PID 1 has of its own, in bytes: its program is shared with whatever other machine runs beside.
pub(super) fn of_init(machine: &Machine) -> Result<f64> {
    rolled_up(&machine.pid().to_string(), "Pss_Anon:").context("the machine has no PID 1")
}

/// The processor time of the machine's PID 1, in seconds since it was started.
pub(super) fn time_of_init(machine: &Machine) -> f64 {
    processor_time(&machine.pid().to_string())
}

/// The groups of services.
fn units(group: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(group).with_context(|| format!("cannot read {}", group.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "service") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(units(&path)?);
        }
    }
    Ok(found)
}

fn of_unit(group: &Path, name: &str, all: &mut BTreeMap<Owner, Usage>) -> Result<()> {
    let host = name.starts_with("opencode-host@");
    let stat = fs::read_to_string(group.join("cpu.stat")).unwrap_or_default();
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
    let used = used.with_context(|| format!("{name}: no processor time"))? / 1e6;
    // As the reader's namespace numbers them, which is the host's.
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let (mut own, mut server) = (0.0, false);
    for pid in list.lines() {
        // One that has ended meanwhile takes nothing.
        let Some(memory) = share(pid) else { continue };
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let engine = program.file_name().is_some_and(|name| name == ENGINE);
        let owner = match (host, engine) {
            (true, _) => Owner::Host,
            (false, true) => Owner::Ours,
            (false, false) => Owner::Server,
        };
        let usage = all.entry(owner).or_default();
        usage.processes += 1;
        usage.memory += memory;
        server |= owner == Owner::Server;
        if owner == Owner::Ours {
            own += processor_time(pid);
        }
    }
    // A group with a server in it has its supervisor too: what is not that one's is the server's.
    let parts = match (host, server) {
        (true, _) => [(Owner::Host, used), (Owner::Ours, 0.0)],
        (false, true) => [(Owner::Server, used - own), (Owner::Ours, own)],
        (false, false) => [(Owner::Ours, used), (Owner::Server, 0.0)],
    };
    for (owner, time) in parts {
        all.entry(owner).or_default().processor += time;
    }
    Ok(())
}

/// None where the process is gone, or is none with memory.
fn share(pid: &str) -> Option<f64> {
    rolled_up(pid, "Pss:")
}

fn rolled_up(pid: &str, what: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(what))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// Of all its threads, finer than `stat` counts it.
fn processor_time(pid: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let time = |text: String| text.split(' ').next()?.parse::<f64>().ok();
    let times = threads.filter_map(|thread| {
        fs::read_to_string(thread.path().join("schedstat")).ok().and_then(time)
    });
    times.sum::<f64>() / 1e9
}
