//! What an operator asks of instances on demand. The servers are light stand-ins.

use instances_lab::{Machine, stand_in, unavailable};

use crate::keeping;
use crate::view::{active, becomes_idle, code, instance, property, sh, status};

/// A server with a child of its own.
const PARENT: &str = "#!/bin/sh\nsleep 1007 &\nexec /usr/local/bin/stand-in \"$@\"\n";

#[test]
fn an_operator_starts_and_stops_them() {
    if unavailable() {
        return;
    }
    let more = |more: &str| format!("network.outbound.policy = \"none\"\n{more}");
    let spec = [
        stand_in::DEFAULTS.to_owned(),
        instance("web", 4101, 4, &more("")),
        instance("alone", 4102, 4, &more("idleChildren = false")),
        instance("parent", 4103, 4, &more("package = \"/usr/local/bin/parent\"")),
        instance("later", 4104, 4, &more("autoStart = false")),
    ];
    let projects = ["/srv/web", "/srv/alone", "/srv/parent", "/srv/later"];
    let machine = stand_in::boot("demand-asking", &spec.concat(), &projects).unwrap();
    machine.put("/usr/local/bin/parent", PARENT, 0o755).unwrap();
    sh(&machine, "opencode-instances apply");
    one_is_started(&machine);
    one_does_not_listen_by_itself(&machine);
    keeping::who_was_left_ends(&machine);
    keeping::children_of_the_server_do_not_count(&machine);
}

fn one_is_started(machine: &Machine) {
    becomes_idle(machine, "web");
    sh(machine, "opencode-instances start web");
    assert!(active(machine, "web"));
    becomes_idle(machine, "web");
    sh(machine, "opencode-instances stop web");
    assert_eq!(code(machine, 4101), "");
    let found = status(machine, "web");
    assert_eq!(
        (&found["state"], &found["listening"]),
        (&"stopped".into(), &false.into()),
        "{found}"
    );
    sh(machine, "opencode-instances start web");
    assert!(active(machine, "web"));
    assert_eq!(code(machine, 4101), "200");
    becomes_idle(machine, "web");
}

fn one_does_not_listen_by_itself(machine: &Machine) {
    let socket = "opencode-listen@later.socket";
    assert_eq!(property(machine, socket, "ActiveState"), "inactive");
    assert_eq!(code(machine, 4104), "");
    sh(machine, "opencode-instances start later");
    assert!(active(machine, "later"));
    becomes_idle(machine, "later");
    assert_eq!(code(machine, 4104), "200");
    becomes_idle(machine, "later");
}
