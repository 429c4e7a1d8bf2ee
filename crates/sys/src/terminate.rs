//! Ends a unit's main process with the grace that systemd may not give it.
//!
//! With `PrivatePIDs=`, systemd 257 loses track of the main process in a quarter of the starts
//! ("Supervising process N which is not our child") and then stops the unit by SIGKILL at once.
//! `ExecStop=+opencode-instances terminate $MAINPID` runs outside the unit's PID namespace, asks
//! the process to end and waits for it.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long [`run`] waits for the process: for a host that is slow. An end that is asked for has two seconds, and systemd waits
/// for ten.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// What became of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no such process.
    AlreadyGone,
    /// It ended after it was asked to.
    Ended,
    /// It did not end within [`PATIENCE`]; systemd has to kill it.
    StillRunning,
}

/// Why the process could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only a positive process id other than 1 is accepted: systemd passes a service's main process.
    #[error("{0} is not the process id of a service")]
    Pid(i32),
    /// The kernel refused the descriptor, the signal or the wait.
    #[error("cannot end process {pid}")]
    Refused {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: Errno,
    },
}

/// Sends SIGTERM to `pid` through a pidfd and waits for its end, at most [`PATIENCE`].
///
/// # Errors
///
/// See [`Error`]; a process that is already gone is no error.
pub fn run(pid: i32) -> Result<Outcome, Error> {
    run_within(pid, PATIENCE)
}

fn run_within(pid: i32, patience: Duration) -> Result<Outcome, Error> {
    // `from_raw` takes no negative number.
    let target = Some(pid).filter(|pid| *pid > 1).and_then(Pid::from_raw).ok_or(Error::Pid(pid))?;
    let refused = |source| Error::Refused { pid, source };
    let pidfd = match pidfd_open(target, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(Outcome::AlreadyGone),
        other => other.map_err(refused)?,
    };
    match pidfd_send_signal(&pidfd, Signal::TERM) {
        Err(Errno::SRCH) => return Ok(Outcome::AlreadyGone),
        other => other.map_err(refused)?,
    }
    let end = std::time::Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(Outcome::StillRunning),
            Ok(_) => return Ok(Outcome::Ended),
            Err(Errno::INTR) => {}
            Err(source) => return Err(refused(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    fn shell(script: &str) -> (Child, i32) {
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    #[test]
    fn ends_a_process_and_accepts_its_absence() {
        let (mut child, pid) = shell("echo ready; exec sleep 60");
        assert_eq!(run(pid).unwrap(), Outcome::Ended);
        child.wait().unwrap();
        assert_eq!(run(pid).unwrap(), Outcome::AlreadyGone);
    }

    #[test]
    fn gives_up_on_a_process_that_ignores_it() {
        let (mut child, pid) = shell("trap '' TERM; echo ready; exec sleep 60");
        let outcome = run_within(pid, Duration::from_millis(100)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(outcome, Outcome::StillRunning);
    }

    #[test]
    fn refuses_what_no_service_can_be() {
        for pid in [i32::MIN, -1, 0, 1] {
            assert!(matches!(run(pid), Err(Error::Pid(_))));
        }
    }
}
