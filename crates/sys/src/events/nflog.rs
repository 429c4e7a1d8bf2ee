//! The kernel's log of packets: `nfnetlink_log`, group [`GROUP`] of this process' network namespace.
//!
//! The framing is a library's; of the attributes only three are read here, because
//! `netlink-packet-netfilter` copies all of them for each packet and hides the hook.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use instances_core::events::GROUP;
use netlink_packet_core::{
    DefaultNla, Emitable as _, ErrorBuffer, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer,
    NlasIterator,
};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send,
    socket_with, sockopt,
};

/// How much the kernel keeps for us; it is the kernel's memory, not this process'.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How much of a packet is read: the headers of IP with a few extensions, and the ports.
const COPIED: u32 = 128;
/// How large the kernel makes a datagram of several packets.
const BATCH: u32 = 8 << 10;
/// How many hundredths of a second a packet waits for others.
const PATIENCE: u32 = 10;
/// Room for a datagram: a batch may exceed its size by its last message.
pub(super) const DATAGRAM: usize = 16 << 10;

const MESSAGE_PACKET: u16 = 4 << 8;
const MESSAGE_CONFIG: u16 = 4 << 8 | 1;
const HEADER: usize = 16;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_BATCH: u16 = 3;
const CONFIG_PATIENCE: u16 = 4;
const CONFIG_FLAGS: u16 = 6;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FLAG_NUMBERS: u16 = 1;

const PACKET_HEADER: u16 = 1;
const PACKET_PAYLOAD: u16 = 9;
const PACKET_NUMBER: u16 = 12;

/// The bound socket. What it was bound with is gone, so nothing more can be asked of the kernel.
#[derive(Debug)]
pub(super) struct Log(OwnedFd);

impl Log {
    /// Asks the kernel for the group. Its answer is among the first [`Message`]s.
    pub(super) fn bind() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER))?;
        send(&socket, &request(GROUP), SendFlags::empty())?;
        Ok(Self(socket))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Reads what waits.
    pub(super) fn receive<'a>(
        &self,
        buffer: &'a mut [MaybeUninit<u8>; DATAGRAM],
    ) -> io::Result<Received<'a>> {
        match recvfrom(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok(((bytes, _), _, from)) => {
                let kernel = from
                    .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                    .is_some_and(|from| from.pid() == 0);
                Ok(Received::Datagram(if kernel { bytes } else { &[] }))
            }
            Err(Errno::NOBUFS) => Ok(Received::Overrun),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the socket had.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// Messages of the kernel's.
    Datagram(&'a [u8]),
    /// The buffer was full: some are lost.
    Overrun,
    /// Nothing more.
    Nothing,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A logged packet.
    Packet { hook: Option<u8>, number: Option<u32>, start: &'a [u8] },
    /// The answer to our request: the number of an error, or zero.
    Answer(i32),
    /// Anything else.
    Other,
}

/// The messages of a datagram, up to the first that makes no sense.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        let message = message(buffer.message_type(), buffer.payload());
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn message(kind: u16, body: &[u8]) -> Message<'_> {
    match kind {
        NLMSG_ERROR => {
            let code = ErrorBuffer::new_checked(body).ok().and_then(|error| error.code());
            Message::Answer(code.map_or(0, |code| code.get().saturating_neg()))
        }
        MESSAGE_PACKET => packet(body.get(4..).unwrap_or_default()),
        _ => Message::Other,
    }
}

fn packet(attributes: &[u8]) -> Message<'_> {
    let (mut hook, mut number, mut start) = (None, None, &[][..]);
    for attribute in NlasIterator::new(attributes) {
        let Ok(attribute) = attribute else { break };
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let value = attribute.into_inner().get(4..length).unwrap_or_default();
        match kind {
            PACKET_HEADER => hook = value.get(2).copied(),
            PACKET_NUMBER => number = value.first_chunk().copied().map(u32::from_be_bytes),
            PACKET_PAYLOAD => start = value,
            _ => {}
        }
    }
    Message::Packet { hook, number, start }
}

/// Binds the group, with the start of each packet and a number for each.
fn request(group: u16) -> Vec<u8> {
    let mode = [&COPIED.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
    let attributes = [
        DefaultNla::new(CONFIG_COMMAND, vec![BIND]),
        DefaultNla::new(CONFIG_MODE, mode),
        DefaultNla::new(CONFIG_BATCH, BATCH.to_be_bytes().to_vec()),
        DefaultNla::new(CONFIG_PATIENCE, PATIENCE.to_be_bytes().to_vec()),
        DefaultNla::new(CONFIG_FLAGS, FLAG_NUMBERS.to_be_bytes().to_vec()),
    ];
    let attributes = attributes.as_slice();
    let mut body = vec![0; attributes.buffer_len()];
    attributes.emit(&mut body);
    let length = u32::try_from(HEADER + 4 + body.len()).unwrap_or(u32::MAX);
    let mut request = Vec::new();
    request.extend(length.to_ne_bytes());
    request.extend(MESSAGE_CONFIG.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // The number of the request, and who asks: the kernel knows.
    request.extend([0; 8]);
    // Every family, version 0.
    request.extend([0, 0]);
    request.extend(group.to_be_bytes());
    request.extend(body);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn logged(number: u32, start: &[u8]) -> Vec<u8> {
        let attributes = [
            DefaultNla::new(PACKET_HEADER, vec![8, 0, 3, 0]),
            DefaultNla::new(10, b"opencode\0".to_vec()),
            DefaultNla::new(PACKET_PAYLOAD, start.to_vec()),
            DefaultNla::new(PACKET_NUMBER, number.to_be_bytes().to_vec()),
        ];
        let attributes = attributes.as_slice();
        let mut body = vec![2, 0, 0, 1];
        let header = body.len();
        body.resize(header + attributes.buffer_len(), 0);
        attributes.emit(&mut body[header..]);
        frame(MESSAGE_PACKET, &body)
    }

    #[test]
    fn a_batch_is_several_packets_and_an_end() {
        let batch = [logged(7, &[0x45, 1, 2]), logged(8, &[0x60]), frame(3, &[0; 4])].concat();
        let expected = [
            Message::Packet { hook: Some(3), number: Some(7), start: &[0x45, 1, 2] },
            Message::Packet { hook: Some(3), number: Some(8), start: &[0x60] },
            Message::Other,
        ];
        assert_eq!(messages(&batch).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_answer_is_an_error_or_none() {
        let answer = |code: i32| {
            let body = [&code.to_ne_bytes()[..], &[0; 16]].concat();
            messages(&frame(NLMSG_ERROR, &body)).collect::<Vec<_>>() == [Message::Answer(-code)]
        };
        assert!(answer(0) && answer(-1) && answer(-16));
    }

    proptest! {
        #[test]
        fn odd_datagrams_are_no_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            length in 0_u8..220,
            kind in prop::sample::select(vec![[0, 4], [1, 4], [2, 0], [3, 0]]),
        ) {
            for (at, byte) in [length, 0, 0, 0, kind[0], kind[1]].into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }

        #[test]
        fn changed_datagrams_are_no_panic(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..200) {
            let mut batch = [logged(7, &[0x45; 40]), logged(8, &[0x60; 60])].concat();
            if let Some(place) = batch.get_mut(at) {
                *place = byte;
            }
            batch.truncate(batch.len() - cut.min(batch.len()));
            prop_assert!(messages(&batch).count() <= batch.len() / HEADER);
        }
    }
}
