//! No room left, on file systems that really have none: each is given a few blocks or one file more until the command gets
//! through, so that it meets the end at many of the files that it makes.

use instances_lab::faults::Fault;
use instances_lab::{Machine, stand_in, unavailable};

use crate::spec;
use crate::state::{assert_same, assert_whole, files};
use crate::table::{Case, assert_says, each};
use crate::view::{
    SOON, apply, assert_healthy, done, engine, pid, property, sh, status, wait_until_served,
};

const CASES: &[Case] = &[
    ("etc_is_full", etc_is_full),
    ("a_first_apply_on_a_full_etc", a_first_apply_on_a_full_etc),
    ("no_room_for_a_password", no_room_for_a_password),
    ("no_room_for_setup", no_room_for_setup),
    ("no_room_for_copies", no_room_for_copies),
    ("no_room_for_an_archive", no_room_for_an_archive),
    ("no_room_for_a_restored_state", no_room_for_a_restored_state),
];

const ONE: &str = "[instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4102\n";
const CHANGED: &str =
    "[instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4103\nlogLevel = \"WARN\"\n";
const GONE: &str = "[instances.gone]\ndirectory = \"/srv/two\"\nlisten.port = 4104\n";
/// Nobody has seen it before.
const FRESH: &str = "[instances.fresh]\ndirectory = \"/srv/two\"\nlisten.port = 4106\n";
const NEW: &str = "[instances.new]\ndirectory = \"/srv/two\"\nlisten.port = 4104\n";
/// Its state is on a small file system, and its setup in a unit of its own.
const SMALL: &str = "[instances.small]\ndirectory = \"/srv/three\"\nlisten.port = 4105\nstateDir = \"/srv/small/state\"\n\
                     autoStart = false\nsettings.username = \"somebody\"\npreInitScript = \"echo pre >>order\"\n\
                     postInitScript = \"echo post >>order\"\n";

/// What has all the room that a test needs.
const BLOCKS: usize = 4;
/// The addresses of the instance that stays.
const LINK: &str = "jq -c .links.kept /var/lib/opencode/network/links.json";
const ROOMY: &str = "size=64M,nr_inodes=100000";

#[test]
fn whoever_has_no_room_says_so_and_goes_on_when_there_is_some() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/kept", "/srv/one", "/srv/two", "/srv/three"];
    let mut machine = stand_in::boot("faults-full", &spec(&[]), &projects).unwrap();
    // Both are file systems of their own from the beginning, with room.
    sh(
        &machine,
        &format!(
            "mkdir /srv/etc /srv/small; for at in /srv/etc /var/lib/opencode /srv/small; do
               mkdir -p $at; mount -t tmpfs -o mode=755,{ROOMY} tmpfs $at
             done
             cp -a /etc/. /srv/etc/; mount --bind /srv/etc /etc; systemctl daemon-reload"
        ),
    );
    done(&machine, "apply");
    each("full.rs", &mut machine, CASES);
}

/// Leaves room for so many blocks or files more than there are.
fn leave(machine: &Machine, at: &str, blocks: Option<usize>, files: Option<usize>) {
    let mut options = Vec::new();
    if let Some(blocks) = blocks {
        options.push(format!("size=$(($(stat -f -c '(%b-%f)*%S' {at}) + {blocks} * 4096))"));
    }
    if let Some(files) = files {
        options.push(format!("nr_inodes=$(($(stat -f -c '%c-%d' {at}) + {files}))"));
    }
    sh(machine, &format!("mount -o remount,{} {at}", options.join(",")));
}

fn roomy(machine: &Machine, at: &str) {
    sh(machine, &format!("mount -o remount,{ROOMY} {at}"));
}

/// Runs an apply with little more room each time until it succeeds; how often it failed.
fn little_by_little(machine: &Machine, row: &Fault, to: &str) -> usize {
    let before = files(machine);
    // What it should come to, by a look that writes nothing to the host.
    let after = rendered(machine, to);
    machine.put("/root/spec.toml", to, 0o644).unwrap();
    let mut failed = 0;
    loop {
        // As much as the largest file takes, or each run would end at the same one.
        leave(machine, "/etc", Some(if failed == 0 { 0 } else { BLOCKS }), None);
        let output = engine(machine, "apply /root/spec.toml");
        if output.success() {
            break;
        }
        assert_eq!(output.code(), 1, "{output}");
        assert_whole(machine, &before, &after, &format!("after {failed} runs"));
        if output.stderr.contains("systemd-sysusers") {
            // All files are there; this one makes copies of its own.
            roomy(machine, "/etc");
        } else {
            assert_says(row, &output.stderr);
        }
        failed += 1;
        assert!(failed < 100, "{output}");
    }
    roomy(machine, "/etc");
    failed
}

