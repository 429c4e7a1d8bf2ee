//! Places of the host that the operator shows in a sandbox, and which may be neither shown nor covered.

use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::text::{AbsPath, Refusal};

/// A place of the host, and where the sandbox shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPath {
    /// On the host.
    pub source: AbsPath,
    /// In the sandbox.
    pub target: AbsPath,
    /// Whether a missing source is passed over.
    pub optional: bool,
}

/// Whether the agent may write there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As far as the host's own modes let it.
    Write,
    /// Never.
    Read,
}

/// Refused with everything below them, and with what they lie in; and why.
const NEVER: &[(&str, &str)] = &[
    ("/dev", "devices of the host"),
    ("/etc/opencode-instances", "settings of all instances"),
    ("/nix/var", "state and socket of the Nix daemon, which `nix.enable` shows"),
    ("/proc", "the kernel's interfaces"),
    ("/run", "sockets and secrets of the host's services"),
    ("/sys", "the kernel's interfaces"),
    ("/var/lib/opencode", "states and passwords of all instances"),
    ("/var/run", "sockets and secrets of the host's services"),
];

/// What is legal although it holds one of these: for its size it is said aloud instead.
const WIDE: &[&str] = &["/boot", "/etc", "/home", "/root"];

/// Refused for writing, with everything below.
const PROGRAMS: &[&str] = &["/bin", "/boot", "/efi", "/lib", "/lib64", "/nix", "/sbin", "/usr"];

/// What the sandbox has places of its own for; nothing may cover them or lie below.
const OWN: &[&str] = &[
    "/.places",
    "/bin",
    "/dev",
    "/etc/group",
    "/etc/gitconfig",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/opencode",
    "/etc/opencode-instances",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/lib",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var/tmp",
];

