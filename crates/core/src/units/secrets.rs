//! `opencode-secrets@NAME.service`: restarts the server when one of its secrets has new content.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::escape::Word;
use crate::unit::{Section, Unit, Value};
use crate::units::{Names, description, sandbox, switch};

/// Whether there is something to look at.
pub(super) fn is_watched(instance: &Instance) -> bool {
    instance.restart_on_secret_change && !instance.secrets().is_empty()
}

/// The unit, where there is something to look at.
pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Option<Unit> {
    if !is_watched(instance) {
        return None;
    }
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Secrets", &instance.name))
        .set_why(
            "PartOf",
            Value::words([names.main()]),
            "it looks at the files anew whenever the server starts, and not while it is stopped",
        )
        .set_why(
            "Before",
            Value::words([names.main()]),
            "no change comes between the first look and the server's reading",
        );
    let service = Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", Value::command(command(instance, facts)))
        .set("Restart", Value::word("on-failure"))
        .set("SyslogIdentifier", Value::words([format!("opencode-secrets@{}", instance.name)]))
        .set_why(
            "RuntimeDirectory",
            Value::words([format!("opencode-secrets@{}", instance.name)]),
            "digests of what the server was started with, for a start of this unit alone",
        )
        .set("RuntimeDirectoryMode", Value::word("0700"))
        .set("RuntimeDirectoryPreserve", Value::word("restart"))
        .set("PrivateNetwork", Value::Yes)
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX"),
            "systemd's own sockets; this is root without any capability",
        )
        .extend(sandbox::no_network())
        .set("ProtectHome", Value::word("read-only"))
        .extend(sandbox::reading_root())
        .extend(switch::watcher(facts));
    Some(Unit { name: names.secrets(), sections: vec![unit, service] })
}

fn command(instance: &Instance, facts: &HostFacts) -> Vec<Word> {
    let name = instance.name.as_str();
    let argv = [facts.engine.as_str(), "renew", name, "--systemctl", facts.systemctl.as_str()];
    let mut argv = argv.map(Word::from).to_vec();
    for (option, path) in instance.secrets() {
        argv.extend(["--secret".into(), format!("{option}:{path}").into()]);
    }
    argv
}
