//! The proxies in front of the server: what they are told, and whom they have.
//!
//! This process listens before the server starts, and nothing of the agent's outlives it, so nobody else can
//! have the name. The agent can connect too: whoever has its user is no proxy.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use instances_core::attend::{MAX, Order, Report};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, listen, recv, send, shutdown, socket_with,
};
use rustix::process::geteuid;

/// How many proxies may be there: one, and one that comes while the other goes.
const MOST: usize = 8;
/// How many messages of one proxy are read in a turn.
const MESSAGES: usize = 16;

/// One proxy.
#[derive(Debug)]
struct Proxy {
    socket: OwnedFd,
    /// How many clients it has.
    clients: u32,
    /// When one last sent something.
    heard: Option<Instant>,
    /// What it answered to the last [`Order::Drain`].
    answer: Option<Report>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Attend {
    listener: OwnedFd,
    proxies: Vec<Proxy>,
    said: Order,
    /// When a client of one that is gone last sent something.
    heard: Option<Instant>,
}

impl Attend {
    /// Listens at the abstract name.
    pub(super) fn listen(name: &str) -> rustix::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&listener, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        listen(&listener, 16)?;
        Ok(Self { listener, proxies: Vec::new(), said: Order::Starting, heard: None })
    }

    /// What to wait for.
    pub(super) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let proxies = self.proxies.iter().map(|proxy| PollFd::new(&proxy.socket, PollFlags::IN));
        std::iter::once(PollFd::new(&self.listener, PollFlags::IN)).chain(proxies)
    }

    /// Does what can be done without waiting.
    pub(super) fn turn(&mut self) {
        for _ in 0..MOST {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listener, flags) {
                Ok(socket) => self.take(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => break,
            }
        }
        self.heard = self.heard();
        self.proxies.retain_mut(Proxy::turn);
    }

    fn take(&mut self, socket: OwnedFd) {
        let agents = peer(&socket).is_none_or(|user| user == geteuid().as_raw());
        if agents || self.proxies.len() >= MOST {
            return;
        }
        let proxy = Proxy { socket, clients: 0, heard: None, answer: None };
        if proxy.tell(self.said) {
            self.proxies.push(proxy);
        }
    }

    /// Tells all of them, and those that come later.
    pub(super) fn say(&mut self, order: Order) {
        self.said = order;
        self.proxies.retain(|proxy| proxy.tell(order));
    }

    /// Asks all of them whether they have clients, and to take nobody more if not.
    pub(super) fn drain(&mut self, order: Order) {
        for proxy in &mut self.proxies {
            proxy.answer = None;
        }
        self.proxies.retain(|proxy| proxy.tell(order));
    }

    /// Whether all have answered that they have no clients; `None` while an answer is missing.
    pub(super) fn drained(&self) -> Option<bool> {
        let busy = |proxy: &Proxy| proxy.answer == Some(Report::Busy);
        if self.proxies.iter().any(busy) {
            return Some(false);
        }
        let all = self.proxies.iter().all(|proxy| proxy.answer == Some(Report::Drained));
        all.then_some(true)
    }

    /// Ends the way of those that take nobody more, so that they end; whoever comes later is told that the server
    /// starts.
    pub(super) fn leave(&mut self) {
        self.said = Order::Starting;
        for proxy in &self.proxies {
            // What comes back is their end.
            let _ = shutdown(&proxy.socket, Shutdown::Write);
        }
    }

    /// Whether one of those is there still.
    pub(super) fn has_drained(&self) -> bool {
        self.proxies.iter().any(|proxy| proxy.answer == Some(Report::Drained))
    }

    /// Whether there is no proxy.
    pub(super) fn is_alone(&self) -> bool {
        self.proxies.is_empty()
    }

    /// How many clients there are.
    pub(super) fn clients(&self) -> u32 {
        self.proxies.iter().map(|proxy| proxy.clients).fold(0, u32::saturating_add)
    }

    /// When a client last sent something.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.proxies.iter().map(|proxy| proxy.heard).fold(self.heard, Option::max)
    }
}

/// The user at the other end, as it was when that connected.
///
/// Not by rustix: it takes the process's number for one, and from another PID namespace that is zero.
fn peer(socket: &OwnedFd) -> Option<libc::uid_t> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
    #[expect(unsafe_code, reason = "rustix takes no process of another PID namespace")]
    // SAFETY: the kernel writes at most `length` bytes, which `peer` has.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    (answer == 0).then_some(peer.uid)
}

impl Proxy {
    /// False once it is gone.
    fn tell(&self, order: Order) -> bool {
        let text = order.to_string();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // One that does not read is none of ours.
        send(&self.socket, text.as_bytes(), flags).is_ok()
    }

    /// Reads what came; false once it is gone.
    fn turn(&mut self) -> bool {
        let mut buffer = [0; MAX + 1];
        for _ in 0..MESSAGES {
            match recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((_, 0)) => return false,
                Ok((_, length)) => match buffer.get(..length).and_then(Report::parse) {
                    Some(Report::Connections { count, quiet }) => {
                        self.clients = count;
                        let heard = Instant::now().checked_sub(Duration::from_secs(quiet));
                        self.heard = self.heard.max(heard);
                    }
                    Some(answer) => self.answer = Some(answer),
                    None => {}
                },
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::connect;

    fn connected(name: &str) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
        socket
    }

    #[test]
    fn whoever_has_the_agents_user_is_no_proxy() {
        let name = format!("attend-test/{}", std::process::id());
        let mut attend = Attend::listen(&name).unwrap();
        let agent = connected(&name);
        attend.turn();
        assert_eq!(recv(&agent, &mut [0; 64], RecvFlags::DONTWAIT).unwrap().1, 0);
        assert_eq!((attend.clients(), attend.heard(), attend.drained()), (0, None, Some(true)));
        // Nobody else can listen while this process does.
        assert!(Attend::listen(&name).is_err());
    }
}
