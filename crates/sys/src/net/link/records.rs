//! Which place in the pool each instance has, for as long as anybody remembers the instance.
//!
//! A record says where addresses are taken from, not whether there is a link. It is never changed
//! because another instance comes or goes, so an address in somebody's firewall or log stays right.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use instances_core::format::{self, Unreadable};
use instances_core::plan::digest;
use instances_core::spec::InstanceName;
use ipnet::{Ipv4Net, Ipv6Net};
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::super::{Error, nft};
use super::ends::{Ends, Pair};

const FILE: &str = "links.json";
/// The format's version.
const VERSION: u32 = 1;

/// The directory, locked until this is dropped: one change of links at a time on the whole host.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    _lock: OwnedFd,
}

/// Everything that is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Records {
    /// The format's version.
    #[serde(default = "format::first")]
    version: u32,
    /// The /48 that inner IPv6 addresses are taken from: random, as RFC 4193 wants it, so that
    /// two hosts that are joined one day do not have the same.
    ula: Ipv6Net,
    links: BTreeMap<String, Record>,
}

/// The place of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    pool: Ipv4Net,
    index: u32,
}

impl Store {
    /// Makes the directory if it is missing, and takes the lock.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let failed =
            |action| move |source| Error::Records { action, path: directory.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make"))?;
        let opened = OwnedFd::from(File::open(directory).map_err(failed("open"))?);
        retry_on_intr(|| flock(&opened, FlockOperation::LockExclusive))
            .and_then(|()| nft::inherits(&opened))
            .map_err(|errno| failed("lock")(errno.into()))?;
        Ok(Self { directory: directory.to_owned(), _lock: opened })
    }

    /// What is recorded; a host without records gets its own /48, which is not written yet.
    pub(super) fn read(&self) -> Result<Records, Error> {
        let path = self.directory.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => format::parse(&bytes, VERSION).map_err(|why| match why {
                Unreadable::Json(source) => Error::BadRecords { path, source },
                why @ Unreadable::Newer { .. } => Error::NewerRecords { path, why },
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Records::new()
                .map_err(|source| Error::Records { action: "make up addresses for", path, source }),
            Err(source) => Err(Error::Records { action: "read", path, source }),
        }
    }

    /// Writes the file anew: a power cut leaves the old one or this one.
    fn write(&self, records: &Records) -> Result<(), Error> {
        let path = self.directory.join(FILE);
        self.write_to(&path, records).map_err(|source| Error::Records {
            action: "write",
            path,
            source,
        })
    }

    fn write_to(&self, path: &Path, records: &Records) -> io::Result<()> {
        let new = self.directory.join(".links.json.new");
        // What a killed run has left; nobody else writes here while we have the lock.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().mode(0o600).write(true).create_new(true).open(&new)?;
        serde_json::to_writer_pretty(&mut file, records)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.directory)?.sync_all()
    }

    /// The records with a place for `name` in `pool`, on disk before anybody uses it.
    pub(super) fn allocate(&self, name: &InstanceName, pool: Ipv4Net) -> Result<Records, Error> {
        let mut records = self.read()?;
        if records.allocate(name.as_str(), pool.trunc(), &self.directory.join(FILE))? {
            self.write(&records)?;
        }
        Ok(records)
    }

    /// Takes the places of those away whom `is_gone` names, and returns them. With the last one goes the
    /// file: nobody has an address of this host's /48 any more.
    pub(super) fn forget(&self, is_gone: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let mut records = self.read()?;
        let gone: Vec<String> =
            records.names().filter(|name| is_gone(name)).map(str::to_owned).collect();
        if gone.is_empty() {
            return Ok(gone);
        }
        records.links.retain(|name, _| !gone.contains(name));
        if !records.links.is_empty() {
            return self.write(&records).map(|()| gone);
        }
        let path = self.directory.join(FILE);
        match fs::remove_file(&path) {
            Err(source) => Err(Error::Records { action: "remove", path, source }),
            Ok(()) => Ok(gone),
        }
    }
}

