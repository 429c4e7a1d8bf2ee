//! The sockets that systemd listens at, as in `sd_listen_fds(3)`.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    socket_acceptconn, socket_type,
};

/// The number of the first passed descriptor.
const FIRST: RawFd = 3;
/// The most of them.
const MAX: RawFd = 64;
/// How long a client may say nothing before its host is asked whether it is still there, how often that is
/// repeated, and how many times: a host that is gone is noticed after a minute and a half.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 3);

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not started through a socket unit.
    #[error("no sockets were passed: start this through a socket unit with ListenStream=")]
    NotPassed,
    /// More than anybody declares.
    #[error("{0} sockets were passed, more than 64: split the socket unit")]
    TooMany(RawFd),
    /// Something else than a listening stream socket.
    #[error(
        "passed socket {0} does not listen for streams: the socket unit must have ListenStream= alone, and not Accept=yes"
    )]
    Unfit(RawFd),
    /// Not a socket, or closed.
    #[error("cannot use passed socket {0}")]
    Broken(RawFd, #[source] io::Error),
}

/// Takes the passed sockets. For the start of a program, when it has opened nothing else.
pub(super) fn take() -> Result<Vec<OwnedFd>, Error> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Err(Error::NotPassed);
    }
    let count: RawFd = variable("LISTEN_FDS").parse().map_err(|_| Error::NotPassed)?;
    match count {
        ..=0 => Err(Error::NotPassed),
        1..=MAX => (0..count).map(|place| one(FIRST + place)).collect(),
        _ => Err(Error::TooMany(count)),
    }
}

fn one(number: RawFd) -> Result<OwnedFd, Error> {
    #[expect(unsafe_code, reason = "a descriptor that is passed by its number has no other way in")]
    // SAFETY: systemd passes it by this number, and nothing here has opened anything yet.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let broken = |error: rustix::io::Errno| Error::Broken(number, error.into());
    fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(broken)?;
    if socket_type(&socket).map_err(broken)? != SocketType::STREAM
        || !socket_acceptconn(&socket).map_err(broken)?
    {
        return Err(Error::Unfit(number));
    }
    let flags = fcntl_getfl(&socket).map_err(broken)?;
    fcntl_setfl(&socket, flags | OFlags::NONBLOCK).map_err(broken)?;
    prepare(&socket);
    Ok(socket)
}

/// What every accepted connection has from its listener on Linux, without a call for each of them. A socket
/// that knows no such option, a Unix one, needs none.
fn prepare(socket: &OwnedFd) {
    let (idle, interval, count) = KEEPALIVE;
    let _ = set_tcp_nodelay(socket, true)
        .and_then(|()| set_socket_keepalive(socket, true))
        .and_then(|()| set_tcp_keepidle(socket, idle))
        .and_then(|()| set_tcp_keepintvl(socket, interval))
        .and_then(|()| set_tcp_keepcnt(socket, count));
}
