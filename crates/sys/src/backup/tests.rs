//! What an agent plants in a tree, and what somebody writes into an archive.

mod malformed;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use instances_core::backup::manifest::{Entry, Kind, Manifest, VERSION, Why};
use instances_core::backup::member::{self, END};
use instances_core::backup::path::{Bytes, TreePath};
use instances_core::backup::{DEPTH, HOLES};
use instances_core::spec::InstanceName;
use rustix::fs::{CWD, FileType, Mode, mkfifoat, mknodat};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::copy::{self, Index};
use super::progress::Progress;
use super::{Error, pack, unpack};

/// Later than every change of a test's.
const LATER: i64 = i64::MAX / 2;

/// Ends another thread, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Stage {
    _directory: TempDir,
    home: PathBuf,
    copies: PathBuf,
    new: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        Self { home: of("home"), copies: of("copies"), new: of("new"), _directory: directory }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn copy_with(&self, before: Option<Index>, held: bool, now: i64) -> Result<Index, Error> {
        let home = File::open(&self.home).unwrap();
        let copies = File::open(&self.copies).unwrap();
        let request = copy::Request {
            home: home.as_fd(),
            owner: rustix::process::geteuid().as_raw(),
            to: Some((copies.as_fd(), &self.copies)),
            all: false,
            held,
        };
        copy::copy(&request, before, now, &mut Progress::new("copying"))
    }

    fn copy(&self) -> Index {
        self.copy_with(None, true, 0).unwrap()
    }

    fn pack(&self, index: Index) -> Vec<u8> {
        let copies = File::open(&self.copies).unwrap();
        let mut archive = Vec::new();
        pack::pack(copies.as_fd(), index, manifest(Vec::new()), &mut archive).unwrap();
        archive
    }

    fn unpack(&self, archive: &[u8]) -> Result<Manifest, Error> {
        let new = File::open(&self.new).unwrap();
        unpack::unpack(archive, &web(), Some((new.as_fd(), &self.new)))
    }

    /// Keeps and restores; what was left out.
    fn round(&self) -> Vec<(String, Why)> {
        let manifest = self.unpack(&self.pack(self.copy())).unwrap();
        let named = manifest.left_out.named.into_iter();
        named.map(|one| (one.path.to_string(), one.why)).collect()
    }
}

fn web() -> InstanceName {
    InstanceName::new("web").unwrap()
}

fn manifest(entries: Vec<Entry>) -> Manifest {
    Manifest {
        version: VERSION,
        instance: web(),
        engine: "0.1.0".to_owned(),
        opencode: None,
        time: "20260131T120000Z".to_owned(),
        all: false,
        frozen: true,
        bytes: entries.iter().map(|entry| entry.size).sum(),
        left_out: instances_core::backup::manifest::LeftOut::default(),
        entries,
    }
}

fn entry(path: &str, kind: Kind, data: &[u8]) -> Entry {
    let is_file = kind == Kind::File;
    Entry {
        path: TreePath::new(path).unwrap(),
        kind,
        size: data.len() as u64,
        mode: if is_file { 0o600 } else { 0o700 },
        mtime: 1_700_000_000,
        sha256: if is_file { pack::hex(Sha256::new_with_prefix(data)) } else { String::new() },
        target: (kind == Kind::Link).then(|| Bytes::new("/etc")),
    }
}

