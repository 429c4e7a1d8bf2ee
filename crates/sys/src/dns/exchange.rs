//! One question on its way: a resolver after the other until one answers, each asked from a socket
//! of its own, over UDP and, where an answer is too long for that, over TCP.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::rand::{GetRandomFlags, getrandom};

use super::clients::Client;
use super::message::{Answer, MAX_ANSWER, Query};
use super::rules::Rules;

/// How long one resolver is waited for.
const PATIENCE: Duration = Duration::from_millis(1400);
/// How long all of them are: less than the five seconds after which clients ask again.
const WHOLE: Duration = Duration::from_millis(4500);
/// How often each resolver is asked.
const ROUNDS: usize = 2;

#[derive(Debug)]
enum Transport {
    Udp(UdpSocket),
    Tcp(Stream),
}

/// A question and its answer over TCP, each behind its length.
#[derive(Debug)]
struct Stream {
    socket: TcpStream,
    question: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
}

/// What an exchange has come to.
#[derive(Debug)]
pub(super) enum Outcome {
    Waiting,
    Answered { reply: Vec<u8>, addresses: Vec<std::net::IpAddr>, dropped: Vec<std::net::IpAddr> },
    Failed,
}

/// A question that a resolver has been asked.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) client: Client,
    pub(super) query: Query,
    resolvers: Rc<[SocketAddr]>,
    /// How many times somebody was asked.
    asked: usize,
    id: u16,
    edns: bool,
    transport: Option<Transport>,
    deadline: Instant,
    pub(super) started: Instant,
    /// Why the last resolver did not answer.
    pub(super) reason: String,
}

impl Exchange {
    pub(super) fn new(
        client: Client,
        query: Query,
        resolvers: Rc<[SocketAddr]>,
        now: Instant,
    ) -> Self {
        Self {
            client,
            query,
            resolvers,
            asked: 0,
            id: 0,
            edns: true,
            transport: None,
            deadline: now,
            started: now,
            reason: String::new(),
        }
    }

    /// Asks the next resolver that can be reached at all.
    pub(super) fn start(&mut self, now: Instant) -> Outcome {
        self.transport = None;
        while now < self.end() && self.asked < self.resolvers.len() * ROUNDS {
            self.asked += 1;
            self.edns = true;
            if self.ask_udp(now) {
                return Outcome::Waiting;
            }
        }
        Outcome::Failed
    }

    /// The resolver that is being asked.
    pub(super) fn resolver(&self) -> Option<SocketAddr> {
        let place = self.asked.checked_sub(1)?.checked_rem(self.resolvers.len())?;
        self.resolvers.get(place).copied()
    }

    fn end(&self) -> Instant {
        self.started + WHOLE
    }

    pub(super) fn over_tcp(&self) -> bool {
        matches!(self.transport, Some(Transport::Tcp(_)))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.min(self.end())
    }

