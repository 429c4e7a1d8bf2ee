//! Clients and their server, all in the machine's network.

use std::io::{Read, Result as IoResult, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use instances_lab::Machine;

use super::{SERVER, address};

/// The bytes of a large answer.
const LARGE: usize = 64 << 20;
/// How many events come in one answer, and the bytes of each.
const EVENTS: usize = 20_000;
const EVENT: usize = 100;
/// How long what is repeated is repeated.
const SAMPLE: Duration = Duration::from_millis(400);
/// How long anything may take before the way is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many clients there are at a time where there are several.
const CROWD: usize = 100;
/// How many connect at the same time.
const CONNECTING: usize = 4;
/// How much the server writes at once.
const CHUNK: usize = 256 << 10;

/// A request for `what`.
fn request(what: &str) -> Vec<u8> {
    format!("GET /{what} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// What is measured; each as something of which more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Small requests one after the other on one connection.
    Kept,
    /// The same, each on a connection of its own.
    Fresh,
    /// Connections a second with several clients.
    Connections,
    /// Small requests of many clients at once.
    Crowd,
    /// One large answer.
    Large,
    /// Many small messages of the server.
    Events,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Kept, Self::Fresh, Self::Connections, Self::Crowd, Self::Large, Self::Events];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Kept => "small requests, one connection",
            Self::Fresh => "small requests, a connection each",
            Self::Connections => "the same, 4 clients",
            Self::Crowd => "small requests, 100 connections",
            Self::Large => "an answer of 64 MiB",
            Self::Events => "events of 100 bytes",
        }
    }

    pub(super) fn figure(self, median: f64) -> String {
        match self {
            Self::Kept | Self::Fresh => format!("{:.0} µs each", 1e6 / median),
            Self::Large => format!("{:.1} Gbit/s", median * 8.0 / 1e9),
            _ => format!("{median:.0}/s"),
        }
    }
}

/// Starts the server, which ends with this process.
pub(super) fn serve(machine: &Machine) -> Result<()> {
    let listener = machine.in_netns(|| -> IoResult<_> {
        let listener = TcpListener::bind(address(SERVER))?;
        rustix::net::listen(&listener, 4096)?;
        Ok(listener)
    })??;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let thread = thread::Builder::new().stack_size(64 << 10);
            // A client that gets no answer says so itself.
            let _started = thread.spawn(move || answer(stream));
        }
    });
    Ok(())
}

/// Answers requests until the client goes.
fn answer(mut stream: TcpStream) -> IoResult<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 512];
    loop {
        let count = stream.read(&mut buffer)?;
        let request = buffer.get(..count).unwrap_or_default();
        if request.is_empty() {
            return Ok(());
        } else if request.starts_with(b"GET /large") {
            let chunk = vec![0; CHUNK];
            for _ in 0..LARGE / CHUNK {
                stream.write_all(&chunk)?;
            }
        } else if request.starts_with(b"GET /events") {
            for _ in 0..EVENTS {
                stream.write_all(&[b'e'; EVENT])?;
            }
        } else {
            stream.write_all(&SMALL)?;
        }
    }
}

/// The answer to a small request.
const SMALL: [u8; 200] = [b's'; 200];

fn connect(to: SocketAddr) -> IoResult<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn small(stream: &mut TcpStream) -> IoResult<()> {
    stream.write_all(&request("small"))?;
    stream.read_exact(&mut [0; SMALL.len()])
}

/// Connections that have each been answered once.
pub(super) fn crowd(machine: &Machine, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let connections = || -> IoResult<_> {
        let one = |_| connect(to).and_then(|mut stream| small(&mut stream).map(|()| stream));
        (0..count).map(one).collect()
    };
    Ok(machine.in_netns(connections)??)
}

/// One figure of a way.
pub(super) fn measure(machine: &Machine, to: SocketAddr, kind: Kind) -> Result<f64> {
    let client = || match kind {
        Kind::Kept => {
            let mut stream = connect(to)?;
            repeated(|| small(&mut stream))
        }
        Kind::Fresh => repeated(|| fresh(to)),
        Kind::Connections => together(CONNECTING, || Ok(()), |()| fresh(to)),
        Kind::Crowd => together(CROWD, || connect(to), small),
        Kind::Large => much(to, "large", LARGE).map(|bytes| bytes * as_float(LARGE)),
        Kind::Events => much(to, "events", EVENTS * EVENT).map(|one| one * as_float(EVENTS)),
    };
    Ok(machine.in_netns(client)??)
}

fn fresh(to: SocketAddr) -> IoResult<()> {
    let mut stream = connect(to)?;
    small(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    // Until the server has closed too.
    stream.read(&mut [0; 1]).map(drop)
}

/// How often a second.
fn repeated(mut what: impl FnMut() -> IoResult<()>) -> IoResult<f64> {
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < SAMPLE {
        what()?;
        done += 1;
    }
    Ok(as_float(done) / start.elapsed().as_secs_f64())
}

/// How often a second, all threads together.
fn together<T>(
    threads: usize,
    prepare: impl Fn() -> IoResult<T> + Sync,
    what: impl Fn(&mut T) -> IoResult<()> + Sync,
) -> IoResult<f64> {
    let (begun, over, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let one = || -> IoResult<()> {
        let mut state = prepare()?;
        while !over.load(Ordering::Relaxed) {
            what(&mut state)?;
            if begun.load(Ordering::Relaxed) {
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        thread::sleep(SAMPLE / 4);
        begun.store(true, Ordering::Relaxed);
        let start = Instant::now();
        thread::sleep(SAMPLE);
        let rate = as_float(done.load(Ordering::Relaxed)) / start.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        for thread in all {
            thread.join().map_err(|_| std::io::Error::other("a client panicked"))??;
        }
        Ok(rate)
    })
}

/// How many such answers a second, from the request to the last byte.
fn much(to: SocketAddr, what: &str, length: usize) -> IoResult<f64> {
    let mut stream = connect(to)?;
    small(&mut stream)?;
    let mut buffer = vec![0; CHUNK];
    let (start, mut left) = (Instant::now(), length);
    stream.write_all(&request(what))?;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(1.0 / start.elapsed().as_secs_f64())
}

fn as_float(count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "figures are far below what a float holds")]
    let count = count as f64;
    count
}
