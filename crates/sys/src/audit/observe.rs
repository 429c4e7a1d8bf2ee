//! What systemd and the kernel have of an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use instances_core::audit::controls::{Kernel, Process, status};
use instances_core::audit::unit::{Loaded, assignments};
use instances_core::layout::NETNS_DIR;

use super::Error;
use super::probe::socket_of;
use crate::systemctl;

/// Where control groups are, with one hierarchy alone.
const GROUPS: &str = "/sys/fs/cgroup";

/// The kinds of namespaces, as files below `/proc/PID/ns`.
const SPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Units as systemd has them, with their files and drop-ins.
pub(super) fn units(names: &[String]) -> Result<Vec<Loaded>, Error> {
    let shown = systemctl::show_all(names)?;
    names.iter().zip(shown).map(|(name, properties)| unit(name, properties)).collect()
}

fn unit(name: &str, properties: BTreeMap<String, String>) -> Result<Loaded, Error> {
    let text = |name: &str| properties.get(name).cloned().unwrap_or_default();
    let path = text("FragmentPath");
    let file = if path.is_empty() { String::new() } else { read(&path)? };
    let drop_ins = text("DropInPaths");
    let drop_ins = drop_ins.split_whitespace().map(|path| {
        let said = read(path).map(|text| assignments(&text))?;
        Ok((path.to_owned(), said))
    });
    let drop_ins = drop_ins.collect::<Result<_, Error>>()?;
    Ok(Loaded { name: name.to_owned(), properties, path, file: assignments(&file), drop_ins })
}

pub(super) fn read(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|source| Error::Read(path.to_owned(), source))
}

/// The directory of a control group that systemd names.
pub(super) fn group(control_group: &str) -> PathBuf {
    PathBuf::from(format!("{GROUPS}{control_group}"))
}

/// The processes of an instance as the kernel has them, the supervisor first.
pub(super) fn kernel(
    name: &str,
    first: i32,
    group: &Path,
    user: Option<u32>,
) -> Result<Kernel, Error> {
    let host = namespaces(Path::new("/proc/self"));
    let mut numbers = BTreeSet::new();
    members(group, &mut numbers)?;
    numbers.remove(&first);
    let numbers = std::iter::once(first).chain(numbers);
    // One that has ended meanwhile has nothing to hide.
    let processes = numbers.filter_map(process).collect();
    let pinned = space(&Path::new(NETNS_DIR).join(format!("opencode-{name}")), "net");
    Ok(Kernel { processes, host, pinned, user })
}

/// Every process of a group and of those below.
fn members(group: &Path, numbers: &mut BTreeSet<i32>) -> Result<(), Error> {
    let listed = read(group.join("cgroup.procs"))?;
    numbers.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    let entries = fs::read_dir(group).map_err(|source| Error::Read(group.to_owned(), source))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members(&entry.path(), numbers)?;
        }
    }
    Ok(())
}

fn process(pid: i32) -> Option<Process> {
    let place = PathBuf::from(format!("/proc/{pid}"));
    let status = status(&fs::read_to_string(place.join("status")).ok()?);
    // What waits to be collected has no namespaces any more.
    let zombie = status.get("State").is_some_and(|state| state.starts_with('Z'));
    (!zombie).then(|| Process { pid, status, namespaces: namespaces(&place) })
}

fn namespaces(process: &Path) -> BTreeMap<String, String> {
    let named = SPACES.iter().filter_map(|kind| {
        let target = fs::read_link(process.join("ns").join(kind)).ok()?;
        Some(((*kind).to_owned(), target.to_string_lossy().into_owned()))
    });
    named.collect()
}

/// The identity of a pinned namespace, as links of processes name it.
fn space(path: &Path, kind: &str) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some(format!("{kind}:[{}]", metadata.ino()))
}

/// The sockets of the host's network that a process of the instance holds, as `process 12: tcp`.
pub(super) fn foreign_sockets(kernel: &Kernel) -> Vec<String> {
    let mut of_host: BTreeMap<u64, &str> = BTreeMap::new();
    for kind in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let Ok(table) = fs::read_to_string(format!("/proc/self/net/{kind}")) else { continue };
        let inodes = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9));
        of_host
            .extend(inodes.filter_map(|inode| inode.parse().ok()).map(|inode: u64| (inode, kind)));
    }
    // What is closing belongs to nobody.
    of_host.remove(&0);
    let mut found = Vec::new();
    for process in &kernel.processes {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        let sockets = entries.flatten().filter_map(|entry| socket_of(&entry.path()));
        let kinds = sockets.filter_map(|inode| of_host.get(&inode));
        found.extend(kinds.map(|kind| format!("process {}: {kind}", process.pid)));
    }
    found
}
