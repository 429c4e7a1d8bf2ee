//! The host's resolvers, as the host has them right now.

use std::fs::{self, Metadata};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

/// Where systemd-resolved writes which resolvers it asks itself.
pub(crate) const MANAGED: &str = "/run/systemd/resolve/resolv.conf";
/// Where every program looks.
pub(crate) const PLAIN: &str = "/etc/resolv.conf";
/// Nobody lists more, and each costs a client time.
const MAX_RESOLVERS: usize = 4;
/// The largest file that is read.
const MAX_FILE: u64 = 64 * 1024;
/// How often the files are looked at, and only when somebody asks.
const INTERVAL: Duration = Duration::from_secs(1);
/// systemd-resolved on the host, which asks those of [`MANAGED`].
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// What tells that a file is another one than before.
type Mark = Option<(u64, u64, i64, i64)>;

/// The list, reread when a file changes.
#[derive(Debug)]
pub(super) struct Resolvers {
    managed: PathBuf,
    plain: PathBuf,
    list: Rc<[SocketAddr]>,
    marks: [Mark; 2],
    looked: Option<Instant>,
    /// Whether [`PLAIN`] was in a directory when this process began.
    linked: bool,
    /// The one that answered last: asked first.
    preferred: usize,
}

impl Resolvers {
    pub(super) fn new(managed: &Path, plain: &Path) -> Self {
        Self {
            managed: managed.to_owned(),
            plain: plain.to_owned(),
            list: Rc::default(),
            marks: [None; 2],
            looked: None,
            linked: links(plain).is_some_and(|links| links > 0),
            preferred: 0,
        }
    }

    /// The resolvers, in the order in which they should be asked.
    pub(super) fn list(&mut self, now: Instant) -> Rc<[SocketAddr]> {
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= INTERVAL) {
            let marks = [mark(&self.managed), mark(&self.plain)];
            if marks != self.marks || self.looked.is_none() {
                self.list = read(&self.managed, &self.plain).into();
                self.preferred = 0;
                self.marks = marks;
            }
            self.looked = Some(now);
        }
        if self.preferred == 0 {
            return Rc::clone(&self.list);
        }
        let mut list = self.list.to_vec();
        list.rotate_left(self.preferred.min(self.list.len()));
        list.into()
    }

    /// Whether the list is another file by now. In the sandbox this one stays mounted when the host
    /// renames a new one to its place, as most programs do; then only a new sandbox has the new one.
    pub(super) fn replaced(&self) -> bool {
        self.linked && links(&self.plain) == Some(0)
    }

    /// Remembers who answered.
    pub(super) fn answered(&mut self, resolver: SocketAddr) {
        if let Some(place) = self.list.iter().position(|known| *known == resolver) {
            self.preferred = place;
        }
    }
}

/// All resolvers of the host's. A stub asks those of one list, and which one depends on when it began.
pub(crate) fn all() -> Vec<IpAddr> {
    let lists = [MANAGED, PLAIN].map(|list| addresses(Path::new(list)));
    let mut all: Vec<IpAddr> = lists.iter().flatten().map(SocketAddr::ip).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn mark(path: &Path) -> Mark {
    let of = |metadata: Metadata| {
        (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    };
    fs::metadata(path).ok().map(of)
}

fn links(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.nlink())
}

fn read(managed: &Path, plain: &Path) -> Vec<SocketAddr> {
    let there = managed.exists();
    let list = addresses(managed);
    if !list.is_empty() {
        return list;
    }
    let mut list = addresses(plain);
    // It has just said that it has nobody to ask.
    list.retain(|resolver| !(there && STUBS.contains(&resolver.ip())));
    list
}

fn addresses(path: &Path) -> Vec<SocketAddr> {
    let text = read_bounded(path).unwrap_or_default();
    parse(&text, |name| {
        let any = socket(AddressFamily::INET6, SocketType::DGRAM, None).ok()?;
        name_to_index(any, name).ok()
    })
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The `nameserver` lines, as `resolv.conf(5)` has them.
fn parse(text: &str, index: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address(server, &index)
    };
    let mut list = Vec::new();
    for server in text.lines().filter_map(server) {
        if !list.contains(&server) {
            list.push(server);
        }
    }
    list.truncate(MAX_RESOLVERS);
    list
}

fn address(text: &str, index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, 53));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let zone = zone.parse().ok().or_else(|| index(zone))?;
    Some(SocketAddrV6::new(address, 53, 0, zone).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_every_program_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch lan\n nameserver\t192.0.2.1 # home\nnameserver x\n\
                    nameserver 192.0.2.1\nnameserver fe80::1%eth7\nnameserver fe80::1%gone\n\
                    nameserver ::1\nnameserver 9.9.9.9\nnameserver 9.9.9.10\n";
        let index = |name: &str| (name == "eth7").then_some(7);
        let list: Vec<String> = parse(text, index).iter().map(ToString::to_string).collect();
        assert_eq!(list, ["192.0.2.1:53", "[fe80::1%7]:53", "[::1]:53", "9.9.9.9:53"]);
    }

    #[test]
    fn a_list_that_is_no_longer_in_a_directory_was_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        let file = fs::File::create(&plain).unwrap();
        // As a mount does, this shows the file whatever becomes of its name.
        let shown = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let resolvers = Resolvers::new(&directory.path().join("none"), Path::new(&shown));
        assert!(!resolvers.replaced());
        fs::write(directory.path().join("new"), "").unwrap();
        fs::rename(directory.path().join("new"), &plain).unwrap();
        assert!(resolvers.replaced());
        assert!(!Resolvers::new(&plain, Path::new(&shown)).replaced(), "it never was in one");
    }

    #[test]
    fn the_managed_list_comes_first_and_changes_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (managed, plain) = (directory.path().join("managed"), directory.path().join("plain"));
        let mut resolvers = Resolvers::new(&managed, &plain);
        let mut now = Instant::now();
        let mut list = |resolvers: &mut Resolvers| {
            now += INTERVAL;
            resolvers.list(now).iter().map(|one| one.ip().to_string()).collect::<Vec<_>>()
        };
        assert!(list(&mut resolvers).is_empty());
        fs::write(&plain, "nameserver 127.0.0.53\nnameserver 192.0.2.1\n").unwrap();
        assert_eq!(list(&mut resolvers), ["127.0.0.53", "192.0.2.1"]);
        fs::write(&managed, "# none yet\n").unwrap();
        assert_eq!(list(&mut resolvers), ["192.0.2.1"]);
        fs::write(&managed, "nameserver 192.0.2.2\nnameserver 192.0.2.3\n").unwrap();
        assert_eq!(list(&mut resolvers), ["192.0.2.2", "192.0.2.3"]);
        resolvers.answered("192.0.2.3:53".parse().unwrap());
        assert_eq!(list(&mut resolvers), ["192.0.2.3", "192.0.2.2"]);
        fs::remove_file(&managed).unwrap();
        assert_eq!(list(&mut resolvers), ["127.0.0.53", "192.0.2.1"]);
    }
}
