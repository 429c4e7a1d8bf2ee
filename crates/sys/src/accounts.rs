//! The `passwd` and `group` that an instance sees: root, nobody and itself.
//!
//! The numbers come from the host's `getent`, so that users from any name service work, and
//! nothing else of the host's accounts is visible inside.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

/// The account of an instance, as its unit names it.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// `User=`.
    pub user: &'a str,
    /// `Group=`.
    pub group: &'a str,
    /// `SupplementaryGroups=`.
    pub supplementary: &'a [&'a str],
    /// The HOME inside the sandbox.
    pub home: &'a str,
    /// The login shell inside the sandbox, usually `/bin/bash`.
    pub shell: &'a str,
}

/// Why the files were not written.
#[derive(Debug, Error)]
pub enum Error {
    /// The value would become more than one field or line.
    #[error("{value:?} cannot be the {field} of an account; use a value without {avoid}")]
    Value {
        /// Which value.
        field: &'static str,
        /// What was given.
        value: String,
        /// What to leave out.
        avoid: &'static str,
    },
    /// The host does not know it.
    #[error("the {database} {name} does not exist; create it: {remedy}")]
    Missing {
        /// `user` or `group`.
        database: &'static str,
        /// Its name.
        name: String,
        /// The command that creates it.
        remedy: String,
    },
    /// Such an account would make the sandbox pointless.
    #[error("the {database} {name} has the id {id} of root or nobody; use one of its own")]
    Reserved {
        /// `user` or `group`.
        database: &'static str,
        /// Its name.
        name: String,
        /// Its number.
        id: u32,
    },
    /// `getent` could not be started, or failed otherwise.
    #[error(
        "cannot look up the {database} {name} with {getent}: {reason}; try: {getent} {database} {name}"
    )]
    Lookup {
        /// `passwd` or `group`.
        database: &'static str,
        /// What was looked up.
        name: String,
        /// The program.
        getent: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The directory is missing, or not ours alone.
    #[error("cannot write into {path}: {reason}; the unit needs RuntimeDirectory= for it")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refused to write.
    #[error("cannot write {path}; check that its file system has room and is writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Writes `passwd` and `group` into `directory`, each atomically, and leaves equal ones alone.
pub fn write(directory: &Path, account: &Account<'_>, getent: &Path) -> Result<(), Error> {
    account.validate()?;
    let user = own("user", account.user, lookup(getent, "passwd", account.user)?)?;
    let group = own("group", account.group, lookup(getent, "group", account.group)?)?;
    let mut supplementary = Vec::new();
    for name in account.supplementary {
        supplementary.push((*name, lookup(getent, "group", name)?));
    }
    own_directory(directory)?;
    replace(directory, "passwd", &account.passwd(user, group))?;
    replace(directory, "group", &account.group_file(group, &supplementary))
}

impl Account<'_> {
    fn validate(&self) -> Result<(), Error> {
        name("user", self.user)?;
        name("group", self.group)?;
        self.supplementary.iter().try_for_each(|group| name("supplementary group", group))?;
        path("home", self.home)?;
        path("shell", self.shell)
    }

    fn passwd(&self, uid: u32, gid: u32) -> String {
        let Self { user, home, shell, .. } = self;
        format!(
            "root:x:0:0:root:/root:/sbin/nologin\n\
             {user}:x:{uid}:{gid}:{user}:{home}:{shell}\n\
             nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
        )
    }

    fn group_file(&self, gid: u32, supplementary: &[(&str, u32)]) -> String {
        let extra: String =
            supplementary.iter().map(|(name, gid)| member(name, *gid, self.user)).collect();
        format!("root:x:0:\n{}{extra}nogroup:x:65534:\n", member(self.group, gid, ""))
    }
}

fn member(group: &str, gid: u32, user: &str) -> String {
    format!("{group}:x:{gid}:{user}\n")
}

fn name(field: &'static str, value: &str) -> Result<(), Error> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let bad = |c: char| matches!(c, ':' | ',' | '/') || c.is_control();
    if !digits && !value.starts_with('-') && !value.contains(bad) {
        return Ok(());
    }
    let avoid = "\":\", \",\", \"/\", control characters or a leading \"-\", and not only digits";
    Err(Error::Value { field, value: value.to_owned(), avoid })
}

fn path(field: &'static str, value: &str) -> Result<(), Error> {
    if value.starts_with('/') && !value.contains(|c: char| c == ':' || c.is_control()) {
        return Ok(());
    }
    let avoid = "\":\" or control characters, that starts with \"/\"";
    Err(Error::Value { field, value: value.to_owned(), avoid })
}

