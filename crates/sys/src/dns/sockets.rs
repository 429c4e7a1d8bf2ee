//! The sockets that systemd made inside the instance's namespace, as in `sd_listen_fds(3)`.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

/// Where clients ask.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not started through a socket unit.
    #[error(
        "no sockets were passed: start this through a socket unit with ListenDatagram= and ListenStream="
    )]
    NotPassed,
    /// Too many, or twice of a kind: nobody would answer at the second.
    #[error(
        "{0} sockets were passed: the socket unit must have one ListenDatagram= and one ListenStream="
    )]
    Unfit(u8),
    /// Not a socket, or closed.
    #[error("cannot use a passed socket")]
    Broken(#[source] io::Error),
}

impl Sockets {
    /// Takes the passed descriptors. For the start of a program, when it has opened nothing else.
    pub fn take() -> Result<Self, Error> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return Err(Error::NotPassed);
        }
        let count: u8 = variable("LISTEN_FDS").parse().map_err(|_| Error::NotPassed)?;
        if count != 2 {
            return Err(Error::Unfit(count));
        }
        let (mut udp, mut tcp) = (None, None);
        for number in [3, 4] {
            #[expect(
                unsafe_code,
                reason = "a descriptor that is passed by its number has no other way in"
            )]
            // SAFETY: systemd passes them as 3 and 4, and nothing here has opened anything yet.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            let broken = |error: rustix::io::Errno| Error::Broken(error.into());
            fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(broken)?;
            match socket_type(&socket).map_err(broken)? {
                SocketType::DGRAM => udp = Some(UdpSocket::from(socket)),
                SocketType::STREAM => tcp = Some(TcpListener::from(socket)),
                _ => return Err(Error::Unfit(count)),
            }
        }
        let (Some(udp), Some(tcp)) = (udp, tcp) else { return Err(Error::Unfit(count)) };
        udp.set_nonblocking(true).map_err(Error::Broken)?;
        tcp.set_nonblocking(true).map_err(Error::Broken)?;
        Ok(Self { udp, tcp })
    }
}
