//! The loop: one thread that waits for clients, resolvers and signals at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use domain::base::Rtype;
use domain::base::iana::Rcode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::Error;
use super::answers::Answers;
use super::clients::{Client, Connection};
use super::exchange::{Exchange, Outcome};
use super::journal::Journal;
use super::message::{Query, Received, receive};
use super::refusals::{Reason, Refusals};
use super::resolvers::Resolvers;
use super::rules::{Rules, Verdict, judge, text};
use super::sockets::Sockets;
use crate::notify::Notifier;
use crate::supervise::signals::Signals;

/// The most questions that are with a resolver. Beyond it clients are not read: what they send waits
/// in the kernel, which drops what is too much.
const MAX_EXCHANGES: usize = 128;
/// How old a question must be to make room for another one when there are too many: names that
/// nobody answers for must not hold up those that somebody does.
const FAIR: Duration = Duration::from_secs(1);
/// The most of them that go over TCP.
const MAX_LONG: usize = 16;
/// The most connections of clients.
const MAX_CONNECTIONS: usize = 32;
/// How many datagrams are read before others have their turn.
const BATCH: usize = 32;
/// `MESSAGE_ID=` of what keeps the stub from its work: a resolver that fails, or that answers again,
/// and rules that cannot be read.
pub const TROUBLE_ID: &str = "c3b6a8de0a1f4a67b0f5d5a3f8f0a9e2";

/// Everything that a question meets.
pub(super) struct Server<'a> {
    pub(super) rules: Rules,
    pub(super) load: &'a dyn Fn() -> Result<Rules, String>,
    pub(super) sockets: Sockets,
    pub(super) journal: Journal,
    pub(super) notifier: Notifier,
    pub(super) resolvers: Resolvers,
    pub(super) answers: Answers,
    pub(super) refusals: Refusals,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) connections: Vec<Connection>,
    pub(super) connected: u64,
    pub(super) failing: bool,
}

/// What the descriptors have become, in the order in which they were waited for.
struct Ready {
    signal: bool,
    udp: bool,
    tcp: bool,
    exchanges: Vec<bool>,
    connections: Vec<PollFlags>,
}

