//! The options of what an instance may use of the host.

use super::Judge;
use crate::diagnostic::{Code, Diagnostic};
use crate::raw::{Located, RawInstance};
use crate::resources::{Amount, Percent, Resources, Weight};
use crate::text::Refusal;

/// In bytes: a forgotten unit is far below.
const LEAST: u64 = 64 << 20;

impl Judge<'_> {
    /// The limits of an instance, or with the prefix `fleet.` those of all of them.
    pub(super) fn resources(
        &mut self,
        prefix: &str,
        raw: &RawInstance,
        default: &Resources,
    ) -> Resources {
        let some = |text: &str| amount(text).map(Some);
        let percent = |text: &str| percent(text).map(Some);
        let key = |name: &str| format!("{prefix}resources.{name}");
        let (max, high) = (raw.memory_max.as_ref(), raw.memory_high.as_ref());
        let tasks_max = self.number(&key("tasksMax"), raw.tasks_max.as_ref(), tasks);
        let resources = Resources {
            memory_max: self.text(&key("memoryMax"), max, default.memory_max, amount),
            memory_high: self.text(&key("memoryHigh"), high, None, some),
            cpu_quota: self.text(&key("cpuQuota"), raw.cpu_quota.as_ref(), None, percent),
            cpu_weight: self.number(&key("cpuWeight"), raw.cpu_weight.as_ref(), weight),
            tasks_max: tasks_max.unwrap_or(default.tasks_max),
            io_weight: self.number(&key("ioWeight"), raw.io_weight.as_ref(), weight),
        };
        self.never_slowed(prefix, high, &resources);
        resources
    }

    /// How many servers start at once.
    pub(super) fn max_concurrent_starts(&mut self, typed: Option<&Located<i64>>) -> Option<u32> {
        self.number("fleet.maxConcurrentStarts", typed, starts)
    }

    /// From which pressure on idle servers end early, in percent.
    pub(super) fn memory_pressure(&mut self, typed: Option<&Located<String>>) -> Option<u8> {
        self.text("fleet.memoryPressure", typed, None, |text| share(text).map(Some))
    }

    /// The quota of the state directory.
    pub(super) fn disk_quota(&mut self, raw: &RawInstance) -> Option<Amount> {
        self.text("resources.diskQuota", raw.disk_quota.as_ref(), None, |text| size(text).map(Some))
    }

    pub(super) fn number<T>(
        &mut self,
        option: &str,
        typed: Option<&Located<i64>>,
        new: impl FnOnce(i64) -> Result<T, Refusal>,
    ) -> Option<T> {
        let typed = typed?;
        self.take(&typed.at, &format!("`{option}` {}", typed.value), new(typed.value))
    }

    /// A slowing that begins where nothing more is given does nothing.
    fn never_slowed(
        &mut self,
        prefix: &str,
        typed: Option<&Located<String>>,
        resources: &Resources,
    ) {
        let reached = match (resources.memory_high, resources.memory_max) {
            (Some(Amount::Bytes(high)), Amount::Bytes(max)) => high < max,
            (Some(Amount::Part(high)), Amount::Part(max)) => high < max,
            _ => true,
        };
        let Some(typed) = typed.filter(|_| !reached) else { return };
        self.refuse(Diagnostic::new(
            Code::BadLimit,
            &typed.at,
            format!("`{prefix}resources.memoryHigh` {:?} is never reached", typed.value),
            format!("`{prefix}resources.memoryMax` is {}", resources.memory_max),
            format!("write less than that, or more for `{prefix}resources.memoryMax`"),
        ));
    }
}

fn refusal(reason: &str, help: &str) -> Refusal {
    Refusal { code: Code::BadLimit, reason: reason.to_owned(), help: help.to_owned() }
}

fn amount(text: &str) -> Result<Amount, Refusal> {
    let help = "write `\"4G\"`, `\"50%\"` or `\"infinity\"`";
    match Amount::parse(text) {
        Some(Amount::Bytes(bytes)) if bytes.get() < LEAST => {
            Err(refusal("no server starts with less than 64M", help))
        }
        Some(amount) => Ok(amount),
        None => {
            let reason = "memory is bytes with K, M, G or T behind them, a part of the host's, or `infinity`";
            Err(refusal(reason, help))
        }
    }
}

fn size(text: &str) -> Result<Amount, Refusal> {
    let bytes = |amount: &Amount| matches!(amount, Amount::Bytes(bytes) if bytes.get() >= LEAST);
    Amount::parse(text).filter(bytes).ok_or_else(|| {
        refusal(
            "disk space is bytes with K, M, G or T behind them, 64M at least",
            "write `\"20G\"`, or leave it out for no limit",
        )
    })
}

fn percent(text: &str) -> Result<Percent, Refusal> {
    Percent::parse(text).ok_or_else(|| {
        refusal("processor time is percent of one core", "write `\"150%\"` for one and a half")
    })
}

fn weight(number: i64) -> Result<Weight, Refusal> {
    Weight::new(number).ok_or_else(|| {
        refusal("a weight is 1 to 10000, and that of other units 100", "write `100`")
    })
}

fn starts(number: i64) -> Result<u32, Refusal> {
    let number = u32::try_from(number).ok().filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| {
        refusal(
            "it is 1 to 1000 servers",
            "write `4`, or leave it out: it is then the number of the host's processors",
        )
    })
}

fn share(text: &str) -> Result<u8, Refusal> {
    let digits =
        text.strip_suffix('%').filter(|digits| digits.bytes().all(|one| one.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.filter(|number| (1..=99).contains(number)).ok_or_else(|| {
        refusal("it is percent of the time, from 1% to 99%", "write `\"10%\"`, or leave it out")
    })
}

/// The supervisor, the server and its threads are some thirty already.
fn tasks(number: i64) -> Result<u32, Refusal> {
    let number = u32::try_from(number).ok().filter(|number| (64..=4_194_304).contains(number));
    number.ok_or_else(|| {
        refusal("the server alone needs 64, and no kernel has more than 4194304", "write `4096`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::read;
    use crate::node::Format;

    #[test]
    fn how_many_start_at_once() {
        let of =
            |text: &str| read(&format!("[fleet]\nmaxConcurrentStarts = {text}\n"), Format::Toml);
        assert_eq!(of("8").unwrap().0.fleet.max_concurrent_starts, Some(8));
        for wrong in ["0", "-1", "1001"] {
            let found = of(wrong).unwrap_err();
            assert_eq!(found.iter().map(|one| one.code).collect::<Vec<_>>(), [Code::BadLimit]);
        }
        assert_eq!(of("\"8\"").unwrap_err()[0].code, Code::WrongType);
    }

    #[test]
    fn from_which_pressure_on() {
        let of = |text: &str| read(&format!("[fleet]\nmemoryPressure = {text}\n"), Format::Toml);
        assert_eq!(of("\"10%\"").unwrap().0.fleet.memory_pressure, Some(10));
        for wrong in ["\"0%\"", "\"100%\"", "\"+5%\"", "\"10\"", "\"%\"", "\"\""] {
            let found = of(wrong).unwrap_err();
            let codes: Vec<_> = found.iter().map(|one| one.code).collect();
            assert_eq!(codes, [Code::BadLimit], "{wrong}");
        }
        assert_eq!(of("10").unwrap_err()[0].code, Code::WrongType);
    }
}
