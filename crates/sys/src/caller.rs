//! Who called this program through `sudo`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::systemctl;

/// Whose rights a command will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Those of who called `sudo`.
    Sudo,
    /// Those of this process, which is not root.
    User,
    /// Those of root: nobody called `sudo`.
    Root,
}

/// Gives a command the rights and the home of who called `sudo`, where somebody did.
pub fn lend(command: &mut Command) -> Result<Caller, systemctl::Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Caller::User);
    }
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid @ 1..), Some(gid)) = (number("SUDO_UID"), number("SUDO_GID")) else {
        return Ok(Caller::Root);
    };
    let entry = systemctl::run("getent", &["passwd", &uid.to_string()])?;
    let fields: Vec<&str> = entry.trim().split(':').collect();
    if let [name, _, _, _, _, home, ..] = fields.as_slice() {
        command.env("HOME", home).env("USER", name).env("LOGNAME", name);
    }
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    // With another user, no further group of root's is kept.
    command.uid(uid).gid(gid);
    Ok(Caller::Sudo)
}
