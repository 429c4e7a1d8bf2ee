//! What the supervisor does around the real opencode.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use instances_sys::http;
use rustix::process::Signal;

use crate::rig::{LOGIN, PASSWORD, Rig, Setup, children, send};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) const CASES: &[(&str, fn())] = &[
    ("opencode: ready, small, and ended by a signal", ready_and_ended),
    ("opencode: no password in sight", no_password_in_sight),
    ("opencode: an invalid configuration of the instance", an_invalid_configuration),
    ("opencode: an invalid configuration of the project", an_invalid_project),
    ("opencode: a port that is taken", a_taken_port),
    ("opencode: killed", killed),
    ("opencode: stopped by SIGSTOP", stopped),
    ("opencode: starved of the processor", starved),
    ("opencode: the agent's shell ignores SIGTERM", a_stubborn_shell),
];

fn ready_and_ended() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut rig = Setup::real().start().until_ready();
        let config = http::get(rig.address(), "/config", None, SECOND * 10).unwrap();
        assert!(config.is_json_success());
        rig.until("a sign of life", |rig| rig.beats() > 0);
        println!("resident: {} KiB", rig.resident());
        assert!(cfg!(debug_assertions) || rig.resident() < 7 << 9, "{} KiB", rig.resident());
        rig.stop(signal);
    }
}

fn no_password_in_sight() {
    let mut rig = Setup::real().with_password().start().until_ready();
    let ask = |login| http::get(rig.address(), "/config", login, SECOND * 10).unwrap().status;
    assert_eq!((ask(None), ask(Some(LOGIN))), (401, 200));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&cmdline).contains(PASSWORD), "{entry:?}");
    }
    rig.stop(Signal::TERM);
    assert!(!rig.output().contains(PASSWORD));
    assert!(rig.messages().iter().all(|(_, text)| !text.contains(PASSWORD)));
}

fn an_invalid_configuration() {
    let setup = Setup::real().file(".config/opencode/opencode.json", r#"{"model": 5}"#);
    let file = setup.home().join(".config/opencode/opencode.json");
    let mut rig = setup.start();
    assert_eq!(rig.wait().0, 1);
    let expected = format!(
        "the server failed with status 1: Configuration is invalid at {} · ↳ Expected string | \
         undefined, got 5 model",
        file.display()
    );
    assert_eq!(rig.status(), expected);
    rig.until("the reason", |rig| rig.output().contains(&format!("<3>{expected}")));
}

fn an_invalid_project() {
    let setup = Setup::real().file("project/opencode.json", r#"{"provider": {"x": {"npm": 3}}}"#);
    let file = setup.home().join("project/opencode.json");
    let mut rig = setup.start();
    assert_eq!(rig.wait().0, 1);
    let issue = "provider.x.npm: Expected string | undefined, got 3";
    assert_eq!(rig.status(), format!("{} is invalid: {issue}", file.display()));

    let mut rig = Setup::real().file("project/opencode.json", r#"{"key": "sk-secret""#).start();
    assert_eq!(rig.wait().0, 1);
    assert!(rig.status().contains("is not valid JSON: CloseBraceExpected"), "{}", rig.status());
    assert!(!rig.status().contains("sk-secret"));
}

fn a_taken_port() {
    let setup = Setup::real();
    let _holder = TcpListener::bind(("127.0.0.1", setup.port)).unwrap();
    let mut rig = setup.start();
    assert_eq!(rig.wait().0, 1);
    let expected = format!("port {} is already taken by another program", rig.setup.port);
    assert_eq!(rig.status(), expected);
}

fn killed() {
    let mut rig = Setup::real().start().until_ready();
    send(rig.server(), Signal::KILL);
    let (code, time) = rig.wait();
    println!("the end after SIGKILL took {time:?}");
    assert_eq!((code, rig.status().as_str()), (137, "the server was killed by SIGKILL"));
}

fn stopped() {
    let mut rig = Setup::real().start().until_ready();
    rig.until("a sign of life", |rig| rig.beats() > 0);
    send(rig.server(), Signal::STOP);
    rig.until("the status", |rig| rig.status().contains("a signal stopped it"));
    let before = rig.beats();
    std::thread::sleep(SECOND * 5);
    assert_eq!(rig.beats(), before, "a stopped server was fed");
    rig.stop(Signal::TERM);
}

/// Leaves the server less of the processor than it needs to answer in time.
fn starved() {
    let mut rig = Setup::real().start().until_ready();
    let Some(quota) = Quota::of_one_percent(rig.server()) else {
        println!("SKIP: no cgroup with a cpu controller can be made here");
        assert!(std::env::var_os("CI").is_none(), "the server cannot be starved in CI");
        return;
    };
    // What the agent builds competes with the server for the same quota.
    let mut spinners: Vec<Child> = (0..3)
        .map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        .collect();
    let joined = spinners.iter().all(|spinner| quota.join(&spinner.id().to_string()).is_ok());
    let start = Instant::now();
    std::thread::sleep(SECOND * 15);
    for spinner in &mut spinners {
        spinner.kill().unwrap();
        spinner.wait().unwrap();
    }
    drop(quota);
    assert!(joined);
    let beats: Vec<Instant> = rig
        .messages()
        .into_iter()
        .filter(|(time, text)| *time > start && text == "WATCHDOG=1")
        .map(|(time, _)| time)
        .collect();
    let gap = beats.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    let missed = rig.messages().iter().filter(|(_, text)| text.contains("it is working")).count();
    println!("starved: {} signs of life, longest gap {gap:?}, {missed} times busy", beats.len());
    assert!(gap < SECOND * 4, "{gap:?}");
    rig.until("serving", |rig| rig.status().starts_with("serving"));
    rig.stop(Signal::TERM);
}

/// A cgroup that gets a hundredth of one processor, in the first or the second hierarchy.
struct Quota {
    group: PathBuf,
    parent: PathBuf,
}

impl Quota {
    fn of_one_percent(pid: i32) -> Option<Self> {
        let places = [
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "1000"),
            ("/sys/fs/cgroup", "cpu.max", "1000 100000"),
        ];
        places.into_iter().find_map(|(parent, file, value)| {
            let group = Path::new(parent).join(format!("supervise-test-{pid}"));
            fs::create_dir(&group).ok()?;
            let quota = Self { group, parent: parent.into() };
            fs::write(quota.group.join(file), value).ok()?;
            quota.join(&pid.to_string()).ok()?;
            Some(quota)
        })
    }

    fn join(&self, pid: &str) -> std::io::Result<()> {
        fs::write(self.group.join("cgroup.procs"), pid)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.parent.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.group);
    }
}

fn a_stubborn_shell() {
    let mut rig = Setup::real().start().until_ready();
    let session = post(&rig, "/session", "{}");
    let (_, rest) = session.split_once(r#""id":""#).unwrap();
    let (id, _) = rest.split_once('"').unwrap();
    let command = "(trap '' TERM HUP; sleep 1000; sleep 1000) >/dev/null 2>&1 & echo done";
    let body = format!(r#"{{"agent":"build","command":"{command}"}}"#);
    post(&rig, &format!("/session/{id}/shell"), &body);
    rig.until("the orphan", |rig| children(rig.pid).len() > 1);
    rig.stop(Signal::TERM);
}

fn post(rig: &Rig, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(rig.address()).unwrap();
    stream.set_read_timeout(Some(SECOND * 30)).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server keeps the connection open; both answers end with the end of a JSON object.
    let mut answer = String::new();
    let mut piece = [0; 4096];
    while !(answer.contains("\r\n\r\n") && answer.ends_with('}')) {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{path}: {answer}");
        answer.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}
