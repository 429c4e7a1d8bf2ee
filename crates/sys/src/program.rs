//! Which processes execute an earlier program than the one that lies at its place by now.
//!
//! A program that is replaced goes on in whoever runs it. The kernel still has the file that they execute.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Of the units, those of whose processes one was started by systemd as `engine` and executes another file than lies
/// there now. What may not be looked at counts for nothing.
///
/// An agent's processes may call themselves like this too, and their programs are not read: none of them is a child of
/// process 1, for its supervisor takes the orphans.
pub(crate) fn outdated(engine: &Path, units: &BTreeSet<String>) -> BTreeSet<String> {
    let mut judge = Judge::default();
    let ours = processes().filter(|pid| started_as(*pid, engine) && is_of_init(*pid));
    let ours = ours.filter_map(|pid| Some((unit_of(pid)?, pid)));
    let ours = ours.filter(|(unit, _)| units.contains(unit));
    ours.filter(|(_, pid)| judge.is_outdated(*pid)).map(|(unit, _)| unit).collect()
}

/// Compares what processes execute with what lies at its place; each pair of files once.
#[derive(Debug, Default)]
pub(crate) struct Judge(BTreeMap<(Number, Number), bool>);

/// A file, by what the kernel calls it.
type Number = (u64, u64);

impl Judge {
    /// Whether a process executes another file than lies by now where it was started from; not where that cannot
    /// be seen. The same program that was installed once more is no other one.
    pub(crate) fn is_outdated(&mut self, pid: u32) -> bool {
        let running = Path::new("/proc").join(pid.to_string()).join("exe");
        let place = first_word(pid).filter(|word| word.starts_with(b"/"));
        let Some(place) = place.and_then(|word| String::from_utf8(word).ok()) else { return false };
        let place = Path::new(&place);
        let (Ok(executed), Ok(installed)) = (fs::metadata(&running), fs::metadata(place)) else {
            return false;
        };
        let numbers = (number(&executed), number(&installed));
        if numbers.0 == numbers.1 {
            return false;
        }
        // One that cannot be read is gone by now.
        *self.0.entry(numbers).or_insert_with(|| same(&running, place).is_ok_and(|same| !same))
    }
}

fn number(file: &Metadata) -> Number {
    (file.dev(), file.ino())
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn first_word(pid: u32) -> Option<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    line.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

fn started_as(pid: u32, engine: &Path) -> bool {
    first_word(pid).is_some_and(|word| word == engine.as_os_str().as_encoded_bytes())
}

/// Whether process 1 started it, or has taken it when its parent ended.
fn is_of_init(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may have spaces and brackets: the state, and the parent.
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
    parent == Some("1")
}

/// The unit of a process, by its control group.
fn unit_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = group.split('/').find(|part| part.ends_with(".service"))?;
    // As systemd writes what a control group could not be called otherwise.
    Some(unit.strip_prefix('_').unwrap_or(unit).to_owned())
}

/// Whether two files have the same content.
pub(crate) fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        one.by_ref().take(PIECE).read_to_end(&mut left)?;
        other.by_ref().take(PIECE).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

/// How much of a file is compared at once.
const PIECE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_whose_program_was_replaced_by_another_is_outdated() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("program");
        let new = directory.path().join("new");
        fs::copy("/bin/sleep", &place).unwrap();
        let child = Command::new(&place).arg("60").stdin(Stdio::null()).spawn().unwrap();
        let child = Sleeper(child);
        let pid = child.0.id();
        // Until it is executed, it is this test's own program.
        while first_word(pid).is_none_or(|word| word != place.as_os_str().as_encoded_bytes()) {
            std::thread::yield_now();
        }
        let is_outdated = |pid| Judge::default().is_outdated(pid);
        assert!(!is_outdated(pid));
        fs::copy("/bin/sleep", &new).unwrap();
        fs::rename(&new, &place).unwrap();
        assert!(!is_outdated(pid), "the same program once more");
        let mut text = fs::read("/bin/sleep").unwrap();
        text.push(b'\n');
        fs::write(&new, text).unwrap();
        fs::rename(&new, &place).unwrap();
        assert!(is_outdated(pid));
        fs::remove_file(&place).unwrap();
        assert!(!is_outdated(pid), "nothing is there that could be executed");
    }
}
