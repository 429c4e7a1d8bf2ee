//! Signals as something that `poll(2)` can wait for.

use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

/// The handlers. Process 1 of a namespace gets only signals that it has handlers for.
#[derive(Debug)]
pub(crate) struct Signals {
    wake: UnixStream,
    asked: Arc<AtomicUsize>,
}

impl Signals {
    /// Installs handlers for SIGTERM, SIGINT, SIGHUP and SIGCHLD.
    pub(crate) fn install() -> io::Result<Self> {
        let (wake, writer) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let asked = Arc::new(AtomicUsize::new(0));
        for (signal, number) in
            [(SIGTERM, Signal::TERM), (SIGINT, Signal::INT), (SIGHUP, Signal::HUP)]
        {
            let number = usize::try_from(number.as_raw()).unwrap_or_default();
            // The flag first, so that it is set by the time the pipe wakes the loop.
            flag::register_usize(signal, Arc::clone(&asked), number)?;
            pipe::register(signal, writer.try_clone()?)?;
        }
        pipe::register(SIGCHLD, writer)?;
        Ok(Self { wake, asked })
    }

    /// Wakes when a signal came.
    pub(crate) fn interest(&self) -> PollFd<'_> {
        PollFd::new(&self.wake, PollFlags::IN)
    }

    /// The same, for `epoll(7)`.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The signal that asks for the end, once for each time that one came.
    pub(crate) fn take(&mut self) -> Option<Signal> {
        let mut rest = [0; 64];
        while matches!(self.wake.read(&mut rest), Ok(1..)) {}
        match i32::try_from(self.asked.swap(0, Ordering::SeqCst)).ok()? {
            SIGTERM => Some(Signal::TERM),
            SIGINT => Some(Signal::INT),
            SIGHUP => Some(Signal::HUP),
            _ => None,
        }
    }
}
