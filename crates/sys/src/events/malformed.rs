//! Ten thousand datagrams that are almost the kernel's log of packets, and the packets in them: next to no memory,
//! and a flow or none.

use super::nflog::{Message, messages};
use super::packet::{Direction, Flow};
use crate::counted::{Taken, taken};
use crate::mutants::{COUNT, Dice, bytes};

/// A netlink message: its length, its kind, and zeros for what the reader does not look at.
fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// What the kernel says of one packet.
fn logged(number: u32, start: &[u8]) -> Vec<u8> {
    let body = [
        vec![2, 0, 0, 1],
        attribute(1, &[8, 0, 3, 0]),
        attribute(10, b"opencode\0"),
        attribute(9, start),
        attribute(12, &number.to_be_bytes()),
    ];
    framed(4 << 8, &body.concat())
}

/// A packet of each version, with options, extensions and fragments.
fn packets() -> Vec<Vec<u8>> {
    let v4 = |first: u8, fragment: u8, protocol: u8, rest: &[u8]| {
        let mut packet =
            vec![first, 0, 0, 60, 0, 1, fragment, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7];
        packet.extend(rest);
        packet
    };
    let v6 = |next: u8, rest: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 40, next, 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet.extend(rest);
        packet
    };
    let ports = [0x12, 0x34, 0x01, 0xbb, 0, 0, 0, 0];
    vec![
        v4(0x45, 0, 6, &ports),
        v4(0x48, 0x20, 17, &[1; 20]),
        v4(0x45, 0x1f, 17, &ports),
        v4(0x45, 0, 1, &[8, 0]),
        v6(6, &ports),
        v6(
            0,
            &[
                &[60, 0, 5, 2, 0, 0, 1, 0][..],
                &[43, 1, 0, 0],
                &[0; 12],
                &[44, 0, 0, 0, 0, 0, 0, 0],
                &ports,
            ]
            .concat(),
        ),
        v6(44, &[&[17, 0, 0, 9, 0, 0, 0, 1][..], &ports].concat()),
        v6(51, &[&[58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[128, 0]].concat()),
    ]
}

#[test]
fn ten_thousand_datagrams_take_next_to_nothing() {
    let packets = packets();
    let mut seeds: Vec<Vec<u8>> = packets.iter().map(|packet| logged(7, packet)).collect();
    seeds.push(packets.iter().flat_map(|packet| logged(8, packet)).collect());
    seeds.push([logged(9, &packets[0]), framed(3, &[0; 4])].concat());
    seeds.push(framed(2, &[0; 20]));
    let mut dice = Dice::new(5);
    let (mut flows, mut without) = (0, 0);
    for _ in 0..COUNT {
        let datagram = bytes(&mut dice, &seeds, super::DATAGRAM);
        let Taken { most, kept } = taken(|| {
            let mut count = 0;
            for message in messages(&datagram) {
                count += 1;
                let Message::Packet { hook, start, .. } = message else { continue };
                match Flow::read(start, Direction::of_hook(hook)) {
                    Some(flow) => {
                        assert!(flow.port().is_none() || flow.icmp_type().is_none());
                        assert_eq!(flow.address.is_ipv4(), start[0] >> 4 == 4);
                        flows += 1;
                    }
                    None => without += 1,
                }
            }
            assert!(count <= datagram.len() / 16);
        });
        // The words of an error of the library's.
        assert!(most < 1000 && kept == 0, "{most}, {kept}: {datagram:?}");
    }
    assert!(flows > COUNT / 4 && without > COUNT / 50, "{flows}, {without}");
}

#[test]
fn ten_thousand_packets_have_a_flow_or_none() {
    let seeds = packets();
    let mut dice = Dice::new(6);
    for _ in 0..COUNT {
        let packet = bytes(&mut dice, &seeds, 128);
        let Taken { most, kept } = taken(|| {
            let flow = Flow::read(&packet, Direction::Out);
            let long = packet.len()
                >= if packet.first().is_some_and(|first| first >> 4 == 4) { 20 } else { 40 };
            assert!(flow.is_none() || long);
        });
        assert_eq!((most, kept), (0, 0), "{packet:?}");
    }
}
