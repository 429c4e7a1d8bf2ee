//! The loop: one thread that waits for clients, servers, the supervisor and signals at once.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use instances_core::attend::{Order, Report};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, connect, socket_with};
use rustix::process::Signal;

use super::answer::{Why, unavailable};
use super::connection::{Connection, Fate, Half, Side, Stage, TAKES};
use super::copy::Kit;
use super::deadlines::Deadlines;
use super::failure::Watch;
use super::link::{Link, Message};
use super::table::{Key, Table};
use super::{Error, Options, room};
use crate::notify::Notifier;
use crate::supervise::signals::Signals;

/// How many events one turn takes.
const EVENTS: usize = 256;
/// How many connections one turn accepts at a listener.
const ACCEPTS: usize = 64;
/// How many connections have their turn in one of the loop.
const TURNS: usize = 256;
/// How long nothing is accepted after the host had no memory or descriptors for it.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often it is looked whether a client or server has everything that came before the other one's reset.
const LINGER: Duration = Duration::from_millis(100);
/// How long a server that was there may take to come back: longer than its start may take.
const LOST: Duration = Duration::from_mins(3);
/// How long after a failed start the next one has to wait: until who told of it is gone, and can come again.
const TOLD: Duration = Duration::from_millis(500);
/// For how long a server may refuse a client that its supervisor says is ready: then it lives, and does not listen.
const GONE: Duration = Duration::from_secs(2);
/// How long at the end there is at least for answers, and for what a server sent that has ended.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often the number of connections is told to the service manager.
const STATUS: Duration = Duration::from_secs(10);
/// How often what becomes of clients is, which the supervisor can change as it likes.
const FLAP: Duration = Duration::from_secs(1);

const SIGNALS: u64 = 1 << 63;
const LINK: u64 = SIGNALS | 1;
const FAILURE: u64 = SIGNALS | 2;
const LISTENER: u64 = SIGNALS | 16;
/// The bit of a connection's number that says that its server is meant.
const SERVER: u64 = 1;

impl Side {
    fn bit(self) -> u64 {
        match self {
            Self::Client => 0,
            Self::Server => SERVER,
        }
    }
}

/// What becomes of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// They are held.
    Waiting,
    /// The server was there and is not: they wait at the listener, for this proxy may be restarted with it.
    Lost,
    /// They are connected.
    Ready,
    /// Nothing is accepted; it ends when the supervisor does.
    Drained,
    /// The same, and those that are connected have their time after that.
    Stopping,
    /// Nothing is accepted; it ends with the last connection, and at `end` at the latest. From `cut` on, only those
    /// are left that are ending.
    Ending { cut: Instant, end: Instant },
}

impl Phase {
    fn ending(now: Instant, grace: Duration) -> Self {
        Self::Ending { cut: now + grace, end: now + grace.max(FAREWELL) }
    }
}

/// Everything that a connection meets.
#[derive(Debug)]
pub(super) struct Proxy<'a> {
    options: &'a Options,
    epoll: OwnedFd,
    signals: Signals,
    listeners: Vec<OwnedFd>,
    listening: bool,
    most: usize,
    table: Table<Connection>,
    kit: Kit,
    /// Those that have something to do.
    queue: VecDeque<Key>,
    /// How many are held.
    waiting: usize,
    phase: Phase,
    link: Option<Link>,
    watch: Option<Watch>,
    held: Deadlines,
    answering: Deadlines,
    dying: Deadlines,
    lingering: Deadlines,
    /// Until when it stays although nobody is there any more.
    stays: Option<Instant>,
    /// Since when the server is lost, and no supervisor there.
    lost: Option<Instant>,
    /// Until when nothing is opened.
    paused: Option<Instant>,
    /// When a client last sent something.
    heard: Instant,
    notifier: Notifier,
    told: (Instant, Phase, usize),
    feed: Option<(Duration, Instant)>,
    accepted: u64,
    turns: u64,
}