/// The bytes below the compression, of members that say what they like.
fn tar(manifest: &[u8], members: &[(Vec<u8>, &[u8])]) -> Vec<u8> {
    let mut bytes = member::of_manifest(manifest.len() as u64).to_vec();
    let fill = |bytes: &mut Vec<u8>, data: &[u8]| {
        bytes.extend(data);
        bytes.resize(bytes.len() + member::padding(data.len() as u64), 0);
    };
    fill(&mut bytes, manifest);
    for (header, data) in members {
        bytes.extend(header);
        fill(&mut bytes, data);
    }
    bytes.resize(bytes.len() + END, 0);
    bytes
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What stands before data, and the data.
type Member = (Vec<u8>, &'static [u8]);

/// A small archive that is right, below the compression.
fn sample() -> (Manifest, Vec<Member>) {
    let data: &[u8] = b"some data";
    let entries = vec![
        entry("d", Kind::Directory, b""),
        entry("d/f", Kind::File, data),
        entry("l", Kind::Link, b""),
    ];
    let members = entries
        .iter()
        .map(|entry| (member::of_entry(entry), if entry.kind == Kind::File { data } else { b"" }));
    let members = members.collect();
    (manifest(entries), members)
}

fn json(manifest: &Manifest) -> Vec<u8> {
    serde_json::to_vec(manifest).unwrap()
}

fn refusal(archive: &[u8]) -> String {
    let stage = Stage::new();
    stage.unpack(archive).unwrap_err().to_string()
}

#[test]
fn what_an_agent_left_comes_back_as_it_was() {
    let stage = Stage::new();
    stage.put(".local/share/opencode/opencode.db", "a database");
    stage.put(".cache/models", "left out");
    stage.put("dir/empty", "");
    stage.put(&format!("{}/file", "long-name/".repeat(30)), "far down");
    let odd = OsStr::from_bytes(b"a\n\x1b[2J\xff \\");
    fs::write(stage.home.join(odd), "odd").unwrap();
    symlink("../../etc/passwd", stage.home.join("link")).unwrap();
    symlink("x".repeat(2000), stage.home.join("long-link")).unwrap();
    fs::set_permissions(stage.home.join("dir"), fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(stage.round(), []);
    let read = |path: &str| fs::read_to_string(stage.new.join(path)).unwrap();
    assert_eq!(read(".local/share/opencode/opencode.db"), "a database");
    assert_eq!(read(&format!("{}/file", "long-name/".repeat(30))), "far down");
    assert_eq!(fs::read_to_string(stage.new.join(odd)).unwrap(), "odd");
    assert_eq!(fs::read_link(stage.new.join("link")).unwrap(), Path::new("../../etc/passwd"));
    assert_eq!(fs::read_link(stage.new.join("long-link")).unwrap().as_os_str().len(), 2000);
    assert!(!stage.new.join(".cache").exists());
    let of = |base: &Path| fs::metadata(base.join("dir")).unwrap();
    assert_eq!(of(&stage.new).mode(), of(&stage.home).mode());
    assert_eq!(of(&stage.new).mtime(), of(&stage.home).mtime());
}

#[test]
fn other_programs_read_the_archive_too() {
    let stage = Stage::new();
    stage.put("dir/file", "text");
    stage.put(&"n".repeat(200), "long");
    let archive = stage.pack(stage.copy());
    let bytes = zstd::decode_all(&archive[..]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let list = std::process::Command::new("tar").arg("-tf").arg(file.path()).output().unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(list.status.success(), "{text}");
    let long = format!("state/{}", "n".repeat(200));
    let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('/')).collect();
    assert_eq!(lines, ["manifest.json", "state/dir", "state/dir/file", &long]);
}

#[test]
fn only_files_directories_and_links_of_the_user_are_taken() {
    let stage = Stage::new();
    stage.put("file", "one");
    fs::hard_link(stage.home.join("file"), stage.home.join("second")).unwrap();
    mkfifoat(CWD, stage.home.join("fifo"), Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(stage.home.join("socket")).unwrap();
    symlink("/etc/shadow", stage.home.join("shadow")).unwrap();
    let root = rustix::process::geteuid().is_root();
    let mut expected = vec![("fifo".to_owned(), Why::Fifo), ("socket".to_owned(), Why::Socket)];
    if root {
        // The kernel's /dev/null, and a file of somebody else's.
        let device = rustix::fs::makedev(1, 3);
        let place = stage.home.join("device");
        mknodat(CWD, &place, FileType::CharacterDevice, Mode::RWXU, device).unwrap();
        stage.put("theirs", "a secret");
        std::os::unix::fs::chown(stage.home.join("theirs"), Some(12345), None).unwrap();
        expected.insert(0, ("device".to_owned(), Why::Device));
        expected.push(("theirs".to_owned(), Why::Owner));
    }
    assert_eq!(stage.round(), expected);
    assert_eq!(fs::read_to_string(stage.new.join("second")).unwrap(), "one");
    assert_eq!(fs::metadata(stage.new.join("second")).unwrap().nlink(), 1);
    assert!(fs::symlink_metadata(stage.new.join("shadow")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(&stage.new).unwrap().count(), 3);
}

/// The kernel has whoever opens such a file wait until its holder gives the lease up, and one that stands still never does.
#[test]
fn a_leased_file_holds_up_nobody() {
    let stage = Stage::new();
    stage.put("leased", "mine");
    stage.put("other", "text");
    let lease = "import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], 'r+')
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", lease])
        .arg(stage.home.join("leased"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(stage.round(), [("leased".to_owned(), Why::Unreadable)]);
    assert_eq!(fs::read_to_string(stage.new.join("other")).unwrap(), "text");
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn holes_take_no_time_and_deep_trees_no_descriptors() {
    let stage = Stage::new();
    File::create(stage.home.join("endless")).unwrap().set_len(1 << 40).unwrap();
    let small = File::create(stage.home.join("small")).unwrap();
    small.set_len(64 << 20).unwrap();
    small.write_all_at(b"at the end", (64 << 20) - 10).unwrap();
    let mut here = File::open(&stage.home).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "d", flags, Mode::empty()).unwrap().into();
    }
    let left_out = stage.round();
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    let (deep, why) = &left_out[0];
    assert_eq!((deep.split('/').count(), *why), (DEPTH, Why::Deep));
    assert_eq!(left_out[1], ("endless".to_owned(), Why::Sparse));
    let small = fs::metadata(stage.new.join("small")).unwrap();
    assert_eq!(small.len(), 64 << 20);
    assert!(small.blocks() * 512 < 1 << 20, "its holes are holes again");
    let mut tail = [0; 10];
    let file = File::open(stage.new.join("small")).unwrap();
    file.read_exact_at(&mut tail, (64 << 20) - 10).unwrap();
    assert_eq!(&tail, b"at the end");
    // More than the tree's own removal can do.
    let _ = std::process::Command::new("rm").arg("-rf").arg(stage.home.join("d")).status();
}

#[test]
fn holes_of_many_files_are_counted_too() {
    let stage = Stage::new();
    for number in 0..3000 {
        let file = File::create(stage.home.join(number.to_string())).unwrap();
        file.set_len(1 << 20).unwrap();
    }
    let index = stage.copy();
    assert!(index.bytes() <= 2 * HOLES, "{}", index.bytes());
    assert_eq!(index.entries.len() as u64 + index.left_out.count, 3000);
}

#[test]
fn a_copy_of_what_changed_meanwhile_goes_when_there_is_a_better_one() {
    let stage = Stage::new();
    stage.put("busy", "as it was");
    let mut before = serde_json::to_value(stage.copy()).unwrap();
    before["entries"][0]["stamp"] = serde_json::Value::Null;
    let before = serde_json::from_value(before).unwrap();
    stage.put("busy", "as it is");
    stage.copy_with(Some(before), true, 0).unwrap();
    let left: Vec<_> = fs::read_dir(&stage.copies).unwrap().map(Result::unwrap).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read_to_string(left[0].path()).unwrap(), "as it is");
}

/// A directory and a link to the host's secrets take turns under one name, and so do a file and a FIFO.
#[test]
fn what_is_swapped_meanwhile_leads_nowhere() {
    let stage = Stage::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "a secret").unwrap();
    stage.put("dir/secret", "harmless");
    stage.put("file", "harmless");
    symlink(outside.path(), stage.home.join("trap")).unwrap();
    symlink(outside.path().join("secret"), stage.home.join("snare")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = |one: &str, other: &str| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (one, other) = (stage.home.join(one), stage.home.join(other));
                rustix::fs::renameat_with(CWD, one, CWD, other, flags).unwrap();
            };
            while !stop.load(Ordering::Relaxed) {
                exchange("dir", "trap");
                exchange("file", "snare");
            }
        });
        let _stop = Stop(&stop);
        for _ in 0..300 {
            stage.copy_with(None, false, 0).unwrap();
            for copy in fs::read_dir(&stage.copies).unwrap() {
                let copy = copy.unwrap().path();
                assert_eq!(fs::read_to_string(&copy).unwrap(), "harmless");
                fs::remove_file(copy).unwrap();
            }
        }
    });
}

