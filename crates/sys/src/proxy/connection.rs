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
/// How long one end may take nothing once the other one is dead.
pub(super) const TAKES: Duration = Duration::from_secs(10);
/// How long it may take for all of it.
const DIES: Duration = Duration::from_mins(5);

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

    /// How much of what was written the peer does not have yet.
    fn left(&self) -> libc::c_int {
        /// What `SIOCOUTQ` is called where it is not about sockets.
        #[expect(clippy::cast_possible_truncation, reason = "the kernel's numbers have 32 bits")]
        const UNACKNOWLEDGED: u32 = libc::TIOCOUTQ as u32;
        #[expect(unsafe_code, reason = "there is no other way to ask")]
        // SAFETY: the kernel writes one int for it.
        let left =
            unsafe { ioctl(self.socket.as_fd(), Getter::<{ UNACKNOWLEDGED }, libc::c_int>::new()) };
        left.unwrap_or(0)
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
    /// That one end has everything that came before the other one's reset, which it is told then; how much it had
    /// not yet.
    Lingering { left: libc::c_int },
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
    /// One end reset it; the other one does not have everything yet.
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
    /// When its stage began, or, once an end is dead, when it was last looked at.
    pub(super) since: Instant,
    /// When its client last sent something; when it came, until then.
    pub(super) heard: Instant,
    /// When an end last took something.
    moved: Instant,
    /// Whether the client has sent something since it was last looked at.
    spoke: bool,
    /// Whether it is in the list of those that have something to do.
    pub(super) queued: bool,
    /// Since when one end is dead, so that it must end soon.
    dying: Option<Instant>,
    /// Since when the server has refused it.
    pub(super) refused: Option<Instant>,
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
            moved: now,
            spoke: false,
            queued: false,
            dying: None,
            refused: None,
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

    fn is_dead(&self) -> bool {
        self.client.dead && self.server.as_ref().is_none_or(|server| server.dead)
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

    /// Whether an end is dead, which was not known.
    pub(super) fn begins_to_die(&mut self, now: Instant) -> bool {
        let dead = self.client.dead || self.server.as_ref().is_some_and(|server| server.dead);
        let begins = dead && self.dying.is_none() && matches!(self.stage, Stage::Open);
        if begins {
            (self.dying, self.since, self.moved) = (Some(now), now, now);
        }
        begins
    }

    /// Waits until the end that lives has everything.
    pub(super) fn linger(&mut self, now: Instant) {
        self.dying.get_or_insert(now);
        (self.since, self.moved) = (now, now);
        self.stage = Stage::Lingering { left: libc::c_int::MAX };
    }

    pub(super) fn is_lingering(&self) -> bool {
        matches!(self.stage, Stage::Lingering { .. })
    }

    /// Of one whose end is dead: whether the other one still takes what is left, which must not last for ever. To be
    /// asked now and then, first after [`Self::begins_to_die`] or [`Self::linger`].
    pub(super) fn still_dies(&mut self, now: Instant) -> bool {
        let Some(dying) = self.dying else { return false };
        self.since = now;
        let living = self.server.as_ref().filter(|_| self.client.dead).unwrap_or(&self.client);
        if let Stage::Lingering { left } = &mut self.stage {
            let then = std::mem::replace(left, living.left());
            if *left == 0 {
                return false;
            }
            if *left < then {
                self.moved = now;
            }
        }
        now.saturating_duration_since(self.moved) < TAKES
            && now.saturating_duration_since(dying) < DIES
    }

    /// Whether its end is on its way, and needs only a moment.
    pub(super) fn is_ending(&self) -> bool {
        let ended = self.server.as_ref().is_some_and(|server| server.ended);
        self.is_answering() || self.is_lingering() || matches!(self.stage, Stage::Open) && ended
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
            Stage::Answering(_) => self.turn_answer(),
            Stage::Open => self.turn_open(kit, now),
            Stage::Lingering { .. } if self.is_dead() => Fate::Over,
            Stage::Held | Stage::Connecting | Stage::Lingering { .. } => {
                Fate::Stays { again: false }
            }
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
        if up.sent || down.sent {
            self.moved = now;
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
        let waits = match (client.dead, server.dead) {
            (true, false) => server.left() > 0,
            (false, true) => client.left() > 0,
            _ => false,
        };
        if waits { Fate::Lingers } else { Fate::Over }
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
        let server_dead = self.server.as_ref().is_some_and(|server| server.dead);
        if self.client.dead || server_dead {
            return self.abort(kit);
        }
        self.up.finish(kit);
        self.down.finish(kit);
    }

    /// Closes both ends so that neither peer takes it for the end of what the other one had to say.
    pub(super) fn abort(mut self, kit: &mut Kit) {
        self.up.finish(kit);
        self.down.finish(kit);
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
