//! What a power cut could lose of a disk that had not written everything yet: the order of the calls says that it
//! cannot. No file gets its name before its bytes are on the disk, and nothing follows before the name is, too.

use std::collections::BTreeSet;

use instances_lab::faults::Fault;
use instances_lab::{Machine, fleet, stand_in, unavailable};

use crate::spec;
use crate::table::{Case, each};
use crate::view::{apply, done, sh};

const CASES: &[Case] = &[
    ("of_apply", of_apply),
    ("of_remove", of_remove),
    ("of_setup", of_setup),
    ("of_backup", of_backup),
    ("of_restore", of_restore),
];

const STATES: &str = "/var/lib/opencode/instance-state";

#[test]
fn what_has_a_name_is_on_the_disk() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/kept", "/srv/one"];
    let mut machine = stand_in::boot("faults-synced", &spec(&[]), &projects).unwrap();
    each("synced.rs", &mut machine, CASES);
}

/// The calls of a command that write, name, remove or sync, one a line, with the paths that descriptors stand for.
fn calls(machine: &Machine, command: &str) -> Vec<String> {
    let calls = "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,openat,openat2";
    sh(
        machine,
        &format!(
            "strace -y -qq -o /root/calls -e trace={calls} {command} >/dev/null 2>/root/said || {{ cat /root/said; exit 1; }}"
        ),
    );
    let text = machine.get("/root/calls").unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The paths in a call: of descriptors, and as they were given, below the directory of the descriptor before them.
fn paths(call: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut directory = String::new();
    for part in call.split([',', '(']) {
        let part = part.trim();
        if let Some((_, rest)) = part.split_once('<') {
            rest.split('>').next().unwrap().clone_into(&mut directory);
            found.push(directory.clone());
        } else if let Some(name) = part.strip_prefix('"') {
            let name = name.split('"').next().unwrap();
            found.push(if name.starts_with('/') {
                name.to_owned()
            } else {
                format!("{directory}/{name}")
            });
        }
    }
    found
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').unwrap().0
}

/// Goes through the calls of one command: what below the places was given a name without having been synced, and which
/// directories were changed and not synced until the end. `links` are names of symbolic links, which have no bytes.
#[derive(Default)]
struct Disk {
    /// Written, and not synced.
    dirty: BTreeSet<String>,
    /// Changed, and not synced.
    directories: BTreeSet<String>,
    /// Where something was removed.
    removed: BTreeSet<String>,
    names: usize,
    wrong: Vec<String>,
}

impl Disk {
    fn of(calls: &[String], below: &[&str]) -> Self {
        let mut disk = Self::default();
        for call in calls.iter().filter(|call| !call.contains(" = -1 ")) {
            disk.take(call, below);
        }
        disk
    }

    fn take(&mut self, call: &str, below: &[&str]) {
        let kind = call.split('(').next().unwrap();
        let paths = paths(call);
        let ours = |path: &String| below.iter().any(|place| path.starts_with(place));
        match kind {
            "write" | "pwrite64" => {
                self.dirty.extend(paths.first().filter(|path| ours(path)).cloned());
            }
            "openat" | "openat2" if call.contains("O_CREAT") => {
                // Its result is the file itself.
                self.dirty.extend(paths.last().filter(|path| ours(path)).cloned());
            }
            "fsync" | "fdatasync" => {
                for path in &paths {
                    self.dirty.remove(path);
                    self.directories.remove(path);
                }
            }
            "syncfs" => {
                self.dirty.clear();
                self.directories.clear();
            }
            "rename" | "renameat" | "renameat2" => {
                let named: Vec<&String> = paths.iter().filter(|path| !path.is_empty()).collect();
                // With a descriptor there are four, and the names are every other one.
                let [from, to] = match named.as_slice() {
                    [from, to] | [_, from, _, to] => [*from, *to],
                    _ => return self.wrong.push(call.to_owned()),
                };
                if !ours(to) {
                    return;
                }
                self.names += 1;
                // The note of what is ours: what it no longer lists must be gone for good.
                let removed = self.removed.iter().find(|path| self.directories.contains(*path));
                if let Some(directory) = removed.filter(|_| to.ends_with("/manifest.json")) {
                    self.wrong.push(format!("{directory} not synced before: {call}"));
                }
                if self.dirty.remove(from)
                    || self.dirty.iter().any(|path| path.starts_with(&format!("{from}/")))
                {
                    self.wrong.push(format!("not synced before: {call}"));
                }
                self.directories.extend([from, to].map(|path| parent(path).to_owned()));
            }
            "mkdir" | "mkdirat" => {
                self.directories.extend(
                    paths.last().filter(|path| ours(path)).map(|path| parent(path).to_owned()),
                );
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(path) = paths.last().filter(|path| ours(path)) {
                    self.dirty.remove(path);
                    self.directories.remove(path);
                    if path.ends_with("/manifest.json")
                        && let Some(directory) = self.removed.intersection(&self.directories).next()
                    {
                        self.wrong.push(format!("{directory} not synced before: {call}"));
                    }
                    self.directories.insert(parent(path).to_owned());
                    self.removed.insert(parent(path).to_owned());
                }
            }
            _ => {}
        }
    }
}

fn of_apply(machine: &mut Machine, _: &Fault) {
    let one = "[instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4102\nsettings.username = \"one\"\n";
    let below = ["/etc", "/var/lib/opencode"];
    for (spec, least) in
        [(spec(&[one]), 40), (spec(&[&one.replace("4102", "4103")]), 3), (spec(&[]), 1)]
    {
        machine.put(instances_lab::fleet::SPEC, &spec, 0o644).unwrap();
        let calls = calls(machine, "opencode-instances apply");
        let disk = Disk::of(&calls, &below);
        assert_eq!(disk.wrong, [""; 0]);
        assert!(disk.names >= least, "{} names", disk.names);
        // All but the end of the note of what is pending: what it asks for is done once more then.
        let left: Vec<_> =
            disk.directories.iter().filter(|path| *path != "/etc/opencode-instances").collect();
        assert_eq!(left, Vec::<&String>::new(), "changed, and not synced");
        in_order(&calls);
    }
}

/// Each file's name is on the disk before the next one's; and the notes of what is ours come first and last.
fn in_order(calls: &[String]) {
    let renamed = |call: &&String| call.starts_with("rename(\"/etc/");
    let names: Vec<String> =
        calls.iter().filter(renamed).filter_map(|call| paths(call).pop()).collect();
    let first: Vec<&str> =
        names.iter().take(2).map(|path| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(first, ["pending.json", "manifest.json"]);
    let mut waits: Option<String> = None;
    for call in calls {
        if call.starts_with("rename(\"/etc/") {
            assert_eq!(waits, None, "before {call}");
            waits = paths(call).pop().map(|path| parent(&path).to_owned());
        } else if call.starts_with("fsync(") && paths(call).first() == waits.as_ref() {
            waits = None;
        }
    }
    assert_eq!(waits, None);
}

fn of_remove(machine: &mut Machine, _: &Fault) {
    let calls = calls(machine, "opencode-instances remove");
    let disk = Disk::of(&calls, &["/etc"]);
    assert_eq!(disk.wrong, [""; 0]);
    // The notes go last, and that they are gone may be lost: the next run finds nothing of what they list.
    let left: Vec<_> =
        disk.directories.iter().filter(|path| *path != "/etc/opencode-instances").collect();
    assert_eq!(left, Vec::<&String>::new(), "changed, and not synced");
    apply(machine, &spec(&[]));
}

fn of_setup(machine: &mut Machine, _: &Fault) {
    sh(machine, &format!("systemctl stop opencode-kept; rm -rf {STATES}/kept/.local"));
    let calls = calls(
        machine,
        &format!(
            "env HOME={STATES}/kept setpriv --reuid=opencode-kept --regid=opencode-kept --clear-groups \
             opencode-instances setup --plan /etc/opencode-instances/kept/setup/plan.json"
        ),
    );
    // Directories and links are made again by the next start.
    let disk = Disk::of(&calls, &[&format!("{STATES}/kept/.local/share/opencode-instances/")]);
    assert_eq!(disk.wrong, [""; 0]);
    assert!(disk.names >= 2, "{} names", disk.names);
    assert_eq!(disk.directories, BTreeSet::new(), "changed, and not synced");
    done(machine, "start kept");
}

fn of_backup(machine: &mut Machine, _: &Fault) {
    let calls = calls(machine, "opencode-instances backup kept /root/archive --force");
    let disk = Disk::of(&calls, &["/root/archive", "/root/.archive"]);
    assert_eq!((disk.wrong, disk.names), (Vec::new(), 1));
    assert_eq!(disk.directories, BTreeSet::new(), "changed, and not synced");
}

/// The step that exchanges; who unpacks writes into a directory that has no name yet.
fn of_restore(machine: &mut Machine, _: &Fault) {
    done(machine, "stop kept");
    let around = format!("{STATES}/.kept.opencode-restore");
    let ids = sh(machine, "echo --uid=$(id -u opencode-kept) --gid=$(id -g opencode-kept)");
    sh(
        machine,
        &format!(
            "mkdir -m 700 {around}; install -d -m 700 -o opencode-kept -g opencode-kept {around}/state"
        ),
    );
    let mut calls = calls(
        machine,
        &format!("sh -c 'exec opencode-instances keep unpack kept {ids} </root/archive'"),
    );
    fleet::wait_for_restore(machine, "kept").unwrap();
    calls.extend(self::calls(machine, "opencode-instances keep swap kept --time=T"));
    sh(machine, "systemctl stop waiting");
    let disk = Disk::of(&calls, &[STATES]);
    assert_eq!(disk.wrong, [""; 0]);
    // Both directories, and the name of the previous one.
    assert!(disk.names >= 2, "{} names", disk.names);
    assert_eq!(disk.directories, BTreeSet::new(), "changed, and not synced");
}
