//! The way to the supervisor. Whoever is at its other end is believed no more than that clients wait, are
//! connected or are told to come again: the agent could have taken the name.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use instances_core::attend::{MAX, Order, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

/// How often a supervisor that is not there is looked for.
const RETRY: Duration = Duration::from_millis(50);
/// The same while nobody waits for it.
const RETRY_ALONE: Duration = Duration::from_millis(500);
/// How many messages are read in one turn.
const MESSAGES: usize = 16;
/// The shortest time between two reports.
const OFTEN: Duration = Duration::from_secs(1);
/// The longest while somebody is connected.
const SELDOM: Duration = Duration::from_secs(10);

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Order(Order),
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    count: u32,
    at: Instant,
}

/// The way, whether there is somebody or not.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddrUnix,
    socket: Option<OwnedFd>,
    retry: Instant,
    said: Option<Said>,
    /// Whether there is more to report than what was said.
    pub(super) changed: bool,
}

impl Link {
    pub(super) fn new(name: &str, now: Instant) -> rustix::io::Result<Self> {
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        Ok(Self { address, socket: None, retry: now, said: None, changed: false })
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(OwnedFd::as_fd)
    }

    /// When to look for the supervisor; `None` while it is there.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.socket.is_none().then_some(self.retry)
    }

    /// Looks for the supervisor if it is time; whether it is there now and was not before.
    pub(super) fn look(&mut self, now: Instant, urgent: bool) -> bool {
        if self.socket.is_some() || self.retry > now {
            return false;
        }
        self.retry = now + if urgent { RETRY } else { RETRY_ALONE };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let Ok(socket) = socket else { return false };
        if connect(&socket, &self.address).is_err() {
            return false;
        }
        self.socket = Some(socket);
        self.said = None;
        true
    }

    /// Leaves one that cannot be waited for, to look for it later.
    pub(super) fn leave(&mut self, now: Instant) {
        self.socket = None;
        self.retry = now + RETRY;
    }

    /// The messages that have come, the closing last; a bounded number of them.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Message> {
        let mut messages = Vec::new();
        let Some(socket) = &self.socket else { return messages };
        // One byte more than a message has: what fills it is none.
        let mut buffer = [0; MAX + 1];
        for _ in 0..MESSAGES {
            match recv(socket, &mut buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((_, 0)) if ended(socket) => {
                    messages.push(Message::Closed);
                    break;
                }
                Ok((_, length)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    messages.extend(Order::parse(bytes).map(Message::Order));
                }
                // The error comes before what was sent before it.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    messages.push(Message::Closed);
                    break;
                }
            }
        }
        if messages.last() == Some(&Message::Closed) {
            self.socket = None;
            self.retry = now;
        }
        messages
    }

    /// Sends; whether it is on its way. A supervisor that does not read gets nothing.
    pub(super) fn send(&self, report: Report) -> bool {
        let Some(socket) = &self.socket else { return false };
        let text = report.to_string();
        send(socket, text.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    /// When there is something to report of so many connections.
    pub(super) fn report_at(&self, count: u32) -> Option<Instant> {
        self.socket.as_ref()?;
        let Some(said) = self.said else { return Some(self.retry) };
        if said.count != count && (said.count == 0 || count == 0) {
            Some(said.at)
        } else if self.changed || said.count != count {
            Some(said.at + OFTEN)
        } else {
            (count > 0).then(|| said.at + SELDOM)
        }
    }

    /// Reports if it is time.
    pub(super) fn report(&mut self, count: u32, quiet: Duration, now: Instant) {
        let due = match self.said {
            None => self.socket.is_some(),
            Some(_) => self.report_at(count).is_some_and(|then| then <= now),
        };
        if due {
            let sent = self.send(Report::Connections { count, quiet: quiet.as_secs() });
            self.said = Some(Said { count, at: now });
            self.changed = !sent;
        }
    }
}

/// Whether nothing came because nothing will; an empty message is none of an order either.
fn ended(socket: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let _ = poll(&mut fds, Some(&now));
    fds.iter().any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR))
}
