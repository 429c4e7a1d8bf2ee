//! Keeps the host's side of all links as it should be while the host around it changes.
//!
//! Four things change without anybody telling an instance's unit: the host's own addresses, which every
//! policy refuses; the host's table, which a program that owns the firewall may flush; the way
//! out; and the host's resolvers, whom alone the stubs may ask. None of it opens anything while nobody looks: the host's table refuses what is for the host, the
//! routing rules refuse what the table has not seen.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use instances_core::layout::NFT_HOST_TABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt,
};

use super::Error;
use super::link::{self, Known};
use super::lists::Lists;
use crate::dns::resolvers;
use crate::notify::Notifier;

/// `RTNLGRP_LINK`, and addresses, routes and rules of both families.
const ROUTE_GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];
/// `NFNLGRP_NFTABLES`.
const NFT_GROUPS: [u32; 1] = [7];

/// How much the kernel keeps for us.
const RECEIVE_BUFFER: usize = 1 << 20;
/// As large as the kernel ever makes one notice.
const DATAGRAM: usize = 64 << 10;

/// Changes come in swarms: a look waits until none has come for so long,
const QUIET: Duration = Duration::from_millis(50);
/// but no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// When what could not be done is tried again, whatever happens.
const AGAIN: Duration = Duration::from_secs(5);

/// Asks for a reload of the units of instances; returns whose unit is to stop, and was not asked.
pub type Reload<'a> = dyn Fn(&[String]) -> Result<Vec<String>, String> + 'a;

/// Whose unit was to stop when it should have been reloaded. It may be started again before its link is gone.
#[derive(Debug)]
struct Stopping {
    names: Vec<String>,
    since: Instant,
}

/// Follows the host's changes, and returns only when it cannot.
///
/// `reload` is asked to reload the units of instances whose links were made for another way out, and
/// must not wait for it: a reload waits for the lock that is held here at times. For those that it did not ask it is called again after
/// five seconds, while their links are there. `note` is told what was done.
pub fn watch(nft: &Path, reload: &Reload<'_>, note: &dyn Fn(String)) -> Error {
    match Changes::subscribe() {
        Ok(mut changes) => follow(&mut changes, nft, reload, note),
        Err(error) => Error::Listen(error),
    }
}

fn follow(changes: &mut Changes, nft: &Path, reload: &Reload<'_>, note: &dyn Fn(String)) -> Error {
    let mut notifier = Notifier::new(env::var_os("NOTIFY_SOCKET").as_deref(), None);
    let (mut known, mut stopping) = (Known::default(), None);
    let (mut table, mut first) = (true, true);
    loop {
        let failed = look(nft, (&mut known, &mut stopping), table, reload, note);
        if std::mem::take(&mut first) {
            if let Err(error) = &changes.lists {
                let seconds = AGAIN.as_secs();
                note(format!(
                    "cannot watch the lists of resolvers ({error}); looking every {seconds} s"
                ));
            }
            // Whoever makes a link after this is told of what changes after it.
            notifier.ready("following the host's addresses, routes and rules");
        }
        match changes.wait(failed.then_some(AGAIN)) {
            Ok(of_table) => table = of_table || failed,
            Err(error) => return Error::Listen(error),
        }
    }
}

/// True when something could not be done.
fn look(
    nft: &Path,
    (known, stopping): (&mut Known, &mut Option<Stopping>),
    table: bool,
    reload: &Reload<'_>,
    note: &dyn Fn(String),
) -> bool {
    let look = match link::look(nft, known, table) {
        Ok(look) => look,
        Err(error) => {
            note(chain(&error));
            return true;
        }
    };
    if look.healed {
        note(format!("table inet {NFT_HOST_TABLE} was changed or removed; it is back"));
    }
    if let Some(resolvers) = &look.resolvers {
        let all: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
        let all = if all.is_empty() { "nobody".to_owned() } else { all.join(" ") };
        note(format!("the host's resolvers are others; names are asked of {all} from now on"));
    }
    if look.filled > 0 {
        note(format!("{} namespaces refuse the host's addresses of now", look.filled));
    }
    for error in &look.errors {
        note(chain(error));
    }
    let due = stopping.take_if(|one| look.outdated || one.since.elapsed() >= AGAIN);
    let names = if look.outdated {
        look.links
    } else {
        let names = due.map(|one| one.names).unwrap_or_default();
        names.into_iter().filter(|name| look.links.contains(name)).collect()
    };
    if !names.is_empty() {
        note(format!("the way out may be another one; reloading {}", names.join(" ")));
        match reload(&names) {
            Ok(names) if names.is_empty() => {}
            Ok(names) => {
                note(format!("to be stopped, and not reloaded: {}", names.join(" ")));
                *stopping = Some(Stopping { names, since: Instant::now() });
            }
            Err(words) => note(words),
        }
    }
    stopping.is_some() || !look.errors.is_empty()
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// What the kernel tells of the host's namespace, and of the host's lists of resolvers.
#[derive(Debug)]
struct Changes {
    route: OwnedFd,
    nft: OwnedFd,
    /// Without these everything is looked at again and again: it would be worse to follow nothing.
    lists: io::Result<Lists>,
}

impl Changes {
    fn subscribe() -> io::Result<Self> {
        Ok(Self {
            route: listen(None, &ROUTE_GROUPS)?,
            nft: listen(Some(netlink::NETFILTER), &NFT_GROUPS)?,
            lists: Lists::watch(&[resolvers::MANAGED, resolvers::PLAIN]),
        })
    }

    /// Waits for changes, or for as long as that; true when the host's table may be among them.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<bool> {
        let patience = patience.or(self.lists.is_err().then_some(AGAIN));
        if !self.poll(patience)? {
            return Ok(false);
        }
        let start = Instant::now();
        let mut table = false;
        loop {
            drain(&self.route, |_| false)?;
            if let Ok(lists) = &mut self.lists
                && let Err(error) = lists.drain()
            {
                self.lists = Err(error);
            }
            table |= drain(&self.nft, names_table)?;
            if start.elapsed() >= PATIENCE || !self.poll(Some(QUIET))? {
                return Ok(table);
            }
        }
    }

    /// False when nothing came in time.
    fn poll(&self, patience: Option<Duration>) -> io::Result<bool> {
        let timeout = patience.and_then(|time| Timespec::try_from(time).ok());
        let lists = self.lists.as_ref().ok().map(Lists::fd);
        let fds = [&self.route, &self.nft].into_iter().chain(lists);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => Ok(false),
            done => Ok(done? > 0),
        }
    }
}

fn listen(protocol: Option<rustix::net::Protocol>, groups: &[u32]) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER))?;
    let mask = groups.iter().map(|group| 1 << (group - 1)).sum();
    bind(&socket, &SocketAddrNetlink::new(0, mask))?;
    Ok(socket)
}

/// Reads all that waits; true when any of it `matters`. What was lost, matters.
fn drain(socket: &OwnedFd, matters: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let mut buffer = vec![0; DATAGRAM];
    let mut any = false;
    loop {
        match recv(socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok((held, whole)) => {
                any |= whole > held || matters(buffer.get(..held).unwrap_or_default());
            }
            Err(Errno::NOBUFS) => any = true,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(any),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Other programs change their own tables all the time; a notice about ours has its name in it.
fn names_table(notice: &[u8]) -> bool {
    let name = NFT_HOST_TABLE.as_bytes();
    notice.windows(name.len()).any(|window| window == name)
}
