//! One HTTP request that never blocks, for the supervisor's event loop.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, send, socket_with};

use crate::http::{Error, Login, Parser, Response, request};

/// How much one turn reads, so that an endless answer starves nothing.
const PER_TURN: usize = 8 << 10;

/// A request under way, on a connection of its own. Not `Debug`: it knows the password.
pub(super) struct Probe {
    socket: OwnedFd,
    unsent: Vec<u8>,
    parser: Parser,
    /// When the answer must be complete.
    pub(super) end: Instant,
}

impl Probe {
    /// Connects to `addr` and prepares `GET path`.
    pub(super) fn start(
        addr: SocketAddr,
        path: &str,
        login: Option<Login<'_>>,
        end: Instant,
    ) -> Result<Self, Error> {
        let unsent = request(addr, path, login)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(io)?;
        match connect(&socket, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(io(errno)),
        }
        Ok(Self { socket, unsent, parser: Parser::default(), end })
    }

    /// What to wait for before [`Probe::turn`] can do something.
    pub(super) fn interest(&self) -> PollFd<'_> {
        let flags = if self.unsent.is_empty() { PollFlags::IN } else { PollFlags::OUT };
        PollFd::new(&self.socket, flags)
    }

    /// Does what can be done without waiting; gives the result once there is one.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Result<Response, Error>> {
        match self.advance() {
            Ok(None) if now >= self.end => Some(Err(Error::Timeout)),
            Ok(None) => None,
            Ok(Some(response)) => Some(Ok(response)),
            Err(error) => Some(Err(error)),
        }
    }

    fn advance(&mut self) -> Result<Option<Response>, Error> {
        if !self.unsent.is_empty() {
            match send(&self.socket, &self.unsent, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.unsent.drain(..sent.min(self.unsent.len()))),
                Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => return Ok(None),
                Err(errno) => return Err(io(errno)),
            }
        }
        let mut chunk = [0; PER_TURN];
        match read(&self.socket, &mut chunk) {
            Ok(0) => self.parser.finish(),
            Ok(count) => self.parser.push(chunk.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(io(errno)),
        }
    }
}

fn io(errno: Errno) -> Error {
    Error::Io(errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::time::Duration;

    const LOGIN: Login<'static> = Login { user: "opencode", password: "pw" };

    fn ask(addr: SocketAddr, patience: Duration) -> Result<Response, Error> {
        let mut probe = Probe::start(addr, "/config", Some(LOGIN), Instant::now() + patience)?;
        loop {
            if let Some(result) = probe.turn(Instant::now()) {
                return result;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn an_answer_and_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let silent = ask(addr, Duration::from_millis(30));
        assert!(matches!(silent, Err(Error::Timeout)));
        let server = std::thread::spawn(move || {
            let (_, _) = listener.accept().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        });
        assert_eq!(ask(addr, Duration::from_secs(10)).unwrap().status, 400);
        server.join().unwrap();
        assert!(matches!(ask(addr, Duration::from_secs(10)), Err(Error::Io(_))));
    }
}
