//! The supervisor's turn to start its server.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::signals::Signals;
use crate::notify::Notifier;
use crate::passed;

/// How long the service manager has to wait after it was last told to.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it is told.
const TELL: Duration = Duration::from_secs(20);
/// What nobody needs to hear of.
const SHORT: Duration = Duration::from_secs(1);
/// So long nobody waits, whatever keeps a turn from him.
const LONGEST: Duration = Duration::from_mins(10);

/// Held while the server starts; without a connection where nobody gives turns.
#[derive(Debug)]
pub(super) struct Turn {
    _connection: Option<OwnedFd>,
}

/// Waits for its turn, if systemd passed a way to ask for one. None if a signal asks for the end.
pub(super) fn wait(signals: &mut Signals, notifier: &mut Notifier) -> Option<Turn> {
    let connection = passed::number(instances_core::units::turns::NAME).and_then(passed::take);
    let Some(connection) = connection else { return Some(Turn { _connection: None }) };
    // One that cannot be asked has ended, which the first answer says.
    let _ = send(&connection, b"1", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let begin = Instant::now();
    let mut told = false;
    loop {
        let mut byte = [0];
        match recv(&connection, &mut byte, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) if begin.elapsed() < LONGEST => {}
            // Nobody gives turns: better all at once than none.
            Ok((_, 0)) | Err(_) => return Some(Turn { _connection: None }),
            Ok(_) => {
                if told {
                    notifier.extend(PATIENCE);
                }
                return Some(Turn { _connection: Some(connection) });
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
