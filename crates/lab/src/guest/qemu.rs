//! The emulator.

use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often it is looked at whether the guest has ended.
const POLL: Duration = Duration::from_millis(20);
/// No controller is left to the first version of control groups, a panic ends the guest, and nothing waits
/// for grace periods that an emulated processor makes long.
const ARGUMENTS: &str = "console=ttyS0 panic=-1 cgroup_no_v1=all quiet mitigations=off nowatchdog apparmor=0 \
    rcupdate.rcu_expedited=1";
/// The guest's memory, of which the host gives what is used.
const MEMORY: &str = "4G";

/// A running emulator, which ends with this value or with the thread that made it.
#[derive(Debug)]
pub(super) struct Emulator {
    child: Child,
    deadline: Instant,
}

impl Emulator {
    /// Boots a kernel with the initramfs in `shared`, which the guest may write to as to `failures`.
    pub(super) fn start(
        kernel: &Path,
        shared: &Path,
        failures: &Path,
        terminal: bool,
        stdout: Stdio,
        time: Duration,
    ) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-reboot"]);
        // Where KVM seems to be there it may not work, and speed is not what this is for.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        command.args(["-display", "none", "-monitor", "none", "-append", ARGUMENTS]);
        command.arg("-kernel").arg(kernel);
        command.arg("-initrd").arg(shared.join("initramfs"));
        let console = escape(&shared.join("console"))?;
        command.args(["-chardev", &format!("file,id=console,path={console}")]);
        command.args(["-serial", "chardev:console"]);
        for (tag, path, more) in [
            ("host", Path::new("/"), ",readonly=on,multidevs=remap"),
            ("guest", shared, ""),
            ("failures", failures, ""),
        ] {
            let path = escape(path)?;
            let share = format!("local,id={tag},path={path},security_model=none{more}");
            command.args(["-fsdev", &share]);
            command.args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
        }
        command.args(["-chardev", "stdio,id=command,signal=off", "-device", "virtio-serial-pci"]);
        command.args(["-device", "virtserialport,chardev=command,name=lab-command"]);
        // Without a terminal it is a pipe that stays open: at its end the port would be closed.
        command.stdin(if terminal { Stdio::inherit() } else { Stdio::piped() }).stdout(stdout);
        let child = command.spawn().context("cannot start setpriv")?;
        Ok(Self { child, deadline: Instant::now() + time })
    }

    /// The reading end of its standard output, if that is a pipe.
    pub(super) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for the end of the guest, or ends it when it has had its time.
    pub(super) fn wait(&mut self) -> Result<()> {
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the emulator")? {
                if !status.success() {
                    bail!("the emulator failed ({status})");
                }
                return Ok(());
            }
            if Instant::now() > self.deadline {
                bail!("the guest had its time, and has been ended");
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Writes a path as the emulator's options want it.
fn escape(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is no text", path.display()))?;
    Ok(text.replace(',', ",,"))
}
