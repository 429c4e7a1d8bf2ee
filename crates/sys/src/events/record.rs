//! A refusal as the journal gets it.

use std::io;
use std::net::IpAddr;

use instances_core::events::{DNS, LOST, REFUSED};

use super::flows::Lost;
use super::packet::Direction;
use crate::journal::Journal;

/// What was refused: packets of one flow, or questions for one name.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// The instance.
    pub instance: &'a str,
    /// The service that saw it, as in `opencode-events`.
    pub service: &'a str,
    /// The policy that refused it.
    pub policy: &'a str,
    /// Which way it went.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, …; `dns` for a name that was not resolved.
    pub protocol: &'a str,
    /// Who should not be reached; none for a name.
    pub address: Option<IpAddr>,
    /// The port, where the protocol has ports.
    pub port: Option<u16>,
    /// The type of an ICMP message.
    pub icmp_type: Option<u16>,
    /// The name that gave the address, or that was not resolved.
    pub name: Option<&'a str>,
    /// How many packets or questions.
    pub count: u64,
    /// When the first came, in microseconds since 1970.
    pub first: u64,
    /// When the last came.
    pub last: u64,
}

impl Refusal<'_> {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// See [`Journal::send`].
    pub(crate) fn write(&self, journal: &Journal) -> io::Result<()> {
        let identifier = format!("{}@{}", self.service, self.instance);
        let message = self.message();
        let address = self.address.map(|address| address.to_string());
        let port = self.port.map(|port| port.to_string());
        let icmp_type = self.icmp_type.map(|number| number.to_string());
        let numbers = [self.count, self.first, self.last].map(|number| number.to_string());
        let [count, first, last] = &numbers;
        let mut fields = vec![
            ("MESSAGE", message.as_str()),
            ("MESSAGE_ID", REFUSED),
            ("PRIORITY", "5"),
            ("SYSLOG_IDENTIFIER", &identifier),
            ("OPENCODE_INSTANCE", self.instance),
            ("OPENCODE_POLICY", self.policy),
            ("OPENCODE_DIRECTION", self.direction.word()),
            ("OPENCODE_PROTOCOL", self.protocol),
            ("OPENCODE_COUNT", count),
            ("OPENCODE_FIRST_USEC", first),
            ("OPENCODE_LAST_USEC", last),
        ];
        let optional = [
            ("OPENCODE_ADDRESS", address.as_deref()),
            ("OPENCODE_PORT", port.as_deref()),
            ("OPENCODE_ICMP_TYPE", icmp_type.as_deref()),
            ("OPENCODE_NAME", self.name),
        ];
        fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        journal.send(&fields)
    }

    fn message(&self) -> String {
        let mut words = match (self.address, self.name) {
            (None, Some(name)) if self.protocol == DNS => format!("refused to resolve {name}"),
            (None, _) => "refused further packets, to more destinations than are told apart".into(),
            (Some(address), name) => {
                let way = match self.direction {
                    Direction::Out => "to",
                    Direction::In => "from",
                };
                let mut words = format!("refused {} {way} {address}", self.protocol);
                if let Some(port) = self.port {
                    words += &format!(" port {port}");
                }
                if let Some(number) = self.icmp_type {
                    words += &format!(" type {number}");
                }
                words + &name.map(|name| format!(" ({name})")).unwrap_or_default()
            }
        };
        if self.count != 1 {
            words += &format!(", {} times", self.count);
        }
        words + &format!(" (policy {})", self.policy)
    }
}

/// Writes what could not be told.
pub(super) fn write_lost(
    lost: Lost,
    instance: &str,
    service: &str,
    policy: &str,
    journal: &Journal,
) -> io::Result<()> {
    let identifier = format!("{service}@{instance}");
    let Lost { packets, overruns, records } = lost;
    let message = format!(
        "{packets} refused packets are in no record: the log overflowed {overruns} times, and \
         the journal did not take {records} records; they are refused all the same"
    );
    let numbers = [packets, overruns, records].map(|number| number.to_string());
    let [packets, overruns, records] = &numbers;
    journal.send(&[
        ("MESSAGE", message.as_str()),
        ("MESSAGE_ID", LOST),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", &identifier),
        ("OPENCODE_INSTANCE", instance),
        ("OPENCODE_POLICY", policy),
        ("OPENCODE_LOST_PACKETS", packets),
        ("OPENCODE_OVERRUNS", overruns),
        ("OPENCODE_LOST_RECORDS", records),
    ])
}
