//! The slow tier: a virtual machine whose root is the host's own, for what the host's kernel lacks.
//!
//! It runs a stock kernel in an emulator, so it needs no rights on the host but to install that, and
//! has every controller of control groups. In it, machines boot as they do on any host. What it
//! writes stays in its memory and ends with it; only the reports of failed tests are carried out.

mod initramfs;
mod kernel;
mod qemu;

use std::env::{self, consts::ARCH};
use std::ffi::OsStr;
use std::fs;
use std::io::{IsTerminal, stdin};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::image::{Image, Release};
use crate::{install, place};
use kernel::Kernel;
use qemu::Emulator;

/// PID 1 of the guest, once its root is mounted.
const INIT: &str = include_str!("init.sh");
/// Where the guest finds what the host left for it. Nothing but a guest has this file.
const MARK: &str = "/run/lab-guest/init.sh";
/// How much longer everything may take in a guest, whose processor is emulated.
const SLOWER: u32 = 8;
/// How long a boot may take, on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_mins(2);
/// How much of a failed guest's console is shown.
const CONSOLE_LINES: usize = 30;
/// Variables of the caller's that the command sees too.
const INHERITED: &[&str] = &["LANG", "RUST_BACKTRACE", "TERM", place::DIR_VAR, place::ENGINE_VAR];

/// Whether this process runs in a guest.
pub fn is_inside() -> bool {
    Path::new(MARK).exists()
}

/// Why there can be no guest here, whatever is installed.
pub fn obstacle() -> Option<String> {
    if is_inside() {
        return Some("this is a guest already".to_owned());
    }
    (ARCH != "x86_64").then(|| format!("guests are machines of x86_64, and this one is {ARCH}"))
}

/// A time that is enough on a real processor, or as much longer as it takes in a guest.
pub fn patience(time: Duration) -> Duration {
    if is_inside() { time.saturating_mul(SLOWER) } else { time }
}

/// A virtual machine that runs one command, and lives no longer than this value.
#[derive(Debug)]
pub struct Guest {
    shared: TempDir,
    emulator: Emulator,
}

impl Guest {
    /// Starts a guest, after installing what is missing for it, to run a command as it would run here: with
    /// the same program, directory and the variables that it was given, and as root.
    ///
    /// Both streams of the command's come out of `stdout`; it reads nothing.
    pub fn start(command: &Command, stdout: Stdio, time: Duration) -> Result<Self> {
        Self::boot(command, false, stdout, time)
    }

    /// Gives the caller's terminal to a shell in a guest until that ends.
    pub fn shell() -> Result<i32> {
        if !stdin().is_terminal() {
            bail!("a shell needs a terminal; name a command after `--`");
        }
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", "exec bash --norc", "/dev/null"]);
        command.env("PS1", "guest:\\w# ").current_dir(place::workspace());
        let day = Duration::from_hours(24);
        Self::boot(&command, true, Stdio::inherit(), day)?.wait()
    }

    /// The reading end of what the command prints, if it was started with a pipe.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.emulator.output()
    }

    /// Waits for the command's end and returns its status. A guest that has had its time is ended.
    pub fn wait(mut self) -> Result<i32> {
        let status = self.emulator.wait().and_then(|()| {
            let status = fs::read_to_string(self.shared.path().join("status"));
            let status = status.context("the guest ended before its command did")?;
            status.trim().parse().context("the guest left no status")
        });
        status.with_context(|| format!("the guest's console ends with:\n{}", self.console()))
    }

    /// The last that its kernel and its PID 1 said.
    fn console(&self) -> String {
        let bytes = fs::read(self.shared.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default().join("\n")
    }

    fn boot(command: &Command, terminal: bool, stdout: Stdio, time: Duration) -> Result<Self> {
        if let Some(reason) = obstacle() {
            bail!(reason);
        }
        install::emulator()?;
        let kernel = Kernel::ensure()?;
        let failures = place::dir().join("failures");
        fs::create_dir_all(&failures)
            .with_context(|| format!("cannot make {}", failures.display()))?;
        let shared = tempfile::tempdir().context("cannot make a temporary directory")?;
        let save = |name: &str, contents: &[u8]| {
            let path = shared.path().join(name);
            fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))
        };
        save("init.sh", INIT.as_bytes())?;
        save("modules", kernel.modules().as_os_str().as_bytes())?;
        save("failures", failures.canonicalize()?.as_os_str().as_bytes())?;
        save("command", &script(command)?)?;
        if terminal {
            save("terminal", b"")?;
        }
        let busybox = Image::ensure(Release::Trixie)?.root().join("usr/bin/busybox");
        save("initramfs", &initramfs::build(&kernel, &busybox)?)?;
        let time = time.saturating_add(BOOT_TIMEOUT);
        let emulator =
            Emulator::start(&kernel.image(), shared.path(), &failures, terminal, stdout, time)?;
        Ok(Self { shared, emulator })
    }
}

/// A shell script that runs a command as its description says.
fn script(command: &Command) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    let here = env::current_dir().context("the current directory is gone")?;
    let directory = command.get_current_dir().unwrap_or(&here);
    script.extend([b"cd ".to_vec(), quote(directory.as_os_str()), b"\nexec env".to_vec()].concat());
    let inherited = INHERITED.iter().filter_map(|name| {
        let value = env::var_os(name)?;
        Some((OsStr::new(name).to_owned(), value))
    });
    let given =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    for (name, value) in inherited.chain(given) {
        script.extend([b" ".to_vec(), quote(&name), b"=".to_vec(), quote(&value)].concat());
    }
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        script.extend([b" ".to_vec(), quote(word)].concat());
    }
    script.push(b'\n');
    Ok(script)
}

/// A word as the shell reads it back.
fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::script;

    #[test]
    fn a_command_becomes_a_script_that_runs_it() {
        let mut command = Command::new("printf");
        command.args(["%s|", "it's", "two words", "$HOME", ""]).current_dir("/");
        command.env("A", "b 'c'");
        let script = String::from_utf8(script(&command).unwrap()).unwrap();
        let said = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), "it's|two words|$HOME||");
    }
}
