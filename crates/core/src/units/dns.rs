//! `opencode-dns@NAME`: names for the namespace. The socket is the instance's, the service is in the
//! host's network, where the host's resolvers are.
//!
//! It is the one process that reads the agent's bytes with the host's network, so it can do nothing
//! else: a user of its own, whose packets reach the host's resolvers alone ([`crate::nft::host_table`]), no
//! capability, no file but the declared network and the list of resolvers.

use crate::facts::HostFacts;
use crate::layout::RESOLVER;
use crate::spec::Instance;
use crate::unit::escape::{Command, Word};
use crate::unit::{Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{Names, description, ends_with_server, inside, switch};

pub(super) fn socket(instance: &Instance) -> Unit {
    let names = Names(&instance.name);
    let unit = inside(instance, "Resolver's socket");
    let socket = Section::new("Socket")
        .set("ListenDatagram", Value::word(RESOLVER))
        .set("ListenStream", Value::word(RESOLVER))
        .set_why(
            "NetworkNamespacePath",
            Value::words([names.netns()]),
            "it listens inside, for this instance alone",
        )
        .set_why(
            "FlushPending",
            Value::Yes,
            "a query that waits while the start fails does not start it again at once",
        )
        .set_why(
            "TriggerLimitIntervalSec",
            Value::Number(0),
            "a failing start must not end the resolver for good",
        );
    Unit { name: names.dns_socket(), sections: vec![unit, socket] }
}

pub(super) fn service(instance: &Instance, facts: &HostFacts, network: &str) -> Unit {
    let names = Names(&instance.name);
    let name = instance.name.as_str();
    let unit = Section::new("Unit")
        .set("Description", description("Resolver", &instance.name))
        .set_why(
            "BindsTo",
            Value::words([names.net(), names.dns_socket()]),
            "it holds the socket, and with it a namespace that would be gone",
        )
        .set("After", Value::words([names.net(), names.dns_socket()]))
        .extend(ends_with_server(instance))
        .extend(switch::rereads(facts, network))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "a failing start must not end the resolver for good",
        );
    let confine = [facts.engine.as_str(), "net", "stub", name, "--nft", facts.nft.as_str()];
    let service = Section::new("Service")
        .set("Type", Value::word("exec"))
        .set_why(
            "ExecStartPre",
            Value::Command(Command { prefix: "+", argv: confine.map(Word::from).to_vec() }),
            "as root, before it reads a byte: its user reaches the host's resolvers alone from now on",
        )
        .set_why(
            "RootDirectoryStartOnly",
            Value::Yes,
            "that line needs the host's rules, and systemd, which knows the user",
        )
        .set(
            "ExecStart",
            Value::command([facts.engine.as_str(), "dns", name, "--network", &names.network()]),
        )
        .set("Restart", Value::word("on-failure"))
        .set("RestartSec", Value::word("250ms"))
        .set("SyslogIdentifier", Value::words([format!("opencode-dns@{name}")]))
        .extend(sandbox::own_user(&names.dns()))
        .set_why(
            "RuntimeDirectory",
            Value::words([format!("opencode-instances/{name}/dns")]),
            "which name gave which address, for `blocked`",
        )
        .set("RuntimeDirectoryMode", Value::word("0755"))
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_INET AF_INET6"),
            "the host's resolvers, wherever they are; the journal",
        )
        .set("MemoryDenyWriteExecute", Value::Yes)
        .set("MemoryMax", Value::word("32M"))
        .set("TasksMax", Value::Number(16))
        .extend(sandbox::without_homes())
        .set_why("SystemCallFilter", Value::word("~bind listen"), sandbox::NO_PORT)
        .extend(sandbox::empty_root(instance, facts, Programs::Own))
        .set_why(
            "BindReadOnlyPaths",
            Value::bind(&names.network()),
            "all that it is told: the declared network, and where the resolvers are",
        )
        .set("BindReadOnlyPaths", Value::bind_optional("/etc/resolv.conf"))
        .set("BindReadOnlyPaths", Value::bind_optional("/run/systemd/resolve"))
        .set_why(
            "InaccessiblePaths",
            Value::word(
                "-+/run/systemd/resolve/io.systemd.Resolve \
                 -+/run/systemd/resolve/io.systemd.Resolve.Monitor",
            ),
            "the list, and not the sockets beside it",
        )
        .set_why(
            "BindReadOnlyPaths",
            Value::bind("/run/systemd/journal/socket"),
            "refused names become records of their own",
        )
        .extend(switch::helper(facts));
    Unit { name: names.dns(), sections: vec![unit, service] }
}
