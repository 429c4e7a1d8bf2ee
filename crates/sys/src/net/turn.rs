//! One run for an instance at a time: two that replace the same table would each take away what the other
//! one stands on.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use instances_core::layout::RUNTIME_DIR;
use instances_core::spec::InstanceName;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use super::{Error, nft};

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: File,
}

/// Waits for whoever is at it.
pub(super) fn take(name: &InstanceName) -> Result<Turn, Error> {
    let directory = Path::new(RUNTIME_DIR).join(name.as_str());
    let lock = || -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o755).create(&directory)?;
        // Nobody else can open it, and so nobody else can hold it.
        let lock = File::options()
            .mode(0o600)
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(".net.lock"))?;
        retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))?;
        nft::inherits(&lock)?;
        Ok(lock)
    };
    lock().map(|lock| Turn { _lock: lock }).map_err(|source| Error::Turn { directory, source })
}
