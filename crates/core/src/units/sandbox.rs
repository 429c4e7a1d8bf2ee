//! The sandbox that the main, the setup and the proxy unit share, one directive each with its reason.

use crate::bound::Access;
use crate::config;
use crate::controls::{BARE_SYS_DIR, PROCESSORS};
use crate::facts::{HostFacts, NixOs, StoreBind};
use crate::guard;
use crate::plan::short_digest;
use crate::spec::{AbsPath, Instance};
use crate::unit::escape::Bind;
use crate::unit::{Entry, Value};
use crate::units::Names;

fn entry(directive: &'static str, value: Value) -> Entry {
    Entry::new(directive, value)
}

fn since(version: u32, directive: &'static str, value: Value) -> Entry {
    Entry { since: version, ..Entry::new(directive, value) }
}

fn why(directive: &'static str, value: Value, reason: &'static str) -> Entry {
    Entry::new(directive, value).because(reason)
}

/// A user for this unit alone, which exists while the unit runs.
///
/// It is named, because systemd names it after what is in front of the `@`: the same service of all
/// instances would share one user, and that of an instance called `dns` has this very name.
pub(crate) fn own_user(unit: &str) -> [Entry; 2] {
    [
        why(
            "DynamicUser",
            Value::Yes,
            "a user of its own: never the instance's, nor another unit's",
        ),
        entry("User", Value::words([user_of(unit)])),
    ]
}

/// The name of that user.
pub(super) fn user_of(unit: &str) -> String {
    format!("oc-{}", short_digest(unit))
}

/// What every unprivileged unit gives up.
pub(crate) fn hardening() -> Vec<Entry> {
    let yes = || Value::Yes;
    vec![
        entry("NoNewPrivileges", yes()),
        entry("CapabilityBoundingSet", Value::word("")),
        entry("AmbientCapabilities", Value::word("")),
        entry("PrivateUsers", yes()),
        entry("PrivateDevices", yes()),
        entry("PrivateIPC", yes()),
        entry("PrivateTmp", yes()),
        entry("ProtectSystem", Value::word("strict")),
        why(
            "ProtectHome",
            Value::word("tmpfs"),
            "empty homes; `yes` would forbid a project below /home",
        ),
        entry("ProtectProc", Value::word("invisible")),
        entry("ProcSubset", Value::word("pid")),
        entry("ProtectClock", yes()),
        entry("ProtectControlGroups", yes()),
        Entry {
            why: Some("a namespace of its own: the names of all other units stay unknown"),
            ..since(257, "ProtectControlGroups", Value::word("strict"))
        },
        entry("ProtectHostname", yes()),
        entry("ProtectKernelLogs", yes()),
        entry("ProtectKernelModules", yes()),
        entry("ProtectKernelTunables", yes()),
        entry("DevicePolicy", Value::word("closed")),
        entry("KeyringMode", Value::word("private")),
        entry("LockPersonality", yes()),
        entry("RemoveIPC", yes()),
        entry("RestrictNamespaces", yes()),
        entry("RestrictRealtime", yes()),
        entry("RestrictSUIDSGID", yes()),
        entry("SystemCallArchitectures", Value::word("native")),
        entry("SystemCallFilter", Value::word("@system-service")),
        why(
            "SystemCallFilter",
            Value::word(
                "~@privileged @resources @keyring io_uring_enter io_uring_register io_uring_setup \
                 userfaultfd",
            ),
            "io_uring opens files and sockets past every filter of system calls; userfaultfd serves exploits",
        ),
        entry("SystemCallErrorNumber", Value::word("EPERM")),
        entry("LimitCORE", Value::Number(0)),
        entry("UMask", Value::word("0077")),
    ]
}

/// Why one that is in the host's network may neither bind nor listen. The filter costs nothing, and covers what
/// `SocketBindDeny=` does not: a socket that listens without a name gets a port.
pub(crate) const NO_PORT: &str = "it can name no port of the host's as its own, nor listen at any";

