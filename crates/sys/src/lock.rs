//! One `apply` or `remove` at a time, and one backup or restore of an instance.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use instances_core::layout::RUNTIME_DIR;
use instances_core::spec::InstanceName;
use rustix::fs::{FlockOperation, flock};

use crate::files::{self, Root, at};

/// The lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another run holds it; waiting could hide that it hangs.
    #[error("another apply or remove is running; wait for it, then run this again")]
    Busy,
    /// Somebody who may not change the host.
    #[error("only root can change what is installed; run this as root")]
    Denied,
    /// The lock's file.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Held until dropped; the kernel releases it when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock below `root`.
pub fn take(root: &Root) -> Result<Lock, Error> {
    match open(root) {
        Err(Error::File(error)) if error.source.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::Denied)
        }
        other => other,
    }
}

/// Takes the lock of an instance's state.
pub fn take_state(name: &InstanceName) -> Result<Lock, Error> {
    hold(&Root::new("/".as_ref()), &format!(".state-{name}.lock"))
}

fn open(root: &Root) -> Result<Lock, Error> {
    hold(root, ".lock")
}

fn hold(root: &Root, name: &str) -> Result<Lock, Error> {
    let directory = root.path(RUNTIME_DIR);
    fs::create_dir_all(&directory).map_err(at("make", &directory))?;
    // No instance can have such a name, and nobody else can open it to hold the lock.
    let path = directory.join(name);
    let file = File::options()
        .mode(0o600)
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Busy),
        Err(errno) => Err(at("lock", &path)(io::Error::from(errno)).into()),
    }
}
