//! Many records become one row for each destination.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::record::{Direction, Entry, Refusal};
use crate::events::OTHER;
use crate::text::InstanceName;

/// The most rows; what is beyond them is counted together for each instance.
pub const MAX_DESTINATIONS: usize = 10_000;
/// The most names of one row.
const MAX_NAMES: usize = 16;

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Who was refused.
    pub instance: InstanceName,
    /// Which way.
    pub direction: Direction,
    /// The address; none for a name that was not resolved.
    pub address: Option<IpAddr>,
    /// The name that was not resolved.
    pub question: Option<String>,
    /// The protocol.
    pub protocol: String,
    /// The port.
    pub port: Option<u16>,
    /// The type of an ICMP message.
    pub icmp_type: Option<u16>,
}

impl Destination {
    /// That of a refusal.
    pub fn of(refusal: &Refusal) -> Self {
        Self {
            instance: refusal.instance.clone(),
            direction: refusal.direction,
            address: refusal.address,
            question: refusal.name.clone().filter(|_| refusal.address.is_none()),
            protocol: refusal.protocol.clone(),
            port: refusal.port,
            icmp_type: refusal.icmp_type,
        }
    }
}

/// What was refused towards one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Names that gave the address, or the one that was not resolved.
    pub names: BTreeSet<String>,
    /// The policy that refused last.
    pub policy: Option<String>,
    /// How many.
    pub count: u64,
    /// When the first came, in microseconds since 1970.
    pub first: u64,
    /// When the last came.
    pub last: u64,
}

/// All rows, sorted by instance.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: BTreeMap<Destination, Row>,
    lost: BTreeMap<InstanceName, u64>,
}

impl Table {
    /// Adds a record.
    pub fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Lost { instance, packets } => {
                let lost = self.lost.entry(instance).or_default();
                *lost = lost.saturating_add(packets);
            }
            Entry::Refused(refusal) => self.add_refusal(refusal),
        }
    }

    fn add_refusal(&mut self, refusal: Refusal) {
        let mut destination = Destination::of(&refusal);
        let Refusal { name, policy, count, first, last, .. } = refusal;
        if self.rows.len() >= MAX_DESTINATIONS && !self.rows.contains_key(&destination) {
            destination = Destination {
                instance: destination.instance,
                direction: destination.direction,
                address: None,
                question: None,
                protocol: OTHER.to_owned(),
                port: None,
                icmp_type: None,
            };
        }
        let new = Row { names: BTreeSet::new(), policy: None, count: 0, first, last };
        // A record of what is told apart no more has no name of its own.
        let named = destination.address.is_some() || destination.question.is_some();
        let row = self.rows.entry(destination).or_insert(new);
        row.count = row.count.saturating_add(count);
        row.first = row.first.min(first);
        if last >= row.last {
            row.last = last;
            row.policy = policy.or(row.policy.take());
        }
        if named && row.names.len() < MAX_NAMES {
            row.names.extend(name);
        }
    }

    /// Every row; those of an instance with the most refused first.
    pub fn rows(&self) -> Vec<(&Destination, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|(a, one), (b, two)| {
            (&a.instance, two.count).cmp(&(&b.instance, one.count)).then_with(|| a.cmp(b))
        });
        rows
    }

    /// Packets that are in no row.
    pub fn lost(&self) -> impl Iterator<Item = (&InstanceName, u64)> {
        self.lost.iter().map(|(instance, packets)| (instance, *packets))
    }

    /// The instances of which something is known.
    pub fn instances(&self) -> BTreeSet<&InstanceName> {
        self.rows.keys().map(|destination| &destination.instance).collect()
    }

    /// Adds names that the records did not have.
    pub fn name(&mut self, instance: &InstanceName, names: &[(IpAddr, String)]) {
        let mut known: BTreeMap<IpAddr, BTreeSet<&String>> = BTreeMap::new();
        for (address, name) in names {
            known.entry(*address).or_default().insert(name);
        }
        for (destination, row) in &mut self.rows {
            if destination.instance == *instance
                && let Some(names) = destination.address.and_then(|address| known.get(&address))
            {
                let room = MAX_NAMES.saturating_sub(row.names.len());
                row.names.extend(names.iter().take(room).map(|name| (*name).clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(address: u32, count: u64, first: u64, last: u64) -> Entry {
        Entry::Refused(Refusal {
            instance: InstanceName::new("web").unwrap(),
            direction: Direction::Out,
            protocol: "tcp".to_owned(),
            address: Some(IpAddr::from(address.to_be_bytes())),
            port: Some(443),
            icmp_type: None,
            name: None,
            policy: Some(format!("policy-{first}")),
            count,
            first,
            last,
        })
    }

    #[test]
    fn records_of_one_destination_are_one_row() {
        let mut table = Table::default();
        for entry in [refusal(1, 2, 50, 60), refusal(1, 5, 10, 20), refusal(2, 100, 30, 40)] {
            table.add(entry);
        }
        let web = InstanceName::new("web").unwrap();
        table.name(&web, &[(IpAddr::from([0, 0, 0, 1]), "one.example".to_owned())]);
        table.add(Entry::Lost { instance: web.clone(), packets: 3 });
        let rows: Vec<_> = table
            .rows()
            .into_iter()
            .map(|(destination, row)| (destination.address.unwrap().to_string(), row.clone()))
            .collect();
        let row = |names: &[&str], policy: &str, count, first, last| Row {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            policy: Some(policy.to_owned()),
            count,
            first,
            last,
        };
        assert_eq!(
            rows,
            [
                ("0.0.0.2".to_owned(), row(&[], "policy-30", 100, 30, 40)),
                ("0.0.0.1".to_owned(), row(&["one.example"], "policy-50", 7, 10, 60)),
            ]
        );
        assert_eq!(table.lost().collect::<Vec<_>>(), [(&web, 3)]);
    }

    #[test]
    fn rows_are_bounded_and_nothing_is_uncounted() {
        let mut table = Table::default();
        let many = u32::try_from(MAX_DESTINATIONS).unwrap() + 500;
        for address in 0..many {
            table.add(refusal(address, 1, 1, 1));
        }
        let rows = table.rows();
        assert_eq!(rows.len(), MAX_DESTINATIONS + 1);
        assert_eq!((rows[0].0.protocol.as_str(), rows[0].1.count), ("other", 500));
    }
}
