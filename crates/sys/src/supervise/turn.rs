//! The supervisor's turn to start its server, and to end one that nobody uses.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::signals::Signals;
use crate::notify::Notifier;
use crate::passed;
use crate::turns::{END, WAIT, says};

/// How long the service manager has to wait after it was last told to.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it is told.
const TELL: Duration = Duration::from_secs(20);
/// What nobody needs to hear of.
const SHORT: Duration = Duration::from_secs(1);
/// So long nobody waits who hears nothing, whatever keeps a turn from him.
const LONGEST: Duration = Duration::from_mins(10);

/// The way to who gives turns; without a connection where nobody does.
#[derive(Debug)]
pub(super) struct Turn {
    connection: Option<OwnedFd>,
    /// What was said last: whether nobody uses the server.
    idle: bool,
}

impl Turn {
    fn new(connection: Option<OwnedFd>) -> Self {
        Self { connection, idle: false }
    }

    /// The start is over. With `stays` it can be asked to end its server when nobody uses that.
    pub(super) fn done(&mut self, stays: bool) {
        if stays { self.send(says::READY) } else { self.connection = None }
    }

    /// Says whether somebody uses the server, if that is new.
    pub(super) fn say(&mut self, idle: bool) {
        if idle != self.idle {
            self.idle = idle;
            self.send(if idle { says::IDLE } else { says::USED });
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        self.connection.as_ref().map(|connection| PollFd::new(connection, PollFlags::IN))
    }

    /// Whether the server should end, if nobody uses it.
    pub(super) fn is_to_end(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let mut bytes = [0; 16];
        match recv(connection, &mut bytes, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => false,
            Ok((_, 0)) | Err(_) => {
                self.connection = None;
                false
            }
            Ok((_, read)) => {
                // It is asked once; what is said next is new to who asked.
                let asked = bytes.iter().take(read).any(|byte| *byte == END);
                self.idle &= !asked;
                asked
            }
        }
    }

    fn send(&self, byte: u8) {
        if let Some(connection) = &self.connection {
            // One that takes nothing has ended.
            let _ = send(connection, &[byte], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// Waits for its turn, if systemd passed a way to ask for one. None if a signal asks for the end.
pub(super) fn wait(signals: &mut Signals, notifier: &mut Notifier) -> Option<Turn> {
    let connection = passed::number(instances_core::units::turns::NAME).and_then(passed::take);
    let Some(connection) = connection else { return Some(Turn::new(None)) };
    // One that cannot be asked has ended, which the first answer says.
    let _ = send(&connection, &[says::ASKS], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let begin = Instant::now();
    let (mut told, mut heard) = (false, begin);
    loop {
        let mut byte = [0];
        match recv(&connection, &mut byte, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) if heard.elapsed() < LONGEST => {}
            // Nobody gives turns: better all at once than none.
            Ok((_, 0)) | Err(_) => return Some(Turn::new(None)),
            Ok(_) if byte == [WAIT] => {
                heard = Instant::now();
                continue;
            }
            Ok(_) => {
                if told {
                    notifier.extend(PATIENCE);
                }
                return Some(Turn::new(Some(connection)));
            }
        }
        let time = if begin.elapsed() < SHORT {
            SHORT
        } else {
            told = true;
            notifier.status("waiting for its turn to start (fleet.maxConcurrentStarts)");
            notifier.extend(PATIENCE);
            TELL
        };
        let time = Timespec::try_from(time).ok();
        let _ =
            poll(&mut [PollFd::new(&connection, PollFlags::IN), signals.interest()], time.as_ref());
        if signals.take().is_some() {
            return None;
        }
    }
}
