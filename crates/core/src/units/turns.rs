//! `opencode-host@turns`: lets as many servers start at once as the host bears.
//!
//! systemd connects each supervisor to it (`OpenFile=`): no path leads there from a sandbox, and no
//! process comes into being for a start. Without it servers start at once, all of them. With
//! `fleet.memoryPressure` it also asks idle ones to end.

use crate::facts::HostFacts;
use crate::spec::Fleet;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::{TARGET, TURNS, TURNS_SOCKET, sandbox, switch};

/// Where it listens. No instance can have this name.
const PATH: &str = "/run/opencode-instances/.turns";
/// How a supervisor knows its connection.
pub const NAME: &str = "turn";
/// How the service knows the kernel's file.
pub const PRESSURE: &str = "pressure";

pub(super) fn socket() -> Unit {
    let unit = Section::new("Unit")
        .set("Description", Value::word("Turns of opencode servers that start"))
        .set("PartOf", Value::word(TARGET));
    let socket = Section::new("Socket")
        .set("ListenStream", Value::word(PATH))
        .set_why("SocketMode", Value::word("0600"), "systemd itself connects the supervisors")
        .set("Backlog", Value::Number(4096))
        .set_why("TriggerLimitIntervalSec", Value::Number(0), "many servers may start in a row")
        .set("RemoveOnStop", Value::Yes);
    Unit { name: TURNS_SOCKET.to_owned(), sections: vec![unit, socket] }
}

pub(super) fn service(fleet: &Fleet, facts: &HostFacts) -> Unit {
    let unit = Section::new("Unit")
        .set("Description", Value::word("Turns of opencode servers that start"))
        .set("Requires", Value::word(TURNS_SOCKET))
        .set("After", Value::word(TURNS_SOCKET))
        .set("PartOf", Value::word(TARGET))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(30),
            "with the next line: one that cannot run closes its socket, and servers start at once",
        )
        .set("StartLimitBurst", Value::Number(5));
    let max = fleet.max_concurrent_starts.map(|max| max.to_string());
    let mut argv = vec![facts.engine.as_str(), "turns"];
    argv.extend(max.iter().flat_map(|max| ["--max", max]));
    // An older systemd cannot open the file, nor connect anybody who could be asked.
    let pressure = fleet.memory_pressure.filter(|_| facts.systemd >= 253);
    let pressure = pressure.map(|pressure| pressure.to_string());
    argv.extend(pressure.iter().flat_map(|pressure| ["--pressure", pressure]));
    let service = Section::new("Service")
        .set("ExecStart", Value::command(argv))
        .set("Restart", Value::word("always"))
        .set("RestartSec", Value::Number(1))
        .set("SyslogIdentifier", Value::word("opencode-host@turns"))
        .set_why("LimitNOFILE", Value::Number(8192), "one for each server that waits")
        .extend(pressure.map(|_| watched()))
        .extend(sandbox::own_user(TURNS))
        .set("PrivateNetwork", Value::Yes)
        .set("RestrictAddressFamilies", Value::word("AF_UNIX"))
        .extend(sandbox::no_network())
        .set("MemoryMax", Value::word("32M"))
        .set("TasksMax", Value::Number(8))
        .extend(sandbox::without_homes())
        .extend(switch::helper(facts));
    Unit { name: TURNS.to_owned(), sections: vec![unit, service] }
}

/// The kernel's file, which systemd opens: it is not seen in here, and older kernels let nobody without
/// `CAP_SYS_RESOURCE` watch it.
fn watched() -> Entry {
    Entry {
        since: 253,
        why: Some("fleet.memoryPressure: the kernel says when the host is short of memory"),
        ..Entry::new(
            "OpenFile",
            Value::words([format!("/proc/pressure/memory:{PRESSURE}:graceful")]),
        )
    }
}

/// Of the server's `[Unit]`.
pub(super) fn before() -> [Entry; 2] {
    let line = |directive| Entry { since: 253, ..Entry::new(directive, Value::word(TURNS_SOCKET)) };
    [line("Wants").because("fleet.maxConcurrentStarts: servers start in turn"), line("After")]
}

/// The supervisor's connection. An older systemd cannot pass one, and servers start at once there.
pub(super) fn connection() -> Entry {
    Entry {
        since: 253,
        why: Some("its turn to start; without that it starts at once"),
        ..Entry::new("OpenFile", Value::words([format!("{PATH}:{NAME}:graceful")]))
    }
}
