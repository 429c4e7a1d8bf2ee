//! What both proxies share: the one from the host into a namespace (`listen`), and the one out of it to a
//! port of the host (`hostport`).

use crate::facts::HostFacts;
use crate::unit::{Entry, Section, Value};

/// A failing start is the client's to see, and nothing that ends the port.
pub(super) const STAYS_OPEN: &str = "a failing start must not close the port for good";

fn why(directive: &'static str, value: Value, reason: &'static str) -> Entry {
    Entry::new(directive, value).because(reason)
}

/// Of the socket in front of a proxy.
pub(super) fn socket() -> [Entry; 3] {
    [
        why("TriggerLimitIntervalSec", Value::Number(0), STAYS_OPEN),
        Entry::new("Backlog", Value::Number(4096)),
        Entry::new("NoDelay", Value::Yes),
    ]
}

/// Of a proxy's `[Unit]`.
pub(super) fn comes_back() -> [Entry; 1] {
    [why("StartLimitIntervalSec", Value::Number(0), STAYS_OPEN)]
}

/// The beginning of a proxy's service: it passes connections on to this address.
pub(super) fn service(facts: &HostFacts, options: &[&str], to: &str) -> Section {
    let argv = [facts.engine.as_str(), "proxy"].into_iter().chain(options.iter().copied());
    Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("ExecStart", Value::command(argv.chain([to])))
        .set_why(
            "LimitNOFILE",
            Value::Number(2210),
            "1024 connections of two descriptors, and what the proxy itself needs; who comes then waits",
        )
}

/// How it says that it is ready.
pub(super) fn readiness() -> [Entry; 1] {
    [why(
        "BindReadOnlyPaths",
        Value::bind("/run/systemd/notify"),
        "readiness; systemd takes messages from the proxy's main process alone",
    )]
}