/// One writes without end, one cuts off, while it is read.
#[test]
fn files_that_grow_and_shrink_end() {
    let stage = Stage::new();
    stage.put("growing", "begin");
    stage.put("shrinking", &"x".repeat(1 << 20));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut growing =
                File::options().append(true).open(stage.home.join("growing")).unwrap();
            let shrinking = File::options().write(true).open(stage.home.join("shrinking")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                growing.write_all(&[b'y'; 4096]).unwrap();
                if growing.stream_position().unwrap() > 64 << 20 {
                    growing.set_len(0).unwrap();
                }
                shrinking.set_len(10).unwrap();
                shrinking.set_len(1 << 20).unwrap();
            }
        });
        let _stop = Stop(&stop);
        let mut changed = 0;
        for _ in 0..50 {
            let index = stage.copy_with(None, false, 0).unwrap();
            assert_eq!(index.entries.len(), 2);
            // Where nobody should write it is said that somebody does.
            changed +=
                u32::from(matches!(stage.copy_with(Some(index), true, 0), Err(Error::Changed(_))));
            for copy in fs::read_dir(&stage.copies).unwrap() {
                fs::remove_file(copy.unwrap().path()).unwrap();
            }
        }
        assert!(changed > 0, "nobody noticed");
    });
}

#[test]
fn the_second_time_takes_over_what_nobody_can_have_changed() {
    let stage = Stage::new();
    for name in ["old", "new", "gone", "renamed/a", "other/a"] {
        stage.put(name, name);
    }
    let first = stage.copy_with(None, false, LATER).unwrap();
    let number = |index: &Index, name: &str| {
        let entry = index.entries.iter().find(|one| one.path.to_string() == name);
        entry.map(|one| one.number)
    };
    let numbers: Vec<_> = ["old", "renamed/a"].map(|name| number(&first, name)).to_vec();
    // The same length, and the old time of its content.
    let times = fs::metadata(stage.home.join("new")).unwrap().modified().unwrap();
    fs::write(stage.home.join("new"), "NEW").unwrap();
    File::options().write(true).open(stage.home.join("new")).unwrap().set_modified(times).unwrap();
    fs::remove_file(stage.home.join("gone")).unwrap();
    fs::rename(stage.home.join("renamed"), stage.home.join("aside")).unwrap();
    fs::rename(stage.home.join("other"), stage.home.join("renamed")).unwrap();
    let second = stage.copy_with(Some(first), true, 0).unwrap();
    assert_eq!(number(&second, "old"), numbers[0], "it was copied again");
    assert_ne!(number(&second, "renamed/a"), numbers[1], "another file has the name");
    assert_eq!(number(&second, "gone"), None);
    stage.unpack(&stage.pack(second)).unwrap();
    let read = |name: &str| fs::read_to_string(stage.new.join(name)).unwrap();
    assert_eq!(
        (read("new"), read("renamed/a"), read("aside/a")),
        ("NEW".to_owned(), "other/a".to_owned(), "renamed/a".to_owned())
    );
}

