//! Which opencode a package is.
//!
//! npm's packages say it in a file beside the program, and a program that Bun built in the arguments at
//! its end. Any other one is asked, which takes most of a second: as nobody, in a home that is gone
//! afterwards, and never from a directory of somebody else's, whose modules it would load.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use instances_core::facts::HostFacts;
use instances_core::spec::Spec;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;

use crate::environment::program_of;
use crate::trust;

/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what it has printed may take to arrive once it has ended.
const REST: Duration = Duration::from_secs(2);
/// The user and group of nobody.
const NOBODY: u32 = 65534;
/// How much of a program's end is looked at, in bytes.
const END: u64 = 64 << 10;
/// More than the document takes, in bytes.
const MAX: u64 = 64 << 20;

/// Adds the version of every package of enabled instances to the facts, as far as it can be known.
pub fn observe(spec: &Spec, facts: &mut HostFacts) {
    // Each once, also those of which nothing can be known.
    let packages: BTreeSet<&str> =
        spec.enabled().map(|instance| instance.package.as_str()).collect();
    for package in packages {
        if !facts.opencode.contains_key(package)
            && let Some(version) = version(Path::new(package))
        {
            facts.opencode.insert(package.to_owned(), version);
        }
    }
}

/// The version of a package: a program, or the prefix that holds it.
pub(crate) fn version(package: &Path) -> Option<String> {
    told(package).ok()
}

/// The same, or why nobody can say it.
pub(crate) fn told(package: &Path) -> Result<String, Error> {
    let program = found(package)?;
    // Whoever else could have put it there could keep its reader waiting, or run as its reader.
    trust::program_of_root(&program)?;
    let version = match of_npm(&program).or_else(|| built_in(&program)) {
        Some(version) => version,
        None => ask(&program, "--version")?.trim().to_owned(),
    };
    if is_version(&version) { Ok(version) } else { Err(Error::NoVersion(program)) }
}

fn found(package: &Path) -> Result<PathBuf, Error> {
    let program = fs::canonicalize(program_of(package));
    program.map_err(|error| Error::Missing(package.to_owned(), error))
}

#[derive(Deserialize)]
struct Manifest {
    name: String,
    version: String,
}

/// What npm wrote beside the program.
fn of_npm(program: &Path) -> Option<String> {
    let manifest = program.parent()?.parent()?.join("package.json");
    let mut text = String::new();
    regular(&manifest)?.take(END).read_to_string(&mut text).ok()?;
    let Manifest { name, version } = serde_json::from_str(&text).ok()?;
    name.starts_with("opencode").then_some(version)
}

/// Opens a file that is one, without waiting for anybody.
fn regular(path: &Path) -> Option<fs::File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::File::from(open(path, flags, Mode::empty()).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

/// What its arguments say that Bun put at the end of the program.
fn built_in(program: &Path) -> Option<String> {
    const MARK: &[u8] = b"--user-agent=opencode/";
    let mut file = regular(program)?;
    let length = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes).ok()?;
    let at = bytes.windows(MARK.len()).rposition(|window| window == MARK)?;
    let plain = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+');
    let version = bytes.get(at + MARK.len()..)?.iter().take_while(plain);
    Some(version.map(|byte| char::from(*byte)).collect())
}

/// Why a program was not asked, or gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error(
        "cannot find the program of {0}; name the opencode binary, or the prefix that holds it"
    )]
    Missing(PathBuf, #[source] io::Error),
    /// Somebody else than root could have put it there, and root would run it.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// It could not be run.
    #[error("cannot run {0}")]
    Run(PathBuf, #[source] io::Error),
    /// It failed, or took too long.
    #[error("{0} gave no answer; run it by hand to see why")]
    Silent(PathBuf),
    /// It is some other program.
    #[error("{0} says no version of opencode")]
    NoVersion(PathBuf),
}

/// What `opencode generate` of a package prints: a document with the schema of its configuration.
pub fn openapi(package: &Path) -> Result<String, Error> {
    ask(&found(package)?, "generate")
}

/// Runs the program with one argument, as nobody where this is root, and returns what it prints.
fn ask(program: &Path, argument: &str) -> Result<String, Error> {
    let failed = |error| Error::Run(program.to_owned(), error);
    let is_root = rustix::process::geteuid().is_root();
    trust::program_of_root(program)?;
    let home = tempfile::tempdir().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg(argument).current_dir("/").env_clear();
    command.env("HOME", home.path()).env("TMPDIR", home.path()).env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if is_root {
        chown(home.path(), Some(NOBODY), Some(NOBODY)).map_err(failed)?;
        command.uid(NOBODY).gid(NOBODY);
    }
    // What it starts is in its group, and ends with it.
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    let group = Pid::from_child(&child);
    let output = child.stdout.take();
    let (sender, answer) = mpsc::channel();
    // It is read all the while: a pipe holds less than a document.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.map(|pipe| pipe.take(MAX).read_to_string(&mut text));
        let _ = sender.send(matches!(read, Some(Ok(_))).then_some(text));
    });
    wait(group);
    // Before it is reaped: as long, the number of the group is nobody else's.
    let _ = kill_process_group(group, Signal::KILL);
    let ended = child.wait().is_ok_and(|status| status.success());
    // What has left the group may hold the pipe for ever.
    let text = answer.recv_timeout(REST).ok().flatten().filter(|_| ended);
    text.ok_or_else(|| Error::Silent(program.to_owned()))
}

