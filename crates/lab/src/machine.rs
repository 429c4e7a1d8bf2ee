//! A booted machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Context, Result, bail};

use crate::guest::patience;
use crate::image::Image;
use crate::leader::Leader;
use crate::reach::{self, Forward};
use crate::run::{self, Output};
use crate::{cgroup, collect, place, progress};

/// The lab's own PID 1, which starts systemd-nspawn.
const INIT: &str = include_str!("init.sh");
/// How long a boot may take, on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a machine may take to stop all its services before it boots again.
const STOP_TIMEOUT: Duration = Duration::from_mins(2);
/// How long a command may take unless the caller says otherwise.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// What is particular about one machine.
#[derive(Debug, Clone, Default)]
pub struct Options {
    name: Option<String>,
    binds: Vec<(PathBuf, PathBuf)>,
    variables: Vec<&'static str>,
    boot_timeout: Option<Duration>,
}

impl Options {
    /// A machine with nothing but opencode in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the machine in reports; otherwise it has the name of the test that boots it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Shows a file or directory of the host at a place in the machine, read-only.
    ///
    /// The host's `/run` and `/sys` are out of reach.
    #[must_use]
    pub fn bind_ro(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.binds.push((host.into(), inside.into()));
        self
    }

    /// Has the machine's systemd put no filter of system calls on any service, as one does that was built or
    /// booted without: it ignores those directives and says nothing.
    #[must_use]
    pub fn without_filters(mut self) -> Self {
        self.variables.push("SYSTEMD_SECCOMP=0");
        self
    }

    /// Lets each boot take longer than the usual minute.
    #[must_use]
    pub fn boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = Some(timeout);
        self
    }

    /// Puts the engine where the machine's PATH finds it: see [`place::engine`].
    #[must_use]
    pub fn engine(self) -> Self {
        self.bind_ro(place::engine(), place::ENGINE_INSIDE)
    }
}

/// A machine that runs for as long as this value lives, or the process that holds it.
///
/// What it writes stays in memory, over any number of reboots, and is gone with it.
pub struct Machine {
    name: String,
    group: String,
    /// `unshare`, the parent of the lab's PID 1.
    outside: Child,
    console: File,
    boots: u32,
    boot_timeout: Duration,
    leader: Leader,
}

impl Machine {
    /// Boots a fresh copy of an image and waits until the boot is over.
    pub fn boot(image: &Image, options: &Options) -> Result<Self> {
        cgroup::reap();
        let name = options.name.clone().unwrap_or_else(test_name);
        let group = cgroup::fresh_name();
        let console = tempfile::tempfile().context("cannot make a temporary file")?;
        let mut outside = spawn(image, &group, options, &console)?;
        let boot_timeout = options.boot_timeout.unwrap_or(BOOT_TIMEOUT);
        match boot_once(&mut outside, &console, 1, boot_timeout) {
            Ok(leader) => {
                Ok(Self { name, group, outside, console, boots: 1, boot_timeout, leader })
            }
            Err(error) => {
                end(&mut outside, &group);
                Err(error.context(format!("the machine {name} does not boot")))
            }
        }
    }

    /// Restarts the machine as `systemctl reboot` does, and waits until it is up again.
    pub fn reboot(&mut self) -> Result<()> {
        // The answer may get lost: the machine is going down.
        let _answer = self.run(["systemctl", "reboot"])?;
        if !self.leader.wait(patience(STOP_TIMEOUT))? {
            bail!("the machine has not stopped after {} s", STOP_TIMEOUT.as_secs());
        }
        self.boot_again()
    }

    /// Ends every process of the machine at once, and boots it again.
    ///
    /// What it had written is all there: unlike a real one, this cannot lose unsynced writes.
    pub fn power_cut(&mut self) -> Result<()> {
        self.leader.kill()?;
        if !self.leader.wait(patience(STOP_TIMEOUT))? {
            bail!("the machine's PID 1 cannot be killed");
        }
        self.boot_again()
    }

