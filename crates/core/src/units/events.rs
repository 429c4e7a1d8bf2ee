//! `opencode-events@NAME.service`: what the namespace's rules refused, into the journal.
//!
//! Nothing depends on it: the rules refuse and count whether it lives or not.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{HELPER_START, Names, description, switch};

/// What it must have, for the moment in which it binds the log group.
const CAPABILITY: &str = "CAP_NET_ADMIN";

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    let names = Names(&instance.name);
    let name = instance.name.as_str();
    let unit = Section::new("Unit")
        .set("Description", description("Refusals", &instance.name))
        .set("BindsTo", Value::words([names.net()]))
        .set("After", Value::words([names.net()]))
        .extend(instance.is_on_demand().then(|| {
            Entry::new("StopWhenUnneeded", Value::Yes)
                .because("activation is on-demand: it ends with the server, which wants it")
        }))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it comes back whatever happens; nothing waits for it",
        );
    let hardening = sandbox::without_homes().into_iter().filter(|entry| {
        // The namespace belongs to the host's users: a capability of others would be none in it.
        let replaced = ["CapabilityBoundingSet", "AmbientCapabilities", "PrivateUsers"];
        !replaced.contains(&&*entry.directive)
    });
    let policy = instance.network.policy.as_str();
    let service = Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("NotifyAccess", Value::word("main"))
        .set(
            "ExecStart",
            Value::command([facts.engine.as_str(), "events", name, "--policy", policy]),
        )
        .set("Restart", Value::word("always"))
        .set("RestartSec", Value::Number(1))
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set("SyslogIdentifier", Value::words([format!("opencode-events@{name}")]))
        .extend(sandbox::own_user(&names.events()))
        .set_why(
            "CapabilityBoundingSet",
            Value::word(CAPABILITY),
            "to bind the log group; it is given up before a byte is read",
        )
        .set("AmbientCapabilities", Value::word(CAPABILITY))
        .extend(sandbox::namespace(names))
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_NETLINK"),
            "the log group, the journal and systemd; no network",
        )
        .set("IPAddressDeny", Value::word("any"))
        .set("MemoryDenyWriteExecute", Value::Yes)
        .set("MemoryMax", Value::word("32M"))
        .set("TasksMax", Value::Number(8))
        .extend(hardening)
        .set_why(
            "SystemCallFilter",
            Value::word("capset"),
            "one of the privileged calls: the one that gives the capability up",
        )
        .extend(sandbox::empty_root(instance, facts, Programs::Own))
        .set_why(
            "BindReadOnlyPaths",
            Value::bind("/run/systemd/notify"),
            "readiness; systemd takes messages from the main process alone",
        )
        .set_why(
            "BindReadOnlyPaths",
            Value::bind("/run/systemd/journal/socket"),
            "refusals become records of their own",
        )
        .extend(switch::helper(facts));
    Unit { name: names.events(), sections: vec![unit, service] }
}