impl Server<'_> {
    /// Answers until a signal asks for the end.
    pub(super) fn run(mut self, mut signals: Signals) -> Result<(), Error> {
        self.notifier.ready("answers");
        let mut end = Ok(());
        loop {
            let now = Instant::now();
            let ready = match self.wait(&signals, now) {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Error::Loop(error.into())),
            };
            if ready.signal {
                match signals.take() {
                    Some(Signal::HUP) => self.reload(),
                    Some(_) => break,
                    None => {}
                }
            }
            self.turn(&ready, Instant::now());
            // Not while somebody waits: the client would ask again only after seconds, if at all.
            if self.exchanges.is_empty() && self.resolvers.replaced() {
                end = Err(Error::Replaced);
                break;
            }
        }
        self.notifier.stopping("ends");
        let now = Instant::now();
        self.refusals.flush(&self.journal, &self.rules.policy, now, true);
        // A name in a table is not worth a failure at the end.
        let _ = self.answers.write(now, true);
        end
    }

    /// Takes new rules; without any the old ones stay, which is said.
    fn reload(&mut self) {
        match (self.load)() {
            Ok(rules) => {
                self.rules = rules;
                self.notifier.ready("answers");
            }
            Err(reason) => {
                let words = format!("keeps the rules it had: {reason}");
                self.notifier.ready(&words);
                self.journal.send(3, TROUBLE_ID, &[("MESSAGE", &words)]);
            }
        }
    }

    /// When one more question can be asked, if not now. The oldest is always the first.
    fn full(&self, now: Instant) -> Option<Instant> {
        let oldest = self.exchanges.first().filter(|_| self.exchanges.len() >= MAX_EXCHANGES)?;
        Some(oldest.started + FAIR).filter(|then| *then > now)
    }

    fn room(&self, now: Instant) -> bool {
        self.full(now).is_none()
    }

    fn wait(&self, signals: &Signals, now: Instant) -> Result<Ready, Errno> {
        let room = self.room(now);
        let mut fds = Vec::with_capacity(3 + self.exchanges.len() + self.connections.len());
        let listen = |wanted| if wanted { PollFlags::IN } else { PollFlags::empty() };
        fds.push(signals.interest());
        fds.push(PollFd::new(&self.sockets.udp, listen(room)));
        let accepts = self.connections.len() < MAX_CONNECTIONS;
        fds.push(PollFd::new(&self.sockets.tcp, listen(accepts)));
        // Every exchange in the list has a socket: one without is taken out at once.
        let waiting = self.exchanges.iter().filter_map(Exchange::interest);
        fds.extend(waiting);
        fds.extend(self.connections.iter().map(|connection| connection.interest(room)));
        let timeout = self.wake(now).map(|wake| {
            // Rounded up: to wake a moment early would be to wake many times.
            let rest = wake.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec::try_from(rest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
        });
        poll(&mut fds, timeout.as_ref())?;
        let mut flags = fds.iter().map(PollFd::revents);
        let mut some = || flags.next().is_some_and(|flags| !flags.is_empty());
        let (signal, udp, tcp) = (some(), some() && room, some() && accepts);
        let exchanges = self.exchanges.iter().map(|_| some()).collect();
        Ok(Ready { signal, udp, tcp, exchanges, connections: flags.collect() })
    }

    /// When something has to be done although nothing comes.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let exchanges = self.exchanges.iter().map(Exchange::deadline);
        let connections = self.connections.iter().filter_map(Connection::deadline);
        let others = [self.answers.wake(now), self.refusals.wake(), self.full(now)];
        exchanges.chain(connections).chain(others.into_iter().flatten()).min()
    }

    fn turn(&mut self, ready: &Ready, now: Instant) {
        for (connection, flags) in self.connections.iter_mut().zip(&ready.connections) {
            connection.ready(*flags, now);
        }
        self.proceed(&ready.exchanges, now);
        self.connections.retain(|connection| !connection.over(now));
        if ready.tcp {
            self.accept(now);
        }
        self.read_connections(now);
        if ready.udp {
            self.read_datagrams(now);
        }
        self.refusals.flush(&self.journal, &self.rules.policy, now, false);
        // The file is a help for reading refusals; answers go on without it.
        let _ = self.answers.write(now, false);
    }

    /// Lets each exchange take what came for it, or note that nothing does.
    fn proceed(&mut self, ready: &[bool], now: Instant) {
        let mut long = self.exchanges.iter().filter(|exchange| exchange.over_tcp()).count();
        let mut ready = ready.iter();
        let mut rest = Vec::with_capacity(self.exchanges.len());
        for mut exchange in std::mem::take(&mut self.exchanges) {
            let was_long = exchange.over_tcp();
            let mut outcome = Outcome::Waiting;
            if ready.next().is_some_and(|ready| *ready) {
                outcome = exchange.ready(&self.rules, now, long < MAX_LONG);
            }
            if matches!(outcome, Outcome::Waiting) {
                outcome = exchange.expire(now);
            }
            let is_long = exchange.over_tcp();
            long = (long + usize::from(is_long)).saturating_sub(usize::from(was_long));
            match outcome {
                Outcome::Waiting => rest.push(exchange),
                outcome => self.finish(&exchange, outcome, now),
            }
        }
        self.exchanges = rest;
    }

    fn finish(&mut self, exchange: &Exchange, outcome: Outcome, now: Instant) {
        let reply = match outcome {
            Outcome::Answered { reply, addresses, dropped } => {
                if let Some(resolver) = exchange.resolver() {
                    self.resolvers.answered(resolver);
                }
                self.well();
                if !addresses.is_empty() {
                    self.answers.remember(&text(&exchange.query.name), &addresses);
                } else if let Some(address) = dropped.first() {
                    self.refuse(Reason::Address, &exchange.query, Some(*address));
                }
                Some(reply)
            }
            Outcome::Failed | Outcome::Waiting => {
                self.unwell(&exchange.reason);
                exchange.query.empty(Rcode::SERVFAIL)
            }
        };
        self.deliver(exchange.client, &exchange.query, reply, now);
    }

    /// Says once why names cannot be resolved.
    fn unwell(&mut self, reason: &str) {
        if std::mem::replace(&mut self.failing, true) {
            return;
        }
        let words = match reason {
            "" => {
                "Cannot resolve names: this host names no resolver in /etc/resolv.conf".to_owned()
            }
            reason => format!("Cannot resolve names: no resolver of this host answers ({reason})"),
        };
        self.notifier.status(&words);
        self.journal.send(4, TROUBLE_ID, &[("MESSAGE", &words)]);
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.notifier.status("answers");
            self.journal.send(6, TROUBLE_ID, &[("MESSAGE", "Names can be resolved again")]);
        }
    }

    fn refuse(&mut self, reason: Reason, query: &Query, address: Option<IpAddr>) {
        let what = (reason, text(&query.name), address);
        self.refusals.note(&self.journal, &self.rules.policy, what);
    }

    fn accept(&mut self, now: Instant) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Ok((stream, _)) = self.sockets.tcp.accept() else { break };
            self.connected += 1;
            if let Ok(connection) = Connection::new(self.connected, stream, now) {
                self.connections.push(connection);
            }
        }
    }

    fn read_connections(&mut self, now: Instant) {
        let mut place = 0;
        while self.room(now)
            && let Some(connection) = self.connections.get_mut(place)
        {
            match connection.question() {
                Some(question) => {
                    let client = Client::Connection(connection.number);
                    self.take(client, &question, now);
                }
                None => place += 1,
            }
        }
    }

    fn read_datagrams(&mut self, now: Instant) {
        let mut buffer = [0; 2048];
        for _ in 0..BATCH {
            if !self.room(now) {
                break;
            }
            let Ok((read, from)) = self.sockets.udp.recv_from(&mut buffer) else { break };
            self.take(Client::Datagram(from), buffer.get(..read).unwrap_or_default(), now);
        }
    }

    /// Decides on what a client sent.
    fn take(&mut self, client: Client, bytes: &[u8], now: Instant) {
        let query = match receive(bytes) {
            Received::Query(query) => query,
            Received::Nothing => return self.send(client, None, now),
            Received::Refused(reply) => return self.send(client, Some(&reply), now),
        };
        let reply = match judge(&self.rules, &query.name, query.rtype) {
            Verdict::Ask => return self.ask(client, query, now),
            Verdict::Localhost => query.addresses(match query.rtype {
                Rtype::A => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
                Rtype::AAAA => &[IpAddr::V6(Ipv6Addr::LOCALHOST)],
                _ => &[],
            }),
            Verdict::Nothing => query.empty(Rcode::NOERROR),
            Verdict::BadType => query.empty(Rcode::REFUSED),
            Verdict::NotAllowed => {
                self.refuse(Reason::Name, &query, None);
                query.empty(Rcode::REFUSED)
            }
            Verdict::LocalNetwork => {
                self.refuse(Reason::Local, &query, None);
                query.empty(Rcode::NXDOMAIN)
            }
        };
        self.deliver(client, &query, reply, now);
    }

    fn ask(&mut self, client: Client, query: Query, now: Instant) {
        if self.exchanges.len() >= MAX_EXCHANGES {
            let oldest = self.exchanges.remove(0);
            let reply = oldest.query.empty(Rcode::SERVFAIL);
            self.deliver(oldest.client, &oldest.query, reply, now);
        }
        let resolvers = self.resolvers.list(now);
        let mut exchange = Exchange::new(client, query, resolvers, now);
        match exchange.start(now) {
            Outcome::Waiting => self.exchanges.push(exchange),
            outcome => self.finish(&exchange, outcome, now),
        }
    }

    fn deliver(&mut self, client: Client, query: &Query, reply: Option<Vec<u8>>, now: Instant) {
        let reply = match client {
            Client::Datagram(_) => reply.and_then(|full| query.for_datagram(full)),
            Client::Connection(_) => reply,
        };
        self.send(client, reply.as_deref(), now);
    }

    fn send(&mut self, client: Client, reply: Option<&[u8]>, now: Instant) {
        match client {
            Client::Datagram(to) => {
                // A client that does not take it asks again.
                let _ = reply.map(|reply| self.sockets.udp.send_to(reply, to));
            }
            Client::Connection(number) => {
                let mut connections = self.connections.iter_mut();
                if let Some(connection) = connections.find(|one| one.number == number) {
                    connection.answer(reply, now);
                }
            }
        }
    }
}
