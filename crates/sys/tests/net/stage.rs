//! What the cases are made of.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use instances_core::spec::InstanceName;
use instances_sys::net::{self, Error, Outcome, Step, Up};
use rustix::process::{Signal, getpid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const KILL_AT: &str = "INSTANCES_NET_KILL_AT";
/// Instead of a step: the child takes everything down.
const DOWN: &str = "down";
/// With this in its environment, the child gives the namespace a link.
pub(crate) const POOL: &str = "INSTANCES_NET_POOL";
pub(crate) const RULES: &str = "/run/rules.nft";
pub(crate) const PIN: &str = "/run/netns/opencode-foo";

pub(crate) fn write_rules(text: &str) {
    fs::write(RULES, text).unwrap();
    fs::set_permissions(RULES, fs::Permissions::from_mode(0o644)).unwrap();
}

pub(crate) fn nft() -> PathBuf {
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    env::split_paths(&path).map(|dir| dir.join("nft")).find(|nft| nft.exists()).unwrap()
}

pub(crate) fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

pub(crate) fn down() -> Result<(), net::Teardown> {
    net::down(&name("foo"), Some(&nft()))
}

pub(crate) fn up_with(nft: &Path, progress: &(dyn Fn(Step) + Sync)) -> Result<Outcome, Error> {
    let pool = env::var_os(POOL).map(|pool| pool.into_string().unwrap().parse().unwrap());
    let request = Up { name: &name("foo"), rules: Path::new(RULES), nft, pool, destinations: &[] };
    net::up(&request, progress).map(|done| done.outcome)
}

/// Without a link.
pub(crate) fn up_named(text: &str) {
    let request = Up {
        name: &name(text),
        rules: Path::new(RULES),
        nft: &nft(),
        pool: None,
        destinations: &[],
    };
    net::up(&request, &|_| {}).unwrap();
}

pub(crate) fn up() -> Outcome {
    up_with(&nft(), &|_| {}).unwrap()
}

pub(crate) fn refusal(nft: &Path) -> String {
    up_with(nft, &|_| {}).unwrap_err().to_string()
}

/// The child of the cases that kill: dies in the middle of `up`, as nothing can prevent.
pub(crate) fn up_and_die(step: &str) {
    if step == DOWN {
        down().unwrap();
        return;
    }
    let die = |done: Step| {
        if format!("{done:?}") == step {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    };
    up_with(&nft(), &die).unwrap();
}

pub(crate) fn spawn_up(kill_at: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .env(KILL_AT, kill_at)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn spawn_linked_up(kill_at: &str, pool: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .env(KILL_AT, kill_at)
        .env(POOL, pool)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn spawn_down() -> Child {
    Command::new(env::current_exe().unwrap()).env(KILL_AT, DOWN).spawn().unwrap()
}

/// Runs a command line in the instance's namespace.
pub(crate) fn inside(command: &str) -> (bool, String) {
    run(&format!("exec nsenter --net={PIN} {command}"))
}

pub(crate) fn run(command: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn must(command: &str) {
    let (done, text) = run(command);
    assert!(done, "{command}: {text}");
}

pub(crate) fn must_inside(command: &str) {
    let (done, text) = inside(command);
    assert!(done, "{command}: {text}");
}

/// Closed means: the very table of `deny_all`.
pub(crate) fn assert_closed() {
    let (done, text) = inside("nft -s list ruleset");
    assert!(done, "{text}");
    assert_eq!(text.matches("policy drop").count(), 3, "{text}");
    assert_eq!(text.matches("accept").count(), 2, "{text}");
    assert!(text.contains("counter reject with icmpx") && !text.contains("dormant"), "{text}");
    let (_, link) = inside("ip -o link show lo");
    assert!(link.contains("LOOPBACK,UP"), "{link}");
}

/// In the middle of a reload there may be two tables: one is in force, and whichever is in force is closed.
pub(crate) fn assert_refusing() {
    let (_, rules) = inside("nft -s list ruleset");
    let mut awake = rules.split("table inet ").skip(1).filter(|one| !one.contains("dormant"));
    let closed =
        |one: &str| one.matches("policy drop").count() == 3 && one.matches("accept").count() == 2;
    assert!(awake.clone().count() > 0 && awake.all(closed), "{rules}");
}

/// Either there is no namespace by that name, or it refuses.
pub(crate) fn assert_nothing_or_closed() -> bool {
    let (pinned, _) = inside("true");
    if pinned {
        assert_closed();
    }
    pinned
}

/// Connects from the instance's namespace, on a thread of its own.
pub(crate) fn connect(to: SocketAddr) -> std::io::Result<()> {
    in_namespace(move || TcpStream::connect_timeout(&to, Duration::from_secs(5)).map(drop))
}

pub(crate) fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(PIN).unwrap();
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// Gives the namespace a link to the case's own, and a server at the other end.
pub(crate) fn link() -> (TcpListener, SocketAddr) {
    must("ip link set lo up");
    must("ip link add v0 type veth peer name v1 netns opencode-foo");
    must("ip addr add 192.0.2.1/24 dev v0");
    must("ip link set v0 up");
    must_inside("ip addr add 192.0.2.2/24 dev v1");
    must_inside("ip link set v1 up");
    let listener = TcpListener::bind((Ipv4Addr::new(192, 0, 2, 1), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn script(name: &str, text: &str) -> PathBuf {
    let path = Path::new("/run").join(name);
    let real = nft();
    let text =
        format!("#!/bin/sh\nPATH=/usr/bin:/bin\nnft() {{ {} \"$@\"; }}\n{text}\n", real.display());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub(crate) fn fd(file: &fs::File) -> String {
    file.as_raw_fd().to_string()
}
