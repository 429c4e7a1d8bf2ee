//! One direction of a connection: bytes from one socket to the other.
//!
//! Small amounts go through one buffer that all connections share, with a read and a write. After a whole
//! buffer came at once, the kernel moves what follows through a pipe, without copying it, until little comes
//! again. What the receiver does not take at once is kept, at most [`CHUNK`] bytes or what one pipe holds, and
//! nothing more is read before it is gone. Pipes belong to whoever has something in them, so that a few do.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, read};
use rustix::net::{SendFlags, send};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The shared buffer.
pub(super) const CHUNK: usize = 16 << 10;
/// How much goes through a pipe at once.
const BULK: usize = 256 << 10;
/// How much one turn moves before others have theirs.
const TURN: usize = 1 << 20;
/// How many pipes there are at most. Beyond, what is much goes through the buffer too.
const MAX_PIPES: usize = 64;
/// How many empty ones are kept.
const IDLE_PIPES: usize = 4;

/// A pipe, empty unless a flow holds it.
#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// What all flows share.
#[derive(Debug)]
pub(super) struct Kit {
    buffer: Box<[u8]>,
    idle: Vec<Pipe>,
    pipes: usize,
    /// How many pipes there may be.
    max: usize,
}

impl Kit {
    /// With room for so many descriptors of pipes.
    pub(super) fn new(descriptors: usize) -> Self {
        let max = MAX_PIPES.min(descriptors / 2);
        Self { buffer: vec![0; CHUNK].into(), idle: Vec::new(), pipes: 0, max }
    }

    /// How many descriptors all pipes may have together.
    pub(super) fn descriptors(&self) -> usize {
        self.max * 2
    }

    fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.pipes >= self.max {
            return None;
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // A smaller one only takes more calls.
        let _ = fcntl_setpipe_size(&writer, BULK);
        self.pipes += 1;
        Some(Pipe { reader, writer })
    }

    fn give(&mut self, pipe: Pipe) {
        if self.idle.len() < IDLE_PIPES {
            self.idle.push(pipe);
        } else {
            self.pipes -= 1;
        }
    }
}

/// What the receiver has not taken yet.
#[derive(Debug)]
enum Stuck {
    Nothing,
    Bytes { bytes: Box<[u8]>, sent: usize },
    InPipe { pipe: Pipe, left: usize },
}

/// How far a direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The sender ended; the receiver is told when it has everything.
    Ended,
    /// The receiver has been told, or takes nothing more.
    Done,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    stuck: Stuck,
    stage: Stage,
    /// Whether much came the last time.
    bulk: bool,
    /// Whether the receiver took something in this turn.
    sent: bool,
}

/// The end of a connection that a flow reads from.
pub(super) struct Source<'a> {
    pub(super) socket: &'a OwnedFd,
    /// Whether there may be something to read; cleared once there is not.
    pub(super) readable: &'a mut bool,
    /// Whether the peer has ended its half: a short read is then no sign that nothing is left.
    pub(super) ended: bool,
    /// Set when the peer has reset the connection.
    pub(super) dead: &'a mut bool,
}

/// The end that it writes to.
pub(super) struct Sink<'a> {
    pub(super) socket: &'a OwnedFd,
    /// Set when the peer has reset the connection.
    pub(super) dead: &'a mut bool,
    /// Set when the peer takes nothing for now.
    pub(super) full: &'a mut bool,
}

/// What a turn has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// How many bytes were read.
    pub(super) read: usize,
    /// Whether the receiver took some.
    pub(super) sent: bool,
    /// Whether there is more to do at once.
    pub(super) again: bool,
}

impl Flow {
    pub(super) fn new() -> Self {
        Self { stuck: Stuck::Nothing, stage: Stage::Open, bulk: false, sent: false }
    }

