//! Whether this host can boot machines at all.

use std::env;
use std::io::Write;

use crate::install;

/// Says whether a test must be skipped, and prints why.
///
/// Start a test with `if instances_lab::unavailable() { return; }`.
///
/// # Panics
///
/// When the environment sets `CI`: a green run there must not hide tests that never ran.
pub fn unavailable() -> bool {
    let Some(reason) = install::obstacle() else { return false };
    assert!(env::var_os("CI").is_none_or(|value| value.is_empty()), "cannot run in CI: {reason}");
    // Past the capture of the test harness, so that it is seen.
    drop(writeln!(std::io::stderr(), "SKIP: {reason}"));
    true
}
