//! `net::up` and `net::down` with real namespaces and the real nft.
//!
//! Each case runs isolated, with an empty tmpfs on `/run`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test without the usual harness, which clippy does not recognise as one"
)]

#[path = "../isolated/mod.rs"]
mod isolated;
mod link;
mod stage;
mod watch;
mod world;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use instances_core::nft::deny_all;
use instances_sys::net::{self, Outcome, Step, Up, able};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{Pid, Signal, kill_process};

use self::isolated::Suite;
use self::stage::{
    KILL_AT, PIN, RULES, assert_closed, assert_nothing_or_closed, assert_refusing, connect, fd,
    in_namespace, inside, link, must, must_inside, nft, refusal, run, script, spawn_up, up,
    up_and_die, up_with, write_rules,
};

const CASE: &str = "INSTANCES_NET_CASE";

/// How often nft loads something when a policy is there already: once where nobody sees it, and what it takes
/// to replace one.
const RUNS: u32 = 11;

const CASES: [(&str, fn()); 20] = [
    ("creates_then_keeps_then_goes", creates_then_keeps_then_goes),
    ("nothing_is_pinned_before_its_policy", nothing_is_pinned_before_its_policy),
    ("open_policies_are_refused", open_policies_are_refused),
    ("killed_at_each_step", killed_at_each_step),
    ("killed_at_any_time", killed_at_any_time),
    ("killed_while_reloading", killed_while_reloading),
    ("a_killed_run_is_repaired", a_killed_run_is_repaired),
    ("foreign_objects_are_refused", foreign_objects_are_refused),
    ("the_hosts_namespace_is_refused", the_hosts_namespace_is_refused),
    ("tampering_is_seen_and_repaired", tampering_is_seen_and_repaired),
    ("new_rules_replace_old_ones", new_rules_replace_old_ones),
    ("a_failed_reload_keeps_the_policy", a_failed_reload_keeps_the_policy),
    ("a_concurrent_writer_is_an_error", a_concurrent_writer_is_an_error),
    ("at_once_and_twice", at_once_and_twice),
    ("refused_at_once_and_loopback_works", refused_at_once_and_loopback_works),
    ("what_goes_nowhere_is_counted", what_goes_nowhere_is_counted),
    ("reloading_never_opens", reloading_never_opens),
    ("seen_by_units_with_their_own_mounts", seen_by_units_with_their_own_mounts),
    ("down_is_thorough", down_is_thorough),
    ("what_the_host_can_do_is_tried_elsewhere", what_the_host_can_do_is_tried_elsewhere),
];

fn cases() -> impl Iterator<Item = (&'static str, fn())> {
    CASES.into_iter().chain(link::CASES).chain(watch::CASES)
}

