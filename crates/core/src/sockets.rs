//! Unix sockets of the host that the operator shows in a sandbox: which may be shown, at what place, and
//! what each gives away.
//!
//! A socket is shown in a directory that holds nothing else: it is the host's side that puts the sockets
//! there and takes them away while the server runs.

use std::collections::BTreeSet;

use crate::bound::{BoundPath, is_below, split};
use crate::code::Code;
use crate::layout::RUNTIME_DIR;
use crate::plan::digest;
use crate::spec::Instance;
use crate::text::{AbsPath, Refusal};

/// The option.
pub const OPTION: &str = "sandbox.unixSockets";

/// The socket of the Nix daemon, with its directory.
const NIX_DAEMON: &str = "/nix/var/nix/daemon-socket";

/// Never shown, with everything below; and why.
const NEVER: &[(&str, &str)] = &[
    ("/dev", "devices of the host"),
    ("/etc/opencode-instances", "settings of all instances"),
    ("/proc", "the kernel's interfaces"),
    ("/run/avahi-daemon", "it resolves names through the host, past the instance's policy"),
    ("/run/netns", "network namespaces of the host"),
    ("/run/nscd", "it resolves names through the host, past the instance's policy"),
    ("/run/opencode-instances", "places of this project's own"),
    ("/run/systemd", "systemd's own, with its journal and its resolver"),
    ("/sys", "the kernel's interfaces"),
    ("/var/lib/opencode", "states and passwords of all instances"),
];

/// Sockets below these give away much of the host; and what.
const GIVES: &[(&str, &str)] = &[
    (NIX_DAEMON, "the Nix daemon fetches and builds for it in the host's network"),
    ("/run/buildkit", "who can start a container is root on the host"),
    ("/run/containerd", "who can start a container is root on the host"),
    ("/run/cri-dockerd.sock", "who can start a container is root on the host"),
    ("/run/crio", "who can start a container is root on the host"),
    ("/run/dbus", "every service on the host's bus takes calls through it"),
    ("/run/docker", "who can start a container is root on the host"),
    ("/run/docker.sock", "who can start a container is root on the host"),
    ("/run/incus", "who can start a container is root on the host"),
    ("/run/k3s", "who can start a container is root on the host"),
    ("/run/libvirt", "who can start a machine reads the host's disks"),
    ("/run/lxd", "who can start a container is root on the host"),
    ("/run/podman", "who can start a container is root on the host"),
    ("/run/snapd-snap.socket", "it installs programs on the host"),
    ("/run/snapd.socket", "it installs programs on the host"),
    ("/var/lib/incus", "who can start a container is root on the host"),
    ("/var/lib/lxd", "who can start a container is root on the host"),
    ("/var/snap/lxd", "who can start a container is root on the host"),
];

/// The same by what the socket is called, wherever it is.
const GIVES_BY_NAME: &[(&str, &str)] = &[
    ("bus", "every service on the bus takes calls through it, systemd's of that user among them"),
    ("containerd.sock", "who can start a container is root on the host"),
    ("crio.sock", "who can start a container is root on the host"),
    ("docker.sock", "who can start a container is its user on the host"),
    ("podman.sock", "who can start a container is its user on the host"),
    ("system_bus_socket", "every service on the host's bus takes calls through it"),
];

/// Which units make the sockets below a place; one that a host does not have is passed over.
const PROVIDERS: &[(&str, &str)] = &[
    (NIX_DAEMON, "nix-daemon.socket nix-daemon.service"),
    ("/run/containerd", "containerd.service"),
    ("/run/dbus", "dbus.socket"),
    ("/run/docker.sock", "docker.socket docker.service"),
    ("/run/libvirt", "libvirtd.socket virtqemud.socket"),
    ("/run/memcached", "memcached.service"),
    ("/run/mysqld", "mysql.service mariadb.service"),
    ("/run/php", "php-fpm.target"),
    ("/run/podman", "podman.socket"),
    ("/run/postgresql", "postgresql.service postgresql.target"),
    ("/run/redis", "redis.service redis-server.service"),
    ("/run/valkey", "valkey.service valkey-server.service"),
    ("/tmp/mysql.sock", "mysql.service mariadb.service"),
    ("/var/lib/mysql", "mysql.service mariadb.service"),
];

/// What the sandbox has at places of its own: a directory of sockets may not be, hold or lie in one.
const OWN: &[&str] = &[
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/nix/store",
    "/proc",
    "/run/credentials",
    "/run/opencode-instances",
    "/run/systemd",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var/tmp",
];

