//! The environment of the server and of the operator's scripts: what this process was given, without
//! what is between systemd and this process, and with the operator's programs in front.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What systemd tells this process and nobody below it is to take for itself. The last one moves the
/// configuration that outranks all others; it exists for opencode's own tests.
const NOT_HANDED_ON: [&str; 5] = [
    "NOTIFY_SOCKET",
    "CREDENTIALS_DIRECTORY",
    "JOURNAL_STREAM",
    "MAINPID",
    "OPENCODE_TEST_MANAGED_CONFIG_DIR",
];

/// Prepares the environment of a command that inherits the one of this process.
pub(crate) fn hand_on(command: &mut Command, prefixes: &[PathBuf]) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if NOT_HANDED_ON.contains(&&*text)
            || text.starts_with("LISTEN_")
            || text.starts_with("WATCHDOG_")
        {
            command.env_remove(&name);
        }
    }
    if let Some(path) = search_path(prefixes, std::env::var_os("PATH")) {
        command.env("PATH", path);
    }
}

/// Takes a list of prefixes apart, as `--path` has it.
pub fn prefixes(list: &OsString) -> Vec<PathBuf> {
    std::env::split_paths(list).collect()
}

/// The program that a path stands for: of a directory, its `bin/opencode`.
pub fn program_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("bin/opencode") } else { path.to_owned() }
}

/// `PATH`: what the operator named, and then what was inherited. Of a prefix its `bin` and `sbin`
/// count, and a directory that has neither counts itself.
fn search_path(prefixes: &[PathBuf], inherited: Option<OsString>) -> Option<OsString> {
    let of_prefix = |prefix: &PathBuf| {
        let inner: Vec<PathBuf> = ["bin", "sbin"]
            .map(|name| prefix.join(name))
            .into_iter()
            .filter(|directory| directory.is_dir())
            .collect();
        if inner.is_empty() { vec![prefix.clone()] } else { inner }
    };
    let own = prefixes.iter().flat_map(of_prefix);
    let inherited = inherited.unwrap_or_default();
    // A colon in a prefix is refused long before; an empty entry would be the current directory.
    let rest = std::env::split_paths(&inherited).filter(|one| !one.as_os_str().is_empty());
    std::env::join_paths(own.chain(rest)).ok().filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_programs_come_first() {
        let prefix = tempfile::tempdir().unwrap();
        std::fs::create_dir(prefix.path().join("bin")).unwrap();
        let list = prefixes(&format!("{}:/plain", prefix.path().display()).into());
        let wanted = format!("{}/bin:/plain:/usr/bin", prefix.path().display());
        assert_eq!(search_path(&list, Some(":/usr/bin:".into())), Some(wanted.into()));
        assert_eq!(search_path(&[], None), None);
    }

    #[test]
    fn a_prefix_stands_for_its_program() {
        let prefix = tempfile::tempdir().unwrap();
        assert_eq!(program_of(Path::new("/usr/bin/opencode")), Path::new("/usr/bin/opencode"));
        assert_eq!(program_of(prefix.path()), prefix.path().join("bin/opencode"));
    }
}
