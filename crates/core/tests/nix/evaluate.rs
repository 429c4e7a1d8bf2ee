//! Runs `nix-instantiate`, which builds nothing here and writes to no store.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn says(reason: &str) {
    // Past the capture of the test harness, so that it is seen.
    drop(writeln!(std::io::stderr(), "SKIP nixos evaluation: {reason}"));
}

/// Whether Nix is here; a run in CI must not hide that it is not.
pub(crate) fn has_nix() -> bool {
    let found = Command::new("nix-instantiate").arg("--version").output().is_ok();
    if !found {
        let ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!ci, "cannot run in CI: nix-instantiate is missing (Debian: nix-bin)");
        says("nix-instantiate is missing (Debian: nix-bin)");
    }
    found
}

/// Nixpkgs' `lib`, where Nix and it are here. No registry has it, so that CI may lack it.
pub(crate) fn nixpkgs_lib() -> Option<PathBuf> {
    let root = env::var_os("NIXPKGS_LIB").filter(|value| !value.is_empty());
    if root.is_none() {
        says("NIXPKGS_LIB does not name a checkout of nixpkgs, or of its lib");
    }
    let lib = PathBuf::from(root?).join("lib");
    has_nix().then_some(lib)
}

/// `nix-instantiate` without any configuration of the host's.
pub(crate) fn nix(arguments: &[&str]) -> Output {
    let mut command = Command::new("nix-instantiate");
    command
        .env("NIX_SHOW_STATS", "1")
        .env_remove("NIX_PATH")
        .env("NIX_USER_CONF_FILES", "")
        .env("HOME", "/nonexistent");
    command.args(["--store", "dummy://"]).args(arguments).current_dir(repository());
    command.output().unwrap()
}

/// The value of an expression in `file`.
pub(crate) fn value(file: &str, arguments: &[&str]) -> Value {
    let output = nix(&[&["--eval", "--strict", "--json", file], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}