/// The same for units that show no project, which could lie below `/home`.
pub(crate) fn without_homes() -> Vec<Entry> {
    let closed = |entry: Entry| match &*entry.directive {
        "ProtectHome" => self::entry("ProtectHome", Value::Yes),
        _ => entry,
    };
    hardening().into_iter().map(closed).collect()
}

/// The same for units that read files of root's, as root without capabilities: the files are its own
/// to read, and they may lie anywhere.
pub(crate) fn reading_root() -> impl Iterator<Item = Entry> {
    let kept =
        |entry: &Entry| entry.directive != "PrivateUsers" && entry.directive != "ProtectHome";
    hardening().into_iter().filter(kept)
}

/// What a program of ours that has no network of its own does without, too.
pub(crate) fn no_network() -> [Entry; 2] {
    [entry("IPAddressDeny", Value::word("any")), entry("MemoryDenyWriteExecute", Value::Yes)]
}

/// What a unit of root's gives up whose mounts the host must see: private mounts would hide them.
pub(crate) fn without_mounts() -> [Entry; 10] {
    let yes = |directive| entry(directive, Value::Yes);
    [
        entry("SystemCallErrorNumber", Value::word("EPERM")),
        yes("MemoryDenyWriteExecute"),
        yes("LockPersonality"),
        entry("AmbientCapabilities", Value::word("")),
        yes("ProtectClock"),
        yes("RemoveIPC"),
        yes("RestrictRealtime"),
        yes("RestrictSUIDSGID"),
        entry("KeyringMode", Value::word("private")),
        entry("DevicePolicy", Value::word("closed")),
    ]
}

/// The instance's network namespace, and nothing where that is missing.
pub(crate) fn namespace(names: Names<'_>) -> [Entry; 2] {
    [
        why(
            "PrivateNetwork",
            Value::Yes,
            "with the next line: the instance's own namespace, never the host's",
        ),
        entry("NetworkNamespacePath", Value::words([names.netns()])),
    ]
}

/// The files of the host's `/etc` that programs need and that tell nothing about the host.
const ETC: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
];

/// Whose programs a sandbox shows.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Programs {
    /// The server's, its tools' and the operator's.
    Agent,
    /// This program's alone, where the host can tell them apart.
    Own,
}

/// A root that holds what `prepare` made, with the system's programs in it. It is made before, and not mounted
/// place by place: systemd reads the list of all mounts again for each place that it makes read-only.
///
/// A directory of its own and not `TemporaryFileSystem=/`: `ProtectSystem=strict` claims `/` too,
/// and systemd then drops the file system without a word and shows the whole host.
pub(crate) fn empty_root(instance: &Instance, facts: &HostFacts, programs: Programs) -> Vec<Entry> {
    let names = Names(&instance.name);
    let mut entries = vec![
        entry("RootDirectory", Value::words([names.root()])),
        why(
            "MountAPIVFS",
            Value::word("no"),
            "no /run of its own and no journal sockets in it; the lines above mount the rest",
        ),
        since(257, "BindLogSockets", Value::word("no")),
        Entry {
            directive: "MemoryPressureWatch".into(),
            value: Value::word("off"),
            since: 254,
            why: Some("a privileged ExecStop= would look for its file below /sys, and find none"),
        },
    ];
    entries.extend(match &facts.nixos {
        Some(nixos) => store(instance, nixos, programs),
        None => usr(facts, programs),
    });
    if programs == Programs::Agent {
        entries.extend(tools(instance, facts));
        entries.push(why(
            "BindReadOnlyPaths",
            Value::bind_to(BARE_SYS_DIR, "/sys"),
            "with the next line: not the host's devices and network links, which /sys shows to every namespace",
        ));
        entries.push(entry("BindReadOnlyPaths", Value::bind(PROCESSORS)));
    } else {
        entries.push(why(
            "InaccessiblePaths",
            Value::word("-+/sys"),
            "the host's devices and network links; this program needs nothing of it",
        ));
    }
    entries
}

