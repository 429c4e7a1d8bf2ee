//! Which paths can be neither a project nor a state directory, because they belong to the system.

use crate::bound::is_below;
use crate::diagnostic::Code;
use crate::layout::STATE_ROOT;
use crate::text::{AbsPath, Refusal};

/// Refused themselves; what lies below them is a legal place.
const ALONE: &[&str] = &[
    "/",
    "/home",
    "/media",
    "/mnt",
    "/nix",
    "/opt",
    "/srv",
    "/var/local",
    "/var/opt",
    "/var/www",
    STATE_ROOT,
];

/// Refused with everything below them, and why.
const WITH_CONTENT: &[(&str, &str)] = &[
    ("/bin", "programs of the host"),
    ("/boot", "the host's boot files"),
    ("/efi", "the host's boot files"),
    ("/snap", "programs of the host"),
    ("/dev", "the host's devices"),
    ("/etc", "the host's configuration"),
    ("/lib", "libraries of the host"),
    ("/lib64", "libraries of the host"),
    ("/nix/store", "the store is read-only and visible to everyone"),
    ("/nix/var", "the nix daemon's state"),
    ("/proc", "the kernel's interfaces"),
    ("/root", "root's own home, which the sandbox hides"),
    ("/run", "run-time sockets of the host"),
    ("/sbin", "programs of the host"),
    ("/sys", "the kernel's interfaces"),
    ("/tmp", "hidden by the sandbox's own /tmp"),
    ("/usr", "programs of the host, read-only in the sandbox"),
];

/// What is legal below `/var`, which otherwise belongs to the host's services.
const OF_VAR: &[&str] = &["/var/local", "/var/opt", "/var/www", STATE_ROOT];

/// Refuses a path of the system; `/srv` and the like are refused alone, not what is below them.
pub(crate) fn protected(path: AbsPath) -> Result<AbsPath, Refusal> {
    let text = path.as_str();
    let below = |root: &str| is_below(text, root);
    let whole_home = text.strip_prefix("/home/").is_some_and(|rest| !rest.contains('/'));
    let reason = if ALONE.contains(&text) {
        Some("this holds more than one project")
    } else if whole_home {
        Some("a whole home, with its keys and start-up files")
    } else if below("/var") && !OF_VAR.iter().any(|root| below(root)) {
        Some("state, logs and caches of the host's services")
    } else {
        WITH_CONTENT.iter().find(|(root, _)| below(root)).map(|(_, reason)| *reason)
    };
    match reason {
        None => Ok(path),
        Some(reason) => Err(Refusal {
            code: Code::ProtectedPath,
            reason: reason.to_owned(),
            help: "use a directory of its own, as in `/srv/website`".to_owned(),
        }),
    }
}
