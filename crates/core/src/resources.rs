//! What an instance may use of the host: its control group's limits and weights.
//!
//! Nothing here limits the address space: the server reserves some 74 GB of it at its start.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Serialize, Serializer};

use crate::unit::{Entry, Value};

/// What may be used. What is `None` is left to systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Memory, in bytes or as a part of the host's, that is never exceeded.
    pub memory_max: Amount,
    /// Memory above which everything is slowed down and its memory reclaimed.
    pub memory_high: Option<Amount>,
    /// Processor time, in percent of one core.
    pub cpu_quota: Option<Percent>,
    /// The share of processor time against other units where there is not enough.
    pub cpu_weight: Option<Weight>,
    /// Processes and threads together.
    pub tasks_max: u32,
    /// The share of disk time against other units where there is not enough.
    pub io_weight: Option<Weight>,
}

impl Resources {
    /// What an instance may use unless it says otherwise: half of the host's memory, so that one server
    /// that leaks does not take it all; more tasks than a parallel build has, fewer than a fork bomb.
    pub(crate) fn of_instance() -> Self {
        Self::limited(Amount::Part(50), 4096)
    }

    /// What all instances together may use unless it is said: what is left is the host's.
    pub(crate) fn of_fleet() -> Self {
        Self::limited(Amount::Part(80), 32_768)
    }

    fn limited(memory_max: Amount, tasks_max: u32) -> Self {
        Self {
            memory_max,
            memory_high: None,
            cpu_quota: None,
            cpu_weight: None,
            tasks_max,
            io_weight: None,
        }
    }

    /// The directives that say so.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let words = |value: &dyn fmt::Display| Value::words([value.to_string()]);
        let weight = |weight: Weight| Value::Number(weight.0.into());
        let entries = [
            ("MemoryMax", Some(words(&self.memory_max))),
            ("MemoryHigh", self.memory_high.map(|amount| words(&amount))),
            ("CPUQuota", self.cpu_quota.map(|percent| words(&percent))),
            ("CPUWeight", self.cpu_weight.map(weight)),
            ("TasksMax", Some(Value::Number(self.tasks_max.into()))),
            ("IOWeight", self.io_weight.map(weight)),
        ];
        entries.into_iter().filter_map(|(name, value)| Some(Entry::new(name, value?)))
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(NonZeroU64),
    /// A part of the host's, 1 to 100.
    Part(u8),
    /// No limit.
    Infinity,
}

impl Amount {
    /// Reads `512M`, `40%` or `infinity`, as systemd does: K, M, G and T are powers of 1024.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "infinity" {
            return Some(Self::Infinity);
        }
        if let Some(part) = text.strip_suffix('%') {
            let part = digits(part)?;
            return u8::try_from(part).ok().filter(|part| (1..=100).contains(part)).map(Self::Part);
        }
        let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
        let (number, shift) = units
            .into_iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
            .unwrap_or((text, 0));
        let bytes = digits(number)?.checked_mul(1 << shift)?;
        NonZeroU64::new(bytes).map(Self::Bytes)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => {
                let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
                let whole = units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift);
                let (shift, unit) = whole.unwrap_or((0, ""));
                write!(f, "{}{unit}", bytes.get() >> shift)
            }
            Self::Part(part) => write!(f, "{part}%"),
            Self::Infinity => f.write_str("infinity"),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Percent of one core; more than 100 are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u32);

impl Percent {
    /// Reads `150%`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = digits(text.strip_suffix('%')?)?;
        u32::try_from(number).ok().filter(|number| (1..=1_000_000).contains(number)).map(Self)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// 1 to 10,000; a unit that says nothing has 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Weight(u16);

impl Weight {
    /// Of a number in the range.
    pub fn new(number: i64) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| (1..=10_000).contains(number)).map(Self)
    }
}

/// A number in plain digits.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_systemd_reads_them() {
        for (text, again) in [
            ("4G", "4G"),
            ("4096M", "4G"),
            ("1536M", "1536M"),
            ("1000", "1000"),
            ("50%", "50%"),
            ("infinity", "infinity"),
        ] {
            assert_eq!(Amount::parse(text).map(|one| one.to_string()).as_deref(), Some(again));
        }
        for text in
            ["", "0", "0%", "101%", "4g", "4GB", "-1", "1.5G", "G", "%", "99999999T", " 4G", "é"]
        {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }

    #[test]
    fn percents_and_weights_have_bounds() {
        assert_eq!(Percent::parse("250%").map(|one| one.to_string()).as_deref(), Some("250%"));
        for text in ["250", "0%", "-1%", "%", "1e3%", "1000001%"] {
            assert_eq!(Percent::parse(text), None, "{text}");
        }
        let weights = [0, 1, 10_000, 10_001].map(|number| Weight::new(number).is_some());
        assert_eq!(weights, [false, true, true, false]);
    }
}
