//! Reads what happened lately, for all instances at once: one `journalctl`, bounded in time and size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use instances_core::events::{LOST, REFUSED};
use instances_core::recent::{Recent, Recents, UNIT_FAILED};
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How far back is looked, as journalctl takes it.
const SINCE: &str = "-1h";
/// How long the journal may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most bytes that are read.
const MAX: usize = 32 << 20;
/// The longest record that is kept.
const MAX_LINE: usize = 64 << 10;
/// The fields that are asked for.
const FIELDS: &str = "_SYSTEMD_UNIT,_PID,MESSAGE_ID,OPENCODE_DIRECTION,OPENCODE_PROTOCOL,OPENCODE_ADDRESS,\
    OPENCODE_PORT,OPENCODE_ICMP_TYPE,OPENCODE_NAME,OPENCODE_COUNT,OPENCODE_LOST_PACKETS,UNIT,UNIT_RESULT";
/// What journalctl says to who sees only records of their own, or none.
const HIDDEN: [&str; 3] = ["not seeing messages", "insufficient permissions", "Failed to"];

/// What was found in the last hour.
#[derive(Clone, Debug, Default)]
pub struct Hour {
    /// Of each instance that was asked for.
    pub each: BTreeMap<InstanceName, Recent>,
    /// Whether all records were read; otherwise the newest were.
    pub complete: bool,
}

/// The last hour of these instances; `None` where the journal cannot be read, as by an ordinary user.
pub fn read(instances: &[InstanceName]) -> Option<Hour> {
    let mut found = Recents::of(instances);
    // Without an instance the question would be for everybody's records.
    if instances.is_empty() {
        return Some(Hour { each: found.into_each(), complete: true });
    }
    let mut said = tempfile::tempfile().ok()?;
    let mut child = Command::new("journalctl")
        .args(arguments(instances))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(said.try_clone().ok()?)
        .spawn()
        .ok()?;
    let output = child.stdout.take();
    let complete = output.is_some_and(|output| lines(output, &mut |line| found.add(line)));
    if !end(&mut child, complete) || is_hidden(&mut said) {
        return None;
    }
    Some(Hour { each: found.into_each(), complete })
}

/// Ends it; whether what it said counts.
fn end(child: &mut Child, complete: bool) -> bool {
    if !complete {
        // It has more to say, or hangs.
        let _ = child.kill();
    }
    let status = child.wait();
    // Where nothing matches, it may fail.
    !complete || status.is_ok_and(|status| matches!(status.code(), Some(0 | 1)))
}

fn is_hidden(said: &mut File) -> bool {
    let mut words = String::new();
    let read = said.rewind().and_then(|()| said.take(MAX_LINE as u64).read_to_string(&mut words));
    read.is_err() || HIDDEN.iter().any(|hidden| words.contains(hidden))
}

fn arguments(instances: &[InstanceName]) -> Vec<String> {
    // Not quiet: who may not read the journal is told so. The newest first, should there be too much.
    let mut arguments = ["--no-pager", "--output=json", "--reverse"].map(str::to_owned).to_vec();
    arguments.extend([format!("--output-fields={FIELDS}"), format!("--since={SINCE}")]);
    arguments.extend([REFUSED, LOST].map(|id| format!("MESSAGE_ID={id}")));
    for instance in instances {
        let names = Names(instance);
        let units = [names.events(), names.dns()];
        arguments.extend(units.map(|unit| format!("_SYSTEMD_UNIT={unit}")));
    }
    arguments.extend(["+".to_owned(), format!("MESSAGE_ID={UNIT_FAILED}"), "_PID=1".to_owned()]);
    arguments.extend(instances.iter().map(|instance| format!("UNIT={}", Names(instance).main())));
    arguments
}

/// Whether the end was reached within the bounds. A line that is too long is left out.
fn lines(mut output: ChildStdout, each: &mut dyn FnMut(&[u8])) -> bool {
    let end = Instant::now() + PATIENCE;
    let (mut line, mut chunk, mut all) = (Vec::new(), vec![0; 64 << 10], 0);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        let polled = poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&left));
        if !matches!(polled, Ok(1..)) {
            return false;
        }
        let Ok(read) = output.read(&mut chunk) else { return false };
        all += read;
        if read == 0 || all > MAX {
            return read == 0;
        }
        let mut pieces =
            chunk.get(..read).unwrap_or_default().split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if line.len() <= MAX_LINE {
                line.extend_from_slice(piece);
            }
            // Behind the last piece there is no end of a line yet.
            if pieces.peek().is_some() {
                if line.len() <= MAX_LINE {
                    each(&line);
                }
                line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_is_for_all_and_for_nobody_else() {
        let instances = ["web", "billing"].map(|name| InstanceName::new(name).unwrap());
        let asked = arguments(&instances);
        let matches: Vec<&str> =
            asked.iter().filter(|word| !word.starts_with('-')).map(String::as_str).collect();
        let expected = format!(
            "MESSAGE_ID={REFUSED} MESSAGE_ID={LOST} _SYSTEMD_UNIT=opencode-events@web.service \
             _SYSTEMD_UNIT=opencode-dns@web.service _SYSTEMD_UNIT=opencode-events@billing.service \
             _SYSTEMD_UNIT=opencode-dns@billing.service + MESSAGE_ID={UNIT_FAILED} _PID=1 \
             UNIT=opencode-web.service UNIT=opencode-billing.service"
        );
        assert_eq!(matches.join(" "), expected);
    }

    fn read_of(script: &str) -> (bool, Vec<Vec<u8>>) {
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut seen = Vec::new();
        let end = lines(child.stdout.take().unwrap(), &mut |line| seen.push(line.to_vec()));
        let _ = child.kill();
        child.wait().unwrap();
        (end, seen)
    }

    #[test]
    fn long_lines_and_endless_answers_are_bounded() {
        let (end, seen) = read_of("echo one; head -c 200000 /dev/zero; echo; echo two; printf cut");
        assert_eq!((end, seen), (true, vec![b"one".to_vec(), b"two".to_vec()]));
        let (end, seen) = read_of("echo one; exec yes");
        assert!(!end && seen.first().is_some_and(|line| line == b"one"));
        assert!(!read_of("echo one; exec sleep 60").0);
    }
}
