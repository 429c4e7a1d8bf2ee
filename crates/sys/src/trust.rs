//! What must hold on the host before root hands anything over to units: programs that only root can
//! replace, and state directories that nobody else uses.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use instances_core::facts::HostFacts;
use instances_core::spec::Instance;

use crate::systemctl;

/// Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Units run it as root, or as every instance's user.
    #[error(
        "{program} cannot be trusted: {part} {what}; install it where only root can write, for \
         example in /usr/local/bin"
    )]
    Program {
        /// The program.
        program: PathBuf,
        /// The part of its path that is at fault.
        part: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It would get another owner and mode 0700.
    #[error(
        "stateDir {path} of `{instance}` exists, and {what}; name a directory that does not exist, \
         or chown it to {user} if nothing else uses it"
    )]
    State {
        /// The directory.
        path: String,
        /// Whose it would become.
        instance: String,
        /// Its user.
        user: String,
        /// What is there.
        what: String,
    },
    /// It could not be looked at.
    #[error("cannot look at {0}")]
    Look(PathBuf, #[source] io::Error),
}

/// Requires that only root can replace what units run.
pub fn programs(facts: &HostFacts) -> Result<(), Error> {
    [&facts.engine, &facts.nft, &facts.socket_proxyd, &facts.shell]
        .into_iter()
        .try_for_each(|program| program_of_root(Path::new(program.as_str())))
}

fn program_of_root(program: &Path) -> Result<(), Error> {
    let look = |path: &Path, error| Error::Look(path.to_owned(), error);
    let real = fs::canonicalize(program).map_err(|error| look(program, error))?;
    let parts: BTreeSet<&Path> = program.ancestors().chain(real.ancestors()).collect();
    for part in parts {
        let metadata = fs::symlink_metadata(part).map_err(|error| look(part, error))?;
        if let Some(what) = replaceable(&metadata) {
            return Err(Error::Program {
                program: program.to_owned(),
                part: part.to_owned(),
                what,
            });
        }
    }
    Ok(())
}

/// Why somebody else than root can replace it, if so.
fn replaceable(metadata: &Metadata) -> Option<String> {
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != 0 {
        return Some(format!("belongs to user {}", metadata.uid()));
    }
    // The mode of a symbolic link means nothing.
    (!metadata.is_symlink() && mode & 0o022 != 0)
        .then(|| format!("can be written by others (mode {mode:04o})"))
}

/// Requires that a state directory which systemd-tmpfiles would give to the instance is free: not
/// there, empty and root's, or the instance's already.
pub fn state_directory(instance: &Instance) -> Result<(), Error> {
    if instance.state_leaf().is_some() {
        return Ok(());
    }
    let path = Path::new(instance.state_dir.as_str());
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Look(path.to_owned(), error)),
    };
    let refuse = |what: String| Error::State {
        path: instance.state_dir.to_string(),
        instance: instance.name.to_string(),
        user: instance.user.to_string(),
        what,
    };
    if !metadata.is_dir() {
        return Err(refuse("it is no directory".to_owned()));
    }
    if Some(metadata.uid()) == user_id(instance.user.as_str()) {
        return Ok(());
    }
    let empty =
        fs::read_dir(path).map_err(|error| Error::Look(path.to_owned(), error))?.next().is_none();
    if metadata.uid() == 0 && empty {
        return Ok(());
    }
    let content = if empty { "" } else { " and is not empty" };
    Err(refuse(format!("belongs to user {}{content}", metadata.uid())))
}

/// The number of a user; `None` when there is no such user yet.
fn user_id(user: &str) -> Option<u32> {
    let line = systemctl::run("getent", &["passwd", user]).ok()?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn refusal(path: &Path) -> String {
        program_of_root(path).map_or_else(|error| error.to_string(), |()| "trusted".to_owned())
    }

    #[test]
    fn a_program_that_others_can_replace_is_refused() {
        assert_eq!(refusal(Path::new("/usr/bin/env")), "trusted");
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "").unwrap();
        // Below a directory that everybody can write, whatever its own owner.
        assert!(refusal(&program).contains("/var/tmp can be written by others"));
        assert!(refusal(Path::new("/nonexistent/x")).contains("cannot look at"));
    }

    #[test]
    fn every_part_counts_and_links_are_followed() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let (program, link) = (directory.path().join("program"), directory.path().join("link"));
        fs::write(&program, "").unwrap();
        symlink(&program, &link).unwrap();
        assert_eq!((refusal(&program), refusal(&link)), ("trusted".into(), "trusted".into()));
        chown(&program, Some(1), None).unwrap();
        assert!(refusal(&link).contains("belongs to user 1"));
        chown(&program, Some(0), None).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(refusal(&program).contains("mode 0775"));
    }
}
