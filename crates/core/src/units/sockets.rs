//! `opencode-sockets@NAME.service`: shows the listed Unix sockets of the host, and follows each when its
//! service makes it anew.
//!
//! The server's unit binds directories of ours, which are empty when it starts. This one mounts the
//! sockets in them on the host's side, from where mounts reach a running unit, so that no process of
//! root's ever enters an agent's namespaces.

use crate::facts::HostFacts;
use crate::sockets;
use crate::spec::Instance;
use crate::unit::escape::Word;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::{HELPER_START, Names, description, sandbox, switch};

/// Whether some socket is shown.
pub(super) fn is_needed(instance: &Instance) -> bool {
    !instance.unix_sockets.is_empty()
}

/// The lines by which the setup waits for the sockets, and fails without them.
pub(super) fn awaited(instance: &Instance) -> impl Iterator<Item = Entry> {
    let lines = is_needed(instance).then(|| {
        let line =
            |directive| Entry::new(directive, Value::words([Names(&instance.name).sockets()]));
        let why = "not the server, which goes on when that one alone comes back";
        [line("Requires").because(why), line("After")]
    });
    lines.into_iter().flatten()
}

/// The lines by which the server keeps them.
pub(super) fn kept(instance: &Instance) -> impl Iterator<Item = Entry> {
    let lines = is_needed(instance).then(|| {
        let line =
            |directive| Entry::new(directive, Value::words([Names(&instance.name).sockets()]));
        let why = "sandbox.unixSockets: they are followed while the server runs";
        [line("Wants").because(why), line("After")]
    });
    lines.into_iter().flatten()
}

/// The directories of the sandbox, which the host fills.
pub(super) fn shown(instance: &Instance) -> Vec<Entry> {
    let bind = |directory: &str| {
        let host = sockets::host_directory(instance.name.as_str(), directory);
        // Many programs look below the older name, which is a link on every host.
        let older = directory.starts_with("/run/").then(|| format!("/var{directory}"));
        let places = std::iter::once(directory.to_owned()).chain(older);
        places
            .map(|place| Entry::new("BindReadOnlyPaths", Value::bind_to(&host, &place)))
            .collect::<Vec<_>>()
    };
    let directories = sockets::directories(instance);
    let mut entries: Vec<Entry> = directories.into_iter().flat_map(bind).collect();
    if let Some(first) = entries.first_mut() {
        first.why = Some("sandbox.unixSockets: the host mounts each socket in here, also later");
    }
    entries
}

/// The unit, where some socket is shown.
pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Option<Unit> {
    if !is_needed(instance) {
        return None;
    }
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Unix sockets", &instance.name))
        .set_why(
            "Requires",
            Value::words([names.net()]),
            "that one makes the directory that everything here is in",
        )
        .set("After", Value::words([names.net()]))
        .extend(providers(instance))
        .set_why(
            "StopWhenUnneeded",
            Value::Yes,
            "it ends with the server, and lives through its restart",
        )
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it starts as often as the server, whose own limit is the one to tell of",
        );
    let argv = command(instance, facts);
    let service = Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", Value::command(argv))
        .set_why(
            "ExecStopPost",
            Value::command([facts.engine.as_str(), "sockets", instance.name.as_str(), "--down"]),
            "nothing stays mounted, however it ended",
        )
        .set("Restart", Value::word("on-failure"))
        .set_why(
            "RestartPreventExitStatus",
            Value::Number(1),
            "a socket that is missing or refused fails the start of the server, once",
        )
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set("SyslogIdentifier", Value::words([format!("opencode-sockets@{}", instance.name)]))
        .set_why(
            "CapabilityBoundingSet",
            Value::word("CAP_DAC_READ_SEARCH CAP_SYS_ADMIN"),
            "root, to find sockets in directories of their services, and to mount them; no private mounts, or \
             they would reach no other unit",
        )
        .set("NoNewPrivileges", Value::Yes)
        .set("RestrictNamespaces", Value::Yes)
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX"),
            "readiness alone; it connects to none of the sockets",
        )
        .set("IPAddressDeny", Value::word("any"))
        .set("SystemCallArchitectures", Value::word("native"))
        .set_why(
            "SystemCallFilter",
            Value::word("@system-service mount umount2"),
            "each socket is a mount, and every other call of that kind is refused",
        )
        .set("SystemCallFilter", Value::word("~@privileged @resources @keyring"))
        .extend(sandbox::without_mounts())
        .set("MemoryMax", Value::word("32M"))
        .set("TasksMax", Value::Number(8))
        .set("LimitCORE", Value::Number(0))
        .set("UMask", Value::word("0077"))
        .extend(switch::helper(facts));
    Some(Unit { name: names.sockets(), sections: vec![unit, service] })
}

fn providers(instance: &Instance) -> Option<Entry> {
    let units = sockets::providers(instance);
    let after = || Entry::new("After", Value::words(units));
    (!sockets::providers(instance).is_empty()).then(|| {
        after().because("what is known to make them; a unit that the host lacks is nothing")
    })
}

fn command(instance: &Instance, facts: &HostFacts) -> Vec<Word> {
    let argv = [facts.engine.as_str(), "sockets", instance.name.as_str()];
    let mut argv = argv.map(Word::from).to_vec();
    for socket in &instance.unix_sockets {
        let optional = if socket.optional { "-" } else { "" };
        argv.extend([
            "--socket".into(),
            format!("{optional}{}:{}", socket.source, socket.target).into(),
        ]);
    }
    argv
}