/// Asks the host's name services for a number: the third field of the entry.
fn lookup(getent: &Path, database: &'static str, name: &str) -> Result<u32, Error> {
    let failed = |reason: String| Error::Lookup {
        database,
        name: name.to_owned(),
        getent: getent.to_owned(),
        reason,
    };
    let output = Command::new(getent)
        .args([database, name])
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match output.status.code() {
        Some(0) => {}
        Some(2) => return Err(missing(database, name)),
        _ => return Err(failed(output.status.to_string())),
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut fields = text.lines().next().unwrap_or_default().split(':');
    let found = fields.next() == Some(name);
    let number = fields.nth(1).and_then(|id| id.parse().ok());
    number
        .filter(|_| found)
        .ok_or_else(|| failed(format!("unexpected entry {:?}", text.trim_end())))
}

fn missing(database: &'static str, name: &str) -> Error {
    let (database, remedy) = match database {
        "passwd" => ("user", format!("useradd --system --user-group {name}")),
        _ => ("group", format!("groupadd --system {name}")),
    };
    Error::Missing { database, name: name.to_owned(), remedy }
}

/// Refuses root and nobody, which other things on the host run as.
fn own(database: &'static str, name: &str, id: u32) -> Result<u32, Error> {
    match id {
        0 | 65534 => Err(Error::Reserved { database, name: name.to_owned(), id }),
        _ => Ok(id),
    }
}

/// Refuses a directory in which somebody else could rename what is written.
fn own_directory(path: &Path) -> Result<(), Error> {
    let refused = |reason| Error::Directory { path: path.to_owned(), reason };
    let metadata = fs::symlink_metadata(path).map_err(|_| refused("it cannot be looked at"))?;
    if !metadata.is_dir() {
        return Err(refused("it is not a directory"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(refused("other users can change what is in it"));
    }
    Ok(())
}

fn replace(directory: &Path, file: &str, text: &str) -> Result<(), Error> {
    let path = directory.join(file);
    let right = |m: fs::Metadata| m.is_file() && m.mode() & 0o7777 == 0o644;
    let is_right = fs::symlink_metadata(&path).is_ok_and(right);
    if is_right && fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let failed = |source| Error::Write { path: path.clone(), source };
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    new.persist(&path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Account, write};
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};

    const FOO: Account<'static> = Account {
        user: "opencode-foo",
        group: "opencode-foo",
        supplementary: &["dev"],
        home: "/var/lib/opencode/instance-state/foo",
        shell: "/bin/bash",
    };

    /// A stand-in for getent that knows a few entries.
    fn getent(directory: &Path) -> PathBuf {
        let script = "#!/bin/sh\ncase \"$1 $2\" in\n\
            'passwd opencode-foo') echo 'opencode-foo:x:991:7::/elsewhere:/bin/false';;\n\
            'group opencode-foo') echo 'opencode-foo:x:992:';;\n\
            'group dev') echo 'dev:x:55:alice,bob';;\n\
            'passwd toor') echo 'toor:x:0:0::/:/bin/sh';;\n\
            'passwd odd') echo 'odd:x:many';;\n\
            'passwd broken') exit 3;;\n\
            *) exit 2;;\nesac\n";
        let path = directory.join("getent");
        crate::script::write(&path, script);
        path
    }

    fn message(account: &Account<'_>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let getent = getent(directory.path());
        let message = write(directory.path(), account, &getent).unwrap_err().to_string();
        assert!(!directory.path().join("passwd").exists(), "{message}");
        message
    }

    #[test]
    fn writes_only_root_nobody_and_the_instance() {
        let directory = tempfile::tempdir().unwrap();
        let getent = getent(directory.path());
        write(directory.path(), &FOO, &getent).unwrap();
        let read = |file| fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!(
            read("passwd"),
            "root:x:0:0:root:/root:/sbin/nologin\n\
             opencode-foo:x:991:992:opencode-foo:/var/lib/opencode/instance-state/foo:/bin/bash\n\
             nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
        );
        assert_eq!(
            read("group"),
            "root:x:0:\nopencode-foo:x:992:\ndev:x:55:opencode-foo\nnogroup:x:65534:\n"
        );
        let metadata = fs::metadata(directory.path().join("passwd")).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o644);
        write(directory.path(), &FOO, &getent).unwrap();
        assert_eq!(fs::metadata(directory.path().join("passwd")).unwrap().ino(), metadata.ino());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_replaced_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, directory.path().join("passwd")).unwrap();
        write(directory.path(), &FOO, &getent(directory.path())).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(fs::symlink_metadata(directory.path().join("passwd")).unwrap().is_file());
    }

    #[test]
    fn a_missing_account_comes_with_the_command_that_creates_it() {
        let user = message(&Account { user: "nope", ..FOO });
        assert!(user.contains("useradd --system --user-group nope"), "{user}");
        let group = message(&Account { supplementary: &["gone"], ..FOO });
        assert!(group.contains("groupadd --system gone"), "{group}");
    }

    #[test]
    fn refuses_values_that_could_forge_an_entry() {
        for bad in ["", "a:b", "a\nroot::0:0", "0", "-i", "a,b", "../a"] {
            assert!(message(&Account { user: bad, ..FOO }).contains("user"), "{bad:?}");
            assert!(message(&Account { supplementary: &[bad], ..FOO }).contains("group"));
        }
        for bad in ["", "home", "/a:b", "/a\nb"] {
            assert!(message(&Account { home: bad, ..FOO }).contains("home"), "{bad:?}");
            assert!(message(&Account { shell: bad, ..FOO }).contains("shell"), "{bad:?}");
        }
    }

    #[test]
    fn refuses_root_and_answers_it_cannot_read() {
        assert!(message(&Account { user: "toor", ..FOO }).contains("root or nobody"));
        assert!(message(&Account { user: "odd", ..FOO }).contains("unexpected entry"));
        assert!(message(&Account { user: "broken", ..FOO }).contains("exit status: 3"));
        let directory = tempfile::tempdir().unwrap();
        let error = write(directory.path(), &FOO, Path::new("/nonexistent/getent")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/getent passwd opencode-foo"));
    }

    #[test]
    fn refuses_a_directory_that_others_can_write() {
        let directory = tempfile::tempdir().unwrap();
        let getent = getent(directory.path());
        let inner = directory.path().join("run");
        let refused = || write(&inner, &FOO, &getent).unwrap_err().to_string();
        assert!(refused().contains("RuntimeDirectory="));
        symlink(directory.path(), &inner).unwrap();
        assert!(refused().contains("not a directory"));
        fs::remove_file(&inner).unwrap();
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused().contains("other users"));
    }
}