/// The programs of a distribution with a merged `/usr`. `/bin` and its like are links in the root.
fn usr(facts: &HostFacts, programs: Programs) -> Vec<Entry> {
    let engine = || entry("BindReadOnlyPaths", Value::bind(facts.engine.as_str()));
    if programs == Programs::Own && !facts.engine_is_dynamic {
        return vec![engine().because("this program, one file, is all that is seen of the host")];
    }
    let mut entries = vec![why(
        "BindReadOnlyPaths",
        Value::bind("/usr"),
        "the host's programs are the tools; with this program, all that is seen of the host",
    )];
    entries.push(entry("BindReadOnlyPaths", Value::bind_optional("/etc/ld.so.cache")));
    if !facts.engine.as_str().starts_with("/usr/") {
        entries.push(engine());
    }
    entries
}

/// The store paths that the programs of a NixOS host need, and none of its other paths: those of
/// another instance, with its settings, would be among them.
fn store(instance: &Instance, nixos: &NixOs, programs: Programs) -> Vec<Entry> {
    let paths: Vec<&AbsPath> = match programs {
        // All of it is shown, see `tools`.
        Programs::Agent if instance.shows_store() => Vec::new(),
        Programs::Agent => nixos.agent.iter().collect(),
        Programs::Own => nixos.proxy.iter().collect(),
    };
    let mut entries: Vec<Entry> = paths
        .into_iter()
        .map(|path| entry("BindReadOnlyPaths", Value::bind(path.as_str())))
        .collect();
    if let Some(first) = entries.first_mut() {
        first.why = Some("what the programs need of the store, and nothing else of it");
    }
    if programs == Programs::Agent {
        let loader = if instance.nix_ld_enable { &nixos.nix_ld.binds[..] } else { &[] };
        let bound = |bind: &StoreBind| {
            entry("BindReadOnlyPaths", Value::bind_to(bind.source.as_str(), bind.target.as_str()))
        };
        entries.extend(nixos.binds.iter().chain(loader).map(bound));
    }
    entries
}

/// What the operator's options `package`, `path` and `nix.enable` show, where it is not part of the
/// system's programs.
fn tools(instance: &Instance, facts: &HostFacts) -> Vec<Entry> {
    let of_system = |path: &AbsPath| {
        let (path, store) = (path.as_str(), facts.nixos.is_some() || instance.shows_store());
        path == "/usr" || path.starts_with("/usr/") || (store && path.starts_with("/nix/store/"))
    };
    let mut entries: Vec<Entry> = std::iter::once(&instance.package)
        .chain(&instance.path)
        .filter(|path| !of_system(path))
        .map(|path| entry("BindReadOnlyPaths", Value::bind(path.as_str())))
        .collect();
    if instance.nix_enable {
        entries.push(why(
            "BindReadOnlyPaths",
            Value::bind("/nix/store"),
            "nix.enable: what the daemon builds appears here, beside everything else of the store",
        ));
        entries.push(entry("BindReadOnlyPaths", Value::bind("/nix/var/nix/daemon-socket")));
        entries.push(entry("BindReadOnlyPaths", Value::bind_optional("/etc/nix/nix.conf")));
    } else if instance.shows_store() {
        entries.push(why(
            "BindReadOnlyPaths",
            Value::bind_optional("/nix/store"),
            "sandbox.nixStore: all of it, settings of other instances among it",
        ));
    }
    entries
}

/// What the agent needs of `/etc`: the files of its own, the host's certificates and time zone.
pub(crate) fn minimal_etc(instance: &Instance, facts: &HostFacts) -> Vec<Entry> {
    let mut entries = vec![why(
        "BindReadOnlyPaths",
        Value::bind(&Names(&instance.name).etc()),
        "links of /etc lead here; passwd and group, with this instance's accounts alone, are in the root",
    )];
    if facts.nixos.is_none() {
        entries.extend(
            ETC.iter()
                .filter(|path| **path != "/etc/ld.so.cache")
                .map(|path| entry("BindReadOnlyPaths", Value::bind_optional(path))),
        );
    }
    entries
}

