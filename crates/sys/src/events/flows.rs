//! Many refused packets become few records, however many come and wherever they should have gone.

use std::collections::HashMap;
use std::time::Duration;

use super::packet::Flow;

/// How long packets of a flow are gathered into one record.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// How many flows are told apart at a time; the others are counted together.
pub const MAX_FLOWS: usize = 256;
/// How many records of flows are written at once, and then
pub const BURST: u32 = 20;
/// how many in a second: a year of attacks must not push everything else out of the journal.
pub const PER_SECOND: u32 = 4;
/// How long a record waits that was one too many.
const AGAIN: Duration = Duration::from_secs(1);

/// A time as this process counts it, and as the journal does, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    pub(super) elapsed: Duration,
    pub(super) wall: u64,
}

/// How many packets came, when the first did and when the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Count {
    fn one(at: Moment) -> Self {
        Self { packets: 1, first: at.wall, last: at.wall }
    }

    fn add(count: &mut Option<Self>, at: Moment) {
        match count {
            Some(count) => {
                count.packets = count.packets.saturating_add(1);
                count.last = at.wall;
            }
            None => *count = Some(Self::one(at)),
        }
    }
}

/// What is to be written: packets of one flow, or of those that were not told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) flow: Option<Flow>,
    pub(super) count: Count,
}

/// Packets that were not written yet, and when they are.
#[derive(Debug)]
struct Waiting {
    count: Option<Count>,
    due: Duration,
}

/// The flows of the last interval.
#[derive(Debug)]
pub(super) struct Flows {
    known: HashMap<Flow, Waiting>,
    others: Waiting,
    permits: Permits,
}

impl Flows {
    pub(super) fn new() -> Self {
        let others = Waiting { count: None, due: Duration::ZERO };
        Self { known: HashMap::new(), others, permits: Permits::new() }
    }

    /// Counts a packet; what comes back is to be written at once. `None` is a packet of no flow.
    pub(super) fn count(&mut self, flow: Option<Flow>, at: Moment) -> Option<Record> {
        let room = self.known.len() < MAX_FLOWS;
        if let Some(key) = flow {
            if let Some(waiting) = self.known.get_mut(&key) {
                Count::add(&mut waiting.count, at);
                return None;
            }
            if room {
                let now = self.permits.take(at.elapsed);
                let count = if now { None } else { Some(Count::one(at)) };
                self.known.insert(key, Waiting { count, due: at.elapsed + INTERVAL });
                return now.then(|| Record { flow, count: Count::one(at) });
            }
        }
        if self.others.count.is_none() {
            self.others.due = self.others.due.max(at.elapsed + AGAIN);
        }
        Count::add(&mut self.others.count, at);
        None
    }

    /// What is to be written by now. A flow of which nothing came for an interval is forgotten.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Record> {
        let mut records = Vec::new();
        let permits = &mut self.permits;
        self.known.retain(|flow, waiting| {
            if waiting.due > now {
                return true;
            }
            let Some(count) = waiting.count else { return false };
            if permits.take(now) {
                records.push(Record { flow: Some(*flow), count });
                *waiting = Waiting { count: None, due: now + INTERVAL };
            } else {
                waiting.due = now + AGAIN;
            }
            true
        });
        if self.others.due <= now
            && let Some(count) = self.others.count.take()
        {
            records.push(Record { flow: None, count });
            self.others.due = now + INTERVAL;
        }
        records
    }

    /// When [`due`](Self::due) has something to do.
    pub(super) fn next(&self) -> Option<Duration> {
        let others = self.others.count.map(|_| self.others.due);
        self.known.values().map(|waiting| waiting.due).chain(others).min()
    }

    /// Everything that is left, at the end.
    pub(super) fn rest(&mut self) -> Vec<Record> {
        let flows = self.known.drain().filter_map(|(flow, waiting)| {
            waiting.count.map(|count| Record { flow: Some(flow), count })
        });
        let others = self.others.count.take().map(|count| Record { flow: None, count });
        flows.chain(others).collect()
    }
}

/// A bucket of permits: [`BURST`] of them, [`PER_SECOND`] new ones.
#[derive(Debug)]
struct Permits {
    left: f64,
    seen: Duration,
}

impl Permits {
    fn new() -> Self {
        Self { left: f64::from(BURST), seen: Duration::ZERO }
    }

    fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.seen).as_secs_f64();
        self.seen = self.seen.max(now);
        self.left = (self.left + passed * f64::from(PER_SECOND)).min(f64::from(BURST));
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

/// What could not be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Packets that the kernel logged and that are in no record.
    pub(super) packets: u64,
    /// How often the kernel said that the buffer is full.
    pub(super) overruns: u64,
    /// Records that the journal did not take.
    pub(super) records: u64,
}

/// Losses since they were written last.
#[derive(Debug, Default)]
pub(super) struct Losses {
    lost: Lost,
    due: Duration,
    /// The number of the next packet, which the kernel counts from zero.
    expected: u32,
}

impl Losses {
    /// Counts the packets between the last number and this one.
    pub(super) fn number(&mut self, number: u32) {
        let gap = number.wrapping_sub(self.expected);
        // More than half of all numbers ahead is one from before: nothing was lost.
        if gap < u32::MAX / 2 {
            self.lost.packets = self.lost.packets.saturating_add(u64::from(gap));
            self.expected = number.wrapping_add(1);
        }
    }

