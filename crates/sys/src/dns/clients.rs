//! Clients, which are the agent: over UDP an address, over TCP a connection with one question at a
//! time.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::exchange::prefixed;

/// The longest question over TCP: a name of 255 bytes and options that are read past.
const MAX_QUESTION: usize = 1024;
/// How long a connection may take to ask or to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Datagram(SocketAddr),
    /// A connection, by its number; it may be gone by then.
    Connection(u64),
}

/// A connection over TCP.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u64,
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Whether its question is with a resolver; that ends by itself.
    waiting: bool,
    deadline: Instant,
    closing: bool,
}

impl Connection {
    pub(super) fn new(number: u64, stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            number,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            waiting: false,
            deadline: now + PATIENCE,
            closing: false,
        })
    }

    /// When to give it up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.waiting).then_some(self.deadline)
    }

    pub(super) fn over(&self, now: Instant) -> bool {
        self.closing || self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// What to wait for. `room` says whether one more question could be asked.
    pub(super) fn interest(&self, room: bool) -> PollFd<'_> {
        let flags = if !self.output.is_empty() {
            PollFlags::OUT
        } else if self.waiting || !room {
            PollFlags::empty()
        } else {
            PollFlags::IN
        };
        PollFd::new(&self.stream, flags)
    }

    /// Writes or reads what can be; trouble closes the connection.
    pub(super) fn ready(&mut self, flags: PollFlags, now: Instant) {
        // Nothing else is said of a connection that is not being read.
        if flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            self.closing = true;
        } else if flags.contains(PollFlags::OUT) {
            self.write(now);
        } else if flags.contains(PollFlags::IN) {
            self.read();
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 2 + MAX_QUESTION];
        let space = buffer.len().saturating_sub(self.input.len());
        match self.stream.read(buffer.get_mut(..space).unwrap_or_default()) {
            Ok(0) => self.closing = true,
            Ok(read) => self.input.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.closing = true,
        }
    }

    /// The next question, if it is there and nothing else is under way.
    pub(super) fn question(&mut self) -> Option<Vec<u8>> {
        if self.waiting || self.closing || !self.output.is_empty() {
            return None;
        }
        let (length, rest) = self.input.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_QUESTION {
            self.closing = true;
            return None;
        }
        let question = rest.get(..length)?.to_vec();
        self.input.drain(..2 + length);
        self.waiting = true;
        Some(question)
    }

    /// Ends the wait; without an answer the connection ends too.
    pub(super) fn answer(&mut self, reply: Option<&[u8]>, now: Instant) {
        self.waiting = false;
        self.deadline = now + PATIENCE;
        match reply.and_then(prefixed) {
            Some(bytes) => {
                self.output = bytes;
                self.written = 0;
                self.write(now);
            }
            None => self.closing = true,
        }
    }

    fn write(&mut self, now: Instant) {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.closing = true;
                    return;
                }
            }
        }
        self.output = Vec::new();
        self.deadline = now + PATIENCE;
    }
}
