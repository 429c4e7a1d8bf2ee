//! Clients in a namespace, and their servers on the machine's internet.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use instances_lab::Machine;
use rustix::net::listen;
use rustix::net::sockopt::set_socket_linger;

const HOST: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const SINK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HOST), 5001);
const DOOR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HOST), 5002);
/// Nobody listens there.
const CLOSED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HOST), 5004);
const ECHO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HOST), 5003);
/// The bytes of a datagram that asks for an answer.
const HELLO: usize = 64;
/// The bytes of one that is only timed.
const SMALL: usize = 16;
/// How much is written at once.
const CHUNK: usize = 256 << 10;
/// How many connections wait to be accepted, which is all that a host allows.
const BACKLOG: i32 = 4096;
/// How long nothing is sent before each figure.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an answer may take before the path is broken.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes a second of one stream.
    Stream,
    /// Connections a second, one after the other.
    Connections,
    /// Small datagrams and their answers a second, one after the other.
    RoundTrips,
    /// Connections a second that are refused: by the policy, or by the other end.
    Refusals,
    /// Small datagrams in a second of the sender's processor time, which a busy machine does not change:
    /// the kernel takes a packet all the way within the call that sends it.
    Packets,
}

impl Kind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Stream => "one TCP stream",
            Self::Connections => "new connections",
            Self::RoundTrips => "round trips of 64 bytes",
            Self::Refusals => "refused connections",
            Self::Packets => "datagrams a second of processor time",
        }
    }

    pub(super) fn figure(self, median: f64) -> String {
        match self {
            Self::Stream => format!("{:.2} Gbit/s", median * 8.0 / 1e9),
            Self::RoundTrips | Self::Refusals => format!("{:.0} µs each", 1e6 / median),
            Self::Connections => format!("{median:.0}/s"),
            Self::Packets => format!("{median:.0}"),
        }
    }
}

/// Starts the servers, which end with this process. The one for datagrams answers the long ones alone:
/// the others are dropped before it, see [`super::path`].
pub(super) fn serve(machine: &Machine) -> Result<()> {
    let (sink, door, echo) = machine.in_named_netns("internet", || -> std::io::Result<_> {
        Ok((TcpListener::bind(SINK)?, TcpListener::bind(DOOR)?, UdpSocket::bind(ECHO)?))
    })??;
    // As many as come in one moment: a first packet that is dropped comes again after a second.
    listen(&door, BACKLOG)?;
    thread::spawn(move || {
        for mut stream in sink.incoming().flatten() {
            // What is still under way of one stream does not hold up the next.
            thread::spawn(move || {
                let mut buffer = vec![0; CHUNK];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    });
    thread::spawn(move || door.incoming().for_each(drop));
    thread::spawn(move || {
        let mut buffer = [0; HELLO];
        while let Ok((length, client)) = echo.recv_from(&mut buffer) {
            // A client without an answer says so itself.
            let _sent = echo.send_to(buffer.get(..length).unwrap_or_default(), client);
        }
    });
    Ok(())
}

/// One figure of a path.
pub(super) fn measure(
    machine: &Machine,
    namespace: &str,
    kind: Kind,
    sample: Duration,
) -> Result<f64> {
    // What was on its way for the figure before is gone.
    thread::sleep(PAUSE);
    let client = || match kind {
        Kind::Stream => stream(sample),
        Kind::Connections => connections(sample),
        Kind::RoundTrips => round_trips(sample),
        Kind::Refusals => refusals(sample),
        Kind::Packets => packets(sample),
    };
    Ok(machine.in_named_netns(namespace, client)??)
}

/// What the kernel took of a stream; its buffers are small beside that.
fn stream(sample: Duration) -> std::io::Result<f64> {
    let mut stream = TcpStream::connect_timeout(&SINK, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![0; CHUNK];
    let (start, mut written) = (Instant::now(), 0);
    while start.elapsed() < sample {
        written += stream.write(&chunk)?;
    }
    Ok(rate(written, start.elapsed()))
}

/// How many segments of TCP were sent in a namespace, how many of them again, and how often a sender had waited in
/// vain for an answer before that; `/proc/net/snmp` and `netstat`.
pub(super) fn segments(machine: &Machine, namespace: &str) -> Result<[u64; 3]> {
    let read = || -> std::io::Result<String> {
        let files = ["snmp", "netstat"].map(|file| format!("/proc/thread-self/net/{file}"));
        files.iter().map(fs::read_to_string).collect()
    };
    let text = machine.in_named_netns(namespace, read)??;
    let figure = |group: &str, name: &str| -> Option<u64> {
        let mut lines =
            text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let place = lines.next()?.split(' ').position(|field| field == name)?;
        lines.next()?.split(' ').nth(place)?.parse().ok()
    };
    let wanted = [("Tcp", "OutSegs"), ("Tcp", "RetransSegs"), ("TcpExt", "TCPTimeouts")];
    let [Some(sent), Some(again), Some(timeouts)] = wanted.map(|(group, name)| figure(group, name))
    else {
        bail!("the kernel counts no {wanted:?}: {text}");
    };
    Ok([sent, again, timeouts])
}

fn connections(sample: Duration) -> std::io::Result<f64> {
    let (start, mut made) = (Instant::now(), 0);
    while start.elapsed() < sample {
        let stream = TcpStream::connect_timeout(&DOOR, PATIENCE)?;
        // Closed with a reset: nobody keeps a port for what is over, which instances with one address
        // outside would take from each other.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        drop(stream);
        made += 1;
    }
    Ok(rate(made, start.elapsed()))
}

fn round_trips(sample: Duration) -> std::io::Result<f64> {
    let socket = greeted()?;
    let (start, mut made) = (Instant::now(), 0);
    while start.elapsed() < sample {
        greet(&socket)?;
        made += 1;
    }
    Ok(rate(made, start.elapsed()))
}

fn refusals(sample: Duration) -> std::io::Result<f64> {
    let (start, mut made) = (Instant::now(), 0);
    while start.elapsed() < sample {
        match TcpStream::connect_timeout(&CLOSED, PATIENCE) {
            Err(error) if error.kind() != std::io::ErrorKind::TimedOut => made += 1,
            Err(error) => return Err(error),
            Ok(_) => return Err(std::io::Error::other("a port is open that should be closed")),
        }
    }
    Ok(rate(made, start.elapsed()))
}

/// A socket that has had an answer: its flow is known on the way, as any that is worth timing.
fn greeted() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(ECHO)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    greet(&socket)?;
    Ok(socket)
}

fn greet(socket: &UdpSocket) -> std::io::Result<()> {
    socket.send(&[0; HELLO])?;
    socket.recv(&mut [0; HELLO]).map(drop)
}

fn packets(sample: Duration) -> std::io::Result<f64> {
    let socket = greeted()?;
    let (start, mut sent, before) = (Instant::now(), 0, processor_time()?);
    while start.elapsed() < sample {
        for _ in 0..64 {
            socket.send(&[0; SMALL])?;
        }
        sent += 64;
    }
    Ok(rate(sent, processor_time()?.saturating_sub(before)))
}

/// How long this thread has run.
fn processor_time() -> std::io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn rate(count: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "figures are far below what a float holds")]
    let count = count as f64;
    count / time.as_secs_f64()
}