impl<'a> Proxy<'a> {
    pub(super) fn new(options: &'a Options, listeners: Vec<OwnedFd>) -> Result<Self, Error> {
        let failed = |error: Errno| Error::Loop(error.into());
        let now = Instant::now();
        let descriptors = room::raise();
        let kit = Kit::new(room::pipes(descriptors));
        let signals = Signals::install().map_err(Error::Loop)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let add = |fd, token| epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN);
        add(signals.as_fd(), SIGNALS).map_err(failed)?;
        let watch = options.failure.as_deref().map(Watch::new).transpose()?;
        if let Some(watch) = &watch {
            add(watch.fd(), FAILURE).map_err(failed)?;
        }
        let link = options.supervisor.as_deref().map(|name| Link::new(name, now));
        let link = link.transpose().map_err(failed)?;
        let phase = if link.is_some() { Phase::Waiting } else { Phase::Ready };
        Ok(Self {
            options,
            most: room::connections(descriptors, listeners.len(), kit.descriptors()),
            epoll,
            signals,
            listeners,
            listening: false,
            table: Table::new(),
            kit,
            queue: VecDeque::new(),
            waiting: 0,
            phase,
            link,
            watch,
            held: Deadlines::new(options.wait),
            answering: Deadlines::new(ANSWER),
            dying: Deadlines::new(TAKES),
            lingering: Deadlines::new(LINGER),
            stays: None,
            lost: None,
            paused: None,
            heard: now,
            notifier: Notifier::new(options.notify_socket.as_deref(), None),
            told: (now, phase, 0),
            feed: options.watchdog.map(|every| (every / 3, now)),
            accepted: 0,
            turns: 0,
        })
    }

    /// Passes on until the end.
    pub(super) fn run(mut self) -> Result<(), Error> {
        self.notifier.ready(&self.words());
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_over(Instant::now()) {
            self.listen(Instant::now());
            let timeout = self.timeout(Instant::now());
            events.clear();
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
            match waited {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::Loop(error.into())),
            }
            self.turns += 1;
            let now = Instant::now();
            for Event { flags, data } in events.iter().copied() {
                self.event(data.u64(), flags, now);
            }
            self.work(now);
            self.expire(now);
            self.tell(now);
        }
        // Those that have not ended must not look as if they had.
        let left: Vec<_> = self.table.iter().map(|(key, _)| key).collect();
        for key in left {
            self.cut(key);
        }
        let (accepted, turns) = (self.accepted, self.turns);
        self.notifier.stopping(&format!("ended: {accepted} connections in {turns} turns"));
        Ok(())
    }

    fn is_over(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Ending { end, .. } => {
                (self.table.is_empty() && self.stays.is_none_or(|then| then <= now)) || end <= now
            }
            _ => false,
        }
    }

    fn event(&mut self, token: u64, flags: EventFlags, now: Instant) {
        match token {
            SIGNALS => {
                if let Some(Signal::TERM | Signal::INT) = self.signals.take() {
                    self.leave(now);
                }
            }
            LINK => self.listen_to_supervisor(now),
            FAILURE => {
                if self.watch.as_mut().is_some_and(Watch::came) {
                    self.fail(now);
                }
            }
            LISTENER.. => {
                // It may have been drained since the kernel told of a client.
                if self.accepts() {
                    let place = usize::try_from(token - LISTENER).unwrap_or(usize::MAX);
                    self.accept(place, ACCEPTS, now);
                }
            }
            _ => {
                let side = if token & SERVER == 0 { Side::Client } else { Side::Server };
                let key = Key::from_bits(token);
                let Some(connection) = self.table.get_mut(key) else { return };
                if side == Side::Server && matches!(connection.stage, Stage::Connecting) {
                    self.connecting(key, now);
                }
                // What came with the end of an attempt is told this once.
                if let Some(connection) = self.table.get_mut(key) {
                    connection.note(side, flags);
                    self.enqueue(key);
                }
            }
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.queue.push_back(key);
        }
    }

    /// Gives a bounded number of those their turn that have something to do.
    fn work(&mut self, now: Instant) {
        for _ in 0..self.queue.len().min(TURNS) {
            let Some(key) = self.queue.pop_front() else { break };
            if let Some(connection) = self.table.get_mut(key) {
                connection.queued = false;
                self.turn(key, now);
            }
        }
    }

    fn turn(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.is_held() && self.phase == Phase::Ready && !connection.is_gone() {
            if self.paused.is_none() {
                self.connect(key, now);
            }
            return;
        }
        let fate = connection.turn(&mut self.kit, now);
        if connection.has_spoken() {
            self.heard = now;
            if let Some(link) = &mut self.link {
                link.changed = true;
            }
        }
        match fate {
            Fate::Over => self.remove(key),
            Fate::Lingers => {
                connection.linger(now);
                let table = &self.table;
                self.lingering.note(now, key, |since, key| is_of(table, since, key));
            }
            Fate::Stays { again } => {
                let dies = connection.begins_to_die(now);
                let wants = [Side::Client, Side::Server]
                    .map(|side| connection.half(side).is_some_and(|half| half.wants_arms()));
                for (side, wants) in [Side::Client, Side::Server].into_iter().zip(wants) {
                    if wants && !self.interest(key, side, true, true) {
                        return;
                    }
                }
                if dies {
                    let table = &self.table;
                    self.dying.note(now, key, |since, key| is_of(table, since, key));
                }
                if again {
                    self.enqueue(key);
                }
            }
        }
    }

    fn accepts(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Ready)
    }

    /// Listens if there is room for another connection and a reason to take it, or not.
    fn listen(&mut self, now: Instant) {
        let wanted = self.accepts() && self.table.len() < self.most && self.paused.is_none();
        if wanted == self.listening {
            return;
        }
        self.listening = wanted
            && self.listeners.iter().zip(LISTENER..).all(|(listener, token)| {
                let token = EventData::new_u64(token);
                epoll::add(&self.epoll, listener, token, EventFlags::IN).is_ok()
            });
        if !self.listening {
            for listener in &self.listeners {
                // Taken out altogether: its errors are told whatever is waited for.
                let _ = epoll::delete(&self.epoll, listener);
            }
        }
        if wanted && !self.listening {
            self.paused = Some(now + PAUSE);
        }
    }

    /// Accepts at most so many at one listener; how many came, or `None` if there may be some that could not
    /// be accepted.
    fn accept(&mut self, place: usize, most: usize, now: Instant) -> Option<usize> {
        let mut came = 0;
        for _ in 0..most {
            if self.table.len() >= self.most || self.paused.is_some() {
                return None;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(self.listeners.get(place)?, flags) {
                Ok(client) => {
                    came += 1;
                    self.take(client, now);
                }
                Err(Errno::AGAIN) => break,
                // It went before it was accepted.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM) => {}
                Err(_) => {
                    self.paused = Some(now + PAUSE);
                    return None;
                }
            }
        }
        Some(came)
    }

    fn take(&mut self, client: OwnedFd, now: Instant) {
        self.accepted += 1;
        let key = self.table.insert(Connection::new(client, now));
        self.waiting += 1;
        let ready = self.phase == Phase::Ready;
        let Some(connection) = self.table.get_mut(key) else { return };
        let client = &mut connection.client;
        client.hears = ready;
        let flags = interests(ready, false);
        let added = epoll::add(&self.epoll, &client.socket, EventData::new_u64(key.bits()), flags);
        if added.is_err() {
            self.paused = Some(now + PAUSE);
            return self.cut(key);
        }
        if let Some(link) = &mut self.link {
            link.changed = true;
        }
        if ready {
            return self.connect(key, now);
        }
        let table = &self.table;
        self.held.note(now, key, |since, key| is_of(table, since, key));
    }

    /// Takes a connection out and closes it.
    fn remove(&mut self, key: Key) {
        if let Some(connection) = self.take_out(key) {
            connection.close(&mut self.kit);
        }
    }

    /// The same for one whose ends have not ended.
    fn cut(&mut self, key: Key) {
        if let Some(connection) = self.take_out(key) {
            connection.abort(&mut self.kit);
        }
    }

    fn take_out(&mut self, key: Key) -> Option<Connection> {
        let connection = self.table.remove(key)?;
        self.waiting -= usize::from(connection.is_held());
        if let Some(link) = &mut self.link {
            link.changed = true;
        }
        Some(connection)
    }

    /// Waits for other things at an end, and hears at once what is there of them; whether it could. One that would
    /// not be heard of any more is cut.
    fn interest(&mut self, key: Key, side: Side, bytes: bool, room: bool) -> bool {
        let half = self.table.get_mut(key).and_then(|connection| connection.half(side));
        let Some(half) = half else { return false };
        if (half.hears, half.armed) == (bytes, room) {
            return true;
        }
        (half.hears, half.armed) = (bytes, room);
        let token = EventData::new_u64(key.bits() | side.bit());
        let done = epoll::modify(&self.epoll, &half.socket, token, interests(bytes, room));
        if done.is_err() {
            self.cut(key);
        }
        done.is_ok()
    }

    /// Connects one that is held to the server.
    fn connect(&mut self, key: Key, now: Instant) {
        let target = &self.options.target;
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let opened = socket_with(family, SocketType::STREAM, flags, None);
        let Some(connection) = self.table.get_mut(key) else { return };
        let Ok(socket) = opened else { return self.pause(key, now) };
        let _ = set_tcp_nodelay(&socket, true);
        match connect(&socket, target) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            // No port is free; some will be.
            Err(Errno::ADDRNOTAVAIL | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                return self.pause(key, now);
            }
            Err(_) => return self.refused(key, now),
        }
        connection.server = Some(Half::new(socket, false));
        connection.stage = Stage::Connecting;
        connection.since = now;
        self.waiting -= 1;
        if self.interest(key, Side::Client, true, false) {
            // Over loopback it mostly is connected by now.
            self.connecting(key, now);
        }
    }

    /// Leaves it held until there is room in the host.
    fn pause(&mut self, key: Key, now: Instant) {
        self.paused = Some(now + PAUSE);
        let Some(connection) = self.table.get(key) else { return };
        // One that came while the server is there waits as others do.
        let since = connection.since;
        let table = &self.table;
        if since == now {
            self.held.note(now, key, |since, key| is_of(table, since, key));
        }
    }

    /// Asks what has become of an attempt.
    fn connecting(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let Some(server) = &mut connection.server else { return };
        let token = EventData::new_u64(key.bits() | Side::Server.bit());
        match connect(&server.socket, &self.options.target) {
            Ok(()) | Err(Errno::ISCONN) => {
                connection.stage = Stage::Open;
                connection.refused = None;
                server.hears = true;
                let flags = interests(true, false);
                if !server.armed && epoll::add(&self.epoll, &server.socket, token, flags).is_err() {
                    return self.cut(key);
                }
                self.enqueue(key);
            }
            Err(Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) if server.armed => {}
            Err(Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) => {
                (server.hears, server.armed) = (true, true);
                let flags = interests(true, true);
                if epoll::add(&self.epoll, &server.socket, token, flags).is_err() {
                    self.cut(key);
                }
            }
            Err(_) => {
                connection.server = None;
                connection.stage = Stage::Held;
                self.waiting += 1;
                self.refused(key, now);
            }
        }
    }

    /// The server does not take a held one: unless it is gone, which its supervisor then tells, the client learns so.
    fn refused(&mut self, key: Key, now: Instant) {
        self.listen_to_supervisor(now);
        let misses = self.misses();
        let Some(connection) = self.table.get_mut(key).filter(|one| one.is_held()) else { return };
        let first = *connection.refused.get_or_insert(now);
        // The supervisor learns of the end a moment later than who connects.
        let soon = self.link.is_some() && now.saturating_duration_since(first) < GONE;
        if misses || (soon && self.phase == Phase::Ready) {
            connection.since = now;
            if self.phase == Phase::Ready {
                self.paused = Some(now + PAUSE);
            }
            if !self.interest(key, Side::Client, false, false) {
                return;
            }
            let table = &self.table;
            self.held.note(now, key, |since, key| is_of(table, since, key));
        } else {
            let text = unavailable(self.options.instance.as_deref(), Why::Refused);
            self.dismiss(key, text, now);
        }
    }

    /// Lets one go that is held: with an answer, where clients speak HTTP; else as who cannot be reached.
    fn dismiss(&mut self, key: Key, text: Rc<[u8]>, now: Instant) {
        if self.link.is_some() {
            self.answer(key, text, now);
        } else {
            self.cut(key);
        }
    }

    /// Gives one an answer of our own and lets it go.
    fn answer(&mut self, key: Key, text: Rc<[u8]>, now: Instant) {
        let Some(connection) = self.table.get_mut(key) else { return };
        self.waiting -= usize::from(connection.is_held());
        connection.answer(text, now, &mut self.kit);
        if !self.interest(key, Side::Client, true, true) {
            return;
        }
        let table = &self.table;
        self.answering.note(now, key, |since, key| is_of(table, since, key));
        self.enqueue(key);
    }

    fn dismiss_held(&mut self, why: Why<'_>, now: Instant) {
        let text = unavailable(self.options.instance.as_deref(), why);
        for key in self.all_held() {
            self.dismiss(key, Rc::clone(&text), now);
        }
    }

    fn all_held(&self) -> Vec<Key> {
        let held = self.table.iter().filter(|(_, connection)| connection.is_held());
        held.map(|(key, _)| key).collect()
    }

    /// The service manager asks for the end.
    fn leave(&mut self, now: Instant) {
        self.dismiss_held(Why::Stopping, now);
        let asked = Phase::ending(now, self.options.grace);
        // A failed start leaves more time for the answers than somebody who stops has.
        self.phase = match (self.phase, asked) {
            (Phase::Ending { cut, end }, Phase::Ending { cut: sooner, end: latest }) => {
                Phase::Ending { cut: cut.min(sooner), end: end.min(latest) }
            }
            _ => asked,
        };
    }

    /// A start has failed: all that wait are told, and the next client starts everything anew.
    fn fail(&mut self, now: Instant) {
        // The supervisor is gone before its failure is written.
        self.listen_to_supervisor(now);
        if !self.misses() {
            return;
        }
        for place in 0..self.listeners.len() {
            self.accept(place, self.most, now);
        }
        let reason = self.watch.as_ref().map(Watch::reason).unwrap_or_default();
        self.dismiss_held(Why::Failed(&reason), now);
        self.stays = Some(now + TOLD);
        self.phase = Phase::ending(now, self.options.grace.max(ANSWER));
    }

    fn listen_to_supervisor(&mut self, now: Instant) {
        let messages = self.link.as_mut().map(|link| link.take(now)).unwrap_or_default();
        for message in messages {
            match message {
                Message::Closed => self.supervisor_left(now),
                Message::Order(order) => self.order(order, now),
            }
        }
    }

    fn supervisor_left(&mut self, now: Instant) {
        self.phase = match self.phase {
            Phase::Ready => Phase::Lost,
            Phase::Drained => Phase::ending(now, Duration::ZERO),
            Phase::Stopping => Phase::ending(now, self.options.grace),
            other => other,
        };
    }

    fn order(&mut self, order: Order, now: Instant) {
        let serves = self.misses() || matches!(self.phase, Phase::Ready | Phase::Drained);
        match order {
            Order::Starting if self.phase == Phase::Ready => self.phase = Phase::Lost,
            Order::Starting if serves => self.phase = Phase::Waiting,
            Order::Ready if serves => {
                self.phase = Phase::Ready;
                for key in self.all_held() {
                    self.enqueue(key);
                }
            }
            Order::Stopping if serves => {
                self.dismiss_held(Why::Stopping, now);
                self.phase = Phase::Stopping;
            }
            Order::Drain => self.drain(None, now),
            Order::DrainActive(seconds) => {
                self.drain(Some(Duration::from_secs(seconds.into())), now);
            }
            _ => {}
        }
    }

    /// Answers whether anybody is there, the one included that is about to be accepted. From `drained` on nobody is
    /// accepted, so that nobody is between the answer and what the supervisor does then.
    fn drain(&mut self, quiet: Option<Duration>, now: Instant) {
        let Some(link) = &self.link else { return };
        let counts = |connection: &Connection| {
            quiet.is_none_or(|quiet| now.saturating_duration_since(connection.heard) < quiet)
        };
        let mut busy = self.table.iter().any(|(_, connection)| counts(connection));
        if busy || matches!(self.phase, Phase::Ending { .. }) {
            link.send(Report::Busy);
            return;
        }
        if self.accepts() {
            for place in 0..self.listeners.len() {
                busy |= self.accept(place, 1, now) != Some(0);
            }
        }
        let Some(link) = &self.link else { return };
        if busy {
            link.send(Report::Busy);
            return;
        }
        // Who came and went since the last report is told before.
        let count = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        let quiet = now.saturating_duration_since(self.heard).as_secs();
        let told = link.send(Report::Connections { count, quiet }) && link.send(Report::Drained);
        if told && self.phase != Phase::Stopping {
            self.phase = Phase::Drained;
        }
    }

    /// Does what is due although nothing came.
    fn expire(&mut self, now: Instant) {
        if self.paused.is_some_and(|then| then <= now) {
            self.paused = None;
            if self.phase == Phase::Ready {
                for key in self.all_held() {
                    self.enqueue(key);
                }
            }
        }
        let alone = self.misses() && self.link.as_ref().is_some_and(|link| link.fd().is_none());
        if !alone || self.phase != Phase::Lost {
            self.lost = None;
        } else if now.saturating_duration_since(*self.lost.get_or_insert(now)) >= LOST {
            // Nobody starts the server for this proxy any more, but for a new one.
            self.phase = Phase::ending(now, self.options.grace);
        }
        while let Some((since, key)) = self.held.expired(now) {
            if self.table.get(key).is_some_and(|one| one.is_held() && one.since == since) {
                if alone {
                    self.phase = Phase::ending(now, self.options.grace.max(ANSWER));
                }
                let text = unavailable(self.options.instance.as_deref(), Why::Starting);
                self.dismiss(key, text, now);
            }
        }
        while let Some((since, key)) = self.answering.expired(now) {
            if self.table.get(key).is_some_and(|one| one.is_answering() && one.since == since) {
                self.remove(key);
            }
        }
        while let Some((since, key)) = self.dying.expired(now) {
            let of_it = |one: &&mut Connection| !one.is_lingering() && one.since == since;
            let Some(connection) = self.table.get_mut(key).filter(of_it) else { continue };
            if connection.still_dies(now) {
                let table = &self.table;
                self.dying.note(now, key, |since, key| is_of(table, since, key));
            } else {
                self.remove(key);
            }
        }
        while let Some((since, key)) = self.lingering.expired(now) {
            let of_it = |one: &&mut Connection| one.is_lingering() && one.since == since;
            let Some(connection) = self.table.get_mut(key).filter(of_it) else { continue };
            if connection.still_dies(now) {
                let table = &self.table;
                self.lingering.note(now, key, |since, key| is_of(table, since, key));
            } else {
                self.remove(key);
            }
        }
        if let Phase::Ending { cut, .. } = self.phase
            && cut <= now
        {
            let open = self.table.iter().filter(|(_, connection)| !connection.is_ending());
            for key in open.map(|(key, _)| key).collect::<Vec<_>>() {
                self.cut(key);
            }
        }
        if self.misses()
            && let Some(link) = &mut self.link
            && link.look(now, self.waiting > 0)
            && let Some(fd) = link.fd()
            && epoll::add(&self.epoll, fd, EventData::new_u64(LINK), EventFlags::IN).is_err()
        {
            link.leave(now);
        }
    }

    /// Whether the server is missed.
    fn misses(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Lost)
    }

    /// Says to the supervisor and to the service manager what there is to say.
    fn tell(&mut self, now: Instant) {
        let count = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        if let Some(link) = &mut self.link {
            link.report(count, now.saturating_duration_since(self.heard), now);
        }
        if self.status_at().is_some_and(|then| then <= now) {
            self.told = (now, self.phase, self.table.len());
            self.notifier.status(&self.words());
        }
        if let Some((every, next)) = &mut self.feed
            && *next <= now
        {
            *next = now + *every;
            self.notifier.alive();
        }
    }

    fn words(&self) -> String {
        let count = self.table.len();
        match self.phase {
            Phase::Waiting | Phase::Lost => format!("waits for the server; {count} connections"),
            Phase::Ready => format!("{count} connections"),
            Phase::Drained => "accepts nothing: the server is idle and about to end".to_owned(),
            Phase::Stopping | Phase::Ending { .. } => format!("ends; {count} connections"),
        }
    }

    fn status_at(&self) -> Option<Instant> {
        let (then, phase, count) = self.told;
        let same = std::mem::discriminant(&phase) == std::mem::discriminant(&self.phase);
        if !same {
            return Some(then + FLAP);
        }
        (count != self.table.len()).then(|| then + STATUS)
    }

    fn timeout(&self, now: Instant) -> Option<Timespec> {
        if !self.queue.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let count = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        let link = self.link.as_ref();
        let wakes = [
            link.filter(|_| self.misses()).and_then(Link::retry_at),
            link.and_then(|link| link.report_at(count)),
            self.held.wake(),
            self.answering.wake(),
            self.dying.wake(),
            self.lingering.wake(),
            self.paused,
            // Who is still there is told of by a wake of its own.
            self.stays.filter(|_| self.table.is_empty()),
            match self.phase {
                Phase::Ending { cut, end } => Some(if cut > now { cut } else { end }),
                _ => None,
            },
            self.status_at(),
            self.feed.map(|(_, next)| next),
        ];
        let wake = wakes.into_iter().flatten().min()?;
        // Rounded up: to wake a moment early would be to wake many times.
        let rest = wake.saturating_duration_since(now);
        let rest = if rest.is_zero() { rest } else { rest + Duration::from_millis(1) };
        Some(Timespec::try_from(rest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))
    }
}

