//! The supervisor's turn to start its server.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};

use super::signals::Signals;
use crate::notify::Notifier;
use crate::passed;

/// How long the service manager has to wait after it was last told to.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it is told.
const TELL: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Held while the server starts; without a connection where nobody gives turns.
#[derive(Debug)]
pub(super) struct Turn {
    _connection: Option<OwnedFd>,
}

/// Waits for its turn, if systemd passed a way to ask for one. None if a signal asks for the end.
pub(super) fn wait(signals: &mut Signals, notifier: &mut Notifier) -> Option<Turn> {
    let connection = passed::number(instances_core::units::turns::NAME).and_then(passed::take);
    let Some(connection) = connection else { return Some(Turn { _connection: None }) };
    loop {
        let mut byte = [0];
        match recv(&connection, &mut byte, RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // Nobody gives turns: better all at once than none.
            Ok((_, 0)) | Err(_) => return Some(Turn { _connection: None }),
            Ok(_) => {
                notifier.extend(PATIENCE);
                return Some(Turn { _connection: Some(connection) });
            }
        }
        notifier.status("waiting for its turn to start (fleet.maxConcurrentStarts)");
        notifier.extend(PATIENCE);
        let asked = PollFd::new(&connection, PollFlags::IN);
        let _ = poll(&mut [asked, signals.interest()], Some(&TELL));
        if signals.take().is_some() {
            return None;
        }
    }
}
