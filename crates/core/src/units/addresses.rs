//! `opencode-host@addresses.service`: keeps the host's side of all networks as it should be while the host's
//! addresses, firewall and routes change.
//!
//! Nothing is opened by its absence: what is for the host is refused by the host's table as well, and
//! what that table has not seen does not leave.

use crate::facts::HostFacts;
use crate::unit::{Section, Unit, Value};
use crate::units::{ADDRESSES, HELPER_START, TARGET, sandbox, switch};

pub(super) fn unit(facts: &HostFacts) -> Unit {
    let unit = Section::new("Unit")
        .set("Description", Value::word("The host's side of opencode networks"))
        .set("PartOf", Value::word(TARGET))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it comes back whatever happens; nothing waits for it",
        );
    let argv = [facts.engine.as_str(), "net", "watch", "--nft", facts.nft.as_str()].into_iter();
    let argv = argv.chain(["--systemctl", facts.systemctl.as_str()]);
    let hardening = sandbox::hardening().into_iter().filter(|entry| {
        // A namespace of users has no rights over those of networks; and sysctls are read.
        let replaced = [
            "CapabilityBoundingSet",
            "PrivateUsers",
            "ProcSubset",
            "ProtectHome",
            "RestrictNamespaces",
        ];
        !replaced.contains(&&*entry.directive)
    });
    let service = Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", Value::command(argv))
        .set("Restart", Value::word("always"))
        .set("RestartSec", Value::Number(1))
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set("SyslogIdentifier", Value::word("opencode-host@addresses"))
        .set_why(
            "StateDirectory",
            Value::word("opencode/network"),
            "which addresses of the pool each link has, and the lock under which links are made",
        )
        .set("StateDirectoryMode", Value::word("0700"))
        .set_why(
            "CapabilityBoundingSet",
            Value::word("CAP_NET_ADMIN CAP_SYS_ADMIN"),
            "root, to enter the namespaces and to load rules; it mounts nothing and has mounts of its own",
        )
        .set_why("RestrictNamespaces", Value::word("net"), "it makes and enters that kind, and no other")
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_NETLINK"),
            "the kernel's notices and rules; systemd, which reloads a policy for a new way out",
        )
        .set("IPAddressDeny", Value::word("any"))
        .set("PrivateMounts", Value::Yes)
        .set("ProtectHome", Value::Yes)
        .set("MemoryDenyWriteExecute", Value::Yes)
        .set("MemoryMax", Value::word("128M"))
        .set("TasksMax", Value::Number(16))
        .extend(hardening)
        .extend(switch::helper(facts));
    Unit { name: ADDRESSES.to_owned(), sections: vec![unit, service] }
}
