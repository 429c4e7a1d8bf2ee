//! `opencode-net@NAME.service`: what root prepares for an instance. Its network namespace with the
//! policy in it, the root of its sandboxes with the names of its accounts, its password.

use crate::facts::HostFacts;
use crate::host_files;
use crate::spec::Instance;
use crate::unit::escape::{Command, Word};
use crate::unit::{Section, Unit, Value};
use crate::units::{ADDRESSES, HELPER_START, Names, TARGET, description, sandbox, switch};

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Network namespace", &instance.name))
        .set("PartOf", Value::word(TARGET))
        .set_why(
            "Wants",
            Value::words(wanted(instance)),
            "they begin in the namespace when it is there; what is not declared is missing",
        )
        .set_why(
            "Wants",
            Value::word(ADDRESSES),
            "with the next line: what changes on the host after the link is made is followed",
        )
        .set("After", Value::word(ADDRESSES))
        .extend(switch::belongs(instance, facts));
    Unit { name: names.net(), sections: vec![unit, service(instance, facts)] }
}

/// What is there as long as the namespace is. Without a server nothing of it may run.
fn wanted(instance: &Instance) -> Vec<String> {
    let names = Names(&instance.name);
    if instance.is_on_demand() {
        return vec![names.dns_socket(), names.host_ports()];
    }
    vec![names.dns_socket(), names.dns(), names.host_ports(), names.events()]
}

fn service(instance: &Instance, facts: &HostFacts) -> Section {
    let name = instance.name.as_str();
    let (rules, network) = (Names(&instance.name).rules(), Names(&instance.name).network());
    let (engine, nft) = (facts.engine.as_str(), facts.nft.as_str());
    let pool = instance.network_pool.to_string();
    // The same line under every policy: a changed policy is a reload, also from no link to one.
    let up = [engine, "net", "up", name, "--rules", &rules, "--network", &network];
    let up: Vec<&str> = up.into_iter().chain(["--pool", &pool, "--nft", nft]).collect();
    Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("RemainAfterExit", Value::Yes)
        .set("ExecStartPre", Value::Command(Command { prefix: "", argv: prepare(instance, facts) }))
        .set("ExecStart", Value::command(up.iter().copied()))
        .set("ExecReload", Value::command(up))
        .set("ExecStopPost", Value::command([engine, "net", "down", name, "--nft", nft]))
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set("SyslogIdentifier", Value::words([format!("opencode-net@{name}")]))
        .set_why(
            "RuntimeDirectory",
            Value::words([
                format!("opencode-instances/{name}"),
                format!("opencode-instances/{name}/root"),
                format!("opencode-instances/{name}/failure"),
            ]),
            "the second one is the root of the sandboxes, the third says why a start failed",
        )
        .set("RuntimeDirectoryMode", Value::word("0755"))
        .set_why(
            "StateDirectory",
            Value::words([format!("opencode/instance-auth/{name}"), "opencode/network".to_owned()]),
            "the password, and which addresses of the pool each link has",
        )
        .set("StateDirectoryMode", Value::word("0700"))
        .set_why(
            "CapabilityBoundingSet",
            Value::word("CAP_NET_ADMIN CAP_SYS_ADMIN"),
            "root, to make and pin a network namespace; no private mounts, the host must see the pin",
        )
        .set("NoNewPrivileges", Value::Yes)
        .set_why("RestrictNamespaces", Value::word("net"), "it makes and enters that kind, and no other")
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_NETLINK"),
            "links and rules; the accounts may come from a name service's socket",
        )
        .set("IPAddressDeny", Value::word("any"))
        .set("SystemCallArchitectures", Value::word("native"))
        .set_why(
            "SystemCallFilter",
            Value::word("@system-service mount umount2"),
            "the pin is a mount, and every other call of that kind is refused",
        )
        .extend(sandbox::without_mounts())
        .set("LimitCORE", Value::Number(0))
        .set("UMask", Value::word("0077"))
        .extend(switch::namespace(instance, facts))
}

/// What the root of the sandboxes holds, the names of accounts among it, and the password if one is to be made.
fn prepare(instance: &Instance, facts: &HostFacts) -> Vec<Word> {
    // passwd(5) cannot hold a colon. Programs go by the variable HOME before they look there.
    let home = Some(instance.state_dir.as_str()).filter(|path| !path.contains(':'));
    let mut argv: Vec<Word> = [
        facts.engine.as_str(),
        "prepare",
        instance.name.as_str(),
        "--user",
        instance.user.as_str(),
        "--group",
        instance.group.as_str(),
        "--home",
        home.unwrap_or("/nonexistent"),
        "--shell",
        facts.shell.as_str(),
        "--getent",
        facts.getent.as_str(),
    ]
    .map(Word::from)
    .to_vec();
    // A change of the list is a change of the unit, which makes the links anew.
    for (file, _) in host_files::sandbox_etc(instance) {
        argv.extend(["--etc", file].map(Word::from));
    }
    if facts.nixos.is_none() {
        argv.push("--merged-usr".into());
    }
    for group in &instance.extra_groups {
        argv.push("--extra-group".into());
        argv.push(group.as_str().into());
    }
    if instance.auth_enable && instance.auth_password_file.is_none() {
        argv.push("--password".into());
    }
    argv
}
