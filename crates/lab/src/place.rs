//! Where the lab keeps its things on the host: everything under `target/lab`.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Names the directory that holds images, opencode and failure reports, instead of `target/lab`.
pub const DIR_VAR: &str = "INSTANCES_LAB_DIR";
/// Names the engine binary that tests put into their machines.
pub const ENGINE_VAR: &str = "INSTANCES_ENGINE";
/// Where the opencode binary appears inside every machine.
pub const OPENCODE_INSIDE: &str = "/usr/bin/opencode";
/// Where callers are expected to bind the engine.
pub const ENGINE_INSIDE: &str = "/usr/bin/opencode-instances";

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).map_or_else(|| manifest.clone(), PathBuf::from)
}

/// The lab's own directory on the host.
pub fn dir() -> PathBuf {
    env::var_os(DIR_VAR).map_or_else(|| workspace().join("target/lab"), PathBuf::from)
}

/// The opencode binary that [`crate::install::missing`] installs.
pub fn opencode() -> PathBuf {
    dir().join("opencode/node_modules/opencode-linux-x64/bin/opencode")
}

/// The engine binary, as `cargo xtask` builds it or as the environment names it.
///
/// It is not below [`dir`], because that is where Cargo would put the output of the profile
/// `lab`, and checkouts may share one lab directory.
pub fn engine() -> PathBuf {
    env::var_os(ENGINE_VAR)
        .map_or_else(|| engine_target().join(TARGET).join("lab/opencode-instances"), PathBuf::from)
}

/// The Debian package that tests install; `cargo xtask deb --lab` makes it of [`engine`].
pub fn package() -> PathBuf {
    engine_target().join("opencode-instances.deb")
}

/// The target that `.cargo/config.toml` names, as this crate was built for it.
pub const TARGET: &str = env!("TARGET");

/// The `--target-dir` in which the engine for the machines is built.
pub fn engine_target() -> PathBuf {
    workspace().join("target/engine")
}

/// Where the reports of a failed test go.
pub fn failures(test: &str) -> PathBuf {
    let name: String =
        test.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    dir().join("failures").join(name)
}

/// Waits for its turn to change the part of the lab's directory that `what` names.
///
/// The turn ends with the value, or with the process.
pub(crate) fn lock(what: &str) -> Result<File> {
    let dir = dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("{what}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
