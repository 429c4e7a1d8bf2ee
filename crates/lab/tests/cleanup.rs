//! An owner that is killed with -9 leaves nothing of its machines behind.
//!
//! The owner is this test binary itself, started again with a variable set.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use instances_lab::{Image, Machine, Options, Release, unavailable};

/// Set for the process that is to be killed.
const OWNER_VAR: &str = "LAB_TEST_OWNER";

#[test]
#[ignore = "the other tests start it, to kill it"]
fn owner() {
    if env::var_os(OWNER_VAR).is_none() {
        return;
    }
    let image = Image::ensure(Release::Trixie).unwrap();
    println!("\nbooting");
    // On a thread that ends while the machine lives, which must not matter.
    let machine =
        thread::spawn(move || Machine::boot(&image, &Options::new()).unwrap()).join().unwrap();
    machine
        .sh("systemd-run sleep 1000; setsid sleep 1001 & ip netns add inner")
        .unwrap()
        .ok()
        .unwrap();
    println!("\nbooted");
    let _still_running = machine.run(["sleep", "50"]);
}

#[test]
fn killed_while_it_boots() {
    if unavailable() {
        return;
    }
    // At moments all over the boot, which takes about 400 ms.
    let mut owners = Vec::new();
    for delay in [0, 5, 20, 60, 120, 200, 300] {
        let (mut owner, mut lines) = start_owner();
        wait_for(&mut lines, "booting");
        thread::sleep(Duration::from_millis(delay));
        kill_and_look(&mut owner);
        owners.push(owner.id());
    }
    nothing_after_the_next_boot(&owners);
}

#[test]
fn killed_after_it_has_booted() {
    if unavailable() {
        return;
    }
    let (mut owner, mut lines) = start_owner();
    wait_for(&mut lines, "booted");
    let remains = remains(owner.id());
    assert!(remains.len() >= 2, "the search finds nothing of a living machine: {remains:?}");
    assert_eq!(groups(owner.id()).len(), 1);
    kill_and_look(&mut owner);
    nothing_after_the_next_boot(&[owner.id()]);
}

type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

fn start_owner() -> (Child, Lines) {
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "owner", "--ignored", "--nocapture"])
        .env(OWNER_VAR, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    (owner, lines)
}

fn wait_for(lines: &mut Lines, wanted: &str) {
    for line in lines {
        if line.unwrap() == wanted {
            return;
        }
    }
    panic!("the owner has ended without saying: {wanted}");
}

fn kill_and_look(owner: &mut Child) {
    owner.kill().unwrap();
    owner.wait().unwrap();
    let start = Instant::now();
    loop {
        let remains = remains(owner.id());
        if remains.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(3), "left behind: {remains:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Processes of a machine of that owner, by the arguments of the lab's first one, by control
/// group, and by mount, wherever in the tree of processes they are by now.
fn remains(owner: u32) -> Vec<String> {
    let group = format!("instances-lab-{owner}-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        for file in ["cmdline", "cgroup"] {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(&group) {
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push(format!("process {name} ({}) by its {file}", comm.trim()));
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains("/run/lab")).map(str::to_owned));
    found
}

/// Empty control groups may outlive their machine, but not the next boot.
fn nothing_after_the_next_boot(owners: &[u32]) {
    let image = Image::ensure(Release::Trixie).unwrap();
    drop(Machine::boot(&image, &Options::new()).unwrap());
    let left: Vec<String> = owners.iter().flat_map(|owner| groups(*owner)).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn groups(owner: u32) -> Vec<String> {
    let prefix = format!("instances-lab-{owner}-");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root = fields.find(|fields| fields[2] == "cgroup2").unwrap()[1];
    let names = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&prefix)).collect()
}
