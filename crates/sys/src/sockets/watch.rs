//! Tells when a way to a socket may lead elsewhere.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use crate::way::Way;

/// Whatever becomes of a directory's entries, of their owners and modes, and of itself.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DONT_FOLLOW);

/// Watches every directory that there is on the ways.
#[derive(Debug)]
pub(super) struct Watch(Option<OwnedFd>);

impl Watch {
    /// What cannot be watched is looked at now and then.
    pub(super) fn on<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let Ok(inotify) = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) else {
            return Self(None);
        };
        for path in paths {
            for place in Way::to(path).map_while(Result::ok) {
                let _ = add_watch(&inotify, &place.path, CHANGES);
            }
        }
        Self(Some(inotify))
    }

    /// Waits for a change, but not for ever; true when there was one.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let Some(inotify) = &self.0 else {
            std::thread::sleep(patience.min(Duration::from_secs(1)));
            return false;
        };
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        poll(&mut [PollFd::new(inotify, PollFlags::IN)], Some(&timeout))
            .is_ok_and(|count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;

    #[test]
    fn whatever_becomes_of_a_socket_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let (run, socket) = (base.join("run"), base.join("run/s"));
        let told = |what: &str, step: &dyn Fn()| {
            let watch = Watch::on([socket.as_path()].into_iter());
            step();
            assert!(watch.wait(Duration::from_secs(5)), "{what}");
        };
        told("its directory comes", &|| fs::create_dir(&run).unwrap());
        told("it comes", &|| drop(UnixListener::bind(&socket).unwrap()));
        told("it goes", &|| fs::remove_file(&socket).unwrap());
        told("its directory is another one", &|| {
            fs::rename(&run, base.join("old")).unwrap();
            fs::create_dir(&run).unwrap();
        });
        told("its directory goes", &|| fs::remove_dir(&run).unwrap());
    }
}
