//! How each member of an archive begins: a header of POSIX tar, and one of `pax` before it where a name,
//! a target or a size does not fit.
//!
//! Made from the manifest alone, with nothing left to choose, so that `restore` compares bytes where
//! others parse.

use super::manifest::{Entry, Kind};
use super::path::TreePath;

/// The first member.
pub const MANIFEST: &str = "manifest.json";
/// The directory in the archive that stands for HOME.
pub const HOME: &str = "state";
/// What a header and the end of data are filled up to.
pub const BLOCK: usize = 512;
/// The blocks of zeros at the end of an archive.
pub const END: usize = 2 * BLOCK;
/// The latest time that a header holds.
pub const LATEST: u64 = 0o777_7777_7777;
/// The longest size that a header holds.
const LONGEST: u64 = 0o777_7777_7777;
/// The longest name and target that a header holds.
const NAME: usize = 100;

/// How many zeros follow data of that size.
pub fn padding(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).unwrap_or_default()
}

/// What stands before the data of the manifest.
pub fn of_manifest(size: u64) -> [u8; BLOCK] {
    header(&Fields {
        name: MANIFEST.as_bytes(),
        kind: b'0',
        mode: 0o600,
        size,
        ..Fields::default()
    })
}

/// How long the manifest is by the first header of an archive, if that is one.
pub fn manifest_size(found: &[u8; BLOCK]) -> Option<u64> {
    let digits = found.get(124..135)?;
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
    (of_manifest(size) == *found).then_some(size)
}

/// What stands before the data of an entry.
pub fn of_entry(entry: &Entry) -> Vec<u8> {
    let name = name_of(&entry.path);
    let target = entry.target.as_ref().map(super::path::Bytes::as_bytes).unwrap_or_default();
    let mut records = Vec::new();
    if name.len() > NAME {
        records.extend(record(b"path", &name));
    }
    if target.len() > NAME {
        records.extend(record(b"linkpath", target));
    }
    if entry.size > LONGEST {
        records.extend(record(b"size", entry.size.to_string().as_bytes()));
    }
    let mut bytes = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let size = records.len() as u64;
        let fields = Fields { name: b"pax", kind: b'x', mode: 0o600, size, ..Fields::default() };
        bytes.extend(header(&fields));
        bytes.extend(&records);
        bytes.resize(bytes.len() + padding(size), 0);
    }
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::Link => b'2',
        Kind::Directory => b'5',
    };
    let (mode, mtime) = (entry.mode, entry.mtime);
    let size = if entry.size > LONGEST { 0 } else { entry.size };
    bytes.extend(header(&Fields { name: &name, kind, mode, size, mtime, target }));
    bytes
}

fn name_of(path: &TreePath) -> Vec<u8> {
    [HOME.as_bytes(), b"/", path.as_bytes()].concat()
}

/// A record of `pax`, which begins with its own length.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    kind: u8,
    mode: u32,
    size: u64,
    mtime: u64,
    target: &'a [u8],
}

fn header(fields: &Fields<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in block.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, fields.name.get(..NAME).unwrap_or(fields.name));
    put(100, format!("{:07o}", fields.mode).as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", fields.size).as_bytes());
    put(136, format!("{:011o}", fields.mtime).as_bytes());
    put(148, b"        ");
    put(156, &[fields.kind]);
    put(157, fields.target.get(..NAME).unwrap_or(fields.target));
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in block.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(148, format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::path::Bytes;

    fn entry(path: &str, kind: Kind, size: u64, target: Option<&str>) -> Entry {
        Entry {
            path: TreePath::new(path).unwrap(),
            kind,
            size,
            mode: 0o640,
            mtime: 1_700_000_000,
            sha256: String::new(),
            target: target.map(Bytes::new),
        }
    }

    #[test]
    fn a_header_is_that_of_posix() {
        let bytes = of_entry(&entry("a/b", Kind::File, 5, None));
        assert_eq!(bytes.len(), BLOCK);
        assert!(bytes.starts_with(b"state/a/b\0"));
        assert_eq!(&bytes[124..136], b"00000000005\0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        let digits: u32 = bytes[148..156].iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(&bytes[148..156], format!("{:06o}\0 ", sum - digits + 8 * 32).as_bytes());
    }

    #[test]
    fn what_does_not_fit_stands_before_it() {
        let long = "d/".repeat(90) + "e";
        let bytes = of_entry(&entry(&long, Kind::Link, 0, Some(&"t".repeat(300))));
        assert_eq!(bytes.len() % BLOCK, 0);
        assert_eq!(bytes[156], b'x');
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains(&format!("197 path=state/{long}\n")), "{text}");
        assert!(text.contains(&format!("314 linkpath={}\n", "t".repeat(300))));
        let huge = of_entry(&entry("a", Kind::File, 1 << 40, None));
        assert!(String::from_utf8_lossy(&huge).contains("22 size=1099511627776\n"));
    }

    #[test]
    fn only_its_own_header_says_how_long_the_manifest_is() {
        let header = of_manifest(12_345);
        assert_eq!(manifest_size(&header), Some(12_345));
        for at in 0..BLOCK {
            let mut other = header;
            other[at] ^= 1;
            assert_ne!(manifest_size(&other), Some(12_345), "byte {at}");
        }
    }
}
