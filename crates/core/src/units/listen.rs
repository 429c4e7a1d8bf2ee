//! `opencode-listen@NAME`: the host's socket, and the proxy from it into the namespace.
//!
//! No socket of the host's namespace may ever sit in a process with the instance's user: a passed
//! listening socket can be disconnected and connected again to the host's own loopback. So the
//! proxy has a user of its own. It has no `PrivatePIDs=`: systemd 257 then announces the socket with
//! a process number from outside the namespace, and the proxy says that it got none.

use crate::attend::socket_name;
use crate::facts::HostFacts;
use crate::layout::SERVER_PORT;
use crate::spec::Instance;
use crate::unit::{Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{Names, TARGET, description, proxy, switch};

pub(super) fn socket(instance: &Instance, facts: &HostFacts) -> Unit {
    let unit = Section::new("Unit")
        .set("Description", description("Listener", &instance.name))
        .set("PartOf", Value::word(TARGET))
        .extend(switch::follows(instance, facts));
    let mut socket = Section::new("Socket")
        .set("ListenStream", Value::words([instance.listen.to_string()]))
        .extend(proxy::socket());
    let ip = instance.listen.ip();
    if !ip.is_loopback() && !ip.is_unspecified() {
        socket = socket.set_why("FreeBind", Value::Yes, "the address may come later than the boot");
    }
    Unit { name: Names(&instance.name).socket(), sections: vec![unit, socket] }
}

pub(super) fn proxy(instance: &Instance, facts: &HostFacts) -> Unit {
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Proxy", &instance.name))
        .set("Wants", Value::words([names.net()]))
        .set("After", Value::words([names.net()]))
        .set_why(
            "Wants",
            Value::words([names.main()]),
            "a client starts the server, also while it ends; meanwhile the proxy holds it",
        )
        .set_why(
            "PartOf",
            Value::words([names.main(), names.net()]),
            "who stops the server stops its clients",
        )
        .set_why(
            "Wants",
            Value::words([names.refusal()]),
            "it tells the proxy why the server does not come",
        )
        .extend(switch::leaves(instance, facts))
        .extend(proxy::comes_back());
    let target = format!("127.0.0.1:{SERVER_PORT}");
    let (name, supervisor) = (instance.name.as_str(), socket_name(&instance.name));
    let failure = names.failure();
    let asks = ["--instance", name, "--supervisor", &supervisor, "--failure", &failure];
    let service = proxy::service(facts, &asks, &target)
        .set_why(
            "Restart",
            Value::word("on-failure"),
            "with the next line: without its namespace it fails, and clients wait until there is one",
        )
        .set("RestartSec", Value::Number(2))
        .set("SyslogIdentifier", Value::words([format!("opencode-listen@{}", instance.name)]))
        .extend(sandbox::own_user(&names.proxy()))
        .extend(sandbox::namespace(names))
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_INET AF_INET6"),
            "it passes connections on, inside a namespace whose rules decide how far it reaches",
        )
        .set("MemoryDenyWriteExecute", Value::Yes)
        .extend(sandbox::without_homes())
        .extend(sandbox::empty_root(instance, facts, Programs::Own))
        .extend(proxy::readiness())
        .set_why(
            "BindReadOnlyPaths",
            Value::bind(&names.failures()),
            "why a start failed, for the clients that waited for it",
        );
    Unit { name: names.proxy(), sections: vec![unit, service] }
}
