//! The program `nft`, which gets its rules on its standard input.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

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
