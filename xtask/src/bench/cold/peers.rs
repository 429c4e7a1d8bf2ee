//! The same server in other sandboxes, each with what is closest to an instance's places.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use instances_lab::Machine;

use super::Caches;
use crate::bench::life::{QUIET, answered, answers};

/// Where it listens, in a namespace of its own.
const PORT: u16 = 4096;
const PROJECT: &str = "/srv/peer";
pub(super) const HOME: &str = "/var/lib/peer";
/// The root that systemd-nspawn starts from.
const ROOT: &str = "/var/lib/peer-root";
/// Where the words of either are looked for.
const LOG: &str = "/run/peer.log";

/// What a program needs of `/etc` and an instance has too.
const ETC: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
];
/// What leads into `/usr` in a root.
const LINKS: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Makes user, places and root, and says what they are tried with.
pub(super) fn prepare(machine: &Machine) -> Result<String> {
    let mut script = format!(
        "systemd-sysusers --inline 'u peer - - {HOME}'\n\
         mkdir -p {PROJECT} {HOME} {ROOT}\nchown peer: {PROJECT} {HOME}\ncd {ROOT}\n\
         mkdir -p etc usr proc sys dev run root tmp var/lib srv\n"
    );
    script.extend(LINKS.iter().map(|link| format!("ln -s usr/{link} {link}\n")));
    machine.sh(&script)?.ok()?;
    let version = |script: &str| machine.sh(script)?.ok().map(|text| text.trim().to_owned());
    let bubblewrap = version("bwrap --version")?;
    let nspawn = version("systemd-nspawn --version | head -n 1 | cut -d ' ' -f 1-2")?;
    Ok(format!("Tried with {bubblewrap} and {nspawn}."))
}

pub(super) fn bubblewrap(machine: &Machine, caches: Caches) -> Result<Duration> {
    let mut command: Vec<String> =
        ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"].map(String::from).into();
    let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["--ro-bind", "/usr", "/usr"]);
    for link in LINKS {
        add(&["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
    }
    for place in ETC {
        add(&["--ro-bind-try", place, place]);
    }
    add(&["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    add(&["--bind", PROJECT, PROJECT, "--bind", HOME, HOME, "--chdir", PROJECT]);
    add(&["--setenv", "HOME", HOME]);
    start(machine, caches, "peer-bwrap", &["--uid=peer", "--gid=peer"], command)
}

pub(super) fn nspawn(machine: &Machine, caches: Caches) -> Result<Duration> {
    let mut command: Vec<String> = [
        "systemd-nspawn",
        "--quiet",
        "--private-network",
        // There is no systemd-machined to ask, and the unit is there already.
        "--register=no",
        "--keep-unit",
        "--as-pid2",
        "--console=pipe",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--user=peer",
        "--bind-ro=/usr",
    ]
    .map(String::from)
    .into();
    command.push(format!("--directory={ROOT}"));
    command.extend(ETC.iter().map(|place| format!("--bind-ro={place}")));
    command.extend([PROJECT, HOME].map(|place| format!("--bind={place}")));
    command.push(format!("--chdir={PROJECT}"));
    command.push(format!("--setenv=HOME={HOME}"));
    // It hands nothing on of its own environment.
    command.extend(QUIET.iter().map(|variable| (*variable).to_owned()));
    start(machine, caches, "peer-nspawn", &["--property=Delegate=yes"], command)
}

/// Starts the server below a command in a transient unit, asks it in its namespace, and ends it.
fn start(
    machine: &Machine,
    caches: Caches,
    unit: &str,
    properties: &[&str],
    sandbox: Vec<String>,
) -> Result<Duration> {
    machine.run(["rm", "-f", LOG])?.ok()?;
    let log = format!("/proc/{}/root{LOG}", machine.pid());
    let port = PORT.to_string();
    let (name, output) =
        (format!("--unit={unit}"), format!("--property=StandardOutput=file:{LOG}"));
    let run =
        ["systemd-run", "--quiet", &name, &output].into_iter().chain(properties.iter().copied());
    let run = run.chain(QUIET.iter().copied()).map(str::to_owned).chain(sandbox);
    let server = ["/usr/bin/opencode", "serve", "--hostname", "127.0.0.1", "--port", &port];
    let start = caches.clock()?;
    machine.run(run.chain(server.map(str::to_owned)))?.ok()?;
    let asked =
        answered(&log, start, || machine.in_netns_of(process(machine, unit)?, || answers(PORT)));
    let [_, time] = asked.with_context(|| {
        let journal = machine.run(["journalctl", "--no-pager", "--lines=30", "--unit", unit]);
        journal.map_or_else(|error| format!("{error:#}"), |journal| journal.stdout)
    })?;
    machine.run(["systemctl", "stop", unit])?.ok()?;
    // A unit that has failed keeps its name; one that has not is gone, and that is an error.
    let _gone = machine.run(["systemctl", "reset-failed", unit])?;
    Ok(time)
}

/// A process of the unit's that is in another network namespace than the machine's PID 1, by its number in the machine.
/// It is looked for while the clock runs, so no program is started for it.
fn process(machine: &Machine, unit: &str) -> Result<i32> {
    let processes = format!("/proc/{}/root/proc", machine.pid());
    let namespace = |pid: &str| fs::read_link(format!("{processes}/{pid}/ns/net")).ok();
    let host = namespace("1");
    let group = format!("/{unit}.service");
    for entry in fs::read_dir(&processes)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<i32>().is_ok()) else { continue };
        let ours = fs::read_to_string(format!("{processes}/{pid}/cgroup"))
            .is_ok_and(|groups| groups.contains(&group));
        if ours && namespace(pid).is_some_and(|found| Some(found) != host) {
            return Ok(pid.parse()?);
        }
    }
    bail!("{unit} has no network namespace of its own")
}
