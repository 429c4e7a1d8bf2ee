//! A machine's network namespace, from outside.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs a closure on a fresh thread inside a network namespace.
///
/// Sockets that it opens belong to the namespace for good, also on any other thread.
pub(crate) fn inside<T: Send>(namespace: &File, body: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the machine's network namespace")?;
            Ok(body())
        });
        thread.join().map_err(|_| anyhow!("the thread in the machine's namespace panicked"))?
    })
}

/// A TCP port of a machine, offered on the host's loopback for as long as this value lives.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    done: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Forward {
    /// Where the host finds the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn open(namespace: File, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
                _ => Err(error),
            })
            .with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
        let address = listener.local_addr()?;
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let listener = thread::spawn(move || {
            for outer in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let inner = inside(&namespace, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
                if let (Ok(outer), Ok(Ok(inner))) = (outer, inner) {
                    // Nobody is left to tell when a relay fails; both sides see their socket close.
                    let _lost = relay(&outer, &inner);
                }
            }
        });
        Ok(Self { address, done, listener: Some(listener) })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is done.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            let _panicked = listener.join();
        }
    }
}

/// Copies both ways on two threads of their own.
fn relay(outer: &TcpStream, inner: &TcpStream) -> io::Result<()> {
    for (from, to) in [(outer, inner), (inner, outer)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let _broken = io::copy(&mut from, &mut to);
            let _gone = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