    /// The machine's PID 1, as the host numbers it.
    pub fn pid(&self) -> i32 {
        self.leader.pid()
    }

    /// What the machine is called in reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command as root in the machine to its end, for at most a minute.
    pub fn run<I, S>(&self, argv: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.run_for(COMMAND_TIMEOUT, argv)
    }

    /// Runs a command as root in the machine to its end, for at most the given time.
    pub fn run_for<I, S>(&self, timeout: Duration, argv: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run::run(self.pid(), argv, b"", timeout)
    }

    /// Runs a shell script in the machine; the first command that fails ends it.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.run(["/bin/sh", "-euc", script])
    }

    /// Writes a file in the machine, with its directories.
    pub fn put(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let mode = format!("--mode={mode:o}");
        let target = path.as_ref().as_os_str();
        let argv = ["install", "-D", &mode, "/dev/stdin"].map(OsStr::new);
        let argv = argv.into_iter().chain([target]);
        run::run(self.pid(), argv, contents.as_ref(), COMMAND_TIMEOUT)?.ok()?;
        Ok(())
    }

    /// Reads a file in the machine.
    pub fn get(&self, path: impl AsRef<Path>) -> Result<String> {
        self.run([OsStr::new("cat"), path.as_ref().as_os_str()])?.ok()
    }

    /// Looks again and again until a condition holds.
    pub fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let timeout = patience(timeout);
        let start = Instant::now();
        while !holds(self).with_context(|| format!("while waiting until {what}"))? {
            if start.elapsed() > timeout {
                bail!("not within {} s: {what}", timeout.as_secs_f32());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Runs a closure on a fresh thread inside the machine's network namespace.
    ///
    /// Sockets that it opens stay there, whichever thread uses them later.
    pub fn in_netns<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        reach::inside(&self.network()?, body)
    }

    /// Does the same inside a namespace that has a name in the machine, as `ip netns` gives it.
    pub fn in_named_netns<T: Send>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        let path = format!("/proc/{}/root/run/netns/{name}", self.pid());
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        reach::inside(&namespace, body)
    }

    /// Does the same inside the namespace of a process, by its number in the machine.
    pub fn in_netns_of<T: Send>(&self, pid: i32, body: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/proc/{}/root/proc/{pid}/ns/net", self.pid());
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        reach::inside(&namespace, body)
    }

    /// Offers a TCP port of the machine's loopback on the host's loopback, under the same number
    /// unless that is taken. It ends with the value, and with the next reboot.
    pub fn reach_from_host(&self, port: u16) -> Result<Forward> {
        Forward::open(self.network()?, port)
    }

    /// Gives the caller's terminal to a shell in the machine until that ends.
    pub fn shell(&self) -> Result<()> {
        let mut command = run::enter(self.pid());
        let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        // `script` brings a terminal of the machine's own, which its job control needs.
        command.arg(format!("TERM={term}")).arg("PS1=lab:\\w# ");
        command.args(["script", "--quiet", "--command", "exec bash --norc", "/dev/null"]);
        command.status().context("cannot start a shell in the machine")?;
        Ok(())
    }

    /// The command with which anybody who is root on the host enters the machine.
    pub fn way_in(&self) -> String {
        let pid = self.pid();
        let namespaces = "--mount --uts --ipc --net --pid --cgroup --root --wd";
        let clean = "env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=\"$TERM\"";
        format!("nsenter --target {pid} {namespaces} {clean} bash --norc")
    }

    /// What PID 1 and systemd-nspawn have printed so far.
    pub fn console(&self) -> Result<String> {
        read_console(&self.console)
    }

    /// Saves what explains a failure: the journal, the project's units and their state.
    pub fn collect(&self, dir: &Path) -> Result<()> {
        collect::collect(self, dir)
    }

    fn network(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.pid());
        File::open(&path).with_context(|| format!("cannot open {path}"))
    }

    fn boot_again(&mut self) -> Result<()> {
        let ended = format!("instances-lab: boot {} ended", self.boots);
        let start = Instant::now();
        while !self.console()?.contains(&ended) {
            if start.elapsed() > patience(STOP_TIMEOUT) {
                bail!("systemd-nspawn has not ended:\n{}", self.console()?);
            }
            thread::sleep(POLL);
        }
        self.boots += 1;
        self.leader = boot_once(&mut self.outside, &self.console, self.boots, self.boot_timeout)?;
        Ok(())
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({}, PID {})", self.name, self.pid())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let dir = place::failures(&self.name);
            match self.collect(&dir) {
                Ok(()) => progress::say(&format!("see {}", dir.display())),
                Err(error) => progress::say(&format!("cannot collect the journal: {error:#}")),
            }
        }
        end(&mut self.outside, &self.group);
    }
}

