//! `opencode-refusal@NAME.service`: says why a start failed, to the clients that wait for it.
//!
//! The proxy holds them and cannot ask systemd. This unit starts with the proxy, after the server's start has
//! ended one way or the other, and again when the server fails later.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::{Section, Unit, Value};
use crate::units::{HELPER_START, Names, description, sandbox};

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Refusal", &instance.name))
        .set_why(
            "After",
            Value::words([names.main(), names.proxy()]),
            "it looks when the start is done and the proxy listens, and says nothing where it went well",
        )
        .set_why("StartLimitIntervalSec", Value::Number(0), "it runs as often as a start can fail");
    let argv = [facts.engine.as_str(), "refusal", instance.name.as_str()];
    let argv = argv.into_iter().chain(["--systemctl", facts.systemctl.as_str()]);
    let service = Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("ExecStart", Value::command(argv))
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set_why(
            "SuccessExitStatus",
            Value::word("SIGTERM"),
            "who stops the instance stops this too, and nothing failed",
        )
        .set("SyslogIdentifier", Value::words([format!("opencode-refusal@{}", instance.name)]))
        .set("PrivateNetwork", Value::Yes)
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX"),
            "systemd's own sockets; this is root without any capability",
        )
        .extend(sandbox::no_network())
        .set("ProtectHome", Value::word("read-only"))
        .extend(sandbox::reading_root())
        .set_why(
            "ReadWritePaths",
            Value::words([format!("-{}", names.failures())]),
            "the one file that it writes is there, where the proxy reads it",
        );
    Unit { name: names.refusal(), sections: vec![unit, service] }
}