fn main() -> ExitCode {
    if let Ok(step) = env::var(KILL_AT) {
        up_and_die(&step);
        return ExitCode::SUCCESS;
    }
    if let Ok(case) = env::var(CASE) {
        for place in ["/run", "/var/lib"] {
            mount("tmpfs", place, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        write_rules(&deny_all("foo"));
        cases().find(|(name, _)| *name == case).unwrap().1();
        return ExitCode::SUCCESS;
    }
    let suite = Suite {
        case: CASE,
        needs: &["unshare -n nft list ruleset", "nsenter -V"],
        unshare: &[],
        threads: 2,
    };
    suite.run(cases().map(|(name, _)| name))
}

// The cases.

fn creates_then_keeps_then_goes() {
    let steps = std::sync::Mutex::new(Vec::new());
    let record = |step| steps.lock().unwrap().push(step);
    assert_eq!(up_with(&nft(), &record).unwrap(), Outcome::Created);
    let first = [
        Step::Loaded,
        Step::Proven,
        Step::LoopbackUp,
        Step::Shared,
        Step::PlaceMade,
        Step::Pinned,
        Step::NowhereMade,
    ];
    assert_eq!(*steps.lock().unwrap(), first);
    assert_closed();
    steps.lock().unwrap().clear();
    assert_eq!(up_with(&nft(), &record).unwrap(), Outcome::Same);
    assert_eq!(
        *steps.lock().unwrap(),
        [
            Step::Loaded,
            Step::Proven,
            Step::LoopbackUp,
            Step::Shared,
            Step::Reloaded,
            Step::NowhereMade,
        ]
    );
    assert_closed();
    let (done, text) = run("ip netns exec opencode-foo nft list ruleset");
    assert!(done && text.contains("table inet opencode"), "{text}");
    stage::down().unwrap();
    assert!(!Path::new(PIN).exists());
    stage::down().unwrap();
    assert_eq!(up(), Outcome::Created);
}

fn nothing_is_pinned_before_its_policy() {
    for (nft, expected) in [
        (PathBuf::from("/bin/false"), "nft load failed"),
        (PathBuf::from("/bin/true"), "cannot read the listing"),
        (PathBuf::from("/nonexistent/nft"), "cannot run /nonexistent/nft"),
        (script("killed", "kill -9 $$"), "signal: 9"),
        (script("forgets", "nft \"$@\" || exit 1; nft flush ruleset"), "nft list failed"),
    ] {
        let message = refusal(&nft);
        assert!(message.contains(expected), "{message}");
        assert!(!Path::new("/run/netns").exists(), "{message}");
    }
}

fn open_policies_are_refused() {
    let open = deny_all("foo");
    for (rules, expected) in [
        (
            open.replace(
                "hook output priority filter; policy drop",
                "hook output priority filter; policy accept",
            ),
            "output hook open",
        ),
        (
            open.replace("type filter hook forward priority filter; policy drop;", ""),
            "forward hook open",
        ),
        (open.replacen("comment", "flags dormant; comment", 1), "table flags"),
        (open.replace("inet opencode", "inet other"), "nft list failed"),
        (open.replace("reject with", "rejetc with"), "rejetc"),
        (String::new(), "nft list failed"),
    ] {
        write_rules(&rules);
        let message = refusal(&nft());
        assert!(message.contains(expected) && message.contains(RULES), "{message}");
        assert!(!Path::new("/run/netns").exists(), "{message}");
    }
    fs::remove_file(RULES).unwrap();
    assert!(refusal(&nft()).contains("opencode-instances apply"));
}

fn killed_at_each_step() {
    for (step, pinned) in [
        ("Loaded", false),
        ("Proven", false),
        ("LoopbackUp", false),
        ("Shared", false),
        ("PlaceMade", false),
        ("Pinned", true),
        ("NowhereMade", true),
    ] {
        let status = spawn_up(step).wait().unwrap();
        assert!(!status.success(), "{step} was never reached");
        assert_eq!(assert_nothing_or_closed(), pinned, "{step}");
        assert_eq!(up(), if pinned { Outcome::Same } else { Outcome::Created }, "{step}");
        assert_closed();
        stage::down().unwrap();
    }
}

fn killed_at_any_time() {
    let mut pinned = 0;
    for round in 0..60 {
        let mut child = spawn_up("never");
        thread::sleep(Duration::from_micros(500 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        pinned += usize::from(assert_nothing_or_closed());
        stage::down().unwrap();
        assert!(fs::symlink_metadata(PIN).is_err());
    }
    assert!(pinned < 60, "every run ended before it was killed");
}

fn killed_while_reloading() {
    up();
    for round in 0..40 {
        let mut child = spawn_up(if round == 0 { "Reloaded" } else { "never" });
        thread::sleep(Duration::from_millis(3 * round));
        if round > 0 {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        assert_refusing();
    }
    up();
    assert_closed();
    assert_eq!(up(), Outcome::Same);
}

fn a_killed_run_is_repaired() {
    fs::create_dir_all("/run/netns").unwrap();
    fs::write(PIN, "").unwrap();
    fs::set_permissions(PIN, fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(up(), Outcome::Created);
    assert_closed();
}

fn foreign_objects_are_refused() {
    fs::create_dir_all("/run/netns").unwrap();
    fs::write("/run/other", "").unwrap();
    let refused = |expected: &str| {
        let before = run(&format!("stat -c '%i %d %F' {PIN}")).1;
        let message = refusal(&nft());
        assert!(message.contains(expected) && message.contains(PIN), "{message}");
        let message = stage::down().unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(PIN), "{message}");
        assert_eq!(run(&format!("stat -c '%i %d %F' {PIN}")).1, before);
    };
    fs::create_dir(PIN).unwrap();
    refused("a directory");
    fs::remove_dir(PIN).unwrap();
    symlink("/run/other", PIN).unwrap();
    refused("a symbolic link");
    fs::remove_file(PIN).unwrap();
    must(&format!("mkfifo {PIN}"));
    refused("a special file");
    fs::remove_file(PIN).unwrap();
    fs::write(PIN, "mine").unwrap();
    refused("a file with content");
    fs::write(PIN, "").unwrap();
    mount_bind("/run/other", PIN).unwrap();
    refused("a foreign mount");
    unmount(PIN, UnmountFlags::DETACH).unwrap();
    mount_bind("/proc/self/ns/uts", PIN).unwrap();
    refused("a namespace of another kind");
    unmount(PIN, UnmountFlags::DETACH).unwrap();
    assert_eq!(up(), Outcome::Created);
}

fn the_hosts_namespace_is_refused() {
    // Shares the directory first, as whoever pins a namespace does.
    must("ip netns add other");
    fs::write(PIN, "").unwrap();
    mount_bind("/proc/self/ns/net", PIN).unwrap();
    assert!(refusal(&nft()).contains("the host's own network namespace"));
    let (_, rules) = run("nft list ruleset");
    assert_eq!(rules, "", "the policy was loaded into the host's namespace");
    stage::down().unwrap();
    assert_eq!(up(), Outcome::Created);
}

fn tampering_is_seen_and_repaired() {
    up();
    for (tampering, expected) in [
        ("nft insert rule inet opencode output accept", Outcome::Replaced),
        ("nft add rule inet opencode input counter", Outcome::Replaced),
        ("nft add chain inet opencode output '{ policy accept; }'", Outcome::Replaced),
        ("nft add table inet opencode '{ flags dormant; }'", Outcome::Replaced),
        ("nft add chain inet opencode extra", Outcome::Replaced),
        ("nft add set inet opencode s '{ type ipv4_addr; }'", Outcome::Replaced),
        ("nft flush table inet opencode", Outcome::Replaced),
        ("nft delete table inet opencode", Outcome::Restored),
        ("nft flush ruleset", Outcome::Restored),
        ("ip link set lo down", Outcome::Same),
    ] {
        must_inside(tampering);
        assert_eq!(up(), expected, "{tampering}");
        assert_closed();
        assert_eq!(up(), Outcome::Same, "{tampering}");
    }
}

fn new_rules_replace_old_ones() {
    up();
    let wider = deny_all("foo").replace(
        "counter reject with icmpx",
        "ip daddr 192.0.2.1 accept\ncounter reject with icmpx",
    );
    write_rules(&wider);
    assert_eq!(up(), Outcome::Replaced);
    assert!(inside("nft list ruleset").1.contains("192.0.2.1"));
    assert_eq!(up(), Outcome::Same);
    write_rules(&deny_all("foo"));
    assert_eq!(up(), Outcome::Replaced);
    assert_closed();
}

fn a_failed_reload_keeps_the_policy() {
    up();
    write_rules(&deny_all("foo").replace("policy drop", "policy accept"));
    assert!(refusal(&nft()).contains("hook open"));
    assert_closed();
    write_rules("table inet opencode {");
    assert!(refusal(&nft()).contains("syntax error"));
    assert_closed();
    write_rules(&deny_all("foo"));
    // Whichever of nft's runs fails, or is the last one: all that is there refuses, and something is.
    let cut = |at: u32, end: &str| {
        fs::write("/run/count", "").unwrap();
        let text = format!(
            "[ \"$1\" = -f ] && echo >> /run/count\n\
             [ \"$1\" = -f ] && [ $(wc -l < /run/count) = {at} ] && {{ {end}; }}\nnft \"$@\""
        );
        script("nft", &text);
        let path = format!("/run:{}", env::var("PATH").unwrap());
        let mut child = Command::new(env::current_exe().unwrap());
        child.env(KILL_AT, "never").env("PATH", path).stderr(Stdio::null());
        assert!(!child.status().unwrap().success(), "{at}: {end}");
        assert_refusing();
    };
    let mended = |what: &str| {
        up();
        assert_closed();
        assert_eq!(inside("nft list tables").1, "table inet opencode\n", "{what}");
    };
    let ends = ["exit 1", "kill -9 $PPID; exit 1", "nft \"$@\" & kill -9 $PPID; exit 1"];
    for (at, end) in (1..=RUNS).flat_map(|at| ends.map(|end| (at, end))) {
        cut(at, end);
        mended(&format!("{at}: {end}"));
    }
    // The same to the next one, where the first left the table asleep and the other one judging.
    for at in 1..=RUNS {
        cut(9, "kill -9 $PPID; exit 1");
        cut(at, "exit 1");
        mended(&format!("9, {at}"));
    }
}

fn a_concurrent_writer_is_an_error() {
    up();
    // Once into the table that stands in, once into the one that stays.
    for (run, table, left) in
        [(5, "opencode_next", Outcome::Same), (8, "opencode", Outcome::Replaced)]
    {
        fs::write("/run/count", "").unwrap();
        let text = format!(
            "nft \"$@\" || exit 1\n[ \"$1\" = -f ] && echo >> /run/count\n\
             [ \"$1\" = -f ] && [ $(wc -l < /run/count) = {run} ] && \
             nft insert rule inet {table} output accept\nexit 0"
        );
        let refused = refusal(&script("writer", &text));
        assert!(refused.contains("is not what the file says"), "{run}: {refused}");
        assert_eq!(up(), left);
        assert_closed();
    }
}

fn at_once_and_twice() {
    let many: Vec<Child> = (0..8).map(|_| spawn_up("never")).collect();
    for mut child in many {
        assert!(child.wait().unwrap().success());
    }
    assert_closed();
    let (_, mounts) = run(&format!("grep -c ' {PIN} ' /proc/self/mountinfo"));
    // Twice at most: sharing mounts the directory over itself, and the mount shows up below too.
    assert!(matches!(mounts.trim(), "1" | "2"), "{mounts}");
}

fn refused_at_once_and_loopback_works() {
    up();
    let (_listener, outside) = link();
    let refused = || {
        let start = Instant::now();
        let error = connect(outside).unwrap_err();
        assert!(start.elapsed() < Duration::from_millis(900), "{:?} {error}", start.elapsed());
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
        start.elapsed()
    };
    println!("refused after {:?}", refused());
    for loopback in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        let own = in_namespace(|| TcpListener::bind(loopback).unwrap());
        connect(own.local_addr().unwrap()).unwrap();
    }
    // From outside nothing gets in, although something listens on every address.
    let own = in_namespace(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let port = own.local_addr().unwrap().port();
    let inward = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 2), port));
    let reach = || TcpStream::connect_timeout(&inward, Duration::from_millis(300));
    assert!(reach().is_err());
    // The same without the policy: it was the policy that refused.
    must_inside("nft delete table inet opencode");
    connect(outside).unwrap();
    reach().unwrap();
    assert_eq!(up(), Outcome::Restored);
    refused();
    assert!(reach().is_err());
    let (_, rules) = inside("nft list ruleset");
    assert!(
        !rules.contains("counter packets 0 bytes 0 reject with icmpx"),
        "nothing was counted: {rules}"
    );
}

fn what_goes_nowhere_is_counted() {
    let refused = || -> Vec<u32> {
        let (_, rules) = inside("nft list chain inet opencode output");
        let rules = rules.lines().filter(|line| line.contains(" reject with "));
        let counts = rules.filter_map(|line| line.split("packets ").nth(1)?.split(' ').next());
        counts.map(|count| count.parse().unwrap()).collect()
    };
    let tries = || {
        // The kernel makes the way to a new address of its own a moment later, and refusals come by it.
        while !inside("ip -6 route show table local").1.contains("local 100:0:0:1::1 ") {
            thread::sleep(Duration::from_millis(5));
        }
        for to in ["1.1.1.1:443", "10.1.2.3:443", "[2606:4700::1111]:443", "[fd00::1]:443"] {
            let kind = connect(to.parse().unwrap()).unwrap_err().kind();
            let expected = if to.starts_with('[') {
                std::io::ErrorKind::ConnectionRefused
            } else {
                std::io::ErrorKind::HostUnreachable
            };
            assert_eq!(kind, expected, "{to}");
        }
    };
    up();
    tries();
    // Each once: whoever is not told at once tries again after a second.
    assert_eq!(refused(), [0, 2, 2]);
    // Again is the same, and whatever somebody has done to it: it never leads anywhere.
    let ends = || run("ip -n opencode-foo -br link").1;
    let before = ends();
    assert_eq!(up(), Outcome::Same);
    assert_eq!(ends(), before);
    for tampering in [
        "ip link delete none0",
        // Without an address of its own, which the kernel would ask for on the link.
        "sh -c 'echo 1 >/proc/sys/net/ipv6/conf/none1/addr_gen_mode; ip link set none1 up'",
        "ip route flush table main",
        "ip addr flush dev none0",
        "sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'",
    ] {
        must_inside(tampering);
        up();
        tries();
        assert_eq!(refused(), [0, 2, 2], "{tampering}");
        assert!(ends().contains("none1@none0      DOWN"), "{tampering}: {}", ends());
    }
    // Without the rules there is nothing behind it either.
    must_inside("nft delete table inet opencode");
    let to: SocketAddr = "1.1.1.1:443".parse().unwrap();
    let silent = in_namespace(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert_eq!(silent.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

fn reloading_never_opens() {
    up();
    let (_listener, outside) = link();
    let (stop, tries) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    thread::scope(|scope| {
        let knock = || {
            in_namespace(|| {
                while !stop.load(Ordering::Relaxed) {
                    tries.fetch_add(1, Ordering::Relaxed);
                    let to = TcpStream::connect_timeout(&outside, Duration::from_secs(1));
                    assert!(to.is_err(), "a connection got out while the policy was reloaded");
                    // Slower than the 1000 refusals a second that the kernel answers.
                    thread::sleep(Duration::from_millis(2));
                }
            });
        };
        let knocking = scope.spawn(knock);
        for _ in 0..40 {
            up();
        }
        stop.store(true, Ordering::Relaxed);
        knocking.join().unwrap();
    });
    let tries = tries.into_inner();
    assert!(tries > 100, "only {tries} tries");
}

fn seen_by_units_with_their_own_mounts() {
    must("mount --make-shared /run");
    up();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.matches(PIN).count(), 1, "a pin is one mount: {mounts}");
    // What a running unit with ProtectSystem= has: its own mount namespace, older than the pin.
    let wait = format!("echo ready; read _; exec nsenter --net={PIN}2 true");
    let mut unit = Command::new("unshare")
        .args(["-m", "--propagation", "slave", "sh", "-c", &wait])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(unit.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let (name, nft) = (stage::name("foo2"), nft());
    let request =
        Up { name: &name, rules: Path::new(RULES), nft: &nft, pool: None, destinations: &[] };
    net::up(&request, &|_| {}).unwrap();
    std::io::Write::write_all(unit.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert!(unit.wait().unwrap().success());
    // `ip netns` and we share the same directory.
    must("ip netns add theirs");
    must("ip netns del opencode-foo2");
    assert_eq!(up(), Outcome::Same);
    stage::down().unwrap();
    must("ip netns exec theirs true");
}

fn down_is_thorough() {
    stage::down().unwrap();
    up();
    let held = fs::File::open(PIN).unwrap();
    mount_bind("/proc/self/fd/".to_owned() + &fd(&held), PIN).unwrap();
    stage::down().unwrap();
    assert!(fs::symlink_metadata(PIN).is_err());
    fs::write(PIN, "").unwrap();
    stage::down().unwrap();
    assert!(fs::symlink_metadata(PIN).is_err());
    // Somebody is still inside: the name goes, the policy stays with them.
    up();
    let mut sleeper =
        Command::new("nsenter").arg(format!("--net={PIN}")).args(["sleep", "60"]).spawn().unwrap();
    let sleeping = format!("/proc/{}/comm", sleeper.id());
    while fs::read_to_string(&sleeping).unwrap() != "sleep\n" {
        thread::sleep(Duration::from_millis(5));
    }
    stage::down().unwrap();
    let (_, text) = run(&format!("nsenter --net=/proc/{}/ns/net nft list ruleset", sleeper.id()));
    assert_eq!(text.matches("policy drop").count(), 3, "{text}");
    kill_process(Pid::from_child(&sleeper), Signal::KILL).unwrap();
    sleeper.wait().unwrap();
}

fn what_the_host_can_do_is_tried_elsewhere() {
    let here = || run("nft list ruleset; ip -o link show; ip netns list");
    let before = here();
    able::loads_rules(&nft()).unwrap();
    able::makes_link().unwrap();
    assert_eq!(here(), before);
    // As nft says it where a module is not there and may not be loaded.
    let refused = "Error: Could not process rule: No such file or directory";
    for part in [
        "log prefix",
        "limit rate",
        "fib saddr",
        "fib daddr",
        "ct direction",
        "masquerade",
        "reject with",
    ] {
        let text = format!(
            "text=$(cat)\ncase $text in *'{part}'*) printf '{refused}\\n{part}\\n^^~~\\n' >&2; exit 1;; esac\n\
             echo \"$text\" | nft \"$@\""
        );
        let said = able::loads_rules(&script("lacks", &text)).unwrap_err();
        assert_eq!(said, format!("exit status: 1: {refused} {part}"));
    }
    let no_json =
        "case $1 in -j) echo 'JSON support not compiled-in' >&2; exit 1;; esac; nft \"$@\"";
    let said = able::loads_rules(&script("plain", no_json)).unwrap_err();
    assert!(said.contains("JSON support"), "{said}");
    // As a container may have it.
    must("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
    let said = able::makes_link().unwrap_err();
    assert!(said.contains("cannot write /proc/sys/net/"), "{said}");
}
