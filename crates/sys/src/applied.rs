//! The way back: the specification and the program of the last `apply` that was not stopped at a server.
//!
//! Both lie in a directory of root's alone, and are replaced only when in another one everybody has had his turn. So
//! what an `apply` that is stopped names as the way back is what the servers ran with before.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use instances_core::layout::APPLIED_DIR;
use instances_core::node::Format;

use crate::files::{self, Root, at, make_directories, sync};
use crate::program::same;

/// The program's name.
const ENGINE: &str = "opencode-instances";
/// The specification's, by its format.
const SPECS: [(Format, &str); 2] =
    [(Format::Toml, "instances.toml"), (Format::Json, "instances.json")];

/// What was applied last, where that is another than what is applied now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Where its program is.
    pub engine: Option<PathBuf>,
    /// Where its specification is.
    pub spec: Option<PathBuf>,
    /// Whether it is known what was applied last.
    pub known: bool,
}

/// Looks for what was applied before this specification and program.
///
/// # Errors
///
/// When a file cannot be read.
pub fn earlier(root: &Root, text: &str, engine: &Path) -> Result<Earlier, files::Error> {
    let directory = root.path(APPLIED_DIR);
    let mut earlier = Earlier::default();
    for (_, name) in SPECS {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(kept) => {
                earlier.known = true;
                earlier.spec = (kept != text.as_bytes()).then_some(path);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("read", &path)(error)),
        }
    }
    let kept = directory.join(ENGINE);
    if kept.exists() && !same(&kept, engine).map_err(at("read", &kept))? {
        earlier.engine = Some(kept);
    }
    Ok(earlier)
}

/// Keeps what has been applied to its end.
///
/// # Errors
///
/// When it cannot be written.
pub fn keep(root: &Root, format: Format, text: &str, engine: &Path) -> Result<(), files::Error> {
    let directory = root.path(APPLIED_DIR);
    let parent = directory.parent().unwrap_or(&directory);
    make_directories(parent).map_err(at("make", parent))?;
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => sync(parent)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at("make", &directory)(error)),
    }
    let program = directory.join(ENGINE);
    let mut changed = false;
    if !same(&program, engine).unwrap_or(false) {
        let content = File::open(engine).map_err(at("read", engine))?;
        replace(&program, 0o755, content).map_err(at("write", &program))?;
        changed = true;
    }
    for (other, name) in SPECS {
        let path = directory.join(name);
        if other != format {
            changed |= remove(&path).map_err(at("remove", &path))?;
        } else if fs::read(&path).map_or(true, |kept| kept != text.as_bytes()) {
            replace(&path, 0o600, text.as_bytes()).map_err(at("write", &path))?;
            changed = true;
        }
    }
    if changed { sync(&directory) } else { Ok(()) }
}

/// Forgets it, as nothing is installed any more.
///
/// # Errors
///
/// When it cannot be removed.
pub fn forget(root: &Root) -> Result<(), files::Error> {
    let directory = root.path(APPLIED_DIR);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(at("remove", &directory)(error))
        }
        _ => Ok(()),
    }
}

/// Whether there was something to remove.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, mode: u32, mut content: impl io::Read) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    let new = path.with_file_name(format!(".{}.new", name.display()));
    // What a killed run has left.
    remove(&new)?;
    let mut file = File::options().mode(mode).write(true).create_new(true).open(&new)?;
    io::copy(&mut content, &mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.flush()?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_to_its_end_is_the_way_back() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let engine = directory.path().join("engine");
        fs::write(&engine, "one").unwrap();
        assert_eq!(earlier(&root, "a", &engine).unwrap(), Earlier::default());
        keep(&root, Format::Toml, "a", &engine).unwrap();
        let known = Earlier { known: true, ..Earlier::default() };
        assert_eq!(earlier(&root, "a", &engine).unwrap(), known);
        fs::write(&engine, "two").unwrap();
        let place = root.path(APPLIED_DIR);
        let found = earlier(&root, "b", &engine).unwrap();
        assert_eq!(found.engine, Some(place.join(ENGINE)));
        assert_eq!(found.spec, Some(place.join("instances.toml")));
        assert_eq!(fs::read(place.join(ENGINE)).unwrap(), b"one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&place), 0o700);
        assert_eq!(mode(&place.join("instances.toml")), 0o600);
        // A specification of the other format takes its place.
        keep(&root, Format::Json, "{}", &engine).unwrap();
        let found = earlier(&root, "b", &engine).unwrap();
        assert_eq!(found.engine, None);
        assert_eq!(found.spec, Some(place.join("instances.json")));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2);
        forget(&root).unwrap();
        forget(&root).unwrap();
        assert_eq!(earlier(&root, "a", &engine).unwrap(), Earlier::default());
    }
}
