//! `opencode-hostport@NAME-PORT`: one port of the host's loopback, at the same place inside. The socket is
//! the instance's, the service is in the host's network; the listener's mirror image.
//!
//! The agent never holds a socket of the host's: it connects inside, and the proxy, which has a user of
//! its own, connects once more outside. The proxy is told one port, and what it may talk to is the
//! loopback. A name ends where the last dash is, so no port of `web-1` is one of `web`.
//!
//! `opencode-hostports@NAME.target` stands between the namespace's unit and the sockets: that unit wants
//! the target whatever is declared, so that it stays as it is, and the agent with it, when a port comes.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::{Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{Names, description, ends_with_server, inside, proxy, switch};

/// Every unit for the host's ports; none where there are none.
pub(super) fn units(instance: &Instance, facts: &HostFacts) -> Vec<Unit> {
    let ports = &instance.network.host_ports;
    if ports.is_empty() {
        return Vec::new();
    }
    let mut units = vec![target(instance)];
    for port in ports {
        units.extend([socket(instance, *port), proxy(instance, facts, *port)]);
    }
    units
}

fn target(instance: &Instance) -> Unit {
    let names = Names(&instance.name);
    let mut unit = inside(instance, "Ports of the host");
    for port in &instance.network.host_ports {
        unit = unit.set("Wants", Value::words([names.host_port_socket(*port)]));
    }
    Unit { name: names.host_ports(), sections: vec![unit] }
}

fn socket(instance: &Instance, port: u16) -> Unit {
    let names = Names(&instance.name);
    let socket = Section::new("Socket")
        .set("ListenStream", Value::words([format!("127.0.0.1:{port}")]))
        .set_why(
            "NetworkNamespacePath",
            Value::words([names.netns()]),
            "it listens inside, for this instance alone",
        )
        .set_why(
            "FlushPending",
            Value::Yes,
            "a client that waits while the start fails is refused, and does not start it again at once",
        )
        .extend(proxy::socket());
    let unit = inside(instance, "Socket for a port of the host");
    Unit { name: names.host_port_socket(port), sections: vec![unit, socket] }
}

fn proxy(instance: &Instance, facts: &HostFacts, port: u16) -> Unit {
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Port of the host", &instance.name))
        .set_why(
            "BindsTo",
            Value::words([names.net(), names.host_port_socket(port)]),
            "it holds the socket, and with it a namespace that would be gone",
        )
        .set("After", Value::words([names.net(), names.host_port_socket(port)]))
        .extend(ends_with_server(instance))
        .extend(proxy::comes_back());
    let to = format!("127.0.0.1:{port}");
    let service = proxy::service(facts, &[], &to)
        .set("TasksMax", Value::Number(16))
        .set(
            "SyslogIdentifier",
            Value::words([format!("opencode-hostport@{}-{port}", instance.name)]),
        )
        .extend(sandbox::own_user(&names.host_port(port)))
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_INET"),
            "readiness, and the one port of the host's network that it passes connections to",
        )
        .set("IPAddressDeny", Value::word("any"))
        .set_why(
            "IPAddressAllow",
            Value::word("127.0.0.1"),
            "both ends of what it passes on are loopback's: the namespace's and the host's",
        )
        .set("MemoryDenyWriteExecute", Value::Yes)
        .extend(sandbox::without_homes())
        .set_why("SystemCallFilter", Value::word("~bind listen"), sandbox::NO_PORT)
        .extend(sandbox::empty_root(instance, facts, Programs::Own))
        .extend(proxy::readiness())
        .extend(switch::helper(facts));
    Unit { name: names.host_port(port), sections: vec![unit, service] }
}