/// Whether `path` is `root` or lies below it.
pub(crate) fn is_below(path: &str, root: &str) -> bool {
    root == "/"
        || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is typed: whether it may be missing, the place on the host, and the one in the sandbox if that is said.
pub(crate) fn split(text: &str) -> (bool, &str, Option<&str>) {
    let (optional, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    match rest.split_once(':') {
        Some((source, target)) => (optional, source, Some(target)),
        None => (optional, rest, None),
    }
}

impl BoundPath {
    /// Reads `PATH`, `PATH:PLACE`, or either with `-` in front where the path may be missing.
    pub fn read(text: &str, access: Access) -> Result<Self, Refusal> {
        let (optional, source, target) = split(text);
        if target.is_some_and(|target| target.contains(':')) {
            return Err(Refusal {
                code: Code::PathNotBindable,
                reason: "a colon stands between a path and its place in the sandbox".to_owned(),
                help: "rename the directory, or reach it through a symbolic link".to_owned(),
            });
        }
        let (source, target) = (AbsPath::new(source)?, AbsPath::new(target.unwrap_or(source))?);
        Self::may_be_shown(source.as_str(), access)?;
        may_be_covered(target.as_str())?;
        Ok(Self { source, target, optional })
    }

    /// Reads `[-]PATH:PLACE` as a unit's command line has it, where everything was judged before.
    ///
    /// # Errors
    ///
    /// When one of the two is no absolute path.
    pub fn rendered(text: &str) -> Result<Self, String> {
        let (optional, source, target) = split(text);
        let path = |text: &str| AbsPath::new(text).map_err(|refusal| refusal.reason);
        Ok(Self { source: path(source)?, target: path(target.unwrap_or(source))?, optional })
    }

    /// Refuses a place of the host whose sight would undo the sandbox.
    pub fn may_be_shown(source: &str, access: Access) -> Result<(), Refusal> {
        let refuse = |reason: String, help: &str| {
            Err(Refusal { code: Code::ProtectedPath, reason, help: help.to_owned() })
        };
        if source == "/nix/store" {
            let help = "list the store paths that are meant in `path`, or set `nix.enable`";
            return refuse("this shows the settings of every instance".to_owned(), help);
        }
        for (place, what) in NEVER {
            if is_below(source, place) {
                return refuse(format!("this is {place}: {what}"), "remove it");
            }
            if is_below(place, source) && !WIDE.contains(&source) {
                return refuse(
                    format!("{place} is in it: {what}"),
                    "list what is meant of it, each by its own path",
                );
            }
        }
        if access == Access::Write && PROGRAMS.iter().any(|place| is_below(source, place)) {
            return refuse(
                "the host runs what is here".to_owned(),
                "list it in `sandbox.readOnlyPaths`",
            );
        }
        Ok(())
    }

    /// Whether much more is shown than a project needs.
    pub(crate) fn is_wide(&self) -> bool {
        let source = self.source.as_str();
        let home = source.strip_prefix("/home/").is_some_and(|rest| !rest.contains('/'));
        home || WIDE.contains(&source)
    }
}

fn may_be_covered(target: &str) -> Result<(), Refusal> {
    let own = OWN.iter().find(|own| is_below(target, own) || is_below(own, target));
    let Some(own) = own else { return Ok(()) };
    Err(Refusal {
        code: Code::CoveredPlace,
        reason: format!("the sandbox has {own} of its own"),
        help: format!("show it elsewhere, as in `PATH:/mnt{}`", target.trim_end_matches('/')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str, access: Access) -> Option<&'static str> {
        BoundPath::read(text, access).err().map(|refusal| refusal.code.as_str())
    }

    #[test]
    fn a_path_its_place_and_whether_it_may_be_missing() {
        let bound = BoundPath::read("-/srv/data:/data", Access::Read).unwrap();
        assert_eq!((bound.source.as_str(), bound.target.as_str()), ("/srv/data", "/data"));
        assert!(bound.optional && !bound.is_wide());
        let bound = BoundPath::read("/srv/data", Access::Write).unwrap();
        assert_eq!(bound.source, bound.target);
        assert!(!bound.optional);
        assert!(BoundPath::read("/home/alice:/alice", Access::Read).unwrap().is_wide());
        assert!(!BoundPath::read("/home/alice/x", Access::Read).unwrap().is_wide());
    }

    #[test]
    fn what_would_undo_the_sandbox_is_refused() {
        for text in [
            "/",
            "/proc",
            "/proc/1",
            "/sys/fs",
            "/dev",
            "/run",
            "/run/dbus",
            "/var/run/x",
            "/var",
            "/var/lib",
            "/var/lib/opencode",
            "/var/lib/opencode/instance-state/b",
            "/nix",
            "/nix/store",
            "/nix/var/nix/daemon-socket",
            "/etc/opencode-instances/b",
            "-/run/x:/x",
            "/:/host",
        ] {
            assert_eq!(code(text, Access::Read), Some("E0211"), "{text}");
        }
        for text in ["/usr/local", "/bin", "/boot/loader", "/nix/store/abc-x"] {
            assert_eq!(code(text, Access::Write), Some("E0211"), "{text}");
        }
        for text in
            ["/usr/share:/x", "/nix/store/abc-x", "/var/cache/npm", "/etc:/host", "/etc/ssl"]
        {
            assert_eq!(code(text, Access::Read), None, "{text}");
        }
    }

    #[test]
    fn what_the_sandbox_has_itself_is_not_covered() {
        for target in [
            "/",
            "/etc",
            "/etc/passwd",
            "/etc/opencode/x",
            "/run/x",
            "/tmp/x",
            "/usr/share/x",
            "/proc",
            "/var",
        ] {
            assert_eq!(code(&format!("/srv/x:{target}"), Access::Read), Some("E0237"), "{target}");
        }
        assert_eq!(code("/srv/x:/etc/x", Access::Read), None);
        assert_eq!(code("/srv/x:relative", Access::Read), Some("E0203"));
        assert_eq!(code("/srv/x:/y:ro", Access::Read), Some("E0205"));
    }
}
