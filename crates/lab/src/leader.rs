//! A machine's PID 1, as the host sees it.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A machine's PID 1, held so that its number cannot come to mean another process.
#[derive(Debug)]
pub(crate) struct Leader {
    pid: i32,
    handle: OwnedFd,
}

impl Leader {
    /// Looks below a process for the first one that is PID 1 of a namespace of its own.
    ///
    /// The one directly below `top` is the lab's own PID 1, so it does not count.
    pub(crate) fn below(top: u32) -> Option<Self> {
        let lab = children(top).into_iter().find(|pid| namespaces(*pid).is_some())?;
        let depth = namespaces(lab)?.len();
        let mut queue = children(lab);
        while let Some(pid) = queue.pop() {
            let numbers = namespaces(pid).unwrap_or_default();
            if numbers.len() > depth && numbers.last() == Some(&1) {
                let pid = i32::try_from(pid).ok()?;
                let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
                return Some(Self { pid, handle });
            }
            queue.extend(children(pid));
        }
        None
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Says whether systemd in there listens for commands.
    pub(crate) fn answers(&self) -> bool {
        fs::symlink_metadata(format!("/proc/{}/root/run/systemd/private", self.pid)).is_ok()
    }

    /// Ends it, and with it all of its namespace, at once.
    pub(crate) fn kill(&self) -> Result<()> {
        pidfd_send_signal(&self.handle, Signal::KILL).context("cannot kill the machine's PID 1")
    }

    /// Waits for its end; false if that takes too long.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec::try_from(timeout).context("too long a timeout")?;
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout)).context("cannot wait for the machine's PID 1")? > 0)
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The numbers a process has in each PID namespace, from the host's to its own.
fn namespaces(pid: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}