impl Records {
    fn new() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom(bytes.get_mut(1..6).unwrap_or_default(), GetRandomFlags::empty())?;
        bytes[0] = 0xfd;
        let ula = Ipv6Net::new(Ipv6Addr::from(bytes), 48).map_err(io::Error::other)?;
        Ok(Self { version: VERSION, ula, links: BTreeMap::new() })
    }

    /// Gives `name` a place; false when it has one in this pool already.
    ///
    /// The first choice follows from the name alone, so that most hosts with the same instances have
    /// the same addresses. Who comes later and finds it taken gets the next one that is free.
    fn allocate(&mut self, name: &str, pool: Ipv4Net, path: &Path) -> Result<bool, Error> {
        let room = room(pool);
        if room == 0 {
            return Err(Error::PoolTooSmall { pool });
        }
        let kept = self.links.get(name);
        if kept.is_some_and(|kept| kept.pool == pool && kept.index < room) {
            return Ok(false);
        }
        let wanted = kept.filter(|kept| kept.index < room);
        let first = wanted.map_or_else(|| slot(name, room), |kept| kept.index);
        let free = (0..room)
            .map(|step| (first + step) % room)
            .find(|&index| !self.holds(pool, index, name));
        let index = free.ok_or_else(|| Error::PoolFull { pool, path: path.to_owned() })?;
        self.links.insert(name.to_owned(), Record { pool, index });
        Ok(true)
    }

    /// Whether anybody but `name` has this place: the index, which IPv6 addresses are made of, or
    /// IPv4 addresses of another pool that are the same.
    fn holds(&self, pool: Ipv4Net, index: u32, name: &str) -> bool {
        let address = host_end(pool, index);
        self.links.iter().any(|(other, record)| {
            other != name
                && (record.index == index || host_end(record.pool, record.index) == address)
        })
    }

    /// The ends of the link that `name` has or had.
    pub(super) fn ends(&self, name: &str) -> Option<Ends> {
        let Record { pool, index } = *self.links.get(name)?;
        let v6 = u128::from(self.ula.network()) + u128::from(index) * 2;
        Some(Ends {
            pool,
            v4: Pair {
                host: host_end(pool, index),
                inside: Ipv4Addr::from(u32::from(host_end(pool, index)) | 1),
            },
            v6: Pair { host: v6.into(), inside: (v6 | 1).into() },
        })
    }

    /// Everybody that has a record.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.links.keys().map(String::as_str)
    }

    /// What all inner IPv6 addresses of this host begin with.
    pub(super) fn ula(&self) -> Ipv6Net {
        self.ula
    }
}

/// How many links there is room for: each takes two addresses (RFC 3021).
fn room(pool: Ipv4Net) -> u32 {
    1_u32
        .checked_shl(31_u32.saturating_sub(pool.prefix_len().into()))
        .filter(|_| pool.prefix_len() < 32)
        .unwrap_or(0)
}

/// Where a name would like to be.
fn slot(name: &str, room: u32) -> u32 {
    // The digest is hexadecimal; eight digits are the whole of a u32.
    let head: String = digest(name.as_bytes()).chars().take(8).collect();
    u32::from_str_radix(&head, 16).unwrap_or_default() % room
}

fn host_end(pool: Ipv4Net, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pool.network()) | index << 1)
}

#[cfg(test)]
mod tests {
    use super::{Records, Store, room, slot};
    use instances_core::spec::InstanceName;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    const FILE: &str = "links.json";

    fn pool(text: &str) -> ipnet::Ipv4Net {
        text.parse().unwrap()
    }

    fn name(text: &str) -> InstanceName {
        InstanceName::new(text).unwrap()
    }

    #[test]
    fn a_pool_has_room_for_half_its_addresses() {
        let rooms = ["10.219.0.0/16", "10.0.0.0/8", "192.0.2.0/30", "192.0.2.0/31", "192.0.2.0/32"];
        assert_eq!(rooms.map(|text| room(pool(text))), [32768, 1 << 23, 2, 1, 0]);
        assert_eq!(room(pool("0.0.0.0/0")), 1 << 31);
    }

    #[test]
    fn adding_one_never_moves_another() {
        let small = pool("192.0.2.0/24");
        let mut records = Records::new().unwrap();
        let mut before = Vec::new();
        for number in 0..128 {
            let name = format!("i{number}");
            assert!(records.allocate(&name, small, Path::new(FILE)).unwrap());
            assert!(!records.allocate(&name, small, Path::new(FILE)).unwrap());
            before.push((name.clone(), records.ends(&name).unwrap()));
            for (name, ends) in &before {
                assert_eq!(records.ends(name).as_ref(), Some(ends));
            }
        }
        // Collisions are certain: all 128 places are taken, and each once.
        let taken: BTreeSet<_> = before.iter().map(|(_, ends)| ends.v4.host).collect();
        assert_eq!(taken.len(), 128);
        assert!(
            (0..128).any(|n| records.links[&format!("i{n}")].index != slot(&format!("i{n}"), 128))
        );
        let full = records.allocate("late", small, Path::new(FILE)).unwrap_err().to_string();
        assert!(full.contains("192.0.2.0/24") && full.contains("links.json"), "{full}");
    }

