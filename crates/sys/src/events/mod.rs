//! Tells which packets of an instance were refused: reads the kernel's log of them inside the
//! instance's network namespace and writes few records into the journal.
//!
//! It needs `CAP_NET_ADMIN` to ask for the log, and with it could rewrite the policy. So it gives
//! every capability away after asking and before it reads a byte, because what it reads is the
//! agent's. Whether it runs changes no verdict. One thread, no allocation that the agent could
//! make larger: flows, records and buffers are bounded.

mod flows;
#[cfg(test)]
mod malformed;
pub mod names;
mod nflog;
mod options;
mod packet;
mod privileges;
mod read;
pub mod recent;
mod record;

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instances_core::events::{GROUP, OTHER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

pub use self::flows::{BURST, INTERVAL, MAX_FLOWS, PER_SECOND};
pub use self::options::{Options, UsageError, parse_args};
pub use self::packet::{Direction, Flow};
pub use self::read::{Query, ReadError, read};
pub use self::record::Refusal;

use self::flows::{Flows, Losses, Moment, Record};
use self::nflog::{DATAGRAM, Log, Message, Received};
use crate::journal::{Journal, Patience, SOCKET};
use crate::notify::Notifier;

/// The service's name in front of the instance's.
const SERVICE: &str = "opencode-events";
/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many datagrams are read before the clock is looked at again.
const AT_ONCE: usize = 64;

/// Why the log cannot be read. None of it opens anything: refused packets are refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without the group there is nothing to read.
    #[error("cannot ask for the log of refused packets")]
    Bind(#[source] io::Error),
    /// Two readers would each see a part.
    #[error("log group {GROUP} of this network namespace is read by another program; stop it")]
    Taken,
    /// The unit gives it one capability for this.
    #[error("the log of refused packets needs CAP_NET_ADMIN in the network namespace")]
    Denied,
    /// The kernel said nothing at all.
    #[error("the kernel does not answer the request for the log of refused packets")]
    Silent,
    /// It must not read with a capability.
    #[error("cannot give all capabilities away")]
    Privileges(#[source] io::Error),
    /// The journal or the signals.
    #[error("cannot prepare the reading of refused packets")]
    Prepare(#[source] io::Error),
    /// The socket failed.
    #[error("cannot read the log of refused packets")]
    Read(#[source] io::Error),
}

/// Reads until SIGTERM or SIGINT.
///
/// # Errors
///
/// See [`Error`].
pub fn run(options: &Options) -> Result<(), Error> {
    let mut notifier = Notifier::new(options.notify_socket.as_deref(), None);
    let journal = Journal::at(SOCKET.into(), Patience::Moment).map_err(Error::Prepare)?;
    let stop = stop().map_err(Error::Prepare)?;
    if !privileges::may_ask().map_err(Error::Privileges)? {
        return Err(Error::Denied);
    }
    let log = Log::bind().map_err(Error::Bind)?;
    privileges::drop_all().map_err(Error::Privileges)?;
    let mut reader = Reader {
        log,
        journal,
        names: names::path(options.name.as_str()),
        options,
        start: Instant::now(),
        flows: Flows::new(),
        losses: Losses::default(),
    };
    reader.until_answered()?;
    notifier.ready("telling which packets are refused");
    reader.until_stopped(&stop)?;
    notifier.stopping("");
    Ok(())
}

/// What becomes readable when a signal asks for the end.
fn stop() -> io::Result<UnixStream> {
    let (stop, writer) = UnixStream::pair()?;
    pipe::register(SIGTERM, writer.try_clone()?)?;
    pipe::register(SIGINT, writer)?;
    Ok(stop)
}

struct Reader<'a> {
    log: Log,
    journal: Journal,
    names: PathBuf,
    options: &'a Options,
    start: Instant,
    flows: Flows,
    losses: Losses,
}

impl Reader<'_> {
    fn until_answered(&mut self) -> Result<(), Error> {
        while let Some(left) = PATIENCE.checked_sub(self.start.elapsed()) {
            wait(&mut [PollFd::from_borrowed_fd(self.log.fd(), PollFlags::IN)], Some(left))?;
            match self.read()? {
                Some(0) => return Ok(()),
                Some(code) => {
                    return Err(match Errno::from_raw_os_error(code) {
                        // The capability was there: that is not what it is refused for.
                        Errno::BUSY | Errno::PERM => Error::Taken,
                        error => Error::Bind(error.into()),
                    });
                }
                None => {}
            }
        }
        Err(Error::Silent)
    }

    fn until_stopped(&mut self, stop: &UnixStream) -> Result<(), Error> {
        loop {
            let mut waited = [
                PollFd::from_borrowed_fd(self.log.fd(), PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            let next = self.flows.next().into_iter().chain(self.losses.next()).min();
            let left = next.map(|due| due.saturating_sub(self.start.elapsed()));
            wait(&mut waited, left)?;
            let [_, stop] = &waited;
            let stopped = !stop.revents().is_empty();
            self.read()?;
            if stopped {
                for record in self.flows.rest() {
                    self.write(record);
                }
                let lost = self.losses.rest();
                self.write_lost(lost);
                return Ok(());
            }
            let now = self.start.elapsed();
            for record in self.flows.due(now) {
                self.write(record);
            }
            let lost = self.losses.due(now);
            self.write_lost(lost);
        }
    }

    /// Reads what waits, up to a bound. An answer of the kernel's is the number of an error, or zero.
    fn read(&mut self) -> Result<Option<i32>, Error> {
        let mut answer = None;
        let mut buffer = [MaybeUninit::uninit(); DATAGRAM];
        for _ in 0..AT_ONCE {
            match self.log.receive(&mut buffer).map_err(Error::Read)? {
                Received::Nothing => break,
                Received::Overrun => self.losses.overrun(),
                Received::Datagram(bytes) => {
                    let at = self.now();
                    for message in nflog::messages(bytes) {
                        match message {
                            Message::Packet { hook, number, start } => {
                                let flow = Flow::read(start, Direction::of_hook(hook));
                                self.packet(flow, number, at);
                            }
                            Message::Answer(code) => answer = Some(code),
                            Message::Other => {}
                        }
                    }
                }
            }
        }
        Ok(answer)
    }

    fn packet(&mut self, flow: Option<Flow>, number: Option<u32>, at: Moment) {
        if let Some(number) = number {
            self.losses.number(number);
        }
        if let Some(record) = self.flows.count(flow, at) {
            self.write(record);
        }
    }

    fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment {
            elapsed: self.start.elapsed(),
            wall: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn write(&mut self, record: Record) {
        let Record { flow, count } = record;
        let protocol = flow.map_or_else(|| OTHER.to_owned(), Flow::protocol_name);
        let direction = flow.map_or(Direction::Out, |flow| flow.direction);
        let name = flow.and_then(|flow| names::of(&self.names, flow.address));
        let refusal = Refusal {
            instance: self.options.name.as_str(),
            service: SERVICE,
            policy: &self.options.policy,
            direction,
            protocol: &protocol,
            address: flow.map(|flow| flow.address),
            port: flow.and_then(Flow::port),
            icmp_type: flow.and_then(Flow::icmp_type),
            name: name.as_deref(),
            count: count.packets,
            first: count.first,
            last: count.last,
        };
        if refusal.write(&self.journal).is_err() {
            self.losses.unwritten(count.packets);
        }
    }

    fn write_lost(&mut self, lost: Option<flows::Lost>) {
        let Some(lost) = lost else { return };
        let (name, policy) = (self.options.name.as_str(), &self.options.policy);
        if record::write_lost(lost, name, SERVICE, policy, &self.journal).is_err() {
            self.losses.again(lost);
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], left: Option<Duration>) -> Result<(), Error> {
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Error::Read(error.into())),
    }
}
