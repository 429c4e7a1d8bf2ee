//! Requests to the kernel's `NETLINK_ROUTE`, answered one after the other.
//!
//! A socket belongs to the namespace of the thread that opened it, and stays there. Answers are
//! read as tolerantly as they are used: of links, which come in kinds that no library knows yet, a
//! few attributes alone.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkMessage, NlasIterator, Parseable, parse_string, parse_u32,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkHeader, LinkMessage};
use netlink_packet_route::{self as route, RouteNetlinkMessage};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// As large as the kernel ever makes one part of an answer.
const BUFFER: usize = 64 * 1024;

/// How often a listing is begun again because what it lists was changed meanwhile.
const TRIES: usize = 8;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;

/// A socket of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Route {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

/// What matters of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) hardware: Vec<u8>,
    /// The index of the other end, for a veth.
    pub(super) peer: Option<u32>,
    pub(super) up: bool,
    /// Whether packets already go through.
    pub(super) running: bool,
}

impl Route {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Asks for a change, and waits until it is made.
    pub(super) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags).map(drop)
    }

    /// A link by its name; `None` only when there is none.
    pub(super) fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message)
    }

    /// A link by its index.
    pub(super) fn link_at(&self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message)
    }

    fn one_link(&self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.exchange(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                Ok(None)
            }
            answer => answer?.first().map(|body| Link::parse(body)).transpose(),
        }
    }

    /// Every link.
    pub(super) fn links(&self) -> io::Result<Vec<Link>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.list(&message)?.iter().map(|body| Link::parse(body)).collect()
    }

    /// Every IPv4 and IPv6 address. A kernel without IPv6 has none of those.
    pub(super) fn addresses(&self) -> io::Result<Vec<AddressMessage>> {
        let mut all = Vec::new();
        for family in [route::AddressFamily::Inet, route::AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            for body in self.list(&RouteNetlinkMessage::GetAddress(message))? {
                let message = AddressMessage::parse(&body).map_err(unreadable)?;
                // A kernel that does not know the family lists all that it knows.
                if message.header.family == family {
                    all.push(message);
                }
            }
        }
        Ok(all)
    }

    /// The bodies of one answer.
    pub(super) fn ask(&self, message: RouteNetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(message, NLM_F_ACK)
    }

    /// The bodies of a whole listing, which is consistent.
    pub(super) fn list(&self, message: &RouteNetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..TRIES {
            match self.exchange(message.clone(), NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                listed => return listed,
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it changed all the time"))
    }

    fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut bodies = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (held, whole) = recv(&self.socket, &mut *buffer, RecvFlags::TRUNC)?;
            if whole > held {
                return Err(invalid("an answer is longer than it may be"));
            }
            let parts = Parts(buffer.get(..held).unwrap_or_default());
            for part in parts {
                let part = part?;
                if part.sequence != sequence {
                    continue;
                }
                interrupted |= part.flags & NLM_F_DUMP_INTR != 0;
                match part.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        part.acknowledged()?;
                        return if interrupted {
                            Err(io::ErrorKind::Interrupted.into())
                        } else {
                            Ok(bodies)
                        };
                    }
                    _ => bodies.push(part.body.to_vec()),
                }
            }
        }
    }
}

impl Link {
    fn parse(body: &[u8]) -> io::Result<Self> {
        let header = LinkHeader::parse(body).map_err(unreadable)?;
        let (up, running) =
            (header.flags.contains(LinkFlags::Up), header.flags.contains(LinkFlags::Running));
        let mut link = Self { index: header.index, up, running, ..Self::default() };
        let attributes = body.get(header.buffer_len()..).unwrap_or_default();
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute.map_err(unreadable)?;
            let value = attribute.value();
            match attribute.kind() {
                IFLA_IFNAME => link.name = parse_string(value).map_err(unreadable)?,
                IFLA_MTU => link.mtu = parse_u32(value).map_err(unreadable)?,
                IFLA_ADDRESS => value.clone_into(&mut link.hardware),
                IFLA_LINK => link.peer = Some(parse_u32(value).map_err(unreadable)?),
                _ => {}
            }
        }
        Ok(link)
    }
}

/// One message of an answer: a `nlmsghdr`, and what follows it.
struct Part<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Part<'_> {
    /// An acknowledgement begins with minus the error number; so does the end of a listing.
    fn acknowledged(&self) -> io::Result<()> {
        let code = self.body.first_chunk().copied().map(i32::from_ne_bytes);
        match code {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => Err(invalid("an acknowledgement without a result")),
        }
    }
}

/// The messages of one datagram.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = io::Result<Part<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = part(self.0);
        let used =
            part.as_ref().map_or(usize::MAX, |part| (part.body.len() + 16).next_multiple_of(4));
        self.0 = self.0.get(used..).unwrap_or_default();
        Some(part)
    }
}

fn part(bytes: &[u8]) -> io::Result<Part<'_>> {
    let read = || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?);
        Some(Part {
            kind: u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?),
            sequence: u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?),
            body: bytes.get(16..usize::try_from(length).ok()?)?,
        })
    };
    read().ok_or_else(|| invalid("an answer ends in the middle"))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn unreadable(error: netlink_packet_core::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
