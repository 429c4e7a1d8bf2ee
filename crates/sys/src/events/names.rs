//! Which name gave which address: what the instance's resolver answered, `ADDRESS NAME` a line, the
//! newest last.
//!
//! The resolver parses what the agent asks and what strangers answer, so its file is read with the
//! same distrust.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use instances_core::events::is_name;
use instances_core::layout::RUNTIME_DIR;
use rustix::fs::{Mode, OFlags, open};

/// The most lines that are read.
const MAX_LINES: usize = 4096;
/// The longest line: an address, a space, a name and the end.
const MAX_LINE: u64 = 46 + 1 + 253 + 1;

/// Where an instance's resolver writes them.
pub fn path(instance: &str) -> PathBuf {
    Path::new(RUNTIME_DIR).join(instance).join("dns/names")
}

/// Reads the file up to the first line that is none; nothing where there is no file.
pub fn read(path: &Path) -> Vec<(IpAddr, String)> {
    let mut names = Vec::new();
    each(path, |address, name| names.push((address, name.to_owned())));
    names
}

/// The newest name of an address.
pub fn of(path: &Path, address: IpAddr) -> Option<String> {
    let mut newest = None;
    each(path, |candidate, name| {
        if candidate == address {
            newest = Some(name.to_owned());
        }
    });
    newest
}

fn each(path: &Path, look: impl FnMut(IpAddr, &str)) {
    // Whatever lies there, opening it leads nowhere else and waits for nobody.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Ok(file) = open(path, flags, Mode::empty()) else { return };
    let file = File::from(file);
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        parse(BufReader::with_capacity(4096, file), look);
    }
}

fn parse(mut lines: impl BufRead, mut look: impl FnMut(IpAddr, &str)) {
    let mut line = String::new();
    for _ in 0..MAX_LINES {
        line.clear();
        if lines.by_ref().take(MAX_LINE).read_line(&mut line).is_err() {
            return;
        }
        let Some((address, name)) = line.strip_suffix('\n').and_then(|line| line.split_once(' '))
        else {
            return;
        };
        let Ok(address) = address.parse() else { return };
        if !is_name(name) {
            return;
        }
        look(address, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_name_counts_and_no_file_is_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names");
        let address = "192.0.2.7".parse().unwrap();
        assert_eq!(of(&path, address), None);
        std::fs::write(
            &path,
            "192.0.2.7 old.example\n2001:db8::1 six.example\n192.0.2.7 new.example\n",
        )
        .unwrap();
        assert_eq!(of(&path, address).as_deref(), Some("new.example"));
        assert_eq!(of(&path, "2001:db8::1".parse().unwrap()).as_deref(), Some("six.example"));
        assert_eq!(of(&path, "192.0.2.8".parse().unwrap()), None);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link), []);
        assert_eq!(read(directory.path()), []);
    }

    #[test]
    fn what_is_no_line_ends_the_reading() {
        for odd in ["no address\n", "192.0.2.9\n", "192.0.2.9 a\u{1b}b\n", "192.0.2.9 cut", "\n"] {
            let mut seen = 0;
            parse(
                format!("192.0.2.7 one.example\n{odd}192.0.2.7 two.example\n").as_bytes(),
                |_, _| {
                    seen += 1;
                },
            );
            assert_eq!(seen, 1, "{odd}");
        }
        let mut seen = 0;
        parse("192.0.2.7 a.example\n".repeat(9000).as_bytes(), |_, _| seen += 1);
        assert_eq!(seen, MAX_LINES);
        parse(&b"x".repeat(1 << 20)[..], |_, _| unreachable!());
        parse(&b"192.0.2.7 \xff\xfe\n"[..], |_, _| unreachable!());
    }
}
