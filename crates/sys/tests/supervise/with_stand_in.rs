//! What the supervisor does around a light stand-in.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Duration;

use instances_sys::{http, terminate};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{LOGIN, NOBODY, PASSWORD, Rig, Setup, children, send};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) const CASES: &[(&str, fn())] = &[
    ("stand-in: ready, and each signal ends it", each_signal_ends_it),
    ("stand-in: the same without a PID namespace", without_a_namespace),
    ("stand-in: orphans are reaped and ended", orphans_are_reaped),
    ("stand-in: an orphan that ignores SIGTERM", a_stubborn_orphan),
    ("stand-in: the environment and the password", the_environment),
    ("stand-in: the agent cannot read the supervisor", the_agent_cannot_read),
    ("stand-in: a crowd that ignores SIGTERM", a_stubborn_crowd),
    ("stand-in: everything ignores SIGTERM", everything_is_deaf),
    ("stand-in: tools end before the server", tools_end_before_the_server),
    ("stand-in: given up before the service manager's limit", given_up_before_the_limit),
    ("stand-in: ended by terminate", ended_by_terminate),
    ("stand-in: a failed start", a_failed_start),
    ("stand-in: killed before it is ready", killed_before_it_is_ready),
    ("stand-in: an unasked success is a failure", an_unasked_success),
    ("stand-in: a refused configuration", a_refused_configuration),
    ("stand-in: a missing program", a_missing_program),
    ("stand-in: an endless line", an_endless_line),
    ("stand-in: a busy server is fed", a_busy_server_is_fed),
    ("stand-in: a hung server is not fed", a_hung_server_is_not_fed),
    ("stand-in: a host that stood still kills nobody", a_host_that_stood_still_kills_nobody),
    ("stand-in: a hostile directory of locks", hostile_locks),
];

fn each_signal_ends_it() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut rig = Setup::stand_in(&[]).start().until_ready();
        assert_eq!(rig.status(), format!("serving on port {}", rig.setup.port));
        rig.stop(signal);
    }
}

fn without_a_namespace() {
    let mut rig = Setup::stand_in(&["orphans"]).not_process_1().start().until_ready();
    let server = rig.server();
    rig.until("only the orphan that stays", |rig| children(rig.pid).len() == 2);
    rig.stop(Signal::TERM);
    assert!(!fs::exists(format!("/proc/{server}")).unwrap());
}

fn orphans_are_reaped() {
    let mut rig = Setup::stand_in(&["orphans"]).start().until_ready();
    rig.until("only the orphan that stays", |rig| children(rig.pid).len() == 2);
    rig.stop(Signal::TERM);
}

fn a_stubborn_orphan() {
    for setup in [Setup::stand_in(&["stubborn"]), Setup::stand_in(&["stubborn"]).not_process_1()] {
        let mut rig = setup.start().until_ready();
        rig.until("the orphan", |rig| children(rig.pid).len() == 2);
        let orphans: Vec<i32> = children(rig.pid);
        rig.stop(Signal::TERM);
        assert!(orphans.iter().all(|pid| children(*pid).is_empty()));
        assert!(orphans.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()));
    }
}

fn the_environment() {
    let mut rig = Setup::stand_in(&[]).with_password().start().until_ready();
    let environment = fs::read(format!("/proc/{}/environ", rig.server())).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains(&format!("OPENCODE_SERVER_PASSWORD={PASSWORD}")));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "CREDENTIALS_DIRECTORY"] {
        assert!(!environment.contains(name), "{name}");
    }
    let ask = |login| http::get(rig.address(), "/config", login, SECOND * 10).unwrap().status;
    assert_eq!((ask(None), ask(Some(LOGIN))), (401, 200));
    rig.stop(Signal::TERM);
    assert!(!rig.output().contains(PASSWORD));
}

