//! Room on a file system, of which some is always left to the host.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat, fstatvfs};

use super::Error;

/// What is left to the host: so many bytes, on a small file system a fiftieth of it.
const RESERVE: u64 = 256 << 20;

/// How much is written between two looks.
const STRIDE: u64 = 16 << 20;

/// How large a file system is, and what is free of it without the reserve, in bytes. One that does not say is
/// endless.
fn room(of: impl AsFd) -> rustix::io::Result<[u64; 2]> {
    let system = fstatvfs(of)?;
    if system.f_blocks == 0 {
        return Ok([u64::MAX; 2]);
    }
    let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    let all = bytes(system.f_blocks);
    Ok([all, bytes(system.f_bavail).saturating_sub(RESERVE.min(all / 50))])
}

/// Requires room for so many bytes.
pub(super) fn require(directory: BorrowedFd<'_>, path: &Path, needed: u64) -> Result<(), Error> {
    let [_, free] = room(directory).map_err(Error::io("look at", path))?;
    if needed <= free {
        return Ok(());
    }
    Err(Error::Room { path: path.to_owned(), free: free >> 20, needed: (needed >> 20) + 1 })
}

/// Requires a file system that could hold so many bytes if it were empty.
pub(super) fn require_possible(
    directory: BorrowedFd<'_>,
    path: &Path,
    needed: u64,
) -> Result<(), Error> {
    let [all, _] = room(directory).map_err(Error::io("look at", path))?;
    if needed <= all { Ok(()) } else { Err(Error::Long { path: path.to_owned(), all: all >> 20 }) }
}

/// What is written to a file as long as its file system keeps the reserve. A pipe takes everything.
#[derive(Debug)]
pub(super) struct Sparing<W> {
    to: W,
    is_file: bool,
    /// What may be written until the next look.
    left: u64,
}

impl<W: AsFd> Sparing<W> {
    /// Looks at what it is.
    pub(super) fn new(to: W) -> Self {
        let stat = fstat(&to);
        let is_file =
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        Self { to, is_file, left: 0 }
    }
}

impl<W: Write + AsFd> Write for Sparing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_file && self.left < bytes.len() as u64 {
            let [_, free] = room(&self.to)?;
            self.left = free.min(STRIDE);
            if self.left < bytes.len() as u64 {
                let words = format!(
                    "{} MiB are left, without a reserve for the host; make room there",
                    free >> 20
                );
                return Err(io::Error::new(io::ErrorKind::StorageFull, words));
            }
        }
        let count = self.to.write(bytes)?;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
