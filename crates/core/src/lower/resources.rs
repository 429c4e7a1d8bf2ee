//! The options of what an instance may use of the host.

use super::Judge;
use crate::diagnostic::{Code, Diagnostic};
use crate::raw::{Located, RawInstance};
use crate::resources::{Amount, Percent, Resources, Weight};
use crate::text::Refusal;

/// Half of the host's memory: one server that leaks does not take it all.
const MEMORY_MAX: Amount = Amount::Part(50);
/// More than a parallel build has, fewer than a fork bomb.
const TASKS_MAX: u32 = 4096;

/// In bytes: a forgotten unit is far below.
const LEAST: u64 = 64 << 20;

impl Judge<'_> {
    pub(super) fn resources(&mut self, raw: &RawInstance) -> Resources {
        let some = |text: &str| amount(text).map(Some);
        let percent = |text: &str| percent(text).map(Some);
        let (max, high) = (raw.memory_max.as_ref(), raw.memory_high.as_ref());
        let tasks_max = self.number("resources.tasksMax", raw.tasks_max.as_ref(), tasks);
        let resources = Resources {
            memory_max: self.text("resources.memoryMax", max, MEMORY_MAX, amount),
            memory_high: self.text("resources.memoryHigh", high, None, some),
            cpu_quota: self.text("resources.cpuQuota", raw.cpu_quota.as_ref(), None, percent),
            cpu_weight: self.number("resources.cpuWeight", raw.cpu_weight.as_ref(), weight),
            tasks_max: tasks_max.unwrap_or(TASKS_MAX),
            io_weight: self.number("resources.ioWeight", raw.io_weight.as_ref(), weight),
        };
        self.never_slowed(high, &resources);
        resources
    }

    fn number<T>(
        &mut self,
        option: &str,
        typed: Option<&Located<i64>>,
        new: impl FnOnce(i64) -> Result<T, Refusal>,
    ) -> Option<T> {
        let typed = typed?;
        self.take(&typed.at, &format!("`{option}` {}", typed.value), new(typed.value))
    }

    /// A slowing that begins where nothing more is given does nothing.
    fn never_slowed(&mut self, typed: Option<&Located<String>>, resources: &Resources) {
        let reached = match (resources.memory_high, resources.memory_max) {
            (Some(Amount::Bytes(high)), Amount::Bytes(max)) => high < max,
            (Some(Amount::Part(high)), Amount::Part(max)) => high < max,
            _ => true,
        };
        let Some(typed) = typed.filter(|_| !reached) else { return };
        self.refuse(Diagnostic::new(
            Code::BadLimit,
            &typed.at,
            format!("`resources.memoryHigh` {:?} is never reached", typed.value),
            format!("`resources.memoryMax` is {}", resources.memory_max),
            "write less than that, or more for `resources.memoryMax`",
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

/// The supervisor, the server and its threads are some thirty already.
fn tasks(number: i64) -> Result<u32, Refusal> {
    let number = u32::try_from(number).ok().filter(|number| (64..=4_194_304).contains(number));
    number.ok_or_else(|| {
        refusal("the server alone needs 64, and no kernel has more than 4194304", "write `4096`")
    })
}
