//! One client and, once it is connected, the server behind it.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::ioctl::{Getter, ioctl};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use super::copy::{Flow, Kit, Sink, Source, Turn};

/// The most bytes that are read and dropped of a client that has its answer.
const MAX_DROPPED: usize = 1 << 20;
/// How many of them in one turn.
const DROPPED_A_TURN: usize = 64 << 10;

/// One of the two ends.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is what the kernel said of the socket")]
pub(super) struct Half {
    pub(super) socket: OwnedFd,
    readable: bool,
    /// Whether the peer has ended its half.
    ended: bool,
    /// Whether the peer has reset the connection, or cannot be reached any more.
    dead: bool,
    /// Whether it took nothing the last time.
    full: bool,
    /// Whether it is waited for until it has something to read.
    pub(super) hears: bool,
    /// Whether it is also waited for until it takes something.
    pub(super) armed: bool,
}

impl Half {
    /// `readable` says whether to try before the kernel says that there is something.
    pub(super) fn new(socket: OwnedFd, readable: bool) -> Self {
        let (ended, dead, full, hears, armed) = (false, false, false, false, false);
        Self { socket, readable, ended, dead, full, hears, armed }
    }

    /// Whether it must be waited for until it takes something, and is not yet.
    pub(super) fn wants_arms(&self) -> bool {
        self.full && !self.armed
    }

    fn note(&mut self, flags: EventFlags) {
        let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.readable |= flags.intersects(EventFlags::IN | ended);
        self.ended |= flags.intersects(ended);
        self.dead |= flags.contains(EventFlags::ERR);
        if flags.intersects(EventFlags::OUT | EventFlags::ERR) {
            self.full = false;
        }
    }

    /// Closes it so that the peer sees a reset.
    fn reset(self) {
        let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Whether the peer has everything that was written.
    fn has_all(&self) -> bool {
        /// What `SIOCOUTQ` is called where it is not about sockets.
        #[expect(clippy::cast_possible_truncation, reason = "the kernel's numbers have 32 bits")]
        const UNACKNOWLEDGED: u32 = libc::TIOCOUTQ as u32;
        #[expect(unsafe_code, reason = "there is no other way to ask")]
        // SAFETY: the kernel writes one int for it.
        let left =
            unsafe { ioctl(self.socket.as_fd(), Getter::<{ UNACKNOWLEDGED }, libc::c_int>::new()) };
        left.is_ok_and(|left| left == 0)
    }
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What a connection waits for.
#[derive(Debug)]
pub(super) enum Stage {
    /// The server. Nothing is read.
    Held,
    /// That the server takes it.
    Connecting,
    /// Bytes.
    Open,
    /// That the client takes the rest of this and goes.
    Answering(Answer),
}

/// An answer of the proxy's own, on its way.
#[derive(Debug)]
pub(super) struct Answer {
    text: Rc<[u8]>,
    sent: usize,
    /// Whether the client was told that nothing follows.
    told: bool,
    dropped: usize,
}

/// What is to become of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on; whether there is something to do at once.
    Stays { again: bool },
    /// It is over.
    Over,
    /// The server reset it; the client does not have everything yet.
    Lingers,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Half,
    pub(super) server: Option<Half>,
    up: Flow,
    down: Flow,
    pub(super) stage: Stage,
    /// When its stage began, or, of an open one, when one end was seen to be dead.
    pub(super) since: Instant,
    /// When its client last sent something; when it came, until then.
    pub(super) heard: Instant,
    /// When its client was last told something.
    pub(super) told: Instant,
    /// Whether the client has sent something since it was last looked at.
    spoke: bool,
    /// Whether it is in the list of those that have something to do.
    pub(super) queued: bool,
    /// Whether one end is dead, so that it must end soon.
    pub(super) dying: bool,
}

impl Connection {
    pub(super) fn new(client: OwnedFd, now: Instant) -> Self {
        Self {
            client: Half::new(client, true),
            server: None,
            up: Flow::new(),
            down: Flow::new(),
            stage: Stage::Held,
            since: now,
            heard: now,
            told: now,
            spoke: false,
            queued: false,
            dying: false,
        }
    }

    pub(super) fn half(&mut self, side: Side) -> Option<&mut Half> {
        match side {
            Side::Client => Some(&mut self.client),
            Side::Server => self.server.as_mut(),
        }
    }

    /// Notes what the kernel said; whether there is something to do now.
    pub(super) fn note(&mut self, side: Side, flags: EventFlags) {
        if matches!((&self.stage, side), (Stage::Connecting, Side::Server)) {
            return;
        }
        if let Some(half) = self.half(side) {
            half.note(flags);
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.stage, Stage::Held)
    }

    pub(super) fn is_answering(&self) -> bool {
        matches!(self.stage, Stage::Answering(_))
    }

    /// Whether a client that waits is gone for sure. One that ended its half after it said something may only
    /// have said all that it wants to.
    pub(super) fn is_gone(&self) -> bool {
        let client = &self.client;
        let silent = || ioctl_fionread(&client.socket).is_ok_and(|unread| unread == 0);
        client.dead || client.ended && silent()
    }