/// The operator's configuration: the generated files, what outranks every other file, and files of the
/// operator's own.
pub(crate) fn configuration(instance: &Instance) -> Vec<Entry> {
    let names = Names(&instance.name);
    let mut entries = Vec::new();
    if !config::files(instance).is_empty() {
        entries.push(why(
            "BindReadOnlyPaths",
            Value::bind(&format!("{}/config", names.config_dir())),
            "the generated configuration, to which links below HOME lead",
        ));
    }
    if guard::is_needed(instance) {
        entries.push(why(
            "BindReadOnlyPaths",
            Value::bind_to(&format!("{}/enforced", names.config_dir()), "/etc/opencode"),
            "enforcedSettings and trustProject: opencode reads this last, and the plugin in it",
        ));
    }
    entries.extend(config::shown(instance).into_iter().map(|(_, path, target)| {
        entry("BindReadOnlyPaths", Value::bind_to(path.as_str(), &target))
    }));
    entries
}

/// The operator's places of the host.
pub(crate) fn bound(instance: &Instance) -> impl Iterator<Item = Entry> {
    instance.bound().map(|(option, access, path)| {
        let directive = match access {
            Access::Write => "BindPaths",
            Access::Read => "BindReadOnlyPaths",
        };
        why(directive, Value::Bind(Bind::of(path)), option)
    })
}

/// The operator's devices: visible, and allowed. The directory that they appear in is the sandbox's own.
pub(crate) fn devices(instance: &Instance) -> impl Iterator<Item = Entry> {
    instance.devices.iter().flat_map(|device| {
        let path = device.path.as_str();
        let allowed = format!("{} rw", device.of_directory().unwrap_or(path));
        let source = path.to_owned().into();
        let bind = Bind { source, target: None, optional: device.optional };
        [
            why("DeviceAllow", Value::Words(allowed.into()), "sandbox.devices"),
            entry("BindPaths", Value::Bind(bind)),
        ]
    })
}

/// What must be mounted before the server starts: the file systems of those that may not be missing.
pub(crate) fn mounts(instance: &Instance) -> impl Iterator<Item = Entry> {
    let needed = instance.bound().filter(|(_, _, path)| !path.optional);
    needed.map(|(_, _, path)| entry("RequiresMountsFor", Value::ListedPath(path.source.clone())))
}

/// The way to systemd for readiness and watchdog: an open socket, which only the supervisor holds.
///
/// An agent that could reach the path could keep systemd busy with messages, so the path that
/// systemd itself puts into each root directory is closed.
pub(crate) fn messages(facts: &HostFacts) -> Vec<Entry> {
    if facts.systemd < 253 {
        return vec![why(
            "BindReadOnlyPaths",
            Value::bind("/run/systemd/notify"),
            "readiness and watchdog; systemd takes messages from the main process alone",
        )];
    }
    vec![
        entry("OpenFile", Value::word("/run/systemd/notify:notify")),
        entry("InaccessiblePaths", Value::word("-+/run/systemd/notify")),
    ]
}

/// The user, the state directory and a private `/dev/shm`, for the units that run as the instance.
pub(crate) fn identity(instance: &Instance) -> Vec<Entry> {
    let mut entries = vec![
        entry("User", Value::words([&instance.user])),
        entry("Group", Value::words([&instance.group])),
        since(257, "PrivatePIDs", Value::Yes),
    ];
    if !instance.extra_groups.is_empty() {
        entries.push(why(
            "SupplementaryGroups",
            Value::words(&instance.extra_groups),
            "what these groups may read and write of the paths below",
        ));
    }
    if let Some(leaf) = instance.state_leaf() {
        entries.push(entry(
            "StateDirectory",
            Value::words([format!("opencode/instance-state/{leaf}")]),
        ));
        entries.push(entry("StateDirectoryMode", Value::word("0700")));
        entries.extend(
            instance
                .disk_quota
                .map(|quota| since(258, "StateDirectoryQuota", Value::words([quota.to_string()]))),
        );
    } else {
        entries.push(entry("BindPaths", Value::bind(instance.state_dir.as_str())));
    }
    entries
}