    /// Whether nothing more will be moved.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether the sender ended and the receiver has everything.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Ended && matches!(self.stuck, Stuck::Nothing)
    }

    /// Whether something waits for the receiver.
    pub(super) fn is_stuck(&self) -> bool {
        !matches!(self.stuck, Stuck::Nothing)
    }

    /// Ends it; what is stuck is lost.
    pub(super) fn finish(&mut self, kit: &mut Kit) {
        self.stage = Stage::Done;
        // A pipe with something in it is of no use to others.
        if let Stuck::InPipe { .. } = std::mem::replace(&mut self.stuck, Stuck::Nothing) {
            kit.pipes -= 1;
        }
    }

    /// Moves what can be moved without waiting, within bounds.
    pub(super) fn turn(&mut self, from: &mut Source<'_>, to: &mut Sink<'_>, kit: &mut Kit) -> Turn {
        let mut turn = Turn::default();
        while self.stage != Stage::Done {
            if self.is_stuck() && !self.push(to, kit) {
                break;
            }
            if self.stage == Stage::Ended || !*from.readable {
                break;
            }
            if turn.read >= TURN {
                turn.again = true;
                break;
            }
            turn.read += self.pull(from, to, kit);
        }
        turn.sent = std::mem::take(&mut self.sent);
        turn
    }

    /// Passes on what is stuck; whether nothing is left.
    fn push(&mut self, to: &mut Sink<'_>, kit: &mut Kit) -> bool {
        match std::mem::replace(&mut self.stuck, Stuck::Nothing) {
            Stuck::Nothing => true,
            Stuck::Bytes { bytes, mut sent } => {
                let rest = bytes.get(sent..).unwrap_or_default();
                let Some(more) = self.write(to, rest, kit) else { return false };
                sent += more;
                if sent < bytes.len() {
                    self.stuck = Stuck::Bytes { bytes, sent };
                }
                !self.is_stuck()
            }
            Stuck::InPipe { pipe, left } => self.empty(pipe, left, to, kit),
        }
    }

    fn pull(&mut self, from: &mut Source<'_>, to: &mut Sink<'_>, kit: &mut Kit) -> usize {
        if self.bulk
            && let Some(pipe) = kit.take()
        {
            return self.pull_through(pipe, from, to, kit);
        }
        let mut buffer = std::mem::take(&mut kit.buffer);
        let count = match read(from.socket, &mut *buffer) {
            Ok(0) => self.end(from),
            Ok(count) => {
                // As epoll(7) says, a stream that gives less than was asked for has nothing left.
                *from.readable = count == CHUNK || from.ended;
                self.bulk = count == CHUNK;
                let bytes = buffer.get(..count).unwrap_or_default();
                if let Some(sent) = self.write(to, bytes, kit)
                    && let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty())
                {
                    self.stuck = Stuck::Bytes { bytes: rest.into(), sent: 0 };
                }
                count
            }
            Err(error) => self.failed(error, from),
        };
        kit.buffer = buffer;
        count
    }

    fn pull_through(
        &mut self,
        pipe: Pipe,
        from: &mut Source<'_>,
        to: &mut Sink<'_>,
        kit: &mut Kit,
    ) -> usize {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match splice(from.socket, None, &pipe.writer, None, BULK, flags) {
            // The end, or an urgent byte that is in the way: the next read says which.
            Ok(0) => {
                kit.give(pipe);
                self.bulk = false;
                0
            }
            Ok(count) => {
                self.bulk = count >= CHUNK;
                self.empty(pipe, count, to, kit);
                count
            }
            Err(error) => {
                kit.give(pipe);
                self.bulk = false;
                // Not every socket can be spliced from.
                if error == Errno::INVAL { 0 } else { self.failed(error, from) }
            }
        }
    }

    /// Passes on what is in a pipe; whether nothing is left.
    fn empty(&mut self, pipe: Pipe, mut left: usize, to: &mut Sink<'_>, kit: &mut Kit) -> bool {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while left > 0 {
            match splice(&pipe.reader, None, to.socket, None, left, flags) {
                Ok(count) if (1..=left).contains(&count) => {
                    left -= count;
                    self.sent = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    *to.full = true;
                    self.stuck = Stuck::InPipe { pipe, left };
                    return false;
                }
                // Whatever is left in the pipe must reach nobody else.
                Ok(_) | Err(_) => {
                    self.stuck = Stuck::InPipe { pipe, left };
                    *to.dead = true;
                    self.finish(kit);
                    return false;
                }
            }
        }
        kit.give(pipe);
        true
    }

    /// Writes; how much was taken, or `None` once the receiver takes nothing more.
    fn write(&mut self, to: &mut Sink<'_>, bytes: &[u8], kit: &mut Kit) -> Option<usize> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match send(to.socket.as_fd(), rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    sent += count;
                    self.sent = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    *to.full = true;
                    break;
                }
                Err(_) => {
                    *to.dead = true;
                    self.finish(kit);
                    return None;
                }
            }
        }
        Some(sent)
    }

    /// Notes that the sender has ended.
    fn end(&mut self, from: &mut Source<'_>) -> usize {
        self.stage = Stage::Ended;
        *from.readable = false;
        0
    }

    fn failed(&mut self, error: Errno, from: &mut Source<'_>) -> usize {
        match error {
            Errno::INTR => {}
            Errno::AGAIN => *from.readable = false,
            _ => {
                *from.dead = true;
                self.end(from);
            }
        }
        0
    }
}
