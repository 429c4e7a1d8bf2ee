//! What NixOS's `switch-to-configuration` must find in the units, because there nobody else restarts
//! them. Elsewhere `apply` knows what a change asks for, and units say nothing of it.

use crate::facts::HostFacts;
use crate::plan::digest;
use crate::spec::Instance;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::{Names, TARGET, description, sandbox};

fn entry(directive: &'static str, value: Value, why: &'static str) -> Entry {
    Entry::new(directive, value).because(why)
}

/// How a switch treats a server that changed: a line of `[Service]`, for nowhere else is it read.
///
/// By itself it would stop the server, run the activation, let systemd read the new units and start
/// the server. A client that connects meanwhile starts the old one again, through socket and proxy,
/// and that one stays. A restart comes after the new units are read.
pub(crate) fn server(instance: &Instance, facts: &HostFacts) -> Option<Entry> {
    facts.nixos.as_ref().map(|_| {
        if instance.restart_on_switch {
            restarts()
        } else {
            let why = "restartOnSwitch is off: the agent goes on as it was started";
            entry("X-RestartIfChanged", Value::word("false"), why)
        }
    })
}

/// How a switch treats a namespace's unit that changed, with which its server goes.
pub(crate) fn namespace(instance: &Instance, facts: &HostFacts) -> Option<Entry> {
    facts.nixos.as_ref().map(|_| {
        if instance.restart_on_switch {
            restarts()
        } else {
            let why = "restartOnSwitch is off: the policy takes effect, and the agent goes on";
            entry("X-ReloadIfChanged", Value::word("true"), why)
        }
    })
}

/// How a switch treats the watcher of secrets that changed, with or without its server.
pub(crate) fn watcher(facts: &HostFacts) -> Option<Entry> {
    let why = "a stop would forget what the server was started with";
    facts.nixos.as_ref().map(|_| entry("X-StopIfChanged", Value::word("false"), why))
}

/// How a switch treats a helper of the namespace's that changed: it starts again, and nothing else does.
pub(crate) fn helper(facts: &HostFacts) -> Option<Entry> {
    facts.nixos.as_ref().map(|_| restarts())
}

/// How a switch treats a unit that works only while its server starts: not at all.
pub(crate) fn belongs_to_server(facts: &HostFacts) -> Option<Entry> {
    let why = "it starts with the server, which has the same lines";
    facts.nixos.as_ref().map(|_| entry("X-RestartIfChanged", Value::word("false"), why))
}

/// The line by which a helper starts again when the network that it read is another one.
pub(crate) fn rereads(facts: &HostFacts, network: &str) -> Option<Entry> {
    facts.nixos.as_ref().map(|_| {
        let digest = Value::words([digest(network.as_bytes())]);
        entry("X-Restart-Triggers", digest, "it reads the declared network when it starts")
    })
}

fn restarts() -> Entry {
    let why = "a client that connects between a stop and a start would start the old unit again";
    entry("X-StopIfChanged", Value::word("false"), why)
}

/// The line whose change alone is a reload.
pub(crate) const RELOADS: &str = "X-Reload-Triggers";

/// A namespace's unit whose policy is loaded anew without touching the agent, and whose own text is
/// compared whole: the parser of a switch ends a value at ` #` and ` ;`, which a path may have.
pub(crate) fn watches(mut unit: Unit, facts: &HostFacts, rules: &str) -> Unit {
    if facts.nixos.is_none() {
        return unit;
    }
    let own = digest(unit.render(facts.systemd).0.as_bytes());
    let triggers = [
        entry("X-Restart-Triggers", Value::words([own]), "a switch reads values up to ` #` only"),
        entry(
            RELOADS,
            Value::words([digest(rules.as_bytes())]),
            "a change of the rules alone reloads them, and makes or removes the link",
        ),
    ];
    if let Some(section) = unit.sections.iter_mut().find(|section| section.name == "Unit") {
        section.entries.extend(triggers);
    }
    unit
}

