//! Whether this host can boot machines at all.

use std::env;
use std::io::Write;
use std::path::Path;

use crate::{guest, install};

/// Says whether a test must be skipped, and prints why.
///
/// Start a test with `if instances_lab::unavailable() { return; }`.
///
/// # Panics
///
/// When the environment sets `CI`: a green run there must not hide tests that never ran.
pub fn unavailable() -> bool {
    install::obstacle().is_some_and(|reason| skip(&reason))
}

/// The same for a test that needs a guest: see [`guest`].
///
/// # Panics
///
/// When the environment sets `CI`.
pub fn outside() -> bool {
    if guest::is_inside() {
        return unavailable();
    }
    skip("runs in a guest: cargo xtask lab guest --tests")
}

/// The same for a test that needs a file which something else makes first, as `remedy` says.
///
/// # Panics
///
/// When the environment sets `CI`.
pub fn lacking(file: &Path, remedy: &str) -> bool {
    unavailable() || !file.exists() && skip(&format!("{} is missing: {remedy}", file.display()))
}

/// The same for a part of a test that needs what this host does not have.
///
/// # Panics
///
/// When the environment sets `CI`.
pub fn without(what: &str) -> bool {
    skip(&format!("this host has no {what}"))
}

fn skip(reason: &str) -> bool {
    assert!(env::var_os("CI").is_none_or(|value| value.is_empty()), "cannot run in CI: {reason}");
    // Past the capture of the test harness, so that it is seen.
    drop(writeln!(std::io::stderr(), "SKIP: {reason}"));
    true
}
