//! Descriptors that systemd passes by name, as in `sd_listen_fds_with_names(3)`.

use std::env;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};

/// The first one.
const FIRST: RawFd = 3;

/// The number of the descriptor with that name, if one was passed. `LISTEN_PID` is not looked at: with
/// `PrivatePIDs=` it is a number from outside.
pub(crate) fn number(name: &str) -> Option<RawFd> {
    let variable = |name| env::var(name).ok();
    place(name, &variable("LISTEN_FDS")?, &variable("LISTEN_FDNAMES")?)
}

fn place(name: &str, count: &str, names: &str) -> Option<RawFd> {
    let names: Vec<&str> = names.split(':').collect();
    if count.parse() != Ok(names.len()) {
        return None;
    }
    let place = names.iter().position(|one| *one == name)?;
    Some(FIRST + RawFd::try_from(place).ok()?)
}

/// Takes such a descriptor, once: non-blocking and not inherited.
pub(crate) fn take(number: RawFd) -> Option<OwnedFd> {
    #[expect(unsafe_code, reason = "a descriptor that is passed by its number has no other way in")]
    // SAFETY: systemd passes it under that number, and only who was told of it takes it.
    let passed = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&passed, FdFlags::CLOEXEC).ok()?;
    let flags = fcntl_getfl(&passed).ok()?;
    fcntl_setfl(&passed, flags | OFlags::NONBLOCK).ok()?;
    Some(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_go_by_their_place() {
        assert_eq!(place("notify", "1", "notify"), Some(3));
        assert_eq!(place("turn", "2", "notify:turn"), Some(4));
        assert_eq!(place("turn", "1", "notify"), None);
        for (count, names) in [("2", "notify"), ("x", "notify"), ("", ""), ("3", "notify:turn")] {
            assert_eq!(place("notify", count, names), None, "{count} {names}");
        }
    }
}
