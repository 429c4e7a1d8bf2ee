//! `OpenMetrics` text, as far as Prometheus's older text format agrees with it: `node_exporter` reads only that.
//!
//! So there are gauges and counters and no other types, and a state is a label of a gauge.

use std::fmt::Write as _;

/// What a family of metrics measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that rises and falls.
    Gauge,
    /// A value that only rises until it starts from 0 again.
    Counter,
}

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, with the unit at the end; a counter's without `_total`.
    pub name: &'static str,
    /// The unit, or nothing.
    pub unit: &'static str,
    /// What it measures.
    pub kind: Kind,
    /// What it says, in one line.
    pub help: &'static str,
}

/// Labels with their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text that grows by families.
#[derive(Clone, Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family: what is added then is of it.
    pub fn family(&mut self, family: Family) {
        let Family { name, unit, kind, help } = family;
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {}", escaped(help));
    }

    /// Adds a value to a family.
    pub fn sample(&mut self, family: Family, labels: Labels<'_>, value: &str) {
        let suffix = if family.kind == Kind::Counter { "_total" } else { "" };
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(self.0, "{}{suffix}{{{}}} {value}", family.name, labels.join(","));
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// A text within quotes, or a line.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_within_their_quotes() {
        let family =
            Family { name: "a_seconds", unit: "seconds", kind: Kind::Counter, help: "What it is." };
        let mut text = Text::default();
        text.family(family);
        text.sample(family, &[("name", "a\"} 1\nb\\")], "1.5");
        assert_eq!(
            text.end(),
            "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds What it is.\n\
             a_seconds_total{name=\"a\\\"} 1\\nb\\\\\"} 1.5\n# EOF\n"
        );
    }
}