/// Waits until the process has ended, or has had its time, and leaves it to be reaped.
fn wait(process: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match waitid(WaitId::Pid(process), options) {
            Ok(None) | Err(Errno::INTR) => std::thread::sleep(Duration::from_millis(5)),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

fn is_version(text: &str) -> bool {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+');
    digits && text.len() <= 64 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn program(at: &Path, text: &str) {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        crate::script::write(at, text);
    }

    /// A place where only root can write; nothing without root.
    fn of_root() -> Option<tempfile::TempDir> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return None;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(directory)
    }

    #[test]
    fn npm_says_it_without_a_program_that_runs() {
        let Some(directory) = of_root() else { return };
        let at = directory.path().join("opencode-ai/bin/opencode");
        program(&at, "#!/bin/sh\ntouch ran\n");
        let manifest = directory.path().join("opencode-ai/package.json");
        fs::write(&manifest, r#"{"name":"opencode-ai","version":"1.18.33"}"#).unwrap();
        assert_eq!(version(&at).as_deref(), Some("1.18.33"));
        assert_eq!(version(&directory.path().join("opencode-ai")).as_deref(), Some("1.18.33"));
        fs::write(&manifest, r#"{"name":"opencode-ai","version":"$(evil)"}"#).unwrap();
        assert_eq!(version(&at), None);
    }

    #[test]
    fn bun_says_it_at_the_end() {
        let Some(directory) = of_root() else { return };
        let at = directory.path().join("bin/opencode");
        program(&at, &format!("{}--user-agent=opencode/1.18.33\0rest", "x".repeat(200_000)));
        assert_eq!(version(&at).as_deref(), Some("1.18.33"));
    }

    #[test]
    fn a_program_is_asked_as_nobody_and_only_one_of_roots() {
        let Some(directory) = of_root() else { return };
        let at = directory.path().join("opencode");
        program(
            &at,
            "#!/bin/sh\n[ \"$(id -u)$PWD\" = 65534/ ] && touch \"$HOME/x\" && echo 9.8.7\n",
        );
        assert_eq!(version(&at).as_deref(), Some("9.8.7"));
        program(&at, "#!/bin/sh\necho 1.2.3; exit 1\n");
        assert_eq!(version(&at), None);
        program(&at, "#!/bin/sh\necho 1.2.3\n");
        chown(&at, Some(NOBODY), None).unwrap();
        assert_eq!(version(&at), None);
        let why = told(Path::new("/nonexistent/x")).unwrap_err().to_string();
        assert!(why.contains("cannot find the program of /nonexistent/x"), "{why}");
    }

    #[test]
    fn what_a_program_leaves_behind_keeps_nobody_waiting() {
        let Some(directory) = of_root() else { return };
        let at = directory.path().join("opencode");
        let note = directory.path().join("note");
        fs::write(&note, "").unwrap();
        chown(&note, Some(NOBODY), None).unwrap();
        let began = Instant::now();
        let note_of = note.display();
        let text = format!("#!/bin/sh\nsleep 1000 &\necho $! >{note_of}\necho 9.8.7\n");
        program(&at, &text);
        assert_eq!(version(&at).as_deref(), Some("9.8.7"));
        assert!(is_gone(&note), "it is still there");
        // One that has left the group can only be left alone.
        fs::write(&note, "").unwrap();
        let leaves = format!("setsid sh -c 'echo $$ >{note_of}; exec sleep 20' &");
        let text = format!("#!/bin/sh\n{leaves}\nuntil [ -s {note_of} ]; do :; done; echo 9.8.7\n");
        program(&at, &text);
        assert_eq!(version(&at), None);
        assert!(!is_gone(&note));
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }

    /// Whether the process whose number is noted has ended, or does so soon.
    fn is_gone(note: &Path) -> bool {
        let pid = fs::read_to_string(note).unwrap();
        let line = format!("/proc/{}/cmdline", pid.trim());
        // That of one which nobody has reaped yet is empty.
        (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            fs::read(&line).unwrap_or_default().is_empty()
        })
    }
}
