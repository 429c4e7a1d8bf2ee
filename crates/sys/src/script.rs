//! Scripts that tests run in the place of programs.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script by another process: what this one has had open for writing, a child that is being
/// started in another thread may still hold, and then it cannot be run.
pub(crate) fn write(path: &Path, text: &str) {
    let install = ["install", "-m", "755", "/dev/stdin"];
    let mut child = Command::new(install[0])
        .args(&install[1..])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
