//! The program that an audit starts inside an instance: it becomes what the agent's tools are, makes
//! each attempt of the catalogue in a process of its own, and says what became of it.
//!
//! It never runs another program once it is inside, and the kernel lets nobody look into a process that
//! has changed its user: the agent, whose user it then is, can end it and cannot speak for it.

mod attempt;
mod call;
mod enter;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use instances_core::audit::catalogue::{Attempt, Outcome, Tried};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::bait::Laid;
use call::Half;
pub(super) use call::network_of;

/// So long one attempt may take.
const EACH: Duration = Duration::from_secs(10);

/// So long all of them may take.
const ALL: Duration = Duration::from_mins(3);

/// What is to be tried, and as whom.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The process to become like; without one it is tried as what this process is.
    pub like: Option<Like>,
    /// The attempts.
    pub attempts: Vec<Attempt>,
    /// What the audit has laid out on the host.
    pub laid: Laid,
    /// Devices that were declared.
    pub devices: Vec<String>,
}

/// Whom to become like.
#[derive(Debug, Serialize, Deserialize)]
pub struct Like {
    /// The number of the server's first process on the host.
    pub pid: i32,
    /// The directory of its control group.
    pub control_group: String,
    /// Where its tools start.
    pub directory: String,
    /// Its filters of system calls; they are asked for by the audit.
    #[serde(default)]
    filters: Vec<call::Filter>,
    /// Its limits, which the audit asks for too: inside, its number is another one.
    #[serde(default)]
    limits: Vec<call::Limit>,
}

impl Like {
    /// Like that process.
    pub fn new(pid: i32, control_group: String, directory: String) -> Self {
        Self { pid, control_group, directory, filters: Vec::new(), limits: Vec::new() }
    }
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Who may look at filters is decided by the host.
    #[error(
        "the filters of system calls of process {pid} cannot be read; the audit needs root, outside of any \
         filter of its own, and kernel.yama.ptrace_scope below 3"
    )]
    Filters {
        /// The process.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A step into the instance.
    #[error("cannot {0}")]
    Step(String, #[source] io::Error),
    /// What was said is no result.
    #[error("the probe said what is no result: {0}")]
    Words(String),
}

/// A step that failed.
fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    |source| Error::Step(what, source)
}

