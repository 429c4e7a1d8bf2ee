//! The way to a socket, which nobody may be able to change but root and the socket's own service.
//!
//! Whoever could change the way would decide which socket of the host an agent gets. So each directory
//! and each link on it belongs to root or to the owner of the socket, who could serve it otherwise too,
//! and never to an instance. What is judged are the very directories that the socket is opened
//! through, one descriptor after the other, and what is mounted is the descriptor.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use instances_core::sockets;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use super::accounts::Accounts;
use crate::way::Way;

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// A socket, not opened for anything, with the number of its file system and its own.
    Socket { fd: OwnedFd, id: (u64, u64) },
    /// Nothing; the first part of the way that is missing.
    Nothing(PathBuf),
}

/// Why what is there is not shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) what: String,
    pub(super) remedy: String,
}

/// A directory or link on the way.
struct Part {
    path: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
    link: bool,
}

fn refuse<T>(what: String, remedy: &str) -> Result<T, Refusal> {
    Err(Refusal { what, remedy: remedy.to_owned() })
}

/// Finds the socket that a path leads to. Links in the middle are followed, the last part never is.
pub(super) fn socket(source: &Path, accounts: &Accounts) -> Result<Found, Refusal> {
    let look = |part: &Path, error: &io::Error| Refusal {
        what: format!("cannot look at {}: {error}", part.display()),
        remedy: "list another path".to_owned(),
    };
    let (Some(parent), Some(name)) = (source.parent(), source.file_name()) else {
        return refuse("it is no path of a socket".to_owned(), "name the socket itself");
    };
    let mut parts = Vec::new();
    let mut way = Way::to(parent);
    for place in way.by_ref() {
        let place = match place {
            Ok(place) => place,
            Err((part, error)) if is_missing(&error) => return Ok(Found::Nothing(part)),
            Err((part, error)) => return Err(look(&part, &error)),
        };
        let (uid, gid) = (place.metadata.uid(), place.metadata.gid());
        let (mode, link) = (place.metadata.mode() & 0o7777, place.metadata.is_symlink());
        parts.push(Part { path: place.path, uid, gid, mode, link });
    }
    let real = way.end();
    let end = real.join(name);
    if end != source {
        let text = end.to_str().unwrap_or_default();
        if text.is_empty() {
            return refuse("it leads to a name that is no text".to_owned(), "list another path");
        }
        if let Err(refusal) = sockets::may_be_shown(text) {
            return refuse(format!("it leads to {text}: {}", refusal.reason), &refusal.help);
        }
    }
    let (fd, opened) = match open(&real, Path::new(name)) {
        Ok(opened) => opened,
        // Gone since, or on its way: what tells of it comes.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Nothing(end)),
        Err(error) => return Err(look(&end, &error.into())),
    };
    parts.extend(opened);
    let stat = fstat(&fd).map_err(|error| look(&end, &error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => {}
        FileType::Symlink => {
            let leads = fs::read_link(&end).unwrap_or_default();
            let what = format!("it is a symbolic link to {}", leads.display());
            return refuse(what, "list what it leads to");
        }
        _ => return refuse("it is no socket".to_owned(), "list the socket itself"),
    }
    judge(&parts, &stat, accounts)?;
    Ok(Found::Socket { fd, id: (stat.st_dev, stat.st_ino) })
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Opens a socket through each directory on the way, none of which is a link.
fn open(directory: &Path, name: &Path) -> rustix::io::Result<(OwnedFd, Vec<Part>)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = openat(CWD, "/", flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut path = PathBuf::from("/");
    let mut parts = Vec::new();
    for part in directory.components().skip(1) {
        here = openat(&here, part.as_os_str(), flags | OFlags::DIRECTORY, Mode::empty())?;
        path.push(part);
        let stat = fstat(&here)?;
        let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        parts.push(Part { path: path.clone(), uid, gid, mode, link: false });
    }
    Ok((openat(&here, name, flags, Mode::empty())?, parts))
}

fn judge(parts: &[Part], socket: &Stat, accounts: &Accounts) -> Result<(), Refusal> {
    let (owner, group) = (socket.st_uid, socket.st_gid);
    let remedy =
        "have its service make it in a directory of its own below /run, as RuntimeDirectory= does";
    if accounts.users.contains(&owner) {
        return refuse(format!("the socket belongs to user {owner}, an instance's"), "remove it");
    }
    for Part { path, uid, gid, mode, link } in parts {
        let path = path.display();
        if accounts.users.contains(uid) {
            return refuse(format!("{path} belongs to user {uid}, an instance's"), remedy);
        }
        if *uid != 0 && *uid != owner {
            let what = format!("{path} belongs to user {uid}, neither root nor the socket's owner");
            return refuse(what, remedy);
        }
        // The mode of a link means nothing.
        if *link {
            continue;
        }
        if mode & 0o002 != 0 {
            return refuse(format!("{path} can be written by everybody (mode {mode:04o})"), remedy);
        }
        if mode & 0o020 == 0 {
            continue;
        }
        if accounts.groups.contains(gid) {
            let what = format!("{path} can be written by group {gid}, one of an instance's");
            return refuse(what, "take the group out of `extraGroups`, or the mode g+w from it");
        }
        if *gid != 0 && *gid != group {
            let what = format!("{path} can be written by group {gid}, which is not the socket's");
            return refuse(what, remedy);
        }
        // With one, the mode of the group stands for everybody who is listed.
        let mut nothing: [u8; 0] = [];
        if rustix::fs::lgetxattr(path.to_string(), "system.posix_acl_access", &mut nothing).is_ok()
        {
            let what = format!("{path} can be written by those in its access list");
            return refuse(what, remedy);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    use std::os::unix::net::UnixListener;

    const AGENT: u32 = 4242;
    const SERVICE: u32 = 4343;

    fn accounts() -> Accounts {
        Accounts { users: [AGENT].into(), groups: [AGENT].into() }
    }

    fn said(path: &Path) -> String {
        match socket(path, &accounts()) {
            Ok(Found::Socket { .. }) => "shown".to_owned(),
            Ok(Found::Nothing(part)) => format!("no {}", part.display()),
            Err(refusal) => format!("{}; {}", refusal.what, refusal.remedy),
        }
    }

    #[test]
    fn only_root_and_its_service_decide_where_a_socket_is() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let base = directory.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| base.join(name);
        let mode = |name: &str, mode| {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let own = |name: &str, uid, gid| {
            std::os::unix::fs::lchown(at(name), Some(uid), Some(gid)).unwrap();
        };
        assert_eq!(said(&at("run/s")), format!("no {}", at("run").display()));
        fs::create_dir(at("run")).unwrap();
        assert_eq!(said(&at("run/s")), format!("no {}", at("run/s").display()));
        let _listener = UnixListener::bind(at("run/s")).unwrap();
        assert_eq!(said(&at("run/s")), "shown");
        fs::write(at("run/file"), "").unwrap();
        assert!(said(&at("run/file")).starts_with("it is no socket"));

        // A service's own directory, which its group may write to.
        own("run", SERVICE, SERVICE);
        assert!(said(&at("run/s")).contains("neither root nor the socket's owner"));
        own("run/s", SERVICE, SERVICE);
        mode("run", 0o2775);
        assert_eq!(said(&at("run/s")), "shown");
        own("run", SERVICE, AGENT);
        assert!(said(&at("run/s")).contains("one of an instance's"));
        own("run", SERVICE, 7);
        assert!(said(&at("run/s")).contains("which is not the socket's"));
        own("run", SERVICE, SERVICE);
        mode("run", 0o1777);
        assert!(said(&at("run/s")).contains("can be written by everybody (mode 1777)"));
        mode("run", 0o755);

        // Links in the middle are followed and judged, and the last part is not followed.
        symlink("run", at("link")).unwrap();
        assert_eq!(said(&at("link/s")), "shown");
        own("link", AGENT, AGENT);
        assert!(said(&at("link/s")).contains("/link belongs to user 4242, an instance's"));
        symlink(at("run/s"), at("end")).unwrap();
        assert!(said(&at("end")).contains("it is a symbolic link to"));
        symlink("/run/systemd", at("systemd")).unwrap();
        assert!(said(&at("systemd/notify")).contains("it leads to /run/systemd/notify: this is"));

        // What an instance has made, wherever it is.
        own("run", 0, 0);
        own("run/s", AGENT, AGENT);
        assert!(said(&at("run/s")).contains("the socket belongs to user 4242"));
        own("run/s", 0, 0);
        chown(at("run"), Some(AGENT), None).unwrap();
        assert!(said(&at("run/s")).contains("/run belongs to user 4242, an instance's"));
    }
}