    #[test]
    fn the_place_follows_from_the_name() {
        let first = |name| {
            let mut records = Records::new().unwrap();
            records.allocate(name, pool("10.219.0.0/16"), Path::new(FILE)).unwrap();
            records.ends(name).unwrap().v4
        };
        assert_eq!(first("foo"), first("foo"));
        assert_ne!(first("foo"), first("bar"));
    }

    #[test]
    fn another_pool_keeps_the_place_if_it_can() {
        let mut records = Records::new().unwrap();
        records.allocate("foo", pool("10.219.0.0/16"), Path::new(FILE)).unwrap();
        let old = records.links["foo"].index;
        assert!(records.allocate("foo", pool("172.20.0.0/16"), Path::new(FILE)).unwrap());
        assert_eq!(records.links["foo"].index, old);
        assert!(records.ends("foo").unwrap().v4.host.to_string().starts_with("172.20."));
        assert!(records.allocate("foo", pool("192.0.2.0/30"), Path::new(FILE)).unwrap());
        assert!(records.links["foo"].index < 2);
        assert!(records.allocate("foo", pool("192.0.2.0/32"), Path::new(FILE)).is_err());
    }

    #[test]
    fn pools_that_overlap_share_no_address() {
        let mut records = Records::new().unwrap();
        let mut taken = BTreeSet::new();
        for (number, text) in
            ["10.0.0.0/28", "10.0.0.8/29", "10.0.0.0/29"].iter().cycle().take(7).enumerate()
        {
            let name = format!("i{number}");
            if records.allocate(&name, pool(text), Path::new(FILE)).is_ok() {
                assert!(taken.insert(records.ends(&name).unwrap().v4.host));
            }
        }
        assert!(taken.len() > 4);
    }

    #[test]
    fn is_written_for_root_alone_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("network");
        let store = Store::open(&inner).unwrap();
        fs::write(inner.join(".links.json.new"), "left by a killed run").unwrap();
        let records = store.allocate(&name("foo"), pool("10.219.0.0/16")).unwrap();
        assert_eq!(store.read().unwrap(), records);
        assert_eq!(store.allocate(&name("foo"), pool("10.219.0.0/16")).unwrap(), records);
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(inner.clone()), mode(inner.join(FILE))), (0o700, 0o600));
        assert_eq!(records.ula().to_string(), store.read().unwrap().ula().to_string());
        assert!(records.ula().to_string().starts_with("fd") && records.ula().prefix_len() == 48);
    }

    #[test]
    fn a_place_that_is_forgotten_is_free_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let small = pool("192.0.2.0/30");
        store.allocate(&name("foo"), small).unwrap();
        let before = store.allocate(&name("bar"), small).unwrap();
        assert!(store.allocate(&name("late"), small).is_err());
        assert_eq!(store.forget(|_| false).unwrap(), [""; 0]);
        assert_eq!(store.forget(|name| name == "foo").unwrap(), ["foo"]);
        let after = store.allocate(&name("late"), small).unwrap();
        // Nobody else moved.
        assert_eq!((after.ends("bar"), after.ula()), (before.ends("bar"), before.ula()));
        assert_eq!(after.ends("late"), before.ends("foo"));
        assert_eq!(store.forget(|_| true).unwrap(), ["bar", "late"]);
        assert!(!directory.path().join(FILE).exists());
        assert_eq!(store.forget(|_| true).unwrap(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_read_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        for text in [
            "",
            "{}",
            "{\"ula\":\"fd00::/48\",\"links\":{},\"more\":1}",
            "{\"version\":2,\"ula\":\"fd00::/48\",\"links\":{}}",
        ] {
            fs::write(directory.path().join(FILE), text).unwrap();
            assert!(store.forget(|_| true).is_err());
            let error = store.allocate(&name("foo"), pool("10.219.0.0/16")).unwrap_err();
            assert!(error.to_string().contains(FILE), "{error}");
            assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), text);
            assert_eq!(error.to_string().contains("use the program"), text.contains("version"));
        }
        // From before there were versions.
        fs::write(directory.path().join(FILE), "{\"ula\":\"fd00::/48\",\"links\":{}}").unwrap();
        assert_eq!(store.read().unwrap().ula().to_string(), "fd00::/48");
    }
}
