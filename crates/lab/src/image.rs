//! Cached roots that machines are copy-on-write copies of.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::{place, progress};

/// What every root contains beside the minimum: systemd, what the engine needs, and what tests
/// want to look with.
const PACKAGES: &[&str] = &[
    "acl",
    "bind9-dnsutils",
    "busybox-static",
    "ca-certificates",
    "conntrack",
    "curl",
    "dbus",
    "git",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "less",
    "libcap2-bin",
    "lsof",
    "netcat-openbsd",
    "nftables",
    "nix-bin",
    "openssl",
    "patchelf",
    "procps",
    "psmisc",
    "python3",
    "ripgrep",
    "rsync",
    "socat",
    "sqlite3",
    "strace",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tcpdump",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// What only the newer root contains: sandboxes and servers that instances are tried with, and programs that pages show
/// beside the engine.
const TRIXIE: &[&str] = &[
    "borgbackup",
    "bubblewrap",
    "caddy",
    "passt",
    "postgresql",
    "prometheus-node-exporter",
    "restic",
    "systemd-container",
];

/// Before the newer root's packages are there: no cluster of databases is made.
const NO_CLUSTER: &str = r#"mkdir -p "$1/etc/postgresql-common"
echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
"#;

/// And nothing of it starts at boot.
const NO_SERVER: &str = "cd \"$1/etc/systemd/system/multi-user.target.wants\"
rm -f caddy.service postgresql.service prometheus-node-exporter.service
";

/// Files of packages that no test reads.
const EXCLUDED: &[&str] = &["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/man/*"];

/// What would only cost time at boot, would act on the host's clock, or cannot work in here.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-firstboot.service",
    "systemd-modules-load.service",
];

/// What is done to a root once its packages are there; `$1` is the root.
const FINISH: &str = r#"set -e
echo lab >"$1/etc/hostname"
printf '127.0.0.1\tlocalhost lab\n::1\tlocalhost ip6-localhost\n' >"$1/etc/hosts"
rm -f "$1/etc/resolv.conf"
: >"$1/etc/resolv.conf"
# Known, so that a boot is not a first boot; a copy of it is never on a network with another.
echo 6c6162206d616368696e652069640000 >"$1/etc/machine-id"
rm -rf "$1/var/cache/apt" "$1/var/lib/apt/lists"
mkdir -p "$1/var/cache/apt/archives/partial" "$1/var/lib/apt/lists/partial" "$1/var/log/journal"
# Newer than /usr, so that no boot updates caches first.
touch "$1/etc/.updated" "$1/var/.updated"
"#;

/// A Debian release that machines can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12: systemd 252, nft 1.0.6.
    Bookworm,
    /// Debian 13: systemd 257, nft 1.1.3.
    Trixie,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Trixie, Self::Bookworm];

    /// The name in Debian's archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|release| release.name() == name);
        known.with_context(|| {
            format!("no such release; there are {}", Self::ALL.map(Self::name).join(" and "))
        })
    }
}

/// A complete root on the host's disk that nothing changes any more.
#[derive(Debug, Clone)]
pub struct Image {
    release: Release,
    root: PathBuf,
}

impl Image {
    /// Finds the root of a release, or builds it, which takes a minute.
    pub fn ensure(release: Release) -> Result<Self> {
        let image = Self { release, root: place::dir().join(directory(release)) };
        if !image.root.is_dir() {
            let _lock = place::lock(release.name())?;
            // Somebody else may have built it while we waited.
            if !image.root.is_dir() {
                image.build()?;
            }
        }
        Ok(image)
    }

    /// The release it was made from.
    pub fn release(&self) -> Release {
        self.release
    }

    /// The directory that holds the root. Never write below it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Builds the root beside its place and moves it there when nothing is missing any more.
    fn build(&self) -> Result<()> {
        let lab = place::dir();
        let scratch_prefix = format!(".{}-", self.release);
        for entry in fs::read_dir(&lab)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&scratch_prefix) {
                // What a build that was killed has left behind. If it resists, it is only in the
                // way of the disk's space, not in ours.
                let _ = Command::new("rm")
                    .args(["-rf", "--one-file-system"])
                    .arg(entry.path())
                    .status();
            }
        }
        let scratch = lab.join(format!("{scratch_prefix}{}", process::id()));
        // Dies with this thread, and takes its mounts with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command
            .arg("mmdebstrap")
            .args(arguments(self.release))
            .arg(self.release.name())
            .arg(&scratch);
        progress::run(&format!("building the {} root", self.release), &mut command)?;
        fs::rename(&scratch, &self.root)
            .with_context(|| format!("cannot move the root to {}", self.root.display()))
    }
}

/// The options of mmdebstrap: the whole recipe but the release's name.
fn arguments(release: Release) -> Vec<String> {
    let newer = release == Release::Trixie;
    let mut packages = PACKAGES.to_vec();
    packages.extend(TRIXIE.iter().filter(|_| newer));
    let mut arguments = vec![
        "--variant=minbase".to_owned(),
        "--mode=root".to_owned(),
        "--format=directory".to_owned(),
        // It would make the machine's identity unknown again.
        "--skip=cleanup/reproducible".to_owned(),
        format!("--include={}", packages.join(",")),
        "--dpkgopt=force-unsafe-io".to_owned(),
        "--aptopt=Acquire::Languages \"none\"".to_owned(),
        "--aptopt=Acquire::Retries \"3\"".to_owned(),
    ];
    arguments.extend(EXCLUDED.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    let masks =
        MASKED.iter().map(|unit| format!("ln -sf /dev/null \"$1/etc/systemd/system/{unit}\"\n"));
    arguments.push(format!("--customize-hook={FINISH}{}", masks.collect::<String>()));
    if newer {
        arguments.push(format!("--essential-hook={NO_CLUSTER}"));
        arguments.push(format!("--customize-hook={NO_SERVER}"));
    }
    arguments
}

/// The name of the directory: another recipe gives another one.
fn directory(release: Release) -> String {
    let mut hasher = DefaultHasher::new();
    arguments(release).hash(&mut hasher);
    format!("{release}-{:016x}", hasher.finish())
}