/// One spelling of each path: `/var/run` is `/run` on every host.
fn spelled(path: &str) -> String {
    match path.strip_prefix("/var/run") {
        Some(rest) if rest.starts_with('/') => format!("/run{rest}"),
        _ => path.to_owned(),
    }
}

fn entry<'a>(table: &[(&'a str, &'a str)], path: &str) -> Option<(&'a str, &'a str)> {
    let path = spelled(path);
    table.iter().copied().find(|(place, _)| is_below(&path, place))
}

/// The directory and the name of a place that is not `/`.
fn cut(place: &str) -> (&str, &str) {
    match place.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", place),
    }
}

/// The directory of the sandbox that a socket is shown in.
pub fn directory(socket: &BoundPath) -> &str {
    cut(socket.target.as_str()).0
}

/// What the socket is called there.
pub fn name(socket: &BoundPath) -> &str {
    cut(socket.target.as_str()).1
}

/// Where the host puts the sockets of the directory of a sandbox, below the instance's own; by the name
/// of the directory alone, so that one that is shown already never becomes that of other sockets.
pub fn host_directory(instance: &str, directory: &str) -> String {
    let mut name = digest(directory.as_bytes());
    name.truncate(16);
    format!("{}/{name}", base(instance))
}

/// What holds those directories.
pub fn base(instance: &str) -> String {
    format!("{RUNTIME_DIR}/{instance}/sockets")
}

/// The directories of the sandbox that hold sockets, each once.
pub(crate) fn directories(instance: &Instance) -> BTreeSet<&str> {
    instance.unix_sockets.iter().map(directory).collect()
}

/// The units that are known to make the listed sockets, each once.
pub(crate) fn providers(instance: &Instance) -> Vec<&'static str> {
    let mut units = Vec::new();
    for socket in &instance.unix_sockets {
        let found = provider(socket.source.as_str()).unwrap_or_default();
        units.extend(
            found
                .split(' ')
                .filter(|unit| !unit.is_empty() && !units.contains(unit))
                .collect::<Vec<_>>(),
        );
    }
    units
}

/// The units that are known to make a socket, in one line.
pub fn provider(path: &str) -> Option<&'static str> {
    entry(PROVIDERS, path).map(|(_, units)| units)
}

/// What the sight of a socket gives away of the host, in words, if it is known to.
pub fn gives_away(path: &str) -> Option<&'static str> {
    let by_name = || GIVES_BY_NAME.iter().find(|(name, _)| *name == cut(path).1);
    entry(GIVES, path).or_else(|| by_name().copied()).map(|(_, what)| what)
}

/// Whether it is the Nix daemon's.
pub(crate) fn is_nix_daemon(socket: &BoundPath) -> bool {
    is_below(socket.source.as_str(), NIX_DAEMON)
}

/// Reads `PATH`, `PATH:PLACE`, or either with `-` in front where the socket may be missing.
pub fn read(text: &str) -> Result<BoundPath, Refusal> {
    let (optional, source, target) = split(text);
    if target.is_some_and(|target| target.contains(':')) {
        return Err(Refusal {
            code: Code::PathNotBindable,
            reason: "a colon stands between a path and its place in the sandbox".to_owned(),
            help: "have its service make the socket at a path without one".to_owned(),
        });
    }
    let (source, target) = (AbsPath::new(source)?, AbsPath::new(target.unwrap_or(source))?);
    let target = AbsPath::new(&spelled(target.as_str()))?;
    may_be_shown(source.as_str())?;
    may_be_place(source.as_str(), target.as_str())?;
    Ok(BoundPath { source, target, optional })
}

/// Refuses a socket whose sight would undo the sandbox.
pub fn may_be_shown(path: &str) -> Result<(), Refusal> {
    let refuse = |reason: String| {
        Err(Refusal { code: Code::ProtectedPath, reason, help: "remove it".to_owned() })
    };
    if let Some((place, what)) = entry(NEVER, path) {
        return refuse(format!("this is {place}: {what}"));
    }
    // `/run/user/1000/systemd/private` takes orders as that user.
    let spelled = spelled(path);
    let of_user = spelled.strip_prefix("/run/user/").and_then(|rest| rest.split_once('/'));
    if of_user.is_some_and(|(_, rest)| is_below(rest, "systemd")) {
        return refuse(
            "this is a systemd's own, which runs commands outside the sandbox".to_owned(),
        );
    }
    Ok(())
}

