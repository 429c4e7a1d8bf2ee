//! One record, as the journal gives it back.
//!
//! Whoever may write to the journal may write any field but those that begin with `_`, so the
//! instance is taken from the unit that wrote it. What the unit says is made of an agent's packets
//! and questions: only what is a number, an address or a plain word is taken over.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::events::{LOST, REFUSED, is_name};
use crate::text::InstanceName;

/// The longest word for a protocol, a policy or a reason.
const MAX_WORD: usize = 32;
/// The longest name that is shown, escapes included.
const MAX_NAME: usize = 253;

/// Which way something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Out of the instance.
    Out,
    /// Towards the instance.
    In,
}

/// Packets of one flow, or questions for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The instance.
    pub instance: InstanceName,
    /// Which way.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, …; `dns` for names; `other` for flows that are not told apart.
    pub protocol: String,
    /// Who should not be reached.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// The type of an ICMP message.
    pub icmp_type: Option<u16>,
    /// The name that gave the address, or that was not resolved; what is no name of a host is escaped.
    pub name: Option<String>,
    /// The policy that refused.
    pub policy: Option<String>,
    /// How many.
    pub count: u64,
    /// When the first came, in microseconds since 1970.
    pub first: u64,
    /// When the last came.
    pub last: u64,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Something was refused.
    Refused(Refusal),
    /// Refused packets are in no record.
    Lost {
        /// The instance.
        instance: InstanceName,
        /// How many.
        packets: u64,
    },
}

/// A record in `journalctl --output=json`. A field may be text, a list of bytes, or null.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    fn word(&self, name: &str) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let word = self.text(name)?;
        ((1..=MAX_WORD).contains(&word.len()) && word.bytes().all(plain)).then(|| word.to_owned())
    }
}

impl Entry {
    /// Reads a line of `journalctl --output=json`; `None` when it is no record of an instance's
    /// services.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let fields = Fields(serde_json::from_slice(line).ok()?);
        let instance = instance(fields.text("_SYSTEMD_UNIT")?)?;
        match fields.text("MESSAGE_ID")? {
            LOST => Some(Self::Lost { instance, packets: fields.parsed("OPENCODE_LOST_PACKETS")? }),
            REFUSED => refusal(instance, &fields).map(Self::Refused),
            _ => None,
        }
    }
}

fn refusal(instance: InstanceName, fields: &Fields) -> Option<Refusal> {
    let written: u64 = fields.parsed("__REALTIME_TIMESTAMP").unwrap_or_default();
    let last: u64 = fields.parsed("OPENCODE_LAST_USEC").unwrap_or(written);
    Some(Refusal {
        instance,
        direction: match fields.text("OPENCODE_DIRECTION") {
            Some("in") => Direction::In,
            _ => Direction::Out,
        },
        protocol: fields.word("OPENCODE_PROTOCOL")?,
        address: fields.parsed("OPENCODE_ADDRESS"),
        port: fields.parsed("OPENCODE_PORT"),
        icmp_type: fields.parsed("OPENCODE_ICMP_TYPE"),
        name: fields.text("OPENCODE_NAME").filter(|name| !name.is_empty()).map(shown),
        policy: fields.word("OPENCODE_POLICY"),
        count: fields.parsed("OPENCODE_COUNT").unwrap_or(1),
        first: fields.parsed("OPENCODE_FIRST_USEC").unwrap_or(last).min(last),
        last,
    })
}

/// The instance whose service the unit is.
fn instance(unit: &str) -> Option<InstanceName> {
    let rest =
        unit.strip_prefix("opencode-events@").or_else(|| unit.strip_prefix("opencode-dns@"))?;
    InstanceName::new(rest.strip_suffix(".service")?).ok()
}

