//! Looks at processes through `/proc`: who descends from whom, and who uses the processor.

use std::fs;
use std::io::Read;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// The most processes that one look takes in.
const MAX_PROCESSES: usize = 16_384;
/// The most threads of the server that one look takes in.
const MAX_THREADS: usize = 256;

/// One process, from `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// `R`, `S`, `D`, `T`, …
    pub(super) state: u8,
    /// The number of its terminal; 0 for none.
    pub(super) terminal: i64,
    /// User and system time so far, in clock ticks.
    pub(super) ticks: u64,
}

impl Process {
    /// Reads one `stat` file; nothing when the process is gone.
    pub(super) fn read(path: &str) -> Option<Self> {
        Self::parse(&short_file(path)?)
    }

    /// Parses `pid (name) state ppid …`. The name is the program's choice and may hold anything,
    /// so that the fields count from its last closing parenthesis.
    fn parse(stat: &[u8]) -> Option<Self> {
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let head = std::str::from_utf8(stat.get(..stat.iter().position(|byte| *byte == b' ')?)?);
        let tail = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().take(13).collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            pid: head.ok()?.parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            state: *fields.first()?.as_bytes().first()?,
            terminal: fields.get(4)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
        })
    }

    /// Whether a signal or a tracer holds the process.
    pub(super) fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// Finds every living descendant of `root`, `root` excluded.
pub(super) fn descendants(root: Pid) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<Process> = numbers
        .filter_map(|pid| Process::read(&format!("/proc/{pid}/stat")))
        .take(MAX_PROCESSES)
        .collect();
    below(root.as_raw_nonzero().get(), all)
}

fn below(root: i32, mut all: Vec<Process>) -> Vec<Process> {
    all.retain(|process| process.state != b'Z');
    all.sort_by_key(|process| process.parent);
    let mut found: Vec<Process> = Vec::new();
    let mut next = Some(root);
    let mut index = 0;
    while let Some(parent) = next {
        let start = all.partition_point(|process| process.parent < parent);
        let children = all.get(start..).unwrap_or_default();
        found.extend(children.iter().take_while(|process| process.parent == parent));
        next = found.get(index).map(|process| process.pid);
        index += 1;
        if index > all.len() + 1 {
            break;
        }
    }
    found
}

/// Sends each of `signals` to each of `targets`; those that are gone do not matter.
pub(super) fn signal_all(targets: &[Process], signals: &[Signal]) {
    for pid in targets.iter().filter_map(|process| Pid::from_raw(process.pid)) {
        for signal in signals {
            let _ = kill_process(pid, *signal);
        }
    }
}

/// How much a tool's `oom_score_adj` is above this process's: the kernel then counts it as a tenth of the
/// limit larger than it is.
const TOOL: i32 = 100;

/// Asks the kernel to end a tool before the server where memory runs out. Without this, the server would
/// be the largest process beside a build of many small ones.
///
/// Children begin with their parent's value. A process may take back what was added here, not what
/// systemd gave the whole unit: an agent can spoil this for itself, and not for others.
pub(super) fn spare(server: Pid) {
    let server = server.as_raw_nonzero().get();
    let score =
        |path: &str| std::str::from_utf8(&short_file(path)?).ok()?.trim().parse::<i32>().ok();
    let Some(own) = score("/proc/self/oom_score_adj") else { return };
    let tool = (own + TOOL).min(1000);
    for process in descendants(getpid()).iter().filter(|process| process.pid != server) {
        let path = format!("/proc/{}/oom_score_adj", process.pid);
        if score(&path).is_some_and(|score| score < tool) {
            // It may be gone by now, or keep others from its files.
            let _ = fs::write(&path, tool.to_string());
        }
    }
}

/// What the server and its descendants had used at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// The server's time on a processor, in nanoseconds, over its threads.
    server: u64,
    /// Its descendants' time, in clock ticks.
    others: u64,
    /// Whether one of the server's threads wants a processor, or waits for memory or a disk.
    wants: bool,
}

impl Usage {
    /// Looks at `server` and its descendants now.
    pub(super) fn of(server: Pid) -> Self {
        let base = format!("/proc/{}/task", server.as_raw_nonzero());
        let mut usage = Self::default();
        for thread in fs::read_dir(&base).into_iter().flatten().flatten().take(MAX_THREADS) {
            let name = thread.file_name();
            let path = format!("{base}/{}", name.to_string_lossy());
            let state = Process::read(&format!("{path}/stat")).map(|thread| thread.state);
            usage.wants |= matches!(state, Some(b'R' | b'D'));
            usage.server += nanoseconds(&format!("{path}/schedstat")).unwrap_or(0);
        }
        usage.others = descendants(server).iter().map(|process| process.ticks).sum();
        usage
    }

    /// Whether anything ran since `before`, or wanted to.
    ///
    /// A sum that shrank is a descendant that ended, which is a sign of life too.
    pub(super) fn shows_life_since(self, before: Self) -> bool {
        self.wants || self.server != before.server || self.others != before.others
    }
}

fn nanoseconds(path: &str) -> Option<u64> {
    let text = short_file(path)?;
    std::str::from_utf8(&text).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

fn short_file(path: &str) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(512);
    fs::File::open(path).ok()?.take(4096).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_fields() {
        let stat = b"7 (a) R 1 (\xff) T 3 7 7 0 -1 0 0 0 0 0 11 31 0 0 20 0 1 0 5 6";
        let process = Process::parse(stat).unwrap();
        assert_eq!(process, Process { pid: 7, parent: 3, state: b'T', terminal: 0, ticks: 42 });
        assert!(process.is_stopped());
        for cut in 0..stat.len() {
            let _ = Process::parse(&stat[..cut]);
        }
    }

    #[test]
    fn the_tree_is_found_and_a_loop_ends() {
        let process = |pid, parent| Process { pid, parent, state: b'S', terminal: 0, ticks: 1 };
        let all = vec![process(9, 1), process(3, 2), process(4, 3), process(2, 1), process(8, 7)];
        let mut found: Vec<i32> = below(2, all).iter().map(|process| process.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert!(below(1, vec![process(1, 2), process(2, 1)]).len() < 9);
    }

    #[test]
    fn this_process_shows_life() {
        let own = rustix::process::getpid();
        let before = Usage::of(own);
        assert!(before.server > 0);
        assert!(Usage::of(own).shows_life_since(before));
        let idle = Usage { wants: false, ..before };
        assert!(!idle.shows_life_since(idle));
    }
}
