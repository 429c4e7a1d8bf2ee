//! The root of an instance's sandboxes, as it is before systemd mounts anything in it: the names of the instance's
//! accounts, links of `/etc` to the generated files, and links to the programs.
//!
//! Only root writes in it, and every sandbox shows it read-only. What is a link here is no mount of a sandbox, which
//! systemd makes slowly, and slower the more mounts the host has.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use instances_core::controls::BARE_SYS_DIR;
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use thiserror::Error;

use crate::accounts::{self, Account};

/// The sandbox's `/etc`, with the names of accounts, below the directory of an instance's volatile files.
pub(crate) const ETC: &str = "root/etc";
/// What distributions with a merged `/usr` have links for. Not each has all of them.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Why there is no root.
#[derive(Debug, Error)]
pub enum Error {
    /// Names or numbers of accounts.
    #[error(transparent)]
    Accounts(#[from] accounts::Error),
    /// The kernel refused.
    #[error("cannot {doing} {path}; the unit needs RuntimeDirectory= for it, with room")]
    Write {
        /// `read`, `make`.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The sandbox shows `/usr` alone.
    #[error(
        "/{0} is no link into /usr on this host, so that no sandbox would have its programs; merge them with the \
         package usrmerge, or as the distribution says"
    )]
    Unmerged(&'static str),
}

/// Makes the root of the instance's sandboxes, or brings what is there up to date.
pub fn make(
    name: &InstanceName,
    account: &Account<'_>,
    files: &[String],
    getent: &Path,
    merged_usr: bool,
) -> Result<(), Error> {
    let (root, generated) = (PathBuf::from(Names(name).root()), Names(name).etc());
    let etc = root.join("etc");
    directory(&etc).map_err(failed("make", &etc))?;
    bare_sys(Path::new(BARE_SYS_DIR))?;
    accounts::write(&etc, account, getent)?;
    link_files(&etc, Path::new(&generated), files)?;
    if merged_usr { link_programs(&root, Path::new("/")) } else { Ok(()) }
}

/// What all instances have at `/sys`, see `instances_core::controls`, with the places that something is mounted at.
fn bare_sys(sys: &Path) -> Result<(), Error> {
    for path in places(sys) {
        directory(&path).map_err(failed("make", &path))?;
    }
    Ok(())
}

fn places(sys: &Path) -> [PathBuf; 5] {
    ["", "devices", "devices/system", "fs", "fs/cgroup"].map(|below| sys.join(below))
}

/// Takes away what all instances have in common, when there are none any more.
pub(crate) fn clear() {
    for path in places(Path::new(BARE_SYS_DIR)).iter().rev() {
        // What is no empty directory is not ours.
        let _ = fs::remove_dir(path);
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { doing, path, source }
}

fn directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Links in `etc` to generated files.
fn link_files(etc: &Path, generated: &Path, files: &[String]) -> Result<(), Error> {
    for file in files {
        let place = etc.join(file);
        link(&generated.join(file), &place).map_err(failed("make", &place))?;
    }
    Ok(())
}

/// The links of the host at the same places, where they lead into `/usr`.
fn link_programs(root: &Path, host: &Path) -> Result<(), Error> {
    for (name, target) in merged(host)? {
        let place = root.join(name);
        link(&target, &place).map_err(failed("make", &place))?;
    }
    Ok(())
}

/// The host's links into `/usr`.
fn merged(host: &Path) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let mut links = Vec::new();
    for name in MERGED {
        let of_host = host.join(name);
        let target = match fs::read_link(&of_host) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(Error::Unmerged(name));
            }
            Err(error) => return Err(failed("read", &of_host)(error)),
        };
        if !Path::new("/").join(&target).starts_with("/usr") {
            return Err(Error::Unmerged(name));
        }
        links.push((*name, target));
    }
    Ok(links)
}

/// Refuses a host whose programs no sandbox would have.
pub fn suits() -> Result<(), Error> {
    merged(Path::new("/")).map(drop)
}

/// A link at `place`, where a mount point of an earlier version may be.
fn link(target: &Path, place: &Path) -> io::Result<()> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(_) if fs::read_link(place).is_ok_and(|there| there == target) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir(place)?,
        Ok(_) => fs::remove_file(place)?,
    }
    symlink(target, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_what_is_generated_and_replace_mount_points() {
        let stage = tempfile::tempdir().unwrap();
        let (etc, generated) = (stage.path().join("etc"), stage.path().join("generated"));
        directory(&etc).unwrap();
        fs::create_dir(&generated).unwrap();
        fs::write(generated.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(etc.join("hosts"), "").unwrap();
        for _ in 0..2 {
            link_files(&etc, &generated, &["hosts".to_owned()]).unwrap();
            assert_eq!(fs::read_link(etc.join("hosts")).unwrap(), generated.join("hosts"));
        }
    }

    #[test]
    fn programs_are_where_the_host_has_them() {
        let stage = tempfile::tempdir().unwrap();
        let (root, host) = (stage.path().join("root"), stage.path().join("host"));
        fs::create_dir_all(root.join("lib")).unwrap();
        fs::create_dir(&host).unwrap();
        symlink("usr/bin", host.join("bin")).unwrap();
        symlink("/usr/lib", host.join("lib")).unwrap();
        for _ in 0..2 {
            link_programs(&root, &host).unwrap();
            assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
            assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("/usr/lib"));
            assert!(!root.join("sbin").exists());
        }
    }

    #[test]
    fn a_host_without_a_merged_usr_is_refused() {
        let stage = tempfile::tempdir().unwrap();
        let (root, host) = (stage.path().join("root"), stage.path().join("host"));
        fs::create_dir_all(host.join("bin")).unwrap();
        fs::create_dir(&root).unwrap();
        let refused =
            |name| matches!(link_programs(&root, &host), Err(Error::Unmerged(at)) if at == name);
        assert!(refused("bin"));
        fs::remove_dir(host.join("bin")).unwrap();
        symlink("/opt/bin", host.join("bin")).unwrap();
        assert!(refused("bin"));
        symlink("../usr/../home", host.join("sbin")).unwrap();
        fs::remove_file(host.join("bin")).unwrap();
        assert!(refused("sbin"));
    }
}
