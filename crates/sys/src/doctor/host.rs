//! The host itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use instances_core::doctor::observed::{Clock, ControlGroups, Kernel, Room};
use instances_core::layout::{AUTH_ROOT, CONFIG_DIR, NETWORK_ROOT, STATE_ROOT};
use rustix::fs::statvfs;

use crate::installed::Record;
use crate::systemctl;

/// Settings of the kernel that are judged.
const SETTINGS: [&str; 5] = [
    "user.max_user_namespaces",
    "fs.protected_hardlinks",
    "fs.protected_symlinks",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
];

/// The controllers of the unified hierarchy's root.
pub(super) fn control_groups() -> ControlGroups {
    match fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        Ok(text) => ControlGroups::With(text.split_whitespace().map(str::to_owned).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => ControlGroups::Missing,
        Err(_) => ControlGroups::Unseen,
    }
}

/// The interface of the default route.
pub(super) fn uplink() -> Option<String> {
    let text = fs::read_to_string("/proc/net/route").ok()?;
    // Interface, destination, gateway, flags, two counters, metric, mask.
    let default = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, "00000000", _, _, _, _, metric, "00000000", ..] => {
                Some((metric.parse::<u64>().ok()?, (*name).to_owned()))
            }
            _ => None,
        }
    };
    text.lines().filter_map(default).min().map(|(_, name)| name)
}

/// Tables of iptables-legacy. Only root may read their names.
pub(super) fn legacy() -> Vec<String> {
    let places = [("ip", "/proc/net/ip_tables_names"), ("ip6", "/proc/net/ip6_tables_names")];
    let tables = places.map(|(family, path)| {
        let names = fs::read_to_string(path).unwrap_or_default();
        names.lines().map(|name| format!("{family} {name}")).collect::<Vec<_>>()
    });
    tables.concat()
}

/// Whether there is a default route of IPv6, and it is not switched off.
pub(super) fn ipv6() -> Option<bool> {
    let off = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    if off.is_ok_and(|text| text.trim() == "1") {
        return Some(false);
    }
    let text = match fs::read_to_string("/proc/net/ipv6_route") {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    let is_default = |line: &str| {
        let mut words = line.split_whitespace();
        let all = words.next().is_some_and(|to| to.bytes().all(|byte| byte == b'0'));
        all && words.next() == Some("00") && words.next_back().is_some_and(|name| name != "lo")
    };
    Some(text.lines().any(is_default))
}

/// Each file system that holds state, once.
pub(super) fn rooms(records: &[Record]) -> Vec<Room> {
    let places = [STATE_ROOT, AUTH_ROOT, CONFIG_DIR].map(PathBuf::from).into_iter();
    let places = places.chain(records.iter().map(|record| PathBuf::from(&record.state_dir)));
    let mut seen = BTreeSet::new();
    let mut rooms = Vec::new();
    for place in places {
        // What is not there yet will be below what is.
        let Some((there, metadata)) =
            place.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)))
        else {
            continue;
        };
        if let (true, Ok(system)) = (seen.insert(metadata.dev()), statvfs(there)) {
            rooms.push(Room {
                path: there.display().to_string(),
                bytes: (
                    system.f_bavail.saturating_mul(system.f_frsize),
                    system.f_blocks.saturating_mul(system.f_frsize),
                ),
                files: (system.f_favail, system.f_files),
            });
        }
    }
    rooms
}

/// The clock, beside files of root's: an agent sets the times of its own as it likes.
pub(super) fn clock(records: &[Record]) -> Clock {
    let engine = std::env::current_exe().ok();
    let links = Path::new(NETWORK_ROOT).join("links.json");
    let installed = records
        .iter()
        .map(|record| PathBuf::from(format!("{CONFIG_DIR}/{}/instance.json", record.name)));
    let files = engine.into_iter().chain([links]).chain(installed);
    let dated = files.filter_map(|path| {
        let modified = fs::metadata(&path).ok()?.modified().ok()?;
        Some((seconds(modified), path.display().to_string()))
    });
    Clock {
        synchronised: synchronised(),
        now: seconds(SystemTime::now()),
        youngest: dated.max().map(|(time, path)| (path, time)),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn synchronised() -> Option<bool> {
    let words = ["show", "--property=NTPSynchronized", "--value"];
    match systemctl::run("timedatectl", &words).ok()?.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Settings that are there, and whether system calls can be filtered.
pub(super) fn kernel() -> Kernel {
    let read = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        Some((name.to_owned(), fs::read_to_string(path).ok()?.trim().to_owned()))
    };
    let settings: BTreeMap<String, String> = SETTINGS.into_iter().filter_map(read).collect();
    let filters = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let seccomp = match filters {
        Ok(actions) => Some(actions.split_whitespace().any(|action| action == "errno")),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(false),
        Err(_) => None,
    };
    Kernel { settings, seccomp }
}
