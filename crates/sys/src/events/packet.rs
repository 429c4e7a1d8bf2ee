//! The start of a refused packet: which flow it belongs to.
//!
//! The bytes are the agent's, so nothing is believed: every read may miss, and a packet that says
//! too little belongs to a flow without a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The number of the protocol above IP.
    pub protocol: u8,
    /// Who should not be reached, or who tried to reach the instance.
    pub address: IpAddr,
    /// The port that was asked for, or the type of an ICMP message; `None` where there is none, or
    /// where it is not in this packet: later fragments have none.
    pub detail: Option<u16>,
    /// Which way the packet went.
    pub direction: Direction,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Out of the instance.
    Out,
    /// Towards the instance.
    In,
}

impl Direction {
    /// As it is written into the journal.
    pub fn word(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }

    /// The way of what is seen in a netfilter hook: only `input` (1) is towards the instance, and
    /// nothing is forwarded.
    pub(super) fn of_hook(hook: Option<u8>) -> Self {
        if hook == Some(1) { Self::In } else { Self::Out }
    }
}

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const UDP_LITE: u8 = 136;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// The most extension headers that are walked through: more than any packet needs.
const MAX_HEADERS: usize = 16;

impl Flow {
    /// Reads as much as there is; `None` when the bytes are not the start of an IP packet.
    pub fn read(packet: &[u8], direction: Direction) -> Option<Self> {
        let headers = match packet.first()? >> 4 {
            4 => Headers::v4(packet)?,
            6 => Headers::v6(packet)?,
            _ => return None,
        };
        let Headers { source, destination, protocol, first, payload } = headers;
        let address = match direction {
            Direction::Out => destination,
            Direction::In => source,
        };
        let detail = if first { detail(protocol, payload) } else { None };
        Some(Self { protocol, address, detail, direction })
    }

    /// The name of the protocol.
    pub fn protocol_name(self) -> String {
        let name = match self.protocol {
            ICMP => "icmp",
            2 => "igmp",
            TCP => "tcp",
            UDP => "udp",
            DCCP => "dccp",
            47 => "gre",
            50 => "esp",
            AUTHENTICATION => "ah",
            ICMPV6 => "icmpv6",
            SCTP => "sctp",
            UDP_LITE => "udplite",
            number => return format!("protocol-{number}"),
        };
        name.to_owned()
    }

    /// The port, of a protocol that has ports.
    pub fn port(self) -> Option<u16> {
        self.detail.filter(|_| !self.is_icmp())
    }

    /// The type, of an ICMP message.
    pub fn icmp_type(self) -> Option<u16> {
        self.detail.filter(|_| self.is_icmp())
    }

    fn is_icmp(self) -> bool {
        matches!(self.protocol, ICMP | ICMPV6)
    }
}

/// How many bits stand in front of the offset of a fragment in version 4.
const FLAGS: u32 = 3;

/// What the headers of IP say.
struct Headers<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Whether the payload starts here, and not in an earlier fragment.
    first: bool,
    payload: &'a [u8],
}

impl<'a> Headers<'a> {
    fn v4(packet: &'a [u8]) -> Option<Self> {
        let length = usize::from(packet.first()? & 0x0f) * 4;
        if length < 20 {
            return None;
        }
        let address = |at| take::<4>(packet, at).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: *packet.get(9)?,
            first: u16::from_be_bytes(take(packet, 6)?) << FLAGS == 0,
            payload: packet.get(length..).unwrap_or_default(),
        })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        let address = |at| take::<16>(packet, at).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)));
        let mut this = Self {
            source: address(8)?,
            destination: address(24)?,
            protocol: *packet.get(6)?,
            first: true,
            payload: packet.get(40..).unwrap_or_default(),
        };
        for _ in 0..MAX_HEADERS {
            if !this.first || !this.skip_extension() {
                break;
            }
        }
        Some(this)
    }

    /// Goes behind one extension header, if one is here and all of it is.
    fn skip_extension(&mut self) -> bool {
        let Some([next, length]) = take::<2>(self.payload, 0) else { return false };
        let size = match self.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => {
                (usize::from(length) + 1) * 8
            }
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            FRAGMENT => 8,
            _ => return false,
        };
        let Some(rest) = self.payload.get(size..) else { return false };
        if self.protocol == FRAGMENT {
            let offset = take(self.payload, 2).map_or(0, u16::from_be_bytes);
            self.first = offset & 0xfff8 == 0;
        }
        self.protocol = next;
        self.payload = rest;
        true
    }
}

