//! What the host needs before it can boot machines.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

use crate::{place, progress};

/// The version of opencode that everything here is tested with.
pub const OPENCODE_VERSION: &str = "1.18.33";

/// Commands of the host, each with the Debian package that brings it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("mmdebstrap", "mmdebstrap"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("systemd-nspawn", "systemd-container"),
    ("unshare", "util-linux"),
];
/// What guests need in addition.
const GUEST_TOOLS: &[(&str, &str)] =
    &[("depmod", "kmod"), ("qemu-system-x86_64", "qemu-system-x86")];
/// Where commands for root are, even if the caller's PATH does not know.
const ROOT_PATH: &str = "/usr/sbin:/sbin";

/// Installs what is missing, after saying what that is.
pub fn missing() -> Result<()> {
    if !geteuid().is_root() {
        bail!("machines can only be booted by root");
    }
    let opencode = !has_opencode();
    let mut packages = missing_packages();
    if opencode && !has("npm") {
        packages.push("npm");
    }
    if packages.is_empty() && !opencode {
        return Ok(());
    }
    progress::say("Missing on this host, and going to be installed:");
    if !packages.is_empty() {
        progress::say(&format!("  Debian packages (apt-get): {}", packages.join(" ")));
    }
    if opencode {
        let place = place::dir().join("opencode");
        progress::say(&format!("  opencode-ai@{OPENCODE_VERSION} (npm) into {}", place.display()));
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if opencode {
        install_opencode()?;
    }
    Ok(())
}

/// Installs the package that brings a command, if that is missing.
pub fn tool(tool: &str, package: &str) -> Result<()> {
    if has(tool) {
        return Ok(());
    }
    progress::say(&format!("Missing on this host, and going to be installed: {package}"));
    install_packages(&[package])
}

/// Installs what guests need beside what machines do, after saying what that is.
pub(crate) fn emulator() -> Result<()> {
    missing()?;
    let packages = missing_of(GUEST_TOOLS);
    if packages.is_empty() {
        return Ok(());
    }
    progress::say(&format!(
        "Missing for guests, and going to be installed: {}",
        packages.join(" ")
    ));
    install_packages(&packages)
}

/// The package that another one depends on, by the beginning of its name.
pub(crate) fn dependency(package: &str, prefix: &str) -> Result<String> {
    let ask = || {
        let mut command = Command::new("apt-cache");
        let answer = command.args(["depends", "--important", package]).output().ok()?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        names.into_iter().find(|name| name.starts_with(prefix)).map(str::to_owned)
    };
    if let Some(found) = ask() {
        return Ok(found);
    }
    update()?;
    ask().with_context(|| format!("apt-cache knows of no {package}"))
}

/// Brings a package's archive into a new directory, and installs nothing.
pub(crate) fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["--quiet", "download", package]).current_dir(directory);
        progress::run("downloading a Debian package", &mut command)
    };
    if download().is_err() {
        update()?;
        download()?;
    }
    let mut files = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    files.next().with_context(|| format!("apt-get did not bring {package}"))
}

/// Why machines cannot be booted here, if they cannot.
pub fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("machines can only be booted by root".to_owned());
    }
    let packages = missing_packages();
    if !packages.is_empty() {
        return Some(format!("needs {}: run cargo xtask lab install", packages.join(", ")));
    }
    if !has_opencode() {
        return Some("needs opencode: run cargo xtask lab install".to_owned());
    }
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let unified = file_systems.split_whitespace().any(|name| name == "cgroup2");
    (!unified).then(|| "the kernel has no cgroup2".to_owned())
}

fn missing_packages() -> Vec<&'static str> {
    missing_of(TOOLS)
}

fn missing_of(tools: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = tools.iter().filter(|(tool, _)| !has(tool));
    let mut packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn has(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> =
        env::split_paths(&path).chain(env::split_paths(ROOT_PATH)).collect();
    directories.iter().any(|directory| directory.join(tool).is_file())
}

fn has_opencode() -> bool {
    let manifest = place::dir().join("opencode/node_modules/opencode-linux-x64/package.json");
    let version = format!("\"version\": \"{OPENCODE_VERSION}\"");
    fs::read_to_string(manifest).is_ok_and(|text| text.contains(&version))
        && place::opencode().is_file()
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if !has("apt-get") {
        bail!("this is no Debian: install what brings {}", packages.join(", "));
    }
    let what = "installing Debian packages";
    // The lists may be absent, or so old that the mirror has forgotten what they name.
    let known = apt_install(packages).arg("--simulate").output().is_ok_and(|o| o.status.success());
    if known && progress::run(what, &mut apt_install(packages)).is_ok() {
        return Ok(());
    }
    update()?;
    progress::run(what, &mut apt_install(packages))
}

fn update() -> Result<()> {
    let mut update = Command::new("apt-get");
    progress::run("updating the lists of Debian packages", update.args(["--quiet", "update"]))
}

fn apt_install(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["--yes", "--quiet", "--no-install-recommends", "install"]).args(packages);
    command
}

/// Installs opencode beside its place and moves it there when it is complete.
fn install_opencode() -> Result<()> {
    let _lock = place::lock("opencode")?;
    if has_opencode() {
        return Ok(());
    }
    let target = place::dir().join("opencode");
    let scratch = place::dir().join(format!(".opencode-{}", process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    npm.arg(&scratch).arg(format!("opencode-ai@{OPENCODE_VERSION}"));
    let done = progress::run("installing opencode", &mut npm).and_then(|()| {
        remove(&target)?;
        fs::rename(&scratch, &target).context("cannot move opencode to its place")
    });
    remove(&scratch)?;
    done?;
    if !has_opencode() {
        bail!("npm did not bring {}", place::opencode().display());
    }
    Ok(())
}

/// Removes a directory, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