/// The lines by which a unit stops and starts with an anchor, and comes after it.
fn part_of(anchor: &str, why: &'static str, wants: bool, facts: &HostFacts) -> Vec<Entry> {
    if facts.nixos.is_none() {
        return Vec::new();
    }
    let line = |directive| Entry::new(directive, Value::words([anchor]));
    let mut lines = vec![line("PartOf").because(why)];
    lines.extend(wants.then(|| line("Wants")));
    lines.push(line("After"));
    lines
}

/// The lines by which a listener moves with the endpoint's unit.
pub(crate) fn follows(instance: &Instance, facts: &HostFacts) -> Vec<Entry> {
    let why = "it closes and opens the listener when the endpoint changed";
    part_of(&Names(&instance.name).endpoint(), why, true, facts)
}

/// The lines by which a proxy gives up the old listener.
pub(crate) fn leaves(instance: &Instance, facts: &HostFacts) -> Vec<Entry> {
    let why = "it holds the old listener open, and the new one opens only when it is gone";
    part_of(&Names(&instance.name).endpoint(), why, false, facts)
}

/// The lines by which a namespace restarts with the identity's unit, and its server with it.
pub(crate) fn belongs(instance: &Instance, facts: &HostFacts) -> Vec<Entry> {
    let why = "what is somebody else's by now is not held any longer";
    part_of(&Names(&instance.name).identity(), why, true, facts)
}

/// A service that does nothing but be active, and so restarts with its text.
fn anchor() -> Section {
    Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("RemainAfterExit", Value::Yes)
        .set_why("ExecStart", Value::command(["/bin/sh", "-c", ":"]), "it only has to be active")
        .set("PrivateNetwork", Value::Yes)
        .set("RestrictAddressFamilies", Value::word("none"))
        .extend(sandbox::no_network())
        .extend(sandbox::without_homes())
}

/// `opencode-identity@NAME.service`: restarts server and namespace at once when the server must not
/// go on as it is, whatever `restartOnSwitch` says.
pub(crate) fn identity(instance: &Instance, facts: &HostFacts) -> Option<Unit> {
    facts.nixos.as_ref()?;
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Identity", &instance.name))
        .set("PartOf", Value::word(TARGET))
        .set_why(
            "X-Restart-Triggers",
            Value::words([digest(instance.identity().as_bytes())]),
            "user, groups, directories, authentication, the Nix daemon, sockets: never put off",
        );
    let service = anchor().extend(Some(restarts()));
    Some(Unit { name: names.identity(), sections: vec![unit, service] })
}

/// `opencode-endpoint@NAME.service`: nothing but a unit that is active while the listener is open.
///
/// `switch-to-configuration` passes over a socket that changed. A service that is active it stops
/// and starts, and the socket with it.
pub(crate) fn endpoint(instance: &Instance, facts: &HostFacts, socket: &Unit) -> Option<Unit> {
    facts.nixos.as_ref()?;
    let names = Names(&instance.name);
    let (text, _) = socket.render(facts.systemd);
    let unit = Section::new("Unit")
        .set("Description", description("Endpoint", &instance.name))
        .set("PartOf", Value::word(TARGET))
        .set("Wants", Value::words([names.socket()]))
        .set_why(
            "DefaultDependencies",
            Value::word("no"),
            "they would put it after all sockets, its own included, and a boot drops one of the two",
        )
        .set("After", Value::word("sysinit.target"))
        .set("Conflicts", Value::word("shutdown.target"))
        .set("Before", Value::word("shutdown.target"))
        .set_why(
            "X-Restart-Triggers",
            Value::words([instance.listen.to_string(), digest(text.as_bytes())]),
            "a changed socket alone would keep its old address until the next boot",
        );
    Some(Unit { name: names.endpoint(), sections: vec![unit, anchor()] })
}