    /// Whether the client has sent something since this was last asked.
    pub(super) fn has_spoken(&mut self) -> bool {
        std::mem::take(&mut self.spoke)
    }

    /// Whether an end is dead and the connection not yet known to be ending.
    pub(super) fn begins_to_die(&self) -> bool {
        let dead = self.client.dead || self.server.as_ref().is_some_and(|server| server.dead);
        dead && !self.dying && matches!(self.stage, Stage::Open)
    }

    /// Gives it an answer instead of a server.
    pub(super) fn answer(&mut self, text: Rc<[u8]>, now: Instant, kit: &mut Kit) {
        self.server = None;
        self.up.finish(kit);
        self.down.finish(kit);
        self.since = now;
        self.client.readable = true;
        self.stage = Stage::Answering(Answer { text, sent: 0, told: false, dropped: 0 });
    }

    /// Does what can be done without waiting, within bounds.
    pub(super) fn turn(&mut self, kit: &mut Kit, now: Instant) -> Fate {
        match self.stage {
            Stage::Held | Stage::Connecting if self.is_gone() => Fate::Over,
            Stage::Held | Stage::Connecting => Fate::Stays { again: false },
            Stage::Answering(_) => self.turn_answer(),
            Stage::Open => self.turn_open(kit, now),
        }
    }

    fn turn_open(&mut self, kit: &mut Kit, now: Instant) -> Fate {
        let Some(server) = &mut self.server else { return Fate::Over };
        let client = &mut self.client;
        let up = direction(&mut self.up, client, server, kit);
        let down = direction(&mut self.down, server, client, kit);
        if up.read > 0 {
            self.heard = now;
            self.spoke = true;
        }
        if down.read > 0 {
            self.told = now;
        }
        if client.dead {
            self.down.finish(kit);
        }
        if server.dead {
            self.up.finish(kit);
        }
        let up_done = self.up.is_done() || self.up.is_over();
        let down_done = self.down.is_done() || self.down.is_over();
        let over = up_done && (down_done || client.dead) || down_done && server.dead;
        if !over {
            pass_end(&mut self.up, client, server, kit);
            pass_end(&mut self.down, server, client, kit);
            return Fate::Stays { again: up.again || down.again };
        }
        let lingers = server.dead && !client.dead && !client.has_all();
        if lingers { Fate::Lingers } else { Fate::Over }
    }

    fn turn_answer(&mut self) -> Fate {
        let Stage::Answering(answer) = &mut self.stage else { return Fate::Over };
        let client = &mut self.client;
        let mut scratch = [0; 4096];
        let mut budget = DROPPED_A_TURN;
        while client.readable && budget > 0 {
            match read(&client.socket, &mut scratch) {
                Ok(0) => {
                    client.ended = true;
                    client.readable = false;
                    if answer.told {
                        return Fate::Over;
                    }
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    answer.dropped += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => client.readable = false,
                Err(_) => return Fate::Over,
            }
        }
        if client.dead || answer.dropped > MAX_DROPPED {
            return Fate::Over;
        }
        while let Some(rest) = answer.text.get(answer.sent..).filter(|rest| !rest.is_empty()) {
            match send(&client.socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => answer.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    client.full = true;
                    return Fate::Stays { again: client.readable };
                }
                Err(_) => return Fate::Over,
            }
        }
        if !answer.told {
            answer.told = true;
            let _ = shutdown(&client.socket, Shutdown::Write);
            if client.ended && !client.readable {
                return Fate::Over;
            }
        }
        Fate::Stays { again: client.readable }
    }

    /// Closes both ends, each so that its peer sees how the other one ended.
    pub(super) fn close(mut self, kit: &mut Kit) {
        self.up.finish(kit);
        self.down.finish(kit);
        let Some(server) = self.server else { return };
        match (self.client.dead, server.dead) {
            // Reset only what has arrived: the rest would be lost.
            (true, false) if server.has_all() => server.reset(),
            (false, true) => self.client.reset(),
            _ => {}
        }
    }

    /// Closes the client's end with a reset.
    pub(super) fn reset(self) {
        self.client.reset();
    }

    /// Closes both ends so that neither peer takes it for the end of what the other one had to say.
    pub(super) fn abort(self) {
        self.client.reset();
        if let Some(server) = self.server {
            server.reset();
        }
    }
}

fn direction(flow: &mut Flow, from: &mut Half, to: &mut Half, kit: &mut Kit) -> Turn {
    if to.full {
        return Turn::default();
    }
    let mut source = Source {
        socket: &from.socket,
        readable: &mut from.readable,
        ended: from.ended,
        dead: &mut from.dead,
    };
    let mut sink = Sink { socket: &to.socket, dead: &mut to.dead, full: &mut to.full };
    flow.turn(&mut source, &mut sink, kit)
}

/// Tells the receiver that the sender has ended, once it has everything; not if the sender is dead, which a
/// reset tells.
fn pass_end(flow: &mut Flow, from: &Half, to: &Half, kit: &mut Kit) {
    if flow.is_over() && !from.dead {
        let _ = shutdown(&to.socket, Shutdown::Write);
        flow.finish(kit);
    }
}