/// The agent is the same user, and has a shell in the same namespace.
fn the_agent_cannot_read() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: changing the user needs root");
        assert!(std::env::var_os("CI").is_none(), "this test needs root in CI");
        return;
    }
    let setup = Setup::stand_in(&["peek"]).with_password().run_by_nobody().with_watchdog(SECOND);
    // A read-only lock of that user stops the supervisor no more than root.
    let lock = setup.home().join(".local/state/opencode/locks/a.lock");
    fs::create_dir_all(&lock).unwrap();
    fs::write(lock.join("meta.json"), "{}").unwrap();
    for path in [&lock, lock.parent().unwrap()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut rig = setup.start().until_ready();
    assert!(!lock.exists());
    rig.until("the look", |rig| rig.output().contains("peeked"));
    assert!(rig.output().contains("own environment: 0"), "{}", rig.output());
    for file in ["environ", "mem", "maps", "fd/1"] {
        assert!(rig.output().contains(&format!("{file}: refused")), "{}", rig.output());
    }
    send(rig.server(), Signal::STOP);
    rig.until("stopped", |rig| rig.status().contains("a signal stopped it"));
    rig.stop(Signal::TERM);
}

fn a_stubborn_crowd() {
    let mut rig = Setup::stand_in(&["crowd"]).start().until_ready();
    rig.until("the crowd", |rig| children(rig.pid).len() > 400);
    rig.stop(Signal::TERM);
}

fn everything_is_deaf() {
    let mut rig = Setup::stand_in(&["stubborn"]).deaf().start().until_ready();
    rig.until("the orphan", |rig| children(rig.pid).len() == 2);
    rig.stop(Signal::TERM);
}

/// The limit of the service manager is for the supervisor alone.
fn given_up_before_the_limit() {
    let mut rig = Setup::stand_in(&[]).with_watchdog(Duration::from_secs(20)).start().until_ready();
    send(rig.server(), Signal::STOP);
    rig.until("given up", |rig| {
        rig.messages().iter().any(|(_, message)| message.contains("WATCHDOG=trigger"))
    });
    rig.stop(Signal::TERM);
}

/// Each look at the server raises what it and its orphans have become.
fn tools_end_before_the_server() {
    let watchdog = Duration::from_millis(800);
    let mut rig = Setup::stand_in(&["stubborn"]).with_watchdog(watchdog).start().until_ready();
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    let above = format!("{}\n", score(rig.pid).trim().parse::<i32>().unwrap() + 100);
    let server = rig.server();
    let orphan = |rig: &Rig| children(rig.pid).into_iter().find(|pid| *pid != server);
    rig.until("the orphan", |rig| orphan(rig).is_some_and(|pid| score(pid) == above));
    assert_eq!(score(server), score(rig.pid));
    rig.stop(Signal::TERM);
}

fn ended_by_terminate() {
    let mut rig = Setup::stand_in(&[]).start().until_ready();
    assert_eq!(terminate::run(rig.pid).unwrap(), terminate::Outcome::Ended);
    assert_eq!(rig.wait().0, 0);
    assert_eq!(rig.status(), "stopped");
}

fn a_failed_start() {
    let mut rig = Setup::stand_in(&["fail"]).start();
    assert_eq!(rig.wait().0, 3);
    let reason = "the server failed with status 3: the stand-in cannot go on";
    assert_eq!(rig.status(), reason);
    rig.until("the reason in the journal", |rig| rig.output().contains(&format!("<3>{reason}\n")));
}

fn killed_before_it_is_ready() {
    let mut rig = Setup::stand_in(&["killed-once"]).start().until_ready();
    assert_eq!(children(rig.pid), [rig.server()], "nothing of the first one is left");
    rig.stop(Signal::TERM);
    let mut rig = Setup::stand_in(&["killed-always"]).start();
    assert_eq!(rig.wait().0, 137);
    assert_eq!(rig.status(), "the server was killed by SIGKILL: it begins");
    rig.until("both begin", |rig| rig.output().matches("it begins\n").count() >= 2);
    assert_eq!(rig.output().matches("; it is started once more\n").count(), 1);
}

fn an_unasked_success() {
    let mut rig = Setup::stand_in(&["succeed"]).start();
    assert_eq!(rig.wait().0, 1);
    assert_eq!(rig.status(), "the server ended by itself");
    let mut rig = Setup::stand_in(&[]).start().until_ready();
    let _ = http::get(rig.address(), "/exit", None, SECOND);
    assert_eq!(rig.wait().0, 1);
    assert_eq!(rig.status(), "the server ended by itself");
}