fn may_be_place(source: &str, target: &str) -> Result<(), Refusal> {
    let (directory, name) = cut(target);
    let own = OWN.iter().find(|own| is_below(directory, own) || is_below(own, directory));
    let shared = matches!(directory, "/" | "/run" | "/var" | "/home" | "/root");
    let reason = match own {
        Some(own) if is_below(directory, own) => format!("the sandbox has {own} of its own"),
        _ if shared => format!("{directory} would hold nothing but sockets"),
        Some(own) => format!("{directory} would hold nothing but sockets, and {own} lies in it"),
        None => return Ok(()),
    };
    let place = name.split('.').find(|part| !part.is_empty()).unwrap_or("sockets");
    Err(Refusal {
        code: Code::CoveredPlace,
        reason,
        help: format!("show it in a directory of its own: `{source}:/run/{place}/{name}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_its_place_and_its_directory() {
        let socket = read("-/run/docker.sock:/run/docker/docker.sock").unwrap();
        assert!(socket.optional);
        assert_eq!((directory(&socket), name(&socket)), ("/run/docker", "docker.sock"));
        let socket = read("/run/postgresql/.s.PGSQL.5432").unwrap();
        assert_eq!((directory(&socket), name(&socket)), ("/run/postgresql", ".s.PGSQL.5432"));
        assert_eq!(read("/var/run/x/s").unwrap().target.as_str(), "/run/x/s");
        assert_ne!(host_directory("a", "/run/x"), host_directory("a", "/run/y"));
    }

    #[test]
    fn what_would_undo_the_sandbox_is_refused() {
        for text in [
            "/run/nscd/socket:/run/x/s",
            "/var/run/nscd/socket:/run/x/s",
            "/run/systemd/private:/x/s",
            "/run/systemd/notify:/x/s",
            "/run/systemd/journal/stdout:/x/s",
            "/run/systemd/io.systemd.Resolve:/x/s",
            "/run/systemd/resolve/io.systemd.Resolve:/x/s",
            "/var/run/systemd/private:/x/s",
            "/run/user/1000/systemd/private:/x/s",
            "/run/avahi-daemon/socket",
            "/run/opencode-instances/b/sockets/x",
            "/var/lib/opencode/instance-state/b/s:/x/s",
            "/dev/log:/x/s",
            "/proc/1/root/run/x:/x/s",
        ] {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.code, Code::ProtectedPath, "{text}");
        }
        assert!(read("/run/systemdx/s").is_ok());
    }

    #[test]
    fn what_the_sandbox_has_is_not_hidden_by_sockets() {
        for text in [
            "/run/docker.sock",
            "/srv/s:/s",
            "/srv/x/s:/tmp/s",
            "/srv/x/s:/etc/x/s",
            "/srv/x/s:/usr/share/x/s",
            "/srv/x/s:/nix/s",
            "/srv/x/s:/var/s",
            "/srv/x/s:/run/systemd/x/s",
            "/srv/x/s:/run/credentials/x/s",
            "/srv/x/s:/home/s",
        ] {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.code, Code::CoveredPlace, "{text}");
            assert!(refusal.help.contains(":/run/"), "{}", refusal.help);
        }
        let help = read("/run/docker.sock").unwrap_err().help;
        assert!(help.ends_with("`/run/docker.sock:/run/docker/docker.sock`"), "{help}");
        for help in ["/run/docker.sock:/run/docker/docker.sock", "/srv/x/s", "/nix/var/nix/x/s"] {
            assert!(read(help).is_ok(), "{help}");
        }
        assert_eq!(read("/srv/x/s:/y:z").unwrap_err().code, Code::PathNotBindable);
        assert_eq!(read("relative").unwrap_err().code, Code::RelativePath);
    }

    #[test]
    fn what_gives_away_the_host_is_known() {
        for path in [
            "/var/run/docker.sock",
            "/run/dbus/system_bus_socket",
            "/nix/var/nix/daemon-socket/socket",
            "/run/user/1000/bus",
            "/srv/other/docker.sock",
            "/run/podman/podman.sock",
        ] {
            assert!(gives_away(path).is_some(), "{path}");
        }
        for path in ["/run/postgresql/.s.PGSQL.5432", "/run/mysqld/mysqld.sock", "/run/dockerx/s"] {
            assert!(gives_away(path).is_none(), "{path}");
        }
        assert_eq!(provider("/var/run/mysqld/mysqld.sock"), Some("mysql.service mariadb.service"));
        assert_eq!(provider("/srv/x/s"), None);
    }
}