    pub(super) fn overrun(&mut self) {
        self.lost.overruns = self.lost.overruns.saturating_add(1);
    }

    /// Counts a record that the journal did not take, with the packets in it.
    pub(super) fn unwritten(&mut self, packets: u64) {
        self.lost.records = self.lost.records.saturating_add(1);
        self.lost.packets = self.lost.packets.saturating_add(packets);
    }

    /// Takes back what could not be written either.
    pub(super) fn again(&mut self, lost: Lost) {
        self.lost.packets = self.lost.packets.saturating_add(lost.packets);
        self.lost.overruns = self.lost.overruns.saturating_add(lost.overruns);
        self.lost.records = self.lost.records.saturating_add(lost.records);
    }

    /// What is to be written by now: at once, and then once in each interval.
    pub(super) fn due(&mut self, now: Duration) -> Option<Lost> {
        if self.due > now {
            return None;
        }
        let lost = self.rest();
        if lost.is_some() {
            self.due = now + INTERVAL;
        }
        lost
    }

    /// When [`due`](Self::due) has something to do.
    pub(super) fn next(&self) -> Option<Duration> {
        (self.lost != Lost::default()).then_some(self.due)
    }

    /// What is left, at the end.
    pub(super) fn rest(&mut self) -> Option<Lost> {
        let lost = std::mem::take(&mut self.lost);
        (lost != Lost::default()).then_some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::Direction;
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment { elapsed: Duration::from_millis(millis), wall: millis * 1000 }
    }

    fn flow(number: u32) -> Flow {
        let address = std::net::Ipv4Addr::from(number).into();
        Flow { protocol: 6, address, detail: Some(443), direction: Direction::Out }
    }

    #[test]
    fn the_first_packet_is_told_at_once_and_the_rest_once_in_an_interval() {
        let mut flows = Flows::new();
        let one = Count { packets: 1, first: 0, last: 0 };
        let first = flows.count(Some(flow(1)), at(0));
        assert_eq!(first, Some(Record { flow: Some(flow(1)), count: one }));
        for millis in 1..=1000 {
            assert_eq!(flows.count(Some(flow(1)), at(millis)), None);
        }
        assert_eq!(flows.next(), Some(INTERVAL));
        assert_eq!(flows.due(at(9_999).elapsed), []);
        let count = Count { packets: 1000, first: 1_000, last: 1_000_000 };
        assert_eq!(flows.due(INTERVAL), [Record { flow: Some(flow(1)), count }]);
        // Nothing came for an interval: forgotten, and told at once when it comes again.
        assert_eq!(flows.due(INTERVAL * 2), []);
        assert_eq!(flows.next(), None);
        assert!(flows.count(Some(flow(1)), at(20_001)).is_some());
    }

    #[test]
    fn flows_beyond_the_bound_are_counted_together() {
        let mut flows = Flows::new();
        let mut told: u64 = 0;
        for number in 0..10_000 {
            told += u64::from(flows.count(Some(flow(number)), at(0)).is_some());
        }
        assert_eq!((told, flows.known.len()), (20, MAX_FLOWS));
        assert!(flows.count(None, at(1)).is_none());
        let others = flows.due(AGAIN);
        let count = Count { packets: 10_001 - 256, first: 0, last: 1000 };
        assert_eq!(others, [Record { flow: None, count }]);
    }

    #[test]
    fn losses_are_gaps_in_the_numbers() {
        let mut losses = Losses::default();
        for number in [0, 1, 2] {
            losses.number(number);
        }
        assert_eq!((losses.next(), losses.due(Duration::ZERO)), (None, None));
        losses.number(5);
        losses.overrun();
        let lost = Lost { packets: 2, overruns: 1, records: 0 };
        assert_eq!(losses.due(Duration::ZERO), Some(lost));
        losses.unwritten(7);
        assert_eq!((losses.next(), losses.due(AGAIN)), (Some(INTERVAL), None));
        assert_eq!(losses.due(INTERVAL), Some(Lost { packets: 7, overruns: 0, records: 1 }));
        // An old number is no gap, and the numbers start again after the last one.
        losses.number(3);
        losses.expected = u32::MAX;
        losses.number(u32::MAX);
        losses.number(1);
        assert_eq!(losses.rest(), Some(Lost { packets: 1, overruns: 0, records: 0 }));
    }

    proptest! {
        /// Every packet is in exactly one record, and records are few.
        #[test]
        fn nothing_is_lost_and_little_is_written(
            packets in prop::collection::vec((0_u32..600, 0_u64..40), 1..3000),
        ) {
            let mut flows = Flows::new();
            let (mut millis, mut told, mut records) = (0, 0, 0_u64);
            for (number, pause) in &packets {
                millis += pause;
                let one = flows.count(Some(flow(*number)), at(millis));
                for record in one.into_iter().chain(flows.due(at(millis).elapsed)) {
                    told += record.count.packets;
                    records += 1;
                    prop_assert!(record.count.first <= record.count.last);
                }
                prop_assert!(flows.known.len() <= MAX_FLOWS);
            }
            let allowed = u64::from(BURST) + millis * u64::from(PER_SECOND) / 1000 + millis / 10_000 + 2;
            prop_assert!(records <= allowed, "{records} records in {millis} ms");
            told += flows.rest().iter().map(|record| record.count.packets).sum::<u64>();
            prop_assert_eq!(told, packets.len() as u64);
            prop_assert_eq!(flows.next(), None);
        }
    }
}
