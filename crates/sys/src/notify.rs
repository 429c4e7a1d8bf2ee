//! Messages to the service manager, as in `sd_notify(3)`.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg, sendmsg_addr, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::passed;

/// The most characters of a status.
const MAX_STATUS: usize = 600;

/// Sends messages to the service manager, or nowhere when there is none.
///
/// A message that cannot be sent is dropped: the manager's timeouts then judge the service, and
/// nothing here could do better.
#[derive(Debug)]
pub(crate) struct Notifier {
    target: Option<Target>,
    status: String,
}

/// A socket, and where it sends to unless it is connected.
#[derive(Debug)]
struct Target {
    socket: OwnedFd,
    address: Option<SocketAddrUnix>,
}

impl Notifier {
    /// Prepares for the connected socket that systemd passed, or else for the one that
    /// `NOTIFY_SOCKET` names: a path, or `@` and an abstract name.
    ///
    /// The passed one needs no path in the sandbox: what the agent cannot name, it cannot flood.
    pub(crate) fn new(path: Option<&OsStr>, passed: Option<RawFd>) -> Self {
        if let Some(socket) = passed.and_then(passed::take) {
            return Self { target: Some(Target { socket, address: None }), status: String::new() };
        }
        let target = path.and_then(|path| {
            let bytes = path.as_bytes();
            let address = match bytes.strip_prefix(b"@") {
                Some(name) => SocketAddrUnix::new_abstract_name(name),
                None => SocketAddrUnix::new(bytes),
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
            Some(Target { socket: socket.ok()?, address: Some(address.ok()?) })
        });
        Self { target, status: String::new() }
    }

    /// Says in words what the service does, unless that is what was said last.
    pub(crate) fn status(&mut self, words: &str) {
        let line = one_line(words, MAX_STATUS);
        if self.status != line {
            self.send(&format!("STATUS={line}"));
            self.status = line;
        }
    }

    /// Says that the service is ready, with its status.
    pub(crate) fn ready(&mut self, words: &str) {
        self.status = one_line(words, MAX_STATUS);
        self.send(&format!("READY=1\nSTATUS={}", self.status));
    }

    /// Says that the service is stopping, with its status.
    pub(crate) fn stopping(&mut self, words: &str) {
        self.status = one_line(words, MAX_STATUS);
        self.send(&format!("STOPPING=1\nSTATUS={}", self.status));
    }

    /// Has the service manager wait at least so much longer for what it waits for.
    pub(crate) fn extend(&self, time: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }

    /// Has the service manager do at once what it does when the watchdog is not fed.
    pub(crate) fn hung(&self) {
        self.send("WATCHDOG=trigger");
    }

    /// Feeds the watchdog.
    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let _ = self.deliver(message, None);
    }

    fn deliver(&self, message: &str, fd: Option<&OwnedFd>) -> rustix::io::Result<()> {
        let Some(Target { socket, address }) = &self.target else { return Ok(()) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd.as_fd()]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let data = [IoSlice::new(message.as_bytes())];
        match address {
            Some(address) => {
                sendmsg_addr(socket, address, &data, &mut control, SendFlags::NOSIGNAL).map(drop)
            }
            None => sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL).map(drop),
        }
    }

    /// Waits, at most `patience`, until the manager has processed every message so far.
    ///
    /// Without it the manager may see the exit first and discard what is still in its queue.
    pub(crate) fn barrier(&self, patience: Duration) {
        if self.target.is_none() {
            return;
        }
        let Ok((reader, writer)) = pipe_with(PipeFlags::CLOEXEC) else { return };
        if self.deliver("BARRIER=1", Some(&writer)).is_err() {
            return;
        }
        drop(writer);
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let _ = poll(&mut [PollFd::new(&reader, PollFlags::empty())], Some(&timeout));
    }
}

/// Makes one line of `words`: no control characters, single spaces, at most `limit` characters.
pub(crate) fn one_line(words: &str, limit: usize) -> String {
    let mut line = String::new();
    let mut length = 0;
    let mut space = false;
    for character in words.chars() {
        if character.is_whitespace() || character.is_control() {
            space = !line.is_empty();
            continue;
        }
        if length + 1 + usize::from(space) >= limit {
            line.push('…');
            break;
        }
        if space {
            line.push(' ');
        }
        line.push(character);
        length += 1 + usize::from(space);
        space = false;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_status_is_one_bounded_line() {
        assert_eq!(one_line(" a\nREADY=1\t\u{1b}b ", 99), "a READY=1 b");
        for limit in [3, 10, 600] {
            let long = one_line(&"ü".repeat(9000), limit);
            assert!(long.chars().count() <= limit, "{limit}: {}", long.chars().count());
            assert!(one_line(&"ab ".repeat(9000), limit).chars().count() <= limit);
        }
    }

    #[test]
    fn messages_arrive_and_the_barrier_waits_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut notifier = Notifier::new(Some(path.as_os_str()), None);
        notifier.status("one");
        notifier.status("one");
        notifier.ready("two");
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; 256];
            while seen.last().is_none_or(|last| last != "BARRIER=1") {
                let read = socket.recv(&mut buffer).unwrap();
                seen.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            }
            seen
        });
        let start = std::time::Instant::now();
        notifier.barrier(Duration::from_secs(20));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(reader.join().unwrap(), ["STATUS=one", "READY=1\nSTATUS=two", "BARRIER=1"]);
    }

    #[test]
    fn no_manager_is_no_error() {
        let mut notifier = Notifier::new(None, None);
        notifier.status("one");
        notifier.barrier(Duration::from_secs(20));
        Notifier::new(Some(OsStr::new("/nonexistent")), None).barrier(Duration::from_secs(20));
    }
}