fn a_refused_configuration() {
    let mut rig = Setup::stand_in(&["refuse"]).start();
    assert_eq!(rig.wait().0, 1);
    assert_eq!(rig.status(), "/p/opencode.json is invalid: model: Expected string");
    assert!(rig.messages().iter().all(|(_, text)| !text.contains("READY")));
}

fn a_missing_program() {
    let setup = Setup::stand_in(&[]);
    let mut rig = setup.with_program("/nonexistent/opencode").start();
    assert_eq!(rig.wait().0, 1);
    assert!(rig.status().starts_with("cannot start /nonexistent/opencode: "), "{}", rig.status());
}

fn an_endless_line() {
    let mut rig = Setup::stand_in(&["endless"]).start().until_ready();
    rig.until("the end of the line", |rig| rig.output().contains("after the endless line\n"));
    let output = rig.output();
    assert_eq!(output.bytes().filter(|byte| *byte == b'x').count(), 20_000_000);
    assert!(output.contains("\n<6><0>after the endless line\n"));
    println!("resident after an endless line: {} KiB", rig.resident());
    assert!(rig.resident() < 8 << 10);
    rig.stop(Signal::TERM);
}

fn a_busy_server_is_fed() {
    let rig = Setup::stand_in(&[]).with_watchdog(SECOND).start().until_ready();
    let address = rig.address();
    let spin = std::thread::spawn(move || http::get(address, "/spin", None, SECOND * 60));
    rig.until("busy", |rig| rig.status().contains("it is working"));
    let before = rig.beats();
    spin.join().unwrap().unwrap();
    assert!(rig.beats() > before + 3, "{} after {before}", rig.beats());
    rig.until("serving again", |rig| rig.status().starts_with("serving"));
}

fn a_hung_server_is_not_fed() {
    // With a short limit a delay of this machine would be the supervisor's excuse.
    let mut rig = Setup::stand_in(&[]).with_watchdog(SECOND * 20).start().until_ready();
    let address = rig.address();
    std::thread::spawn(move || http::get(address, "/hang", None, SECOND * 60));
    rig.until("silent", |rig| rig.status().contains("does nothing"));
    let before = rig.beats();
    rig.until("it is given up", given_up);
    assert_eq!(rig.beats(), before);
    rig.stop(Signal::TERM);
}

/// Whether the service manager was told to end it.
fn given_up(rig: &Rig) -> bool {
    rig.messages().iter().any(|(_, text)| text == "WATCHDOG=trigger")
}

fn a_host_that_stood_still_kills_nobody() {
    let mut rig = Setup::stand_in(&[]).with_watchdog(SECOND).start().until_ready();
    let both = [rig.server(), rig.pid].map(|pid| Pid::from_raw(pid).unwrap());
    let signal = |signal| both.map(|pid| kill_process(pid, signal).unwrap());
    for offset in 0..8 {
        signal(Signal::STOP);
        std::thread::sleep(SECOND * 2);
        signal(Signal::CONT);
        let before = rig.beats();
        rig.until("fed again", |rig| rig.beats() > before + 1);
        // So that it stands still at different moments of its watch.
        std::thread::sleep(Duration::from_millis(90 * offset));
    }
    assert!(!given_up(&rig));
    rig.stop(Signal::TERM);
}

fn hostile_locks() {
    let setup = Setup::stand_in(&[]).file("precious/file", "x");
    let locks = setup.home().join(".local/state/opencode/locks");
    fs::create_dir_all(locks.join("stale.lock")).unwrap();
    fs::write(locks.join("stale.lock/meta.json"), "{}").unwrap();
    fs::create_dir_all(locks.join("deep/d/d/d/d/d/d/d/d/d/d/d/d/d/d")).unwrap();
    symlink(setup.home().join("precious"), locks.join("link.lock")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, locks.join("fifo"), fifo, mode, 0).unwrap();
    let mut rig = setup.start().until_ready();
    assert!(rig.setup.home().join("precious/file").exists());
    let left: Vec<_> = fs::read_dir(&locks).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["deep"]);
    assert!(rig.output().contains("<4>some stale locks could not be removed"));
    rig.stop(Signal::TERM);
}
