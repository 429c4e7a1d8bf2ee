//! Signals as something that `poll(2)` can wait for.

use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

/// The handlers. Process 1 of a namespace gets only signals that it has handlers for.
#[derive(Debug)]
pub(crate) struct Signals {
    wake: UnixStream,
    /// What came of each, so that none overwrites another. Those that end more come first.
    asked: [(Signal, Arc<AtomicBool>); 3],
}

impl Signals {
    /// Installs handlers for SIGTERM, SIGINT, SIGHUP and SIGCHLD.
    pub(crate) fn install() -> io::Result<Self> {
        let (wake, writer) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let asked = [Signal::TERM, Signal::INT, Signal::HUP].map(|signal| (signal, Arc::default()));
        for (number, (_, flag)) in [SIGTERM, SIGINT, SIGHUP].into_iter().zip(&asked) {
            // The flag first, so that it is set by the time the pipe wakes the loop.
            flag::register(number, Arc::clone(flag))?;
            pipe::register(number, writer.try_clone()?)?;
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

    /// The signal that came, if one did since this was last asked; SIGTERM or SIGINT rather than SIGHUP, whatever the order.
    pub(crate) fn take(&mut self) -> Option<Signal> {
        let mut rest = [0; 64];
        while matches!(self.wake.read(&mut rest), Ok(1..)) {}
        let came = self.asked.each_ref().map(|(_, flag)| flag.swap(false, Ordering::SeqCst));
        let mut both = self.asked.iter().zip(came);
        both.find(|(_, came)| *came).map(|((signal, _), _)| *signal)
    }
}