/// Whether a note of this time is still of the connection of that number.
fn is_of(table: &Table<Connection>, since: Instant, key: Key) -> bool {
    table.get(key).is_some_and(|connection| connection.since == since)
}

fn interests(bytes: bool, room: bool) -> EventFlags {
    let mut flags = EventFlags::RDHUP | EventFlags::ET;
    flags.set(EventFlags::IN, bytes);
    flags.set(EventFlags::OUT, room);
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Read as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;

    fn options(target: &TcpListener, supervisor: Option<&str>) -> Options {
        Options {
            target: target.local_addr().unwrap(),
            supervisor: supervisor.map(str::to_owned),
            failure: None::<PathBuf>,
            instance: None,
            wait: Duration::from_mins(1),
            grace: Duration::ZERO,
            notify_socket: None,
            watchdog: None,
        }
    }

    /// Something that refuses to watch anything.
    fn blind() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn is_reset(mut client: &TcpStream) -> bool {
        let error = client.read(&mut [0]).err().map(|error| error.kind());
        error == Some(ErrorKind::ConnectionReset)
    }

    #[test]
    fn who_cannot_be_watched_is_let_go() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = options(&target, Some("nobody-there"));
        let mut proxy = Proxy::new(&options, vec![listener.into()]).unwrap();
        let now = Instant::now();
        let sighted = std::mem::replace(&mut proxy.epoll, blind());
        // The client's end.
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(proxy.accept(0, 1, now), Some(1));
        assert!(proxy.table.is_empty() && proxy.waiting == 0 && proxy.paused.is_some());
        assert!(is_reset(&client));
        // The same once it is to be heard, and the server's end.
        for heard in [false, true] {
            proxy.paused = None;
            let blind = std::mem::replace(&mut proxy.epoll, sighted.try_clone().unwrap());
            let client = TcpStream::connect(address).unwrap();
            assert_eq!(proxy.accept(0, 1, now), Some(1));
            assert_eq!((proxy.table.len(), proxy.waiting), (1, 1));
            proxy.epoll = blind;
            let key = proxy.all_held()[0];
            proxy.table.get_mut(key).unwrap().client.hears = heard;
            proxy.connect(key, now);
            assert!(proxy.table.is_empty() && proxy.waiting == 0, "{heard}");
            assert!(is_reset(&client), "{heard}");
        }
        // The listeners: it is tried again, and not at once.
        proxy.listen(now);
        assert!(!proxy.listening && proxy.paused.is_some());
        proxy.epoll = sighted;
        proxy.expire(now + PAUSE);
        proxy.listen(now + PAUSE);
        assert!(proxy.listening);
    }
}
