//! What systemd counts of an instance's units.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::systemctl::Properties;

/// What all units of an instance together use. `None` where nothing is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The most memory of each unit since it started, added up: no more than this was used at a time. systemd
    /// tells it from version 255 on.
    pub memory_peak: Option<u64>,
    /// Processor time since the units started, in nanoseconds.
    pub cpu_nanoseconds: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// Of those units that are up: systemd remembers what one that is down had.
pub(super) fn of(units: &[Properties]) -> Usage {
    let up = |unit: &&Properties| {
        let state = unit.get("ActiveState").map(String::as_str);
        !matches!(state, None | Some("inactive" | "failed"))
    };
    let sum = |name| {
        units.iter().filter(up).filter_map(|unit| number(unit, name)).reduce(u64::saturating_add)
    };
    Usage {
        memory: sum("MemoryCurrent"),
        memory_peak: sum("MemoryPeak"),
        cpu_nanoseconds: sum("CPUUsageNSec"),
        tasks: sum("TasksCurrent"),
    }
}

/// A number; systemd says `[not set]`, or the largest one, where it does not count.
pub(super) fn number(unit: &Properties, name: &str) -> Option<u64> {
    unit.get(name)?.parse().ok().filter(|number| *number != u64::MAX)
}

/// Microseconds of the clock that systemd's monotonic times are of.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// For how many seconds a unit has been active.
pub(super) fn since(unit: &Properties, now: u64) -> Option<u64> {
    let entered = number(unit, "ActiveEnterTimestampMonotonic").filter(|at| *at != 0)?;
    Some(now.saturating_sub(entered) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_counted_is_added_up() {
        let units = [
            unit(&[("ActiveState", "active"), ("MemoryCurrent", "5"), ("CPUUsageNSec", "7")]),
            unit(&[("ActiveState", "activating"), ("MemoryCurrent", "6"), ("TasksCurrent", "2")]),
            unit(&[("ActiveState", "active"), ("MemoryCurrent", "[not set]")]),
            unit(&[("ActiveState", "active"), ("MemoryCurrent", "18446744073709551615")]),
            // What it had when it was up.
            unit(&[("ActiveState", "inactive"), ("MemoryCurrent", "100"), ("CPUUsageNSec", "100")]),
        ];
        let expected =
            Usage { memory: Some(11), memory_peak: None, cpu_nanoseconds: Some(7), tasks: Some(2) };
        assert_eq!(of(&units), expected);
        assert_eq!(of(&[]), Usage::default());
    }

    #[test]
    fn a_unit_that_was_never_active_has_no_time() {
        let at = |at| since(&unit(&[("ActiveEnterTimestampMonotonic", at)]), 5_000_000);
        assert_eq!((at("0"), at("2000001"), at("9000000")), (None, Some(2), Some(0)));
    }
}
