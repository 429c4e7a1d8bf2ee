//! The program `nft`, which gets its rules on its standard input.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use instances_core::nft::{dormant, sleep, wake};
use rustix::io::{FdFlags, fcntl_setfd};

/// Why it did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did not even start.
    Start(io::Error),
    /// It refused.
    Refused {
        /// How it ended.
        status: String,
        /// What it said, on one line.
        stderr: String,
    },
}

/// Runs it in the calling thread's namespace, and returns what it printed.
pub(super) fn run(nft: &Path, arguments: &[&str], input: &str) -> Result<Vec<u8>, Failure> {
    let mut child = Command::new(nft)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::Start)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended before it read everything: its exit status says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(Failure::Start)?,
        }
    }
    let output = child.wait_with_output().map_err(Failure::Start)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Refused {
        status: output.status.to_string(),
        stderr: stderr.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// Lets the program hold a lock too: it may live on for a moment when whoever started it is killed, and
/// what it does then must not meet the next run.
pub(super) fn inherits(lock: impl AsFd) -> rustix::io::Result<()> {
    fcntl_setfd(lock, FdFlags::empty())
}

/// Replaces a table that packets pass, and refuses none that the old and the new rules allow.
///
/// One transaction is not enough for that: a new chain is in the packets' way before its rules are, and a
/// set holds nothing for a moment after the rules that look into it are in force. So a second table with
/// the new rules joins the first one, which is then asleep while it is replaced. At every moment one of
/// them judges all packets, so that a run which is killed leaves no gap; what it leaves behind refuses more
/// than it should at worst, until the next run.
///
/// `run` passes a text to nft. `proven` is told the name of each table once it judges, before the other one
/// stops doing so. Where it is not what was meant, both stay.
pub(super) fn replace<E>(
    table: &str,
    text: &str,
    run: &dyn Fn(&str) -> Result<(), E>,
    proven: &dyn Fn(&str) -> Result<(), E>,
) -> Result<(), E> {
    let next = next(table);
    // A run that was killed may have left the first one asleep: until it judges, the second one stays.
    run(&wake(table))?;
    let staged = || {
        withdraw(&next, run)?;
        run(&(wake(&next) + &dormant(text, table, &next)))?;
        run(&wake(&next))?;
        proven(&next)
    };
    if let Err(error) = staged() {
        let _ = withdraw(&next, run);
        return Err(error);
    }
    run(&sleep(table))?;
    let replaced = run(&dormant(text, table, table));
    // Whichever it is now, it is a whole one.
    run(&wake(table))?;
    replaced.and_then(|()| proven(table))?;
    withdraw(&next, run)
}

/// Takes away what a killed replacement left, where it left something: the second table, which nobody
/// brings up to date.
pub(super) fn tidy<E>(
    nft: &Path,
    table: &str,
    run: &dyn Fn(&str) -> Result<(), E>,
) -> Result<(), E> {
    let next = next(table);
    let there = self::run(nft, &["list", "table", "inet", &next], "").is_ok();
    if there { withdraw(&next, run) } else { Ok(()) }
}

/// Removes a table without a packet being judged by what is left of it on the way.
pub(super) fn withdraw<E>(table: &str, run: &dyn Fn(&str) -> Result<(), E>) -> Result<(), E> {
    run(&sleep(table))?;
    run(&format!("delete table inet {table}\n"))
}

/// The name of the table that stands in for this one while it is replaced.
pub(super) fn next(table: &str) -> String {
    format!("{table}_next")
}