#[test]
fn a_file_that_changed_about_when_it_was_copied_is_copied_again() {
    let stage = Stage::new();
    stage.put("file", "text");
    let first = stage.copy_with(None, false, 0).unwrap();
    let before = first.entries[0].number;
    let second = stage.copy_with(Some(first), true, 0).unwrap();
    assert_ne!(second.entries[0].number, before);
}

#[test]
fn an_archive_that_is_right_is_read() {
    let (manifest, members) = sample();
    let stage = Stage::new();
    assert_eq!(stage.unpack(&zstd(&tar(&json(&manifest), &members))).unwrap(), manifest);
    assert_eq!(fs::read_to_string(stage.new.join("d/f")).unwrap(), "some data");
}

#[test]
fn each_hostile_archive_is_refused() {
    let (manifest, members) = sample();
    let text = json(&manifest);
    let right = tar(&text, &members);
    let with = |at: usize, change: &dyn Fn(&mut Entry)| {
        let mut other = members.clone();
        let mut entry = manifest.entries[at].clone();
        change(&mut entry);
        other[at].0 = member::of_entry(&entry);
        refusal(&zstd(&tar(&text, &other)))
    };
    let header = |at: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut other = members.clone();
        change(&mut other[at].0);
        let header = &mut other[at].0;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        refusal(&zstd(&tar(&text, &other)))
    };
    let differs = "it is not what the manifest says";
    // Another name, a way out, an absolute one, a device, a hard link, a FIFO, setuid, another owner.
    assert!(with(1, &|entry| entry.path = TreePath::new("d/g").unwrap()).contains(differs));
    let named = |name: &'static [u8]| {
        header(1, &move |bytes| {
            bytes[..100].fill(0);
            bytes[..name.len()].copy_from_slice(name);
        })
    };
    for name in [&b"state/../../etc/passwd"[..], b"/etc/passwd", b"state/l/passwd"] {
        assert!(named(name).contains(differs));
    }
    for kind in *b"13467gKLSxX" {
        assert!(header(1, &|bytes| bytes[156] = kind).contains(differs));
    }
    assert!(with(1, &|entry| entry.mode = 0o4755).contains(differs));
    assert!(header(1, &|bytes| bytes[114] = b'1').contains(differs));
    assert!(with(2, &|entry| entry.target = Some(Bytes::new("/root"))).contains(differs));
    // Twice, one too few, one too many.
    let mut twice = members.clone();
    twice.insert(1, twice[1].clone());
    assert!(refusal(&zstd(&tar(&text, &twice))).contains(differs));
    assert!(refusal(&zstd(&tar(&text, &members[..2]))).contains("l: it is not what"));
    let mut more = members.clone();
    more.push(more[2].clone());
    assert!(refusal(&zstd(&tar(&text, &more))).contains("something follows its end"));
    // Other data, data in the filling, something behind the end, a second frame, a cut.
    let mut other = members.clone();
    other[1].1 = b"Some data";
    assert!(refusal(&zstd(&tar(&text, &other))).contains("another digest"));
    let mut filled = right.clone();
    let at = right.windows(9).rposition(|window| window == b"some data").unwrap() + 20;
    filled[at] = 1;
    assert!(refusal(&zstd(&filled)).contains("something follows its data"));
    assert!(refusal(&zstd(&[&right[..], b"x"].concat())).contains("something follows its end"));
    let zeros = [&right[..], &[0; 512]].concat();
    assert!(refusal(&zstd(&zeros)).contains("something follows its end"));
    let trailing = [zstd(&right), zstd(b"more")].concat();
    assert!(refusal(&trailing).contains("something follows its end"));
    assert!(refusal(&[&zstd(&right)[..], b"x"].concat()).contains("something follows its end"));
    let whole = zstd(&right);
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        let said = refusal(&whole[..length]);
        assert!(said.contains("too early") || said.contains("cannot be read"), "{length}: {said}");
    }
    assert!(refusal(&zstd(&right[..right.len() - 1])).contains("too early"));
    assert!(refusal(b"PK\x03\x04 this is no such thing").contains("cannot be read"));
    assert!(refusal(&zstd(&[0; 4096])).contains("does not begin"));
    let mut lie = manifest.clone();
    lie.bytes = u64::MAX;
    assert!(refusal(&zstd(&tar(&json(&lie), &members))).contains("have 9"));
}