/// The files of a specification, as they are where nothing else is.
fn rendered(machine: &Machine, spec: &str) -> crate::state::Files {
    machine.put("/root/spec.toml", spec, 0o644).unwrap();
    sh(
        machine,
        "rm -rf /root/rendered; opencode-instances apply --root /root/rendered /root/spec.toml 2>/dev/null",
    );
    let lines = sh(
        machine,
        "cd /root/rendered; find . -type f -exec sha256sum {} +; find . -type l -printf '%l  %p\\n'",
    );
    let pairs = lines.lines().map(|line| line.split_once("  .").unwrap());
    pairs.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect()
}

/// One instance changes, one comes and one goes.
fn etc_is_full(machine: &mut Machine, row: &Fault) {
    apply(machine, &spec(&[ONE, GONE]));
    let kept = pid(machine, "kept");
    let failed = little_by_little(machine, row, &spec(&[CHANGED, NEW]));
    assert!(failed > 1, "{failed}");
    // In a turn, which has files of its own.
    let failed = little_by_little(machine, row, &spec(&[ONE, NEW]));
    assert!(failed > 0, "{failed}");
    apply(machine, &spec(&[CHANGED, NEW]));
    assert_eq!(pid(machine, "kept"), kept, "the other instance was restarted");
    for instance in ["kept", "one", "new"] {
        wait_until_served(machine, instance, SOON);
    }
    let found = files(machine);
    apply(machine, &spec(&[CHANGED, NEW]));
    assert_same(machine, &found, "an apply with room");
    assert!(done(machine, "plan").ends_with("nothing to do\n"));
}

fn a_first_apply_on_a_full_etc(machine: &mut Machine, row: &Fault) {
    done(machine, "remove");
    let failed = little_by_little(machine, row, &spec(&[]));
    assert!(failed > 5, "{failed}");
    wait_until_served(machine, "kept", SOON);
    machine.put(instances_lab::fleet::SPEC, spec(&[]), 0o644).unwrap();
    assert!(done(machine, "plan").ends_with("nothing to do\n"));
}

/// Of the password, the addresses and the state.
fn no_room_for_a_password(machine: &mut Machine, row: &Fault) {
    apply(machine, &spec(&[]));
    let at = "/var/lib/opencode";
    let (kept, before, link) = (pid(machine, "kept"), files(machine), sh(machine, LINK));
    machine.put(instances_lab::fleet::SPEC, spec(&[FRESH]), 0o644).unwrap();
    let mut failed = 0;
    for room in 0.. {
        leave(machine, at, Some(room), Some(room));
        let output = engine(machine, if room == 0 { "apply" } else { "start fresh" });
        if output.success() {
            break;
        }
        assert_eq!(output.code(), 1, "{output}");
        assert_says(row, &output.stderr);
        failed += 1;
        let now = files(machine);
        for path in before.keys().filter(|path| path.starts_with("/var/")) {
            let links = path.ends_with("links.json");
            assert!(links || now.get(path) == before.get(path), "{path}");
        }
        assert_eq!(sh(machine, LINK), link);
        assert_ne!(property(machine, "opencode-fresh.service", "ActiveState"), "active");
        assert_eq!(pid(machine, "kept"), kept);
        assert_healthy(machine, "kept");
        assert!(room < 30, "{output}");
    }
    assert!(failed > 2, "{failed}");
    roomy(machine, at);
    wait_until_served(machine, "fresh", SOON);
    done(machine, "apply");
    assert!(done(machine, "plan").ends_with("nothing to do\n"));
}

