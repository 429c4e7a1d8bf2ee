//! What systemd and the kernel have of an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use instances_core::audit::controls::{Kernel, Process, status};
use instances_core::audit::unit::{Loaded, assignments};
use instances_core::layout::NETNS_DIR;
use instances_core::plan::digest;

use super::Error;
use super::probe;
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
    let digest = digest(file.as_bytes());
    Ok(Loaded {
        name: name.to_owned(),
        properties,
        path,
        digest,
        file: assignments(&file),
        drop_ins,
    })
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

/// When a process was started, in ticks since the boot.
pub(super) fn started(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have blanks and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

/// The number that a process has in its own namespace.
pub(super) fn number_inside(pid: i32) -> i64 {
    let inside = process(pid)
        .and_then(|process| process.status.get("NSpid")?.split_whitespace().last()?.parse().ok());
    inside.unwrap_or(1)
}

/// Whether this program sees the host's files and network, as process 1 does.
pub(super) fn on_the_host() -> bool {
    let own = namespaces(Path::new("/proc/self"));
    let first = namespaces(Path::new("/proc/1"));
    ["mnt", "net", "ipc"]
        .iter()
        .all(|kind| own.contains_key(*kind) && own.get(*kind) == first.get(*kind))
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
    let metadata = fs::metadata(path).ok()?;
    Some(format!("{kind}:[{}]", metadata.ino()))
}

/// The sockets that a process of the instance holds and that are of another network than its own, as
/// `process 12: descriptor 5`. Unix sockets are not looked at: systemd's own ways to its services are among them.
pub(super) fn foreign_sockets(kernel: &Kernel) -> Vec<String> {
    let Some(pinned) = kernel.pinned.as_deref() else { return Vec::new() };
    let mut found = Vec::new();
    for process in &kernel.processes {
        // A network of its own in a nested sandbox is not the host's either.
        let own = process.namespaces.get("net").map(String::as_str).unwrap_or_default();
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let number = entry.file_name().to_string_lossy().parse::<i32>();
            let (Ok(number), true) = (number, is_socket(&path)) else { continue };
            let Some(network) = network_of(process.pid, number) else { continue };
            if network != pinned && network != own {
                found.push(format!("process {}: descriptor {number}", process.pid));
            }
        }
    }
    found
}

fn is_socket(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.to_string_lossy().starts_with("socket:["))
}

/// The network namespace of a socket that is not a Unix one.
fn network_of(pid: i32, descriptor: i32) -> Option<String> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let socket = pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty()).ok()?;
    if rustix::net::sockopt::socket_domain(&socket).ok()? == rustix::net::AddressFamily::UNIX {
        return None;
    }
    let namespace = File::from(probe::network_of(socket.as_fd()).ok()?);
    Some(format!("net:[{}]", namespace.metadata().ok()?.ino()))
}
