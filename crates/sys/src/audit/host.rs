//! The controls that no directive of the server's unit makes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use instances_core::audit::controls::Kernel;
use instances_core::audit::report::{Row, Verdict};
use instances_core::audit::unit::{self, Loaded};
use instances_core::facts::HostFacts;
use instances_core::layout::AUTH_ROOT;
use instances_core::network::Network;
use instances_core::units::{ADDRESSES, Names};

use super::Error;
use super::observe;
use crate::installed::Record;
use crate::net::{self, Request, Rules};
use crate::status;
use crate::trust;

/// The rules of the namespace, and the host's table.
pub(super) fn policy(
    record: &Record,
    network: &Network,
    facts: &HostFacts,
    addresses: Option<&Loaded>,
) -> Result<Row, Error> {
    let look = net::look(&Request {
        name: &record.name,
        rules: Path::new(&Names(&record.name).rules()),
        nft: Path::new(facts.nft.as_str()),
        linked: network.policy.has_link(),
    })?;
    let effective = match look.rules {
        Rules::AsDeclared => "loaded as declared",
        Rules::OtherHostAddresses => "other addresses of the host",
        Rules::Other => "other rules",
        Rules::Missing => "no rules",
        Rules::NoNamespace => "no namespace",
    };
    let mut row = Row::new("policy", network.policy.to_string(), effective.to_owned());
    let reload = format!("systemctl reload {}", Names(&record.name).net());
    match look.rules {
        Rules::AsDeclared => {}
        Rules::NoNamespace => row.find(
            "the instance's network namespace is gone from /run/netns",
            format!("opencode-instances restart {}", record.name),
        ),
        _ => row.find(
            format!("the table in the namespace is not the declared one: {effective}"),
            reload.clone(),
        ),
    }
    if look.link.is_some() && !look.host_table {
        row.find("the host's table is gone, so that nothing leaves", reload.clone());
    }
    let followed = addresses.is_some_and(|unit| unit.property("ActiveState") == Some("active"));
    if look.link.is_some() && !followed {
        row.find(
            format!("{ADDRESSES} does not run: nobody follows the host's addresses and rules"),
            format!("systemctl start {ADDRESSES}"),
        );
    }
    if look.link.is_some() != network.policy.has_link() && look.rules != Rules::NoNamespace {
        row.find("there is a link where none was declared, or none where one was", reload);
    }
    Ok(row)
}

/// The one way in, and that there is no way out through a descriptor.
pub(super) fn listener(record: &Record, socket: &Loaded, kernel: &Kernel) -> Row {
    let listen = socket.property("Listen").unwrap_or_default().to_owned();
    let mut row = Row::new("listener", record.listen.to_string(), listen.clone());
    let unit = &socket.name;
    if socket.property("ActiveState") != Some("active") {
        row.find(format!("{unit} does not listen"), format!("systemctl start {unit}"));
    } else if listen != format!("{} (Stream)", record.listen) {
        let what = format!("{unit} listens at {listen} instead of {}", record.listen);
        row.find(what, format!("systemctl daemon-reload && systemctl restart {unit}"));
    }
    for socket in observe::foreign_sockets(kernel) {
        row.find(
            format!("{socket} is a socket of another network than the instance's"),
            format!("find what passed it on, then opencode-instances restart {}", record.name),
        );
    }
    row
}

/// The listed sockets of the host: whether each is what its service listens at now.
pub(super) fn sockets(record: &Record, unit: Option<&Loaded>, pid: i32) -> Row {
    let listed = &record.sandbox.unix_sockets;
    let mut row = Row::new("sockets", format!("{} listed", listed.len()), String::new());
    let helper = Names(&record.name).sockets();
    let mend = format!("systemctl restart {helper}");
    if !listed.is_empty() && unit.and_then(|unit| unit.property("ActiveState")) != Some("active") {
        row.find(format!("{helper} does not run: nobody follows the listed sockets"), mend.clone());
    }
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let mut there = 0;
    for socket in listed {
        let inside = format!("/proc/{pid}/root{}", socket.target);
        let of_host = identity(Path::new(socket.source.as_str()));
        let inside = identity(Path::new(&inside));
        match of_host {
            Some(of_host) if inside == Some(of_host) => there += 1,
            Some(_) => {
                let what = format!(
                    "{} in the sandbox is not {} of the host now",
                    socket.target, socket.source
                );
                row.find(what, mend.clone());
            }
            None if socket.optional => {}
            None => row.find(
                format!("{} is missing on the host", socket.source),
                format!(
                    "start its service, or write \"-{}\" in sandbox.unixSockets",
                    socket.source
                ),
            ),
        }
    }
    row.effective = format!("{there} there");
    row
}