fn no_room_for_setup(machine: &mut Machine, row: &Fault) {
    apply(machine, &spec(&[SMALL]));
    let at = "/srv/small";
    let setup = "opencode-setup@small.service";
    let tree = format!("cd {at}/state; find . ! -name order -printf '%p %y %m %u %l\\n' | sort");
    sh(machine, &format!("systemctl start {setup}"));
    // A limit of nothing is none.
    sh(machine, &format!("cd {at}/state; echo >ballast; chown opencode-small: ballast"));
    let whole = sh(machine, &tree);
    let note = format!("{at}/state/.local/share/opencode-instances/state.json");
    assert_eq!(sh(machine, &format!("jq -r .state {note}")), "initialised");
    for inodes in [true, false] {
        sh(machine, &format!("cd {at}/state; rm -rf .config .local .cache order"));
        let mut failed = 0;
        for room in 0.. {
            leave(machine, at, (!inodes).then_some(room), inodes.then_some(room));
            let started = machine.run(["systemctl", "start", setup]).unwrap().success();
            let noted = sh(machine, &format!("test ! -e {note} || jq -r .state {note}"));
            if started {
                assert_eq!(noted, "initialised");
                break;
            }
            assert!(["", "begun"].contains(&&*noted), "{noted}");
            let reason = status(machine, "small")["reason"].as_str().unwrap().to_owned();
            // What a script says that finds no room is in the journal.
            if !reason.contains("Script") {
                assert_says(row, &reason);
            }
            failed += 1;
            assert!(room < 60, "{reason}");
            roomy(machine, at);
        }
        assert!(failed > if inodes { 3 } else { 1 }, "{failed}");
        roomy(machine, at);
        assert_eq!(sh(machine, &tree), whole);
    }
    done(machine, "start small");
    wait_until_served(machine, "small", SOON);
}

/// A server that runs, and a file that must come back as it is.
fn with_state(machine: &Machine) -> u64 {
    sh(
        machine,
        "cd /srv/small/state; mkdir -p files; for n in 1 2 3 4 5 6 7 8; do head -c 9000 /dev/urandom >files/$n; done
         chown -R opencode-small: files",
    );
    done(machine, "start small");
    pid(machine, "small")
}

const STATE: &str = "cd /srv/small/state/files; sha256sum *";

fn no_room_for_copies(machine: &mut Machine, row: &Fault) {
    let before = with_state(machine);
    let (at, state) = ("/srv/small", sh(machine, STATE));
    let mut failed = 0;
    for room in (0..).step_by(3) {
        leave(machine, at, None, Some(room));
        let output = engine(machine, "backup small /root/small.backup");
        roomy(machine, at);
        let left = sh(machine, "ls -A /srv/small; ls -A /root | grep -c small.backup || true");
        if output.success() {
            assert_eq!(left, "state\n1");
            break;
        }
        assert_eq!(output.code(), 1, "{output}");
        assert_says(row, &output.stderr);
        assert_eq!(left, "state\n0", "{output}");
        assert_eq!(property(machine, "opencode-small.service", "FreezerState"), "running");
        failed += 1;
        assert!(room < 300, "{output}");
    }
    assert!(failed > 3, "{failed}");
    assert_eq!((pid(machine, "small"), sh(machine, STATE)), (before, state));
    assert_healthy(machine, "small");
}

fn no_room_for_an_archive(machine: &mut Machine, row: &Fault) {
    sh(machine, "mkdir -p /srv/tiny; mount -t tmpfs -o size=64M,mode=755 tmpfs /srv/tiny");
    let mut failed = 0;
    // A limit of nothing would be none.
    for room in (1..).step_by(5) {
        leave(machine, "/srv/tiny", Some(room), None);
        let output = engine(machine, "backup small /srv/tiny/archive");
        let left = sh(machine, "ls -A /srv/small /srv/tiny");
        if output.success() {
            assert_eq!(left, "/srv/small:\nstate\n\n/srv/tiny:\narchive");
            break;
        }
        assert_eq!(output.code(), 1, "{output}");
        assert_says(row, &output.stderr);
        assert_eq!(left, "/srv/small:\nstate\n\n/srv/tiny:");
        failed += 1;
        assert!(room < 300, "{output}");
    }
    assert!(failed > 2, "{failed}");
    sh(machine, "zstd -dc /srv/tiny/archive | tar -t >/dev/null");
    assert_healthy(machine, "small");
}

fn no_room_for_a_restored_state(machine: &mut Machine, row: &Fault) {
    let at = "/srv/small";
    let kept = sh(machine, STATE);
    done(machine, "stop small");
    sh(machine, "cd /srv/small/state/files; echo changed >1");
    let changed = sh(machine, STATE);
    let mut failed = 0;
    for room in (0..).step_by(3) {
        leave(machine, at, None, Some(room));
        let output = engine(machine, "restore small /root/small.backup");
        roomy(machine, at);
        if output.success() {
            break;
        }
        assert_eq!(output.code(), 1, "{output}");
        assert_says(row, &output.stderr);
        assert_eq!(sh(machine, "ls -A /srv/small"), "state", "{output}");
        assert_eq!(sh(machine, STATE), changed);
        failed += 1;
        assert!(room < 300, "{output}");
    }
    assert!(failed > 3, "{failed}");
    assert_eq!(sh(machine, STATE), kept);
    done(machine, "restore small --forget");
    done(machine, "start small");
    wait_until_served(machine, "small", SOON);
}
