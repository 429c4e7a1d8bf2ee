//! `opencode-secrets@NAME`: restarts the server when one of its secrets is replaced.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::{Section, Unit, Value};
use crate::units::{Names, SLICE, description, sandbox};

/// Whether there is something to look at.
pub(super) fn is_watched(instance: &Instance) -> bool {
    instance.restart_on_secret_change && !instance.secrets().is_empty()
}

/// The two units, where there is something to look at.
pub(super) fn units(instance: &Instance, facts: &HostFacts) -> Vec<Unit> {
    if !is_watched(instance) {
        return Vec::new();
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
            "no change comes between the server's reading and the first look",
        );
    let path = instance.secrets().into_iter().fold(Section::new("Path"), |path, (_, file)| {
        path.set("PathChanged", Value::Path(file.clone()))
    });
    let path = path.set_why(
        "TriggerLimitIntervalSec",
        Value::Number(0),
        "no number of changes in a short time closes it for good",
    );
    let look = Unit { name: names.secrets_path(), sections: vec![unit, path] };
    let unit = Section::new("Unit")
        .set("Description", description("Restart for new secrets", &instance.name))
        .set("StartLimitIntervalSec", Value::Number(0));
    let service = Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set(
            "ExecStart",
            Value::command([
                facts.engine.as_str(),
                "renew",
                instance.name.as_str(),
                "--systemctl",
                facts.systemctl.as_str(),
            ]),
        )
        .set("Slice", Value::word(SLICE))
        .set("SyslogIdentifier", Value::words([format!("opencode-secrets@{}", instance.name)]))
        .set("PrivateNetwork", Value::Yes)
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX"),
            "systemd's own socket; this is root without any capability",
        )
        .extend(sandbox::hardening().into_iter().filter(|entry| entry.directive != "PrivateUsers"));
    vec![look, Unit { name: names.secrets(), sections: vec![unit, service] }]
}