/// The port that is asked for, or an ICMP message's type.
fn detail(protocol: u8, payload: &[u8]) -> Option<u16> {
    match protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE => take(payload, 2).map(u16::from_be_bytes),
        ICMP | ICMPV6 => payload.first().copied().map(u16::from),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7]);
        packet.extend(payload);
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    fn read(packet: &[u8]) -> (String, String, Option<u16>) {
        let flow = Flow::read(packet, Direction::Out).unwrap();
        (flow.protocol_name(), flow.address.to_string(), flow.detail)
    }

    const PORTS: [u8; 4] = [0x12, 0x34, 0x01, 0xbb];

    #[test]
    fn flows_of_version_4() {
        let read = |packet: Vec<u8>| {
            let (protocol, address, detail) = read(&packet);
            assert_eq!(address, "192.0.2.7");
            (protocol, detail)
        };
        assert_eq!(read(v4(6, 0, &PORTS)), ("tcp".to_owned(), Some(443)));
        assert_eq!(read(v4(17, 0x4000, &PORTS)), ("udp".to_owned(), Some(443)));
        assert_eq!(read(v4(1, 0, &[8, 0])), ("icmp".to_owned(), Some(8)));
        assert_eq!(read(v4(132, 0, &PORTS)), ("sctp".to_owned(), Some(443)));
        assert_eq!(read(v4(89, 0, &PORTS)), ("protocol-89".to_owned(), None));
        // A first fragment has ports, a later one something else in their place.
        assert_eq!(read(v4(17, 0x2000, &PORTS)), ("udp".to_owned(), Some(443)));
        assert_eq!(read(v4(17, 0x00b9, &PORTS)), ("udp".to_owned(), None));
        // Cut short: what is there counts.
        assert_eq!(read(v4(6, 0, &PORTS[..3])), ("tcp".to_owned(), None));
        assert_eq!(read(v4(1, 0, &[])), ("icmp".to_owned(), None));
        // Options are skipped, and a header that is longer than the packet hides the ports.
        let mut options = v4(6, 0, &[1, 1, 1, 1, 0x12, 0x34, 0x01, 0xbb]);
        options[0] = 0x46;
        assert_eq!(read(options.clone()), ("tcp".to_owned(), Some(443)));
        options[0] = 0x4f;
        assert_eq!(read(options), ("tcp".to_owned(), None));
    }

    #[test]
    fn flows_of_version_6() {
        let read = |packet: Vec<u8>| {
            let (protocol, address, detail) = read(&packet);
            assert_eq!(address, "2001:db8::7");
            (protocol, detail)
        };
        let behind = |header: &[u8]| [header, &PORTS].concat();
        assert_eq!(read(v6(6, &PORTS)), ("tcp".to_owned(), Some(443)));
        assert_eq!(read(v6(58, &[128])), ("icmpv6".to_owned(), Some(128)));
        let hop = [6, 0, 5, 2, 0, 0, 1, 0];
        assert_eq!(read(v6(0, &behind(&hop))), ("tcp".to_owned(), Some(443)));
        let two = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &hop].concat();
        assert_eq!(read(v6(43, &behind(&two))), ("tcp".to_owned(), Some(443)));
        let authentication = [17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(v6(51, &behind(&authentication))), ("udp".to_owned(), Some(443)));
        let fragment = |offset: u16| {
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            behind(&[17, 0, high, low, 0, 0, 0, 1])
        };
        assert_eq!(read(v6(44, &fragment(0))), ("udp".to_owned(), Some(443)));
        assert_eq!(read(v6(44, &fragment(1))), ("udp".to_owned(), None));
        // A later fragment's payload is no extension header, whatever its number says.
        let [high, low] = 8_u16.to_be_bytes();
        let later = behind(&[0, 0, high, low, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(v6(44, &later)), ("protocol-0".to_owned(), None));
        // An extension header that is cut short is the last thing known.
        assert_eq!(read(v6(60, &[6, 200, 0, 0])), ("protocol-60".to_owned(), None));
        assert_eq!(read(v6(59, &PORTS)), ("protocol-59".to_owned(), None));
        // More headers than are walked through.
        let endless: Vec<u8> = [60, 0, 0, 0, 0, 0, 0, 0].repeat(MAX_HEADERS + 1);
        assert_eq!(read(v6(60, &endless)), ("protocol-60".to_owned(), None));
    }

    #[test]
    fn towards_the_instance_the_sender_counts() {
        let flow = Flow::read(&v4(6, 0, &PORTS), Direction::of_hook(Some(1))).unwrap();
        assert_eq!((flow.address.to_string(), flow.port()), ("10.0.0.1".to_owned(), Some(443)));
        assert_eq!(Direction::of_hook(Some(3)), Direction::Out);
    }

    #[test]
    fn what_is_no_packet_has_no_flow() {
        for bytes in [&[][..], &[0x45], &[0x60], &[0x00; 60], &[0x44; 60], &[0xff; 60]] {
            assert_eq!(Flow::read(bytes, Direction::Out), None, "{bytes:?}");
        }
        for whole in [v4(6, 0, &PORTS), v6(6, &PORTS)] {
            let header = whole.len() - PORTS.len();
            for length in 0..whole.len() {
                let flow = Flow::read(&whole[..length], Direction::Out);
                assert_eq!(flow.is_some(), length >= header, "{length}");
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_panic(
            version in 0_u8..16,
            mut bytes in prop::collection::vec(any::<u8>(), 0..160),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0x0f;
            }
            for direction in [Direction::Out, Direction::In] {
                if let Some(flow) = Flow::read(&bytes, direction) {
                    prop_assert!(flow.port().is_none() || flow.icmp_type().is_none());
                    prop_assert!(flow.address.is_ipv4() == (bytes[0] >> 4 == 4));
                }
            }
        }

        #[test]
        fn hostile_extensions_are_no_panic(
            next in prop::sample::select(vec![0_u8, 43, 44, 51, 60, 135, 139, 140, 58, 6]),
            payload in prop::collection::vec(
                prop::sample::select(vec![0_u8, 1, 2, 6, 17, 43, 44, 51, 58, 60, 255]), 0..90),
        ) {
            prop_assert!(Flow::read(&v6(next, &payload), Direction::Out).is_some());
        }
    }
}
