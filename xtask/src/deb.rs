//! `cargo xtask deb`: the Debian package. What goes into it is in `crates/cli/Cargo.toml`, and its scripts
//! are in `crates/cli/debian`; cargo-deb puts it together.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use instances_lab::progress::{self, say};
use instances_lab::{install, place};

use crate::engine::{self, cargo};

const CARGO_DEB: &str = "3.8.0";
const PROGRAM: &str = "opencode-instances";
const MAINTAINER: &str =
    "The opencode-instances contributors <opencode-instances@users.noreply.github.com>";

/// Builds the program as it is released, and packages it; prints where.
pub(crate) fn run() -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", PROGRAM]);
    if !build.status().context("cannot start cargo")?.success() {
        bail!("the program does not build");
    }
    // Each commit makes a version of its own, which apt takes for a later one.
    let version = format!("{}+git{}-1", env!("CARGO_PKG_VERSION"), time());
    package("release", &place::workspace().join("target"), &generated(), &version)
}

/// Packages the program that machines run, for the tests that install it.
pub(crate) fn for_tests() -> Result<()> {
    engine::build()?;
    let package_of_tests = place::package();
    let version = format!("{}-1", env!("CARGO_PKG_VERSION"));
    package("lab", &place::engine_target(), &package_of_tests, &version)?;
    complaints(&package_of_tests)
}

/// Where what is generated lies, as `crates/cli/Cargo.toml` names it, and the package that is released.
fn generated() -> PathBuf {
    place::workspace().join("target/deb")
}

fn package(profile: &str, target: &Path, output: &Path, version: &str) -> Result<()> {
    let tool = tool()?;
    let time = time();
    generate(&target.join(place::TARGET).join(profile).join(PROGRAM), &time, version)?;
    let mut command = Command::new(tool);
    command.args(["--quiet", "--no-build", "--package", PROGRAM, "--profile", profile]);
    command.args(["--deb-version", version, "--target", place::TARGET, "--output"]).arg(output);
    command.env("CARGO_TARGET_DIR", target).env("SOURCE_DATE_EPOCH", time);
    let status = command.current_dir(place::workspace()).status();
    if !status.context("cannot start cargo-deb")?.success() {
        bail!("cargo-deb made no package");
    }
    Ok(())
}

/// Has the program write its manual and completions, and writes Debian's changelog.
fn generate(program: &Path, time: &str, version: &str) -> Result<()> {
    let directory = generated();
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let write = |name: &str, text: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("opencode-instances.1", &output(program, ["man"])?)?;
    for shell in ["bash", "fish", "zsh"] {
        write(&format!("opencode-instances.{shell}"), &output(program, ["completions", shell])?)?;
    }
    let date = output("date", ["--utc", "--rfc-email", &format!("--date=@{time}")])?;
    let changelog = format!(
        "{PROGRAM} ({version}) unstable; urgency=medium\n\n  * changelog.gz says what is new.\n\n -- {MAINTAINER}  {}",
        String::from_utf8_lossy(&date)
    );
    write("changelog", changelog.as_bytes())
}

/// When the package was made, in seconds: the time of the last commit, where there is one.
fn time() -> String {
    if let Ok(time) = env::var("SOURCE_DATE_EPOCH") {
        return time;
    }
    let workspace = place::workspace();
    let last = output(
        "git",
        [
            OsStr::new("-C"),
            workspace.as_ref(),
            "log".as_ref(),
            "-1".as_ref(),
            "--format=%ct".as_ref(),
        ],
    );
    let last = last.ok().and_then(|text| String::from_utf8(text).ok());
    last.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs().to_string()
    })
}

fn output<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Result<Vec<u8>> {
    let program = program.as_ref();
    let mut command = Command::new(program);
    let output = command.args(arguments).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), output.status);
    }
    Ok(output.stdout)
}

/// cargo-deb, below `target/tools`; it is compiled first, if it is missing.
fn tool() -> Result<PathBuf> {
    // What compresses the package, and what takes symbols out of the program.
    install::tool("xz", "xz-utils")?;
    install::tool("strip", "binutils")?;
    let root = place::workspace().join("target/tools").join(format!("cargo-deb-{CARGO_DEB}"));
    let program = root.join("bin/cargo-deb");
    if !program.is_file() {
        say(&format!(
            "Missing, and going to be installed: cargo-deb {CARGO_DEB} (cargo) into {}",
            root.display()
        ));
        let mut command = cargo();
        // Unoptimized: it takes seconds to make the package, and longer to be compiled.
        command.args(["install", "--quiet", "--locked", "--debug", "--no-default-features"]);
        command.args(["--version", CARGO_DEB, "--root"]).arg(&root).arg("cargo-deb");
        progress::run("compiling cargo-deb", &mut command)?;
    }
    Ok(program)
}

/// Fails where lintian, if it is there, finds an error.
fn complaints(package: &Path) -> Result<()> {
    let mut command = Command::new("lintian");
    command.args(["--allow-root", "--fail-on", "error"]).arg(package);
    let status = match command.status() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            say("Without lintian, which is not installed.");
            return Ok(());
        }
        status => status.context("cannot start lintian")?,
    };
    if !status.success() {
        bail!("lintian complains about the package");
    }
    Ok(())
}