/// Nothing that a terminal acts on, and nothing that looks like another character.
fn shown(name: &str) -> String {
    if is_name(name) {
        return name.to_ascii_lowercase();
    }
    let escaped = name.chars().flat_map(|one| {
        // `escape_default` leaves a space, which would end a cell of a table.
        if one == ' ' {
            "\\u{20}".chars().collect::<Vec<_>>()
        } else {
            one.escape_default().collect()
        }
    });
    escaped.take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn line(fields: &Value) -> Vec<u8> {
        let mut whole = json!({
            "_SYSTEMD_UNIT": "opencode-events@web.service", "MESSAGE_ID": REFUSED,
            "__REALTIME_TIMESTAMP": "1700000000000009",
        });
        for (name, value) in fields.as_object().unwrap() {
            whole[name] = value.clone();
        }
        whole.to_string().into_bytes()
    }

    fn refused(fields: &Value) -> Option<Refusal> {
        match Entry::parse(&line(fields))? {
            Entry::Refused(refusal) => Some(refusal),
            Entry::Lost { .. } => None,
        }
    }

    #[test]
    fn a_record_is_read() {
        let fields = json!({
            "OPENCODE_PROTOCOL": "tcp", "OPENCODE_ADDRESS": "192.0.2.7", "OPENCODE_PORT": "443",
            "OPENCODE_NAME": "API.example.org", "OPENCODE_COUNT": "17",
            "OPENCODE_POLICY": "allow-list", "OPENCODE_DIRECTION": "out",
            "OPENCODE_FIRST_USEC": "1700000000000001", "OPENCODE_LAST_USEC": "1700000000000003",
        });
        let expected = Refusal {
            instance: InstanceName::new("web").unwrap(),
            direction: Direction::Out,
            protocol: "tcp".to_owned(),
            address: Some("192.0.2.7".parse().unwrap()),
            port: Some(443),
            icmp_type: None,
            name: Some("api.example.org".to_owned()),
            policy: Some("allow-list".to_owned()),
            count: 17,
            first: 1_700_000_000_000_001,
            last: 1_700_000_000_000_003,
        };
        assert_eq!(refused(&fields), Some(expected));
        // The least that a record says.
        let least = refused(&json!({ "OPENCODE_PROTOCOL": "other" })).unwrap();
        assert_eq!((least.count, least.first, least.last), (1, least.last, 1_700_000_000_000_009));
    }

    #[test]
    fn the_unit_says_whose_it_is_and_others_say_nothing() {
        let of = |unit: &Value| {
            let fields = json!({
                "_SYSTEMD_UNIT": unit, "OPENCODE_INSTANCE": "billing", "OPENCODE_PROTOCOL": "dns",
            });
            refused(&fields).map(|refusal| refusal.instance.to_string())
        };
        assert_eq!(of(&json!("opencode-dns@web.service")).as_deref(), Some("web"));
        for unit in [
            json!("opencode-web.service"),
            json!("opencode-events@../x.service"),
            json!("opencode-events@web.socket"),
            json!("cron.service"),
            json!(null),
            json!([1, 2]),
        ] {
            assert_eq!(of(&unit), None, "{unit}");
        }
    }

    #[test]
    fn what_is_odd_is_escaped_or_left_out() {
        let name = |name: &Value| {
            refused(&json!({ "OPENCODE_PROTOCOL": "dns", "OPENCODE_NAME": name })).unwrap().name
        };
        assert_eq!(name(&json!("a\u{1b}[2J b")).as_deref(), Some("a\\u{1b}[2J\\u{20}b"));
        assert_eq!(name(&json!("раypal.com")).as_deref(), Some("\\u{440}\\u{430}ypal.com"));
        assert_eq!(name(&json!([255, 10])), None);
        assert_eq!(name(&json!("x".repeat(9000))).unwrap().len(), MAX_NAME);
        for protocol in [json!("t\u{1b}cp"), json!(""), json!("x".repeat(33)), json!(null)] {
            assert_eq!(refused(&json!({ "OPENCODE_PROTOCOL": protocol })), None, "{protocol}");
        }
        let odd = json!({
            "OPENCODE_PROTOCOL": "tcp", "OPENCODE_ADDRESS": "x", "OPENCODE_PORT": "65536",
            "OPENCODE_COUNT": "-1", "OPENCODE_FIRST_USEC": "99999999999999999",
        });
        let odd = refused(&odd).unwrap();
        assert_eq!((odd.address, odd.port, odd.count), (None, None, 1));
        assert!(odd.first <= odd.last);
    }

    #[test]
    fn a_loss_is_a_number() {
        let fields = json!({ "MESSAGE_ID": LOST, "OPENCODE_LOST_PACKETS": "12" });
        let instance = InstanceName::new("web").unwrap();
        assert_eq!(Entry::parse(&line(&fields)), Some(Entry::Lost { instance, packets: 12 }));
    }

    proptest! {
        #[test]
        fn any_name_is_harmless(name in any::<String>()) {
            let shown = shown(&name);
            prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()));
        }

        #[test]
        fn any_line_is_no_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::parse(&line);
        }
    }
}
