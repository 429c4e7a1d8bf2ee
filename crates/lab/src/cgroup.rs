//! The control groups of machines, as the host sees them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

/// What every machine's control group is called, before its owner's PID and a number.
const PREFIX: &str = "instances-lab-";

/// A name that no living machine's control group has.
pub(crate) fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the empty groups of machines whose owner is gone.
pub(crate) fn reap() {
    let Some(hierarchy) = hierarchy() else { return };
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|r| r.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // What is still populated is refused by the kernel, and left for the next time.
            let _busy = remove(&entry.path());
        }
    }
}

/// Removes one machine's group, waiting a moment for the last of its processes to be gone.
pub(crate) fn remove_now(name: &str) {
    let Some(hierarchy) = hierarchy() else { return };
    let group = hierarchy.join(name);
    let start = Instant::now();
    while group.exists() && remove(&group).is_err() && start.elapsed() < Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a tree of groups, deepest first: only directories can be removed, and need be.
fn remove(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Where the unified hierarchy is mounted on the host, if it is.
fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_source, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}
