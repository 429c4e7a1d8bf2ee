//! What an instance's supervisor and the proxy in front of it tell each other.
//!
//! Both are in the instance's network namespace, and share neither files nor process numbers: the supervisor
//! listens at an abstract Unix socket of type `SOCK_SEQPACKET` ([`socket_name`]), the proxy connects. A
//! datagram is one message of ASCII, at most [`MAX`] bytes. The agent is in that namespace too, so neither side
//! trusts a word: what is no message is ignored, and each message has one spelling.

use std::fmt;

use crate::spec::InstanceName;

/// The most bytes of a message.
pub const MAX: usize = 64;

/// The abstract name at which the supervisor of `instance` listens, without the zero byte.
pub fn socket_name(instance: &InstanceName) -> String {
    format!("opencode-instances/supervisor/{instance}")
}

/// The exit status of a supervisor to which a proxy came when it had told systemd that it ends: for systemd
/// the server may have been there still when the client asked for it. It is `EX_TEMPFAIL` of sysexits.h.
pub const COMES_BACK: u8 = 75;

/// The exit status of a supervisor on demand whose server never was ready: the next client tries again. It is
/// `EX_UNAVAILABLE` of sysexits.h.
pub const NEVER_READY: u8 = 69;

/// What the supervisor tells the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The server does not answer yet.
    Starting,
    /// The server answers.
    Ready,
    /// The server is about to end, and will not start again by itself.
    Stopping,
    /// Accept nothing more if there is no connection.
    Drain,
    /// The same; connections whose client sent nothing for so many seconds do not count.
    DrainActive(u32),
}

/// What the proxy tells the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// How many connections clients have.
    Connections {
        /// How many are open, those that wait for the server among them.
        count: u32,
        /// Whole seconds since a client last sent a byte on any of them.
        quiet: u64,
    },
    /// There was no connection, and nothing will be accepted.
    Drained,
    /// There is a connection; everything goes on.
    Busy,
}

impl Order {
    /// Reads a datagram; `None` for anything that [`Order`] would not print.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match text(bytes)? {
            "starting" => Some(Self::Starting),
            "ready" => Some(Self::Ready),
            "stopping" => Some(Self::Stopping),
            "drain" => Some(Self::Drain),
            other => number(other.strip_prefix("drain active ")?).map(Self::DrainActive),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Ready => f.write_str("ready"),
            Self::Stopping => f.write_str("stopping"),
            Self::Drain => f.write_str("drain"),
            Self::DrainActive(seconds) => write!(f, "drain active {seconds}"),
        }
    }
}

impl Report {
    /// Reads a datagram; `None` for anything that [`Report`] would not print.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match text(bytes)? {
            "drained" => Some(Self::Drained),
            "busy" => Some(Self::Busy),
            other => {
                let (count, quiet) = other.strip_prefix("connections ")?.split_once(" quiet ")?;
                Some(Self::Connections { count: number(count)?, quiet: number(quiet)? })
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { count, quiet } => write!(f, "connections {count} quiet {quiet}"),
            Self::Drained => f.write_str("drained"),
            Self::Busy => f.write_str("busy"),
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX)
}

/// Digits without a sign or a zero in front.
fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let short = digits == "0" || !digits.starts_with('0');
    (plain && short).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings() {
        for (order, spelling) in [
            (Order::Starting, "starting"),
            (Order::Ready, "ready"),
            (Order::Stopping, "stopping"),
            (Order::Drain, "drain"),
            (Order::DrainActive(0), "drain active 0"),
            (Order::DrainActive(900), "drain active 900"),
        ] {
            assert_eq!(Order::parse(spelling.as_bytes()), Some(order));
            assert_eq!(order.to_string(), spelling);
        }
        let report = Report::Connections { count: 3, quiet: 7 };
        for (report, spelling) in [
            (report, "connections 3 quiet 7"),
            (Report::Drained, "drained"),
            (Report::Busy, "busy"),
        ] {
            assert_eq!(Report::parse(spelling.as_bytes()), Some(report));
            assert_eq!(report.to_string(), spelling);
        }
    }

    #[test]
    fn the_longest_message_fits() {
        let longest = Report::Connections { count: u32::MAX, quiet: u64::MAX }.to_string();
        assert!(longest.len() <= MAX, "{longest}");
        assert!(Order::DrainActive(u32::MAX).to_string().len() <= MAX);
        let name = InstanceName::new("a234567890123456789012").unwrap();
        assert!(socket_name(&name).len() < 107, "sun_path holds 108 bytes, the first a zero");
    }

    #[test]
    fn what_is_no_message() {
        for bytes in [
            &b""[..],
            b"ready\n",
            b"ready ",
            b" ready",
            b"READY",
            b"ready\0",
            b"drain active",
            b"drain active ",
            b"drain active +1",
            b"drain active -1",
            b"drain active 01",
            b"drain active 4294967296",
            b"drain active 1 2",
            b"\xff",
        ] {
            assert_eq!(Order::parse(bytes), None, "{bytes:?}");
        }
        for bytes in [&b"connections 1"[..], b"connections 1 quiet", b"connections x quiet 1"] {
            assert_eq!(Report::parse(bytes), None, "{bytes:?}");
        }
    }

    fn orders() -> impl Strategy<Value = Order> {
        prop_oneof![
            Just(Order::Starting),
            Just(Order::Ready),
            Just(Order::Stopping),
            Just(Order::Drain),
            any::<u32>().prop_map(Order::DrainActive),
        ]
    }

    fn reports() -> impl Strategy<Value = Report> {
        prop_oneof![
            Just(Report::Drained),
            Just(Report::Busy),
            any::<(u32, u64)>().prop_map(|(count, quiet)| Report::Connections { count, quiet }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(order in orders(), report in reports()) {
            prop_assert_eq!(Order::parse(order.to_string().as_bytes()), Some(order));
            prop_assert_eq!(Report::parse(report.to_string().as_bytes()), Some(report));
        }

        #[test]
        fn each_message_has_one_spelling(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..100),
                "(drain active |connections )?[0-9+ ]{0,12}( quiet )?[0-9]{0,22}"
                    .prop_map(String::into_bytes),
            ],
        ) {
            if let Some(order) = Order::parse(&bytes) {
                prop_assert_eq!(order.to_string().into_bytes(), bytes.clone());
            }
            if let Some(report) = Report::parse(&bytes) {
                prop_assert_eq!(report.to_string().into_bytes(), bytes);
            }
        }
    }
}