#[test]
fn bombs_are_seen_before_they_go_off() {
    // A file as large as no disk is, by the manifest alone.
    let mut entry = entry("bomb", Kind::File, b"");
    entry.size = 1 << 60;
    let manifest = manifest(vec![entry.clone()]);
    let bytes = tar(&json(&manifest), &[(member::of_entry(&entry), b"")]);
    assert!(refusal(&zstd(&bytes)).contains("MiB are needed"));
    // A manifest of zeros without end: it is read as far as its header says, which has a limit.
    let mut header = member::of_manifest(1 << 30).to_vec();
    header.resize(header.len() + (1 << 20), 0);
    assert!(refusal(&zstd(&header)).contains("too long"));
    // Data without end behind an archive that is right is not read.
    let (manifest, members) = sample();
    let mut endless = zstd::Encoder::new(Vec::new(), 3).unwrap();
    endless.write_all(&tar(&json(&manifest), &members)).unwrap();
    io::copy(&mut io::repeat(0).take(1 << 28), &mut endless).unwrap();
    assert!(refusal(&endless.finish().unwrap()).contains("something follows its end"));
    // And one that asks for more memory than any of ours does.
    let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&tar(&json(&manifest), &members)).unwrap();
    assert!(refusal(&wide.finish().unwrap()).contains("cannot be read"));
}

#[test]
fn another_ones_archive_is_taken_when_that_is_said() {
    let (manifest, members) = sample();
    let archive = zstd(&tar(&json(&manifest), &members));
    let other = InstanceName::new("other").unwrap();
    let said = unpack::unpack(&archive[..], &other, None).unwrap_err().to_string();
    assert!(said.contains("--from-other web"), "{said}");
    assert!(unpack::unpack(&archive[..], &web(), None).is_ok());
}

#[test]
fn a_look_at_an_archive_makes_nothing() {
    let (manifest, members) = sample();
    let mut seen = tempfile::tempfile().unwrap();
    seen.write_all(&zstd(&tar(&json(&manifest), &members))).unwrap();
    seen.seek(SeekFrom::Start(0)).unwrap();
    assert_eq!(unpack::unpack(seen, &web(), None).unwrap(), manifest);
}
