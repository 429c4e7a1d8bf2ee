//! `status --metrics`. What a server says of itself, such as its version, is no label: an agent could make
//! ever new ones.

use instances_core::openmetrics::{Family, Kind, Text};
use instances_sys::status::State;

use super::Seen;

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Family {
    Family { name, unit, kind: Kind::Gauge, help }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Family {
    Family { name, unit, kind: Kind::Counter, help }
}

const STATE: Family =
    gauge("opencode_instance_state", "", "Whether the instance is in the state of the label.");
const SESSIONS: Family = gauge(
    "opencode_instance_sessions",
    "",
    "Sessions of the server that work (busy) and that do not (idle), of the 100 touched last.",
);

/// One number of an instance.
type Number = (Family, fn(&Seen) -> Option<u64>);

const NUMBERS: &[Number] = &[
    (
        gauge("opencode_instance_healthy", "", "Whether the server answered, where it was asked."),
        |seen| seen.status.healthy.map(u64::from),
    ),
    (gauge("opencode_instance_listening", "", "Whether the listener is open."), |seen| {
        Some(u64::from(seen.status.listening))
    }),
    (
        gauge("opencode_instance_uptime_seconds", "seconds", "For how long the server has run."),
        |seen| seen.status.uptime,
    ),
    (
        gauge("opencode_instance_memory_bytes", "bytes", "Memory of all units of the instance."),
        |seen| seen.status.usage.memory,
    ),
    (
        gauge(
            "opencode_instance_memory_peak_bytes",
            "bytes",
            "The most memory of each unit of the instance since it started, added up.",
        ),
        |seen| seen.status.usage.memory_peak,
    ),
    (
        gauge("opencode_instance_tasks", "", "Processes and threads of all units of the instance."),
        |seen| seen.status.usage.tasks,
    ),
    (
        counter("opencode_instance_restarts", "", "Restarts since somebody started the server."),
        |seen| Some(u64::from(seen.status.restarts)),
    ),
    (
        gauge(
            "opencode_instance_pending_restart",
            "",
            "Whether the server runs as it was declared before.",
        ),
        |seen| Some(u64::from(seen.status.pending_restart)),
    ),
    (
        gauge(
            "opencode_instance_refused_destinations",
            "",
            "Destinations and names that the instance was kept from in the last hour, at most 1000.",
        ),
        |seen| seen.refused_last_hour.and_then(|refused| refused.destinations.try_into().ok()),
    ),
    (
        gauge(
            "opencode_instance_refused_packets",
            "",
            "Packets and questions for names that were refused in the last hour.",
        ),
        |seen| seen.refused_last_hour.map(|refused| refused.packets),
    ),
];

const CPU: Family = counter(
    "opencode_instance_cpu_seconds",
    "seconds",
    "Processor time of the units of the instance that are up.",
);

const STATES: [(State, &str); 7] = [
    (State::Running, "running"),
    (State::Starting, "starting"),
    (State::Stopping, "stopping"),
    (State::Restarting, "restarting"),
    (State::Failed, "failed"),
    (State::Stopped, "stopped"),
    (State::Idle, "idle"),
];

pub(super) fn text(all: &[Seen]) -> String {
    let mut text = Text::default();
    text.family(STATE);
    for seen in all {
        for (state, word) in STATES {
            let value = if seen.status.state == state { "1" } else { "0" };
            text.sample(STATE, &[("instance", &seen.status.name), ("state", word)], value);
        }
    }
    for (family, number) in NUMBERS {
        text.family(*family);
        for (seen, number) in all.iter().filter_map(|seen| Some((seen, number(seen)?))) {
            text.sample(*family, &[("instance", &seen.status.name)], &number.to_string());
        }
    }
    text.family(CPU);
    for (seen, time) in
        all.iter().filter_map(|seen| Some((seen, seen.status.usage.cpu_nanoseconds?)))
    {
        text.sample(CPU, &[("instance", &seen.status.name)], &seconds(time));
    }
    text.family(SESSIONS);
    for (seen, sessions) in all.iter().filter_map(|seen| Some((seen, seen.status.sessions?))) {
        for (word, count) in [("busy", sessions.busy), ("idle", sessions.idle)] {
            let labels = [("instance", seen.status.name.as_str()), ("state", word)];
            text.sample(SESSIONS, &labels, &count.to_string());
        }
    }
    text.end()
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:03}", nanoseconds / 1_000_000_000, nanoseconds / 1_000_000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{failed, seen};
    use super::*;
    use instances_lab::openmetrics;

    #[test]
    fn the_text_is_openmetrics() {
        let all = text(&[failed("billing", "x"), seen("web")]);
        let read = openmetrics::read(&all).unwrap();
        let value = |name: &str, labels: &[(&str, &str)]| read.value(name, labels);
        let web = &[("instance", "web")];
        assert_eq!(value("opencode_instance_cpu_seconds_total", web), Some(75.5));
        assert_eq!(value("opencode_instance_uptime_seconds", web), Some(90_061.0));
        assert_eq!(value("opencode_instance_memory_bytes", web), Some(432_013_312.0));
        assert_eq!(value("opencode_instance_refused_packets", web), Some(17.0));
        let busy = [("instance", "web"), ("state", "busy")];
        assert_eq!(value("opencode_instance_sessions", &busy), Some(1.0));
        let failed = [("instance", "billing"), ("state", "failed")];
        assert_eq!(value("opencode_instance_state", &failed), Some(1.0));
        let unknown = &[("instance", "billing")];
        assert_eq!(value("opencode_instance_healthy", unknown), None);
        // Without an instance too.
        openmetrics::read(&text(&[])).unwrap();
    }

    #[test]
    fn a_server_adds_no_series() {
        let mut one = seen("web");
        let before = text(std::slice::from_ref(&one));
        one.status.version = Some("other".to_owned());
        one.status.reason = "other".to_owned();
        assert_eq!(text(&[one]), before);
    }
}