/// Starts the lab's PID 1, which waits for the order to boot.
fn spawn(image: &Image, group: &str, options: &Options, console: &File) -> Result<Child> {
    let opencode = (place::opencode(), PathBuf::from(place::OPENCODE_INSIDE));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "sh", "-c", INIT, "lab-init"]).arg(image.root()).arg(group);
    for (host, inside) in std::iter::once(&opencode).chain(&options.binds) {
        let host = host
            .canonicalize()
            .with_context(|| format!("cannot show {} in the machine", host.display()))?;
        command.arg(format!("--bind-ro={}:{}", escape(&host)?, escape(inside)?));
    }
    command.args(options.variables.iter().map(|variable| format!("--setenv={variable}")));
    // A group of its own: Ctrl-C is for whoever owns the terminal, and ends us through the pipe.
    command.process_group(0).stdin(Stdio::piped());
    command.stdout(console.try_clone()?).stderr(console.try_clone()?);
    command.spawn().context("cannot start unshare")
}

/// Writes a path as systemd-nspawn's bind options want it.
fn escape(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is no text", path.display()))?;
    Ok(text.replace('\\', "\\\\").replace(':', "\\:"))
}

/// Gives the order to boot and waits until systemd has done all that belongs to it.
fn boot_once(
    outside: &mut Child,
    console: &File,
    number: u32,
    timeout: Duration,
) -> Result<Leader> {
    let order = outside.stdin.as_mut().context("the machine has been ended")?;
    order.write_all(b"boot\n").context("cannot order the boot")?;
    let ended = format!("instances-lab: boot {number} ended");
    let timeout = patience(timeout);
    let start = Instant::now();
    let mut leader = None;
    loop {
        leader = leader.or_else(|| Leader::below(outside.id()));
        if let Some(up) = leader.take_if(|leader: &mut Leader| leader.answers()) {
            if is_up(&up, timeout)? {
                return Ok(up);
            }
            leader = Some(up);
        }
        if outside.try_wait()?.is_some() || read_console(console)?.contains(&ended) {
            bail!("it ended during the boot:\n{}", read_console(console)?);
        }
        if start.elapsed() > timeout {
            bail!("no end after {} s:\n{}", timeout.as_secs(), read_console(console)?);
        }
        thread::sleep(POLL);
    }
}

/// Waits for the end of the boot; false if systemd does not take the question yet.
fn is_up(leader: &Leader, timeout: Duration) -> Result<bool> {
    let argv = ["systemctl", "is-system-running", "--wait"];
    let answer = run::run(leader.pid(), argv, b"", timeout)?;
    match answer.stdout.trim() {
        "running" | "degraded" => Ok(true),
        "maintenance" | "stopping" => bail!("the boot failed: {answer}"),
        _ => Ok(false),
    }
}

/// Ends everything of a machine, and waits for that.
fn end(outside: &mut Child, group: &str) {
    drop(outside.stdin.take());
    let _status = outside.wait();
    cgroup::remove_now(group);
}

fn read_console(console: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(console.metadata()?.len())?];
    let count = console.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The test harness names each test's thread after the test.
fn test_name() -> String {
    thread::current().name().unwrap_or("machine").to_owned()
}