/// HOME, which is the user's alone.
pub(super) fn state(record: &Record, user: Option<u32>) -> Row {
    let place = Path::new(&record.state_dir);
    let mut row = Row::new("state", format!("{}, 0700", record.user), String::new());
    match fs::symlink_metadata(place) {
        Ok(metadata) => {
            let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
            row.effective = format!("user {owner}, {mode:04o}");
            if mode & 0o077 != 0 {
                let what = format!("others can enter {} (mode {mode:04o})", place.display());
                row.find(what, format!("chmod 0700 {}", crate::shell::word(place)));
            }
            if user.is_some_and(|user| user != owner) {
                let what = format!("{} belongs to user {owner}", place.display());
                row.find(what, format!("chown {} {}", record.user, crate::shell::word(place)));
            }
            if !metadata.is_dir() {
                row.find(
                    format!("{} is no directory", place.display()),
                    "restore it from a backup",
                );
            }
        }
        Err(error) => row.find(
            format!("{} cannot be looked at: {error}", place.display()),
            "restore it, or remove the instance",
        ),
    }
    row
}

/// The password and the operator's own secrets.
pub(super) fn secrets(record: &Record) -> Row {
    let mut row = Row::new("secrets", "root alone".to_owned(), "root alone".to_owned());
    let own = format!("{AUTH_ROOT}/{}", record.name);
    let made = record.auth_enable && record.auth_password_file.is_none();
    let kept = [AUTH_ROOT.to_owned(), own.clone(), format!("{own}/password")];
    for place in kept.iter().filter(|_| made) {
        let Ok(metadata) = fs::symlink_metadata(place) else {
            row.find(
                format!("{place} is missing"),
                format!("opencode-instances rotate {}", record.name),
            );
            continue;
        };
        let bits = metadata.mode() & 0o7777;
        if metadata.uid() != 0 || bits & 0o077 != 0 {
            row.effective = String::from("others too");
            let word = crate::shell::word(place);
            row.find(
                format!(
                    "others than root can read {place} (owner {}, mode {bits:04o})",
                    metadata.uid()
                ),
                format!(
                    "chown root {word} && chmod go= {word}; then opencode-instances rotate {}",
                    record.name
                ),
            );
        }
    }
    for (option, file) in record.secrets() {
        if let Err(error) = trust::secret(&option, file) {
            row.effective = String::from("others too");
            row.find(error.to_string(), "as it says");
        }
    }
    row
}

/// Limits that the kernel enforces, where it has the controllers.
pub(super) fn limits(main: &Loaded, slice: Option<&Loaded>, group: &Path, record: &Record) -> Row {
    let told = [("MemoryMax", "memory.max", "memory"), ("TasksMax", "pids.max", "pids")];
    let declared = told.iter().filter_map(|(directive, ..)| {
        Some(format!("{directive}={}", main.values(directive).last()?))
    });
    let mut row = Row::new("limits", declared.collect::<Vec<_>>().join(" "), String::new());
    let mut effective = Vec::new();
    for (directive, file, controller) in told {
        let Some(declared) = main.values(directive).last().copied() else { continue };
        let Ok(found) = fs::read_to_string(group.join(file)) else {
            row.find(
                format!("the kernel does not enforce {directive}={declared}: no controller {controller} here"),
                format!("boot with one hierarchy of control groups that has {controller}"),
            );
            continue;
        };
        let found = found.trim();
        effective.push(format!("{file} {found}"));
        let loaded = main.property(directive).unwrap_or_default();
        if !agrees(loaded, found) {
            let drop_in = main.drop_in_of(directive).map(|path| format!(" ({path})"));
            row.find(
                format!(
                    "{file} is {found}, systemd has {directive}={loaded}{}",
                    drop_in.unwrap_or_default()
                ),
                format!("opencode-instances restart {}", record.name),
            );
        }
    }
    row.effective = effective.join(", ");
    for unit in slice.into_iter().chain([main]) {
        for (path, said) in &unit.drop_ins {
            let limits = |name: &str| name.starts_with("Memory") || name.starts_with("Tasks");
            for (name, value) in said.iter().filter(|(name, _)| limits(name)) {
                row.find(
                    format!("{path} sets {name}={value} in {}", unit.name),
                    format!("say it in the specification, as `resources` or `[fleet]`; remove {path}, then systemctl daemon-reload"),
                );
            }
        }
    }
    row
}

/// Whether systemd's number is the kernel's, which counts memory by pages.
fn agrees(systemd: &str, kernel: &str) -> bool {
    match (systemd.parse::<u64>(), kernel.parse::<u64>()) {
        (Ok(systemd), Ok(kernel)) => systemd.abs_diff(kernel) < 65536,
        _ => systemd == "infinity" && kernel == "max",
    }
}

/// That units are as they were rendered.
pub(super) fn units(units: &[Loaded], record: &Record, pid: i32) -> Row {
    let count = format!("{} units", units.len());
    let mut row = Row::new("units", count.clone(), count);
    unit::judge(&mut row, units, &record.units);
    if u32::try_from(pid).is_ok_and(|pid| status::runs_another(record, pid)) {
        row.find(
            "the server runs as it was declared before",
            format!("opencode-instances restart {}", record.name),
        );
    }
    for directive in &record.sandbox.overridden {
        row.note(
            Verdict::Relaxed,
            format!("`unitOverrides.main.{directive}` is the operator's own"),
        );
    }
    row
}
