//! What a sandbox shows: the kernel's list of its mounts, held against the unit.

use super::report::Row;
use super::unit::Loaded;
use crate::bound::is_below;
use crate::controls::{BARE_SYS, BARE_SYS_DIR, PROCESSORS};
use crate::units::places;

/// One mount of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where, in the process's view.
    pub target: String,
    /// What of its file system is shown.
    pub root: String,
    /// Whether something can be written there, as far as the mount says.
    pub writable: bool,
    /// The file system's type.
    pub kind: String,
}

/// Reads `/proc/PID/mountinfo`.
pub fn read(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, target, options) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Mount {
        target: unescaped(target),
        root: unescaped(root),
        writable: options.split(',').next() == Some("rw"),
        kind: after.split(' ').next()?.to_owned(),
    })
}

/// The kernel writes blanks and backslashes as octal numbers.
fn unescaped(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        let digits = others.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match number.filter(|_| *first == b'\\') {
            Some(number) => {
                plain.push(number);
                rest = others.get(3..).unwrap_or_default();
            }
            None => plain.push(*first),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// What systemd mounts in every sandbox of ours, with everything below.
const API: &[&str] = &["/proc", "/sys", "/dev"];

/// The kernel's own file systems, of which that is made; none of a disk.
const KINDS: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

fn is_api(mount: &Mount) -> bool {
    let below = API.iter().any(|place| is_below(&mount.target, place));
    below && KINDS.contains(&mount.kind.as_str())
}

/// Empty places, and what holds mount points.
const EMPTY: &[&str] = &[
    "/",
    "/home",
    "/root",
    "/run",
    "/run/user",
    "/run/credentials",
    "/run/host",
    "/run/systemd/incoming",
];

/// What is the agent's own to write.
const SCRATCH: &[&str] = &["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/dev/pts"];

/// A line that binds a place of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// On the host.
    pub source: String,
    /// In the sandbox.
    pub target: String,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it may be missing.
    pub optional: bool,
}

/// What a unit's file binds.
pub fn bound(unit: &Loaded) -> Vec<Bound> {
    let of = |directive: &str, writable: bool| {
        let lines = unit.values(directive).into_iter();
        let bound = lines.map(|line| Bound {
            source: parts(line).swap_remove(0),
            target: target(line),
            writable,
            optional: line.starts_with('-'),
        });
        bound.collect::<Vec<_>>()
    };
    let read = [of("BindReadOnlyPaths", false), of(places::SHOWN, false)].concat();
    [of("BindPaths", true), read].concat()
}

/// The places that a unit's file shows, each with whether it may be written.
pub fn declared(unit: &Loaded) -> Vec<(String, bool)> {
    let bound = bound(unit).into_iter().map(|one| (one.target, one.writable));
    let state = unit.values("StateDirectory").into_iter();
    let state = state.map(|leaf| (format!("/var/lib/{leaf}"), true));
    let empty = unit.values("TemporaryFileSystem").into_iter();
    let empty = empty.map(|value| (target(value.split(':').next().unwrap_or(value)), true));
    bound.chain(state).chain(empty).collect()
}

/// Where a bind mount appears, as its line was rendered.
fn target(value: &str) -> String {
    let parts = parts(value);
    let place = parts.get(1).filter(|place| place.starts_with('/')).or(parts.first());
    place.cloned().unwrap_or_default()
}

/// What stands between the colons of a line, at least one part.
pub(crate) fn parts(value: &str) -> Vec<String> {
    let value = value.strip_prefix('-').unwrap_or(value);
    let (mut parts, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for letter in value.chars() {
        match letter {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            ':' if !escaped => parts.push(String::new()),
            _ => {
                if let Some(part) = parts.last_mut() {
                    part.push(letter);
                }
            }
        }
        escaped = false;
    }
    parts.iter().map(|part| part.replace("%%", "%")).collect()
}

/// Judges the mounts of the server.
pub fn judge(row: &mut Row, unit: &Loaded, mounts: &[Mount], restart: &str) {
    let declared = declared(unit);
    let credentials = format!("/run/credentials/{}", unit.name);
    let among = |place: &str, writable: bool| {
        declared.iter().any(|(target, may)| is_below(place, target) && (*may || !writable))
    };
    for mount in mounts {
        let place = mount.target.as_str();
        let scratch = SCRATCH.contains(&place);
        // A tmpfs of systemd's that only root can write to, and never with a file of the host's in it.
        let empty = EMPTY.contains(&place) && (!mount.writable || mount.kind == "tmpfs");
        let known = is_api(mount) || is_below(place, &credentials);
        if !(scratch || empty || known || among(place, false)) {
            let what = format!("{place} is mounted in the sandbox and was not declared");
            row.find(what, format!("list it in `sandbox.readOnlyPaths`, or {restart}"));
        } else if mount.writable && !(scratch || empty || is_api(mount) || among(place, true)) {
            let what = format!("{place} can be written to and was declared read-only");
            row.find(what, restart.to_owned());
        }
    }
    judge_sys(row, unit, mounts, restart);
    let root = mounts.iter().find(|mount| mount.target == "/").map(|mount| mount.root.as_str());
    let empty = unit.values("RootDirectory").last().and_then(|path| path.strip_prefix("/run"));
    if let Some(root) = root.filter(|root| empty.is_none_or(|empty| !root.ends_with(empty))) {
        row.find(format!("the sandbox begins with {root} of the host"), restart.to_owned());
    }
    let shown = |target: &str| mounts.iter().any(|mount| mount.target == target);
    let bound = bound(unit);
    let optional = |target: &str| bound.iter().any(|one| one.optional && one.target == target);
    for (target, _) in &declared {
        if !shown(target) && !optional(target) {
            row.find(format!("{target} was declared and is not mounted"), restart.to_owned());
        }
    }
    let writable = mounts.iter().filter(|mount| mount.writable).count();
    row.effective = format!("{} mounts, {writable} writable", mounts.len());
}

/// Judges that `/sys` is bare where that is declared: nothing is mounted below it but what is declared, and control
/// groups.
fn judge_sys(row: &mut Row, unit: &Loaded, mounts: &[Mount], restart: &str) {
    if !unit.values("BindReadOnlyPaths").contains(&BARE_SYS) {
        return;
    }
    // The kernel names it from the root of its file system.
    let source = BARE_SYS_DIR.trim_start_matches("/run");
    for mount in mounts.iter().filter(|mount| is_below(&mount.target, "/sys")) {
        // systemd 252 mounts the empty directory there once more.
        let bare =
            |below: &str| mount.root.strip_suffix(below).is_some_and(|root| root.ends_with(source));
        let right = match mount.target.as_str() {
            "/sys" => bare(""),
            PROCESSORS => true,
            "/sys/fs/cgroup" => mount.kind == "cgroup2" || bare("/fs/cgroup"),
            _ => false,
        };
        if !right {
            let what = format!("{} shows more of the host than was declared", mount.target);
            row.find(what, restart.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::unit::assignments;

    fn unit(text: &str) -> Loaded {
        Loaded { name: "opencode-a.service".into(), file: assignments(text), ..Loaded::default() }
    }

    fn findings(text: &str, mounts: &[(&str, &str)]) -> Vec<String> {
        let mounts: Vec<Mount> = mounts
            .iter()
            .map(|(target, options)| Mount {
                target: (*target).to_owned(),
                root: "/".to_owned(),
                writable: *options == "rw",
                kind: if *target == "/proc" { "proc" } else { "ext4" }.to_owned(),
            })
            .collect();
        let mut row = Row::new("mounts", String::new(), String::new());
        judge(&mut row, &unit(text), &mounts, "restart");
        row.findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_bare_sys_is_the_empty_directory_and_nothing_below_it() {
        let source = BARE_SYS_DIR.trim_start_matches("/run");
        let text = format!("BindReadOnlyPaths={BARE_SYS}\nBindReadOnlyPaths={PROCESSORS}\n");
        let found = |text: &str, mounts: &[(&str, &str, &str)]| {
            let mount = |&(target, root, kind): &(&str, &str, &str)| Mount {
                target: target.to_owned(),
                root: root.to_owned(),
                writable: false,
                kind: kind.to_owned(),
            };
            let mounts: Vec<Mount> = mounts.iter().map(mount).collect();
            let mut row = Row::new("mounts", String::new(), String::new());
            judge_sys(&mut row, &unit(text), &mounts, "restart");
            row.findings.len()
        };
        let below = format!("{source}/fs/cgroup");
        let right = [("/sys", source, "tmpfs"), (PROCESSORS, "/devices/system", "sysfs")];
        assert_eq!(found(&text, &right), 0);
        assert_eq!(found(&text, &[("/sys/fs/cgroup", "/", "cgroup2")]), 0);
        assert_eq!(found(&text, &[("/sys/fs/cgroup", &below, "tmpfs")]), 0);
        for wrong in [
            ("/sys", "/", "sysfs"),
            ("/sys", "/", "tmpfs"),
            ("/sys/class", "/class", "sysfs"),
            ("/sys/fs/cgroup", "/fs/cgroup", "sysfs"),
        ] {
            assert_eq!(found(&text, &[wrong]), 1, "{wrong:?}");
            assert_eq!(found("BindReadOnlyPaths=/usr\n", &[wrong]), 0, "{wrong:?}");
        }
    }

    #[test]
    fn the_kernels_list_is_read() {
        let line = "412 380 0:48 /a\\040b /etc/pass\\134wd ro,nosuid,nodev shared:215 master:6 - tmpfs tmpfs rw,size=4k";
        let expected = Mount {
            target: "/etc/pass\\wd".to_owned(),
            root: "/a b".to_owned(),
            writable: false,
            kind: "tmpfs".to_owned(),
        };
        assert_eq!(read(line), [expected]);
        for junk in ["", "1 2", "a - b", "1 2 3 4 5", "\\", "1 2 3 \\9 /\\04 rw - x"] {
            let _ = read(junk);
        }
    }

    #[test]
    fn places_are_read_as_they_are_rendered() {
        for (value, expected) in [
            ("/usr", "/usr"),
            ("-/bin", "/bin"),
            ("/a:/b", "/b"),
            ("/\"data/cache 100%%\":/cache", "/cache"),
            ("/\"data/cache 100%%\"", "/data/cache 100%"),
            ("/a\\:b:/c\\:d", "/c:d"),
            ("/a::rbind", "/a"),
        ] {
            assert_eq!(target(value), expected, "{value}");
        }
    }

    #[test]
    fn what_was_not_declared_is_found() {
        let text = "BindPaths=/srv/a\nBindReadOnlyPaths=/usr\nBindReadOnlyPaths=-/opt/x\n";
        let usual =
            [("/srv/a", "rw"), ("/usr", "ro"), ("/tmp", "rw"), ("/proc", "rw"), ("/home", "ro")];
        assert_eq!(findings(text, &usual), [""; 0]);
        let more = |more| [&usual[..], &[more]].concat();
        assert_eq!(
            findings(text, &more(("/srv/b", "ro"))),
            ["/srv/b is mounted in the sandbox and was not declared"]
        );
        assert_eq!(
            findings(text, &more(("/usr/bin", "rw"))),
            ["/usr/bin can be written to and was declared read-only"]
        );
        assert_eq!(
            findings(text, &more(("/", "rw"))),
            [
                "/ is mounted in the sandbox and was not declared",
                "the sandbox begins with / of the host"
            ]
        );
        assert_eq!(findings(text, &usual[1..]), ["/srv/a was declared and is not mounted"]);
    }

    #[test]
    fn what_another_unit_mounts_is_declared_too() {
        let text = "X-BindReadOnlyPaths=/a\nX-BindReadOnlyPaths=-/b:/c\n";
        assert_eq!(findings(text, &[("/a", "ro"), ("/c", "ro")]), [""; 0]);
        assert_eq!(
            findings(text, &[("/a", "rw")]),
            ["/a can be written to and was declared read-only"]
        );
        assert_eq!(findings(text, &[("/c", "ro")]), ["/a was declared and is not mounted"]);
    }
}
