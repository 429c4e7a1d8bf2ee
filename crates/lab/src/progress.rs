//! Long steps that say what they do while they do it.

use std::fs::File;
use std::io::{self, Write};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a step may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How much of a failed step's output is shown.
const TAIL: usize = 30;

/// Prints one line of narration.
pub fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Runs a command to its end, with a line now and then, and shows its output only if it fails.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
    say(&format!("[{:>3} s] {what} …", 0));
    let mut child = command
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let mut said = start;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if said.elapsed() >= SILENCE {
            said = Instant::now();
            let text = read(&mut output)?;
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let last: String = last.trim().chars().take(90).collect();
            say(&format!("[{:>3} s] {what}: {last}", start.elapsed().as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        let text = read(&mut output)?;
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n");
        bail!("{what} failed ({status}):\n{tail}");
    }
    say(&format!("[{:>3} s] {what}: done", start.elapsed().as_secs()));
    Ok(())
}

/// Reads all of a file that a child also writes, leaving the shared offset at the end.
fn read(file: &mut File) -> Result<String> {
    use std::os::unix::fs::FileExt;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let count = file.read_at(&mut chunk, bytes.len() as u64)?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.extend(chunk.iter().take(count));
    }
}

/// Does something that says nothing by itself, with a line now and then, and returns what it gave.
pub fn during<T>(what: &str, body: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let (done, over) = mpsc::channel::<()>();
    say(&format!("[{:>3} s] {what} …", 0));
    let value = thread::scope(|scope| {
        scope.spawn(move || {
            // Disconnected when the work is over, also if it panicked.
            while over.recv_timeout(SILENCE / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
                say(&format!("[{:>3} s] {what} …", start.elapsed().as_secs()));
            }
        });
        let _until_the_end = done;
        body()
    });
    say(&format!("[{:>3} s] {what}: over", start.elapsed().as_secs()));
    value
}