/// Tries everything from inside, in a process of its own. Only root can.
///
/// # Errors
///
/// When it does not get inside, or does not come back.
pub(in crate::audit) fn run(mut order: Order) -> Result<Vec<Tried>, Error> {
    let Some(like) = &mut order.like else {
        return Err(Error::Words("an order without a process to be like".to_owned()));
    };
    let pid = like.pid;
    like.filters = call::filters(pid).map_err(|source| Error::Filters { pid, source })?;
    let limits = format!("/proc/{pid}/limits");
    let text = std::fs::read_to_string(&limits).map_err(step(format!("read {limits}")))?;
    like.limits = call::limits(&text);
    let space = format!("/proc/{pid}/ns/pid");
    // The namespace of processes counts for what this thread starts, and for that alone.
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("probe".to_owned());
        let thread = thread.spawn_scoped(scope, || inside(&order, &space));
        thread
            .map_err(step("start a thread"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn inside(order: &Order, space: &str) -> Result<Vec<Tried>, Error> {
    let file = File::open(space).map_err(step(format!("open {space}")))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .map_err(|errno| step("enter the instance's processes")(errno.into()))?;
    let mut child = Command::new("/proc/self/exe")
        .arg("probe")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(step("start the probe"))?;
    let attempts = &order.attempts;
    let order = serde_json::to_vec(order).map_err(|error| Error::Words(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended early says why on its own.
        let _ = stdin.write_all(&order);
    }
    // The agent has its user by then: it can end it and have it stand still.
    let end = Instant::now() + ALL;
    let (results, _) = child.stdout.take().map(|pipe| said(pipe, end)).unwrap_or_default();
    let _ = child.kill();
    let (complaint, _) = child.stderr.take().map(|pipe| said(pipe, end)).unwrap_or_default();
    child.wait().map_err(step("wait for the probe"))?;
    let results = String::from_utf8_lossy(&results);
    // A line that was cut short is no result.
    let mut tried: Vec<Tried> =
        results.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
    let complaint = String::from_utf8_lossy(&complaint);
    if tried.is_empty() {
        return Err(Error::Words(complaint.trim().to_owned()));
    }
    let left = attempts.get(tried.len()..).unwrap_or_default();
    let lost = || Outcome::Untried("the probe was ended, or made to stand still".to_owned());
    tried.extend(left.iter().map(|attempt| Tried { attempt: attempt.clone(), outcome: lost() }));
    Ok(tried)
}

/// The probe itself: reads an order, becomes what it says, prints one result a line.
///
/// # Errors
///
/// When it cannot become that; then nothing was tried.
pub fn obey(order: &mut dyn io::Read, results: &mut dyn io::Write) -> Result<(), Error> {
    let mut text = Vec::new();
    order.read_to_end(&mut text).map_err(step("read the order"))?;
    let order: Order =
        serde_json::from_slice(&text).map_err(|error| Error::Words(error.to_string()))?;
    if let Some(like) = &order.like {
        enter::become_like(like)?;
    }
    for attempt in &order.attempts {
        let outcome = apart(attempt, &order.laid, &order.devices);
        let tried = Tried { attempt: attempt.clone(), outcome };
        let line =
            serde_json::to_string(&tried).map_err(|error| Error::Words(error.to_string()))?;
        writeln!(results, "{line}").map_err(step("say what was tried"))?;
    }
    Ok(())
}

/// Makes an attempt in a process of its own, which it may end or change.
fn apart(attempt: &Attempt, laid: &Laid, devices: &[String]) -> Outcome {
    let untried = |error: io::Error| Outcome::Untried(error.to_string());
    let (read, mut write) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return untried(error),
    };
    match call::fork() {
        Err(error) => untried(error),
        Ok(Half::Child) => {
            drop(read);
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let outcome = attempt::make(attempt, laid, devices);
            let _ = write.write_all(&serde_json::to_vec(&outcome).unwrap_or_default());
            call::end()
        }
        Ok(Half::Parent(pid)) => {
            drop(write);
            let (said, closed) = said(read, Instant::now() + EACH);
            if !closed && let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let signal = call::wait(pid).ok().flatten();
            serde_json::from_slice(&said).unwrap_or_else(|_| ended(attempt, signal))
        }
    }
}

/// What an attempt that said nothing came to.
fn ended(attempt: &Attempt, signal: Option<i32>) -> Outcome {
    use instances_core::audit::catalogue::Try;
    match signal {
        // The kernel has no such entry, or the filter ends who uses it.
        Some(libc::SIGSEGV | libc::SIGSYS) if matches!(attempt.how, Try::Calls32(_)) => {
            Outcome::Refused("the kernel ended the process".to_owned())
        }
        Some(signal) => Outcome::Untried(format!("the process was ended by signal {signal}")),
        None => Outcome::Untried("the process said nothing".to_owned()),
    }
}

/// What is said until the pipe is closed, and whether that was before `end`.
fn said(mut pipe: impl io::Read + AsFd, end: Instant) -> (Vec<u8>, bool) {
    let mut said = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(wait) = Timespec::try_from(left) else { return (said, false) };
        let mut polled = [PollFd::new(&pipe, PollFlags::IN)];
        match poll(&mut polled, Some(&wait)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(1..) => {}
            Ok(0) | Err(_) => return (said, false),
        }
        let mut part = [0; 4096];
        match pipe.read(&mut part) {
            Ok(0) => return (said, true),
            Ok(count) => said.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(_) => return (said, false),
        }
    }
}