    /// What to wait for; never called of one that has ended.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        match self.transport.as_ref()? {
            Transport::Udp(socket) => Some(PollFd::new(socket, PollFlags::IN)),
            Transport::Tcp(tcp) if tcp.written < tcp.question.len() => {
                Some(PollFd::new(&tcp.socket, PollFlags::OUT))
            }
            Transport::Tcp(tcp) => Some(PollFd::new(&tcp.socket, PollFlags::IN)),
        }
    }

    /// Takes what has come. `tcp` says whether one more may go on over TCP.
    pub(super) fn ready(&mut self, rules: &Rules, now: Instant, tcp: bool) -> Outcome {
        match self.transport.take() {
            Some(Transport::Udp(socket)) => self.ready_udp(socket, rules, now, tcp),
            Some(Transport::Tcp(stream)) => self.ready_tcp(stream, rules, now),
            None => Outcome::Failed,
        }
    }

    /// Goes on to the next resolver if this one has taken too long.
    pub(super) fn expire(&mut self, now: Instant) -> Outcome {
        if now < self.deadline() {
            return Outcome::Waiting;
        }
        self.blame("it did not answer in time");
        self.start(now)
    }

    fn blame(&mut self, words: &str) {
        let resolver = self.resolver().map(|resolver| resolver.ip().to_string());
        self.reason = format!("{}: {words}", resolver.unwrap_or_default());
    }

    fn next(&mut self, words: &str, now: Instant) -> Outcome {
        self.blame(words);
        self.start(now)
    }

    fn ask_udp(&mut self, now: Instant) -> bool {
        let Some(resolver) = self.resolver() else { return false };
        let asked = random_id().and_then(|id| {
            self.id = id;
            let question = self.query.ask(id, self.edns).ok_or(io::ErrorKind::InvalidInput)?;
            let socket = UdpSocket::from(unconnected(resolver, SocketType::DGRAM)?);
            // The kernel picks a random port, and lets in what comes from the resolver.
            socket.connect(resolver)?;
            socket.send(&question)?;
            Ok(socket)
        });
        match asked {
            Ok(socket) => {
                self.transport = Some(Transport::Udp(socket));
                self.deadline = now + PATIENCE;
                true
            }
            Err(error) => {
                self.blame(&error.to_string());
                false
            }
        }
    }

    fn ready_udp(&mut self, socket: UdpSocket, rules: &Rules, now: Instant, tcp: bool) -> Outcome {
        let mut buffer = [0; 4096];
        // Not all at once: who sends without pause must not keep the others waiting.
        for _ in 0..8 {
            let (read, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.next(&error.to_string(), now),
            };
            // What came between the port and the connection may be from anybody.
            if Some(from) != self.resolver() {
                continue;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            match self.query.answer(self.id, bytes, rules) {
                Answer::NotOurs => {}
                Answer::Ready { reply, addresses, dropped } => {
                    return Outcome::Answered { reply, addresses, dropped };
                }
                Answer::Truncated if !tcp => {
                    return self.next("too many long answers at a time", now);
                }
                Answer::Truncated => return self.ask_tcp(now),
                // An old one, that takes what it does not know for an error.
                Answer::Failed(Rcode::FORMERR) if self.edns => {
                    self.edns = false;
                    return if self.ask_udp(now) { Outcome::Waiting } else { self.start(now) };
                }
                Answer::Failed(rcode) => return self.next(&format!("it answered {rcode}"), now),
            }
        }
        self.transport = Some(Transport::Udp(socket));
        Outcome::Waiting
    }

    fn ask_tcp(&mut self, now: Instant) -> Outcome {
        let Some(resolver) = self.resolver() else { return Outcome::Failed };
        let asked = random_id().and_then(|id| {
            self.id = id;
            let question = self.query.ask(id, self.edns).ok_or(io::ErrorKind::InvalidInput)?;
            let question = prefixed(&question).ok_or(io::ErrorKind::InvalidInput)?;
            let socket = unconnected(resolver, SocketType::STREAM)?;
            match connect(&socket, &resolver) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => return Err(error.into()),
            }
            let socket = TcpStream::from(socket);
            Ok(Stream { socket, question, written: 0, answer: Vec::new() })
        });
        match asked {
            Ok(stream) => {
                self.transport = Some(Transport::Tcp(stream));
                self.deadline = now + PATIENCE;
                Outcome::Waiting
            }
            Err(error) => self.next(&error.to_string(), now),
        }
    }

    fn ready_tcp(&mut self, mut tcp: Stream, rules: &Rules, now: Instant) -> Outcome {
        match tcp.proceed() {
            Ok(false) => {
                self.transport = Some(Transport::Tcp(tcp));
                return Outcome::Waiting;
            }
            Ok(true) => {}
            Err(error) => return self.next(&error.to_string(), now),
        }
        let bytes = tcp.answer.get(2..).unwrap_or_default();
        match self.query.answer(self.id, bytes, rules) {
            Answer::Ready { reply, addresses, dropped } => {
                Outcome::Answered { reply, addresses, dropped }
            }
            Answer::Failed(rcode) => self.next(&format!("it answered {rcode}"), now),
            Answer::NotOurs | Answer::Truncated => {
                self.next("its answer is none to this question", now)
            }
        }
    }
}

impl Stream {
    /// Writes and reads on; says whether the answer is whole.
    fn proceed(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.question.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        loop {
            let whole = match self.answer.first_chunk() {
                Some(length) => 2 + usize::from(u16::from_be_bytes(*length)),
                None => 2,
            };
            if whole > 2 + MAX_ANSWER {
                return Err(io::Error::other("its answer is too long"));
            }
            let missing = whole.saturating_sub(self.answer.len());
            if missing == 0 && whole > 2 {
                return Ok(true);
            }
            if missing == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut buffer = [0; 2048];
            let wanted = buffer.get_mut(..missing.min(2048)).unwrap_or_default();
            match self.socket.read(wanted) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.answer.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A message behind its length, as TCP has it.
pub(super) fn prefixed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    Some(bytes)
}

fn unconnected(to: SocketAddr, kind: SocketType) -> io::Result<rustix::fd::OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, None)?)
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    // Fewer bytes than asked for never come of so few.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}
