//! Reads the records back, through `journalctl`.

use std::io::{self, BufRead, BufReader, Read as _};
use std::process::{Command, Stdio};

use instances_core::blocked::Entry;
use instances_core::events::{LOST, REFUSED};
use instances_core::spec::InstanceName;
use instances_core::units::Names;

/// The fields that are asked for; the others are most of a record.
const FIELDS: &str = "_SYSTEMD_UNIT,MESSAGE_ID,OPENCODE_DIRECTION,OPENCODE_PROTOCOL,\
    OPENCODE_ADDRESS,OPENCODE_PORT,OPENCODE_ICMP_TYPE,OPENCODE_NAME,OPENCODE_POLICY,\
    OPENCODE_COUNT,OPENCODE_FIRST_USEC,OPENCODE_LAST_USEC,OPENCODE_LOST_PACKETS";
/// The longest line that is read: ours are a tenth of it.
const MAX_LINE: u64 = 64 << 10;

/// What is asked of the journal.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Whose records.
    pub instances: &'a [InstanceName],
    /// From when on, as `journalctl --since=` understands it.
    pub since: Option<&'a str>,
    /// Whether to go on with what comes.
    pub follow: bool,
}

/// Why the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such program, or its output breaks off.
    #[error("cannot read the journal with journalctl")]
    Run(#[source] io::Error),
    /// It said why on standard error.
    #[error("journalctl failed: {0}")]
    Failed(std::process::ExitStatus),
}

/// Calls `each` with every record, the oldest first, until it says no.
///
/// # Errors
///
/// See [`ReadError`].
pub fn read(query: &Query<'_>, mut each: impl FnMut(Entry) -> bool) -> Result<(), ReadError> {
    let mut child = Command::new("journalctl")
        .args(arguments(query))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(ReadError::Run)?;
    let outcome = match child.stdout.take() {
        Some(output) => lines(BufReader::new(output), |line| match Entry::parse(line) {
            Some(entry) => each(entry),
            None => true,
        }),
        None => Ok(true),
    };
    if !matches!(outcome, Ok(true)) {
        // It would go on for ever, and nobody listens.
        let _ = child.kill();
    }
    let status = child.wait().map_err(ReadError::Run)?;
    match outcome {
        Err(error) => Err(ReadError::Run(error)),
        Ok(true) if !status.success() => Err(ReadError::Failed(status)),
        Ok(_) => Ok(()),
    }
}

fn arguments(query: &Query<'_>) -> Vec<String> {
    // Not quiet: who may not read the journal is told so.
    let mut arguments = ["--no-pager", "--output=json"].map(str::to_owned).to_vec();
    arguments.push(format!("--output-fields={FIELDS}"));
    if query.follow {
        arguments.push("--follow".to_owned());
    }
    if let Some(since) = query.since {
        arguments.push(format!("--since={since}"));
        // `--follow` alone shows the newest ten.
        arguments.extend(query.follow.then(|| "--no-tail".to_owned()));
    }
    arguments.extend([REFUSED, LOST].map(|id| format!("MESSAGE_ID={id}")));
    // Anybody may claim to be of an instance; which unit wrote a record, journald says itself.
    for instance in query.instances {
        let names = Names(instance);
        let units = [names.events(), names.dns()];
        arguments.extend(units.map(|unit| format!("_SYSTEMD_UNIT={unit}")));
    }
    arguments
}

/// Whether the end was reached, or `each` said no. A line that is too long is left out.
fn lines(mut input: impl BufRead, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let mut line = Vec::new();
    let mut whole = true;
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(true);
        }
        let ends = line.ends_with(b"\n");
        if whole && ends && !each(&line) {
            return Ok(false);
        }
        whole = ends;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_our_units_are_asked_for() {
        let instances = ["web", "billing"].map(|name| InstanceName::new(name).unwrap());
        let mut query = Query { instances: &instances, since: None, follow: false };
        let asked = arguments(&query);
        let matches: Vec<&str> =
            asked.iter().filter(|word| !word.starts_with('-')).map(String::as_str).collect();
        assert_eq!(
            matches,
            [
                format!("MESSAGE_ID={REFUSED}").as_str(),
                format!("MESSAGE_ID={LOST}").as_str(),
                "_SYSTEMD_UNIT=opencode-events@web.service",
                "_SYSTEMD_UNIT=opencode-dns@web.service",
                "_SYSTEMD_UNIT=opencode-events@billing.service",
                "_SYSTEMD_UNIT=opencode-dns@billing.service",
            ]
        );
        assert!(!asked.iter().any(|word| word == "--follow"));
        query.follow = true;
        query.since = Some("-1h; --file=/etc/shadow");
        let asked = arguments(&query);
        for word in ["--follow", "--no-tail", "--since=-1h; --file=/etc/shadow"] {
            assert!(asked.iter().any(|one| one == word), "{word}");
        }
    }

    #[test]
    fn long_lines_are_left_out() {
        let long = "x".repeat(200_000);
        let mut seen = Vec::new();
        let text = format!("one\n{long}\ntwo\nthree\nfour\n");
        let end = lines(text.as_bytes(), |line| {
            seen.push(String::from_utf8_lossy(line).trim().to_owned());
            seen.len() < 3
        });
        assert!(!end.unwrap());
        assert_eq!(seen, ["one", "two", "three"]);
        assert!(lines(&b"cut"[..], |_| unreachable!()).unwrap());
    }
}
