//! Room on a file system, of which some is always left to the host.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::fstatvfs;

use super::Error;

/// What is left to the host: so many bytes, on a small file system a fiftieth of it.
const RESERVE: u64 = 256 << 20;

/// Requires room for so many bytes.
pub(super) fn require(directory: BorrowedFd<'_>, path: &Path, needed: u64) -> Result<(), Error> {
    let system = fstatvfs(directory).map_err(Error::io("look at", path))?;
    let of = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    let reserve = RESERVE.min(of(system.f_blocks) / 50);
    let free = of(system.f_bavail).saturating_sub(reserve);
    if needed <= free {
        return Ok(());
    }
    Err(Error::Room { path: path.to_owned(), free: free >> 20, needed: (needed >> 20) + 1 })
}
