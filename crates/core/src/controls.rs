//! The protections of the server's unit by name: what each one stops, and what giving it up costs.
//!
//! This is the one table of them. From it come the words of `sandbox.relax` and what they do to the
//! units, the warnings, a part of `docs/reference/controls.md`, and the words of an audit.

/// A protection of the server's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its name, which stays: lower-case words with hyphens.
    pub name: &'static str,
    /// The lines of the unit that make it.
    pub directives: &'static [Directive],
    /// What it stops, as a sentence without a period.
    pub why: &'static str,
    /// How it is given up; `None` where the isolation rests on it.
    pub relaxed: Option<Relaxed>,
}

/// A line of the server's unit, as systemd 257 reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Its name.
    pub name: &'static str,
    /// Its value. `None` where that is another one for each instance, or the line is not there. Of
    /// `SystemCallFilter` these are some of the words of a line; with `~` in front, of the one that
    /// takes away.
    pub value: Option<&'static str>,
}

/// What stands in the unit when a control is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relaxed {
    /// The changes of the unit.
    pub weaker: &'static [Weaker],
    /// Which programs need that, and what they do without it.
    pub needed: &'static str,
    /// What the agent gets beside it.
    pub gives: &'static str,
}

/// One change of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weaker {
    /// The directive has this value instead.
    Value(&'static str, &'static str),
    /// The directive's line with this value is not there.
    Without(&'static str, &'static str),
    /// The filter lets these system calls pass.
    Calls(&'static str),
    /// Sockets of this family can be made.
    Family(&'static str),
}

/// What `sandbox.allowNestedSandbox` gives up.
pub(crate) const NESTED: &[Weaker] = &[
    Weaker::Value("RestrictNamespaces", "no"),
    // With it the kernel seems to have no `openat2`, with which bubblewrap opens everything.
    Weaker::Value("RestrictSUIDSGID", "no"),
    // Bubblewrap reads a setting of the kernel.
    Weaker::Value("ProcSubset", "all"),
    // By the kernel's rule a new /proc is mounted only where nothing of one is covered.
    Weaker::Value("ProtectKernelTunables", "no"),
    Weaker::Value("ProtectKernelLogs", "no"),
    Weaker::Value("ProtectHostname", "no"),
    Weaker::Calls("@mount @setuid capset sethostname setdomainname"),
    // For the loopback interface of a new network namespace.
    Weaker::Family("AF_NETLINK"),
];

const fn is(name: &'static str, value: &'static str) -> Directive {
    Directive { name, value: Some(value) }
}

/// Its value depends on the instance.
const fn own(name: &'static str) -> Directive {
    Directive { name, value: None }
}

const fn kept(name: &'static str, directives: &'static [Directive], why: &'static str) -> Control {
    Control { name, directives, why, relaxed: None }
}

/// What the sandbox has at `/sys`: an empty directory, in which control groups and [`PROCESSORS`] are mounted.
///
/// What systemd 257 would mount there with `NetworkNamespacePath=` lists the host's links, as it does so before it
/// enters the namespace. To hide nine directories of it would be nine mounts.
pub(crate) const BARE_SYS: &str = "/run/opencode-instances/.sys:/sys";
/// That directory on the host, which all instances share.
pub const BARE_SYS_DIR: &str = "/run/opencode-instances/.sys";
/// The processors and the memory, which programs count.
pub(crate) const PROCESSORS: &str = "/sys/devices/system";

/// Every control, those first that cannot be given up.
pub fn all() -> &'static [Control] {
    CONTROLS
}

/// The control of that name.
pub fn find(name: &str) -> Option<&'static Control> {
    CONTROLS.iter().find(|control| control.name == name)
}

/// The words of `sandbox.relax`.
pub const WORDS: &[&str] = &words();

const RELAXABLE: usize = {
    let (mut count, mut rest) = (0, CONTROLS);
    while let [one, others @ ..] = rest {
        count += one.relaxed.is_some() as usize;
        rest = others;
    }
    count
};

#[expect(clippy::indexing_slicing, reason = "while it compiles, there are as many as were counted")]
const fn words() -> [&'static str; RELAXABLE] {
    let (mut words, mut count, mut rest) = ([""; RELAXABLE], 0, CONTROLS);
    while let [one, others @ ..] = rest {
        if one.relaxed.is_some() {
            words[count] = one.name;
            count += 1;
        }
        rest = others;
    }
    words
}

const CONTROLS: &[Control] = &[
    kept(
        "user",
        &[own("User"), own("Group"), is("PrivateUsers", "yes")],
        "the agent is a user of its own, and every other owner on the host is nobody to it",
    ),
    kept(
        "capabilities",
        &[is("CapabilityBoundingSet", ""), is("AmbientCapabilities", "")],
        "no process has a right of root's, whatever its user",
    ),
    kept(
        "no-new-privileges",
        &[is("NoNewPrivileges", "yes")],
        "no program that is setuid, or has capabilities, gives the agent more than it has",
    ),
    kept(
        "network",
        &[is("PrivateNetwork", "yes"), own("NetworkNamespacePath")],
        "the agent is in the network namespace that holds its policy, and never in the host's",
    ),
    kept(
        "file-system",
        &[
            own("RootDirectory"),
            is("MountAPIVFS", "no"),
            is("BindLogSockets", "no"),
            is("ProtectSystem", "strict"),
            is("ProtectHome", "tmpfs"),
            own("StateDirectoryMode"),
        ],
        "the root is empty, and only what is listed appears in it; `sandbox.readOnlyPaths` and \
         `sandbox.readWritePaths` list more",
    ),
    kept(
        "temporary-files",
        &[
            is("PrivateTmp", "yes"),
            is("TemporaryFileSystem", "/dev/shm:mode=1777,nosuid,nodev,size=25%"),
        ],
        "what others leave in /tmp, /var/tmp and /dev/shm is not there",
    ),
    kept(
        "ipc",
        &[is("PrivateIPC", "yes"), is("RemoveIPC", "yes")],
        "no shared memory and no message queue is shared with another program of the host",
    ),
    kept(
        "process-visibility",
        &[is("PrivatePIDs", "yes"), is("ProtectProc", "invisible")],
        "the host's processes, their command lines and variables cannot be seen or signalled",
    ),
    kept(
        "devices",
        &[is("PrivateDevices", "yes"), is("DevicePolicy", "closed")],
        "no device of the host can be opened; `sandbox.devices` lists single ones",
    ),
    kept(
        "systemd-messages",
        &[
            is("NotifyAccess", "main"),
            is("OpenFile", "/run/systemd/notify:notify"),
            is("InaccessiblePaths", "-+/run/systemd/notify"),
        ],
        "the agent cannot keep systemd busy with messages, nor speak for its server",
    ),
    kept(
        "system-calls",
        &[is("SystemCallFilter", "@system-service"), is("SystemCallErrorNumber", "EPERM")],
        "the kernel's rarely used calls, in which most of its faults are found, are refused",
    ),
    kept(
        "privileged-calls",
        &[is("SystemCallFilter", "~@privileged")],
        "calls that are root's alone are refused before the kernel looks at who asks",
    ),
    Control {
        name: "address-families",
        directives: &[is("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6")],
        why: "sockets other than those of IP and Unix, each a large and rarely tested part of the \
              kernel, cannot be made",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Family("AF_NETLINK")],
            needed: "what lists network interfaces: `ip`, `ss`, `os.networkInterfaces()` of Node.js, \
                     `net.Interfaces()` of Go",
            gives: "the agent can make netlink sockets: more of the kernel, and the addresses and routes \
                    of its own namespace",
        }),
    },
    Control {
        name: "architectures",
        directives: &[is("SystemCallArchitectures", "native")],
        why: "programs of another architecture, such as 32-bit ones, cannot run: they use a second and \
              less tested set of system calls",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("SystemCallArchitectures", "")],
            needed: "32-bit programs on a 64-bit host, such as Wine or old compilers",
            gives: "the kernel's 32-bit calls can be used, through which sockets of every family can be \
                    made on x86",
        }),
    },
    Control {
        name: "chown-calls",
        directives: &[is("SystemCallFilter", "~@privileged")],
        why: "files cannot be given to another owner or group",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Calls("@chown")],
            needed: "programs that fail where they cannot set the owner that a file has already, such as \
                     `install -o`, or `chgrp` in tests",
            gives: "the agent can give its files to the instance's group; every other owner stays \
                    impossible",
        }),
    },
    Control {
        name: "clock",
        directives: &[is("ProtectClock", "yes")],
        why: "the state of the system's clock can be neither set nor asked for, and /dev/rtc not opened",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("ProtectClock", "no"), Weaker::Calls("adjtimex clock_adjtime")],
            needed: "programs that ask how well the clock is set: `adjtimex --print`, `ntptime`, some \
                     databases of a cluster",
            gives: "the agent can ask for that; setting the clock stays root's",
        }),
    },
    Control {
        name: "control-groups",
        directives: &[is("ProtectControlGroups", "yes"), is("ProtectControlGroups", "strict")],
        why: "the host's other units, their names and how much they use cannot be seen",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("ProtectControlGroups", "yes")],
            needed: "programs that show the host's load by units: `systemd-cgtop`, agents of monitoring",
            gives: "the agent sees the names of all units of the host and what each of them uses; it can \
                    change none",
        }),
    },
    Control {
        name: "core-dumps",
        directives: &[is("LimitCORE", "0")],
        why: "the memory of a program that crashes, with the keys in it, is written nowhere",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("LimitCORE", "infinity")],
            needed: "`gdb PROGRAM core`, `coredumpctl` on the host",
            gives: "the memory of what crashes, the server with its keys among it, lands in the project \
                    or where the host keeps core dumps, which is outside the sandbox",
        }),
    },
    Control {
        name: "debug-calls",
        directives: &[is("SystemCallFilter", "@system-service")],
        why: "no process can read or change the memory of another one as a debugger does",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Calls("ptrace pidfd_getfd perf_event_open")],
            needed: "`gdb`, `strace`, `ltrace`, `perf`, sanitizers that look for leaks",
            gives: "the agent can change its own server while that runs, and with it what \
                    `enforcedSettings` and `trustProject` keep, where the host's \
                    `kernel.yama.ptrace_scope` is 0; the supervisor stays closed",
        }),
    },
    Control {
        name: "hardware-listing",
        directives: &[is("BindReadOnlyPaths", BARE_SYS)],
        why: "the host's devices, disks, network links and kernel modules are not listed in /sys",
        relaxed: Some(Relaxed {
            weaker: &[
                Weaker::Without("BindReadOnlyPaths", BARE_SYS),
                Weaker::Without("BindReadOnlyPaths", PROCESSORS),
            ],
            needed: "what looks for hardware in /sys: `lspci`, `lsblk`, and the libraries of graphics \
                     processors beside `sandbox.devices`",
            gives: "the agent sees what hardware the host has, with serial numbers, and the links of all \
                    instances",
        }),
    },
    Control {
        name: "hostname",
        directives: &[is("ProtectHostname", "yes")],
        why: "the host's name cannot be changed, nor a change of it seen",
        relaxed: Some(Relaxed {
            weaker: &[
                Weaker::Value("ProtectHostname", "no"),
                Weaker::Calls("sethostname setdomainname"),
            ],
            needed: "programs that give a container a name, together with `namespaces`",
            gives: "two more system calls; the host's own name stays root's",
        }),
    },
    Control {
        name: "io-uring",
        directives: &[is("SystemCallFilter", "~io_uring_enter io_uring_register io_uring_setup")],
        why: "io_uring, which opens files and sockets past every filter of system calls and has had many \
              faults, is refused",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Calls("io_uring_enter io_uring_register io_uring_setup")],
            needed: "programs that know nothing else: `fio --ioengine=io_uring`, some storage engines; most \
                     go on without it",
            gives: "the agent reaches a part of the kernel with many faults, and sockets of every family",
        }),
    },
    Control {
        name: "kernel-logs",
        directives: &[is("ProtectKernelLogs", "yes")],
        why: "the kernel's log, with addresses and what other programs did, cannot be read",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("ProtectKernelLogs", "no"), Weaker::Calls("syslog")],
            needed: "`dmesg`, where the host lets everybody read it (`kernel.dmesg_restrict=0`)",
            gives: "the agent reads the host's kernel log on such a host",
        }),
    },
    Control {
        name: "kernel-modules",
        directives: &[is("ProtectKernelModules", "yes")],
        why: "the host's kernel modules are not there to read, and loading one is refused",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("ProtectKernelModules", "no")],
            needed: "building kernel modules with /usr/lib/modules/VERSION/build",
            gives: "the agent sees the host's kernel modules; loading one stays root's",
        }),
    },
    Control {
        name: "kernel-tunables",
        directives: &[is("ProtectKernelTunables", "yes")],
        why: "what sets up the kernel in /proc and /sys is read-only, whatever its modes say",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("ProtectKernelTunables", "no")],
            needed: "programs that mount a /proc of their own in a nested sandbox",
            gives: "only the modes of those files keep the agent from writing to them; what is the host's \
                    is root's there",
        }),
    },
    Control {
        name: "keyring",
        directives: &[is("KeyringMode", "private"), is("SystemCallFilter", "~@keyring")],
        why: "the kernel's keyrings, where other programs keep keys, cannot be used",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Calls("@keyring")],
            needed: "`keyctl`, Kerberos with keys in the kernel, `fscrypt`",
            gives: "the agent can use keyrings of its own user; the session's is still a private one",
        }),
    },
    Control {
        name: "namespaces",
        directives: &[is("RestrictNamespaces", "yes")],
        why: "no new namespaces, in which a user is root and reaches the parts of the kernel with most of \
              its faults",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("RestrictNamespaces", "no")],
            needed: "`unshare --user`, sandboxes of browsers and of package managers; those that mount need \
                     `sandbox.allowNestedSandbox`",
            gives: "the agent is root in namespaces that it makes, and so reaches far more of the kernel",
        }),
    },
    Control {
        name: "personality",
        directives: &[is("LockPersonality", "yes")],
        why: "a process cannot ask for another execution domain, such as memory at fixed addresses",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("LockPersonality", "no")],
            needed: "`setarch`, `linux32`, `gdb` where it runs programs at fixed addresses",
            gives: "the agent's own programs can run without random addresses and with executable data",
        }),
    },
    Control {
        name: "proc-subset",
        directives: &[is("ProcSubset", "pid")],
        why: "/proc shows processes alone, and nothing of the host: load, memory, mounts, settings of the \
              kernel",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("ProcSubset", "all")],
            needed: "what reads /proc/cpuinfo, /proc/meminfo or /proc/sys: `free`, `top`, `lscpu`, some \
                     runtimes and build tools",
            gives: "the agent sees the host's load, memory, processors, file systems and kernel settings",
        }),
    },
    Control {
        name: "realtime",
        directives: &[is("RestrictRealtime", "yes")],
        why: "no process can ask for a schedule in which it takes a processor for itself",
        relaxed: Some(Relaxed {
            weaker: &[
                Weaker::Value("RestrictRealtime", "no"),
                Weaker::Calls("sched_setattr sched_setparam sched_setscheduler"),
            ],
            needed: "`chrt`, tests of audio and of real-time programs, with `LimitRTPRIO` in \
                     `unitOverrides.main`",
            gives: "with such a limit the agent can take processors from everybody; without one, nothing",
        }),
    },
    Control {
        name: "resource-calls",
        directives: &[is("SystemCallFilter", "~@resources")],
        why: "priorities, processors and memory nodes of processes stay as systemd set them",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Calls("@resources")],
            needed: "`nice`, `ionice`, `taskset`, `numactl`, and databases that bind themselves to \
                     processors",
            gives: "the agent can lower its priority and choose its processors; the limits of `resources` \
                    hold all the same",
        }),
    },
    Control {
        name: "suid-sgid",
        directives: &[is("RestrictSUIDSGID", "yes")],
        why: "no file of the agent's can be setuid or setgid, and so run as its user for somebody else",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("RestrictSUIDSGID", "no")],
            needed: "`git init --shared`, `chmod g+s` on directories, unpacking root file systems and \
                     packages, and what needs the call `openat2`, which systemd hides with it",
            gives: "the agent can leave programs in the project that run as its user, or with its groups, \
                    for whoever starts them on the host",
        }),
    },
    Control {
        name: "umask",
        directives: &[is("UMask", "0077")],
        why: "what the agent writes can be read by its user alone",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Value("UMask", "0022")],
            needed: "projects that others on the host read, such as a web server",
            gives: "everybody who can enter the project can read what the agent writes there; the state \
                    directory stays closed",
        }),
    },
    Control {
        name: "userfaultfd",
        directives: &[is("SystemCallFilter", "~userfaultfd")],
        why: "a call that makes faults of the kernel easier to use is refused",
        relaxed: Some(Relaxed {
            weaker: &[Weaker::Calls("userfaultfd")],
            needed: "moving virtual machines (QEMU), CRIU, some garbage collectors",
            gives: "an attack on the kernel gets easier",
        }),
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::facts::HostFacts;
    use crate::lower::read;
    use crate::node::Format;
    use crate::units::of_instance;

    /// What starts, stops, limits, feeds or shows something, and protects nothing by itself.
    const OTHER: &[&str] = &[
        "BindPaths",
        "BindReadOnlyPaths",
        "Environment",
        "ExecStart",
        "ExecStop",
        "LoadCredential",
        "MemoryMax",
        "MemoryPressureWatch",
        "OOMPolicy",
        "OOMScoreAdjust",
        "Restart",
        "RestartPreventExitStatus",
        "RestartSec",
        "Slice",
        "StateDirectory",
        "SyslogIdentifier",
        "TasksMax",
        "TimeoutStartSec",
        "TimeoutStopSec",
        "Type",
        "WatchdogSec",
        "WatchdogSignal",
        "WorkingDirectory",
    ];

    /// The lines of `[Service]`; the filters one word each.
    fn service() -> BTreeSet<(String, String)> {
        let text = "[instances.a]\ndirectory = \"/srv/a\"\n";
        let (spec, _) = read(text, Format::Toml).unwrap();
        let units = of_instance(&spec.instances[0], &HostFacts::default(), "", "");
        let unit = units.iter().find(|unit| unit.name == "opencode-a.service").unwrap();
        let text = unit.render(257).0;
        let (_, service) = text.split_once("[Service]").unwrap();
        let lines = service.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter_map(|line| line.split_once('='));
        lines.flat_map(|(name, value)| split(name, value)).collect()
    }

    fn split(name: &str, value: &str) -> Vec<(String, String)> {
        if name != "SystemCallFilter" {
            return vec![(name.to_owned(), value.to_owned())];
        }
        let (mark, words) = value.strip_prefix('~').map_or(("", value), |rest| ("~", rest));
        let word = |word| (name.to_owned(), format!("{mark}{word}"));
        words.split(' ').map(word).collect()
    }

    #[test]
    fn the_table_is_what_the_unit_says() {
        let unit = service();
        let (mut said, mut names) = (BTreeSet::new(), BTreeSet::new());
        for directive in all().iter().flat_map(|control| control.directives) {
            match directive.value {
                Some(value) => said.extend(split(directive.name, value)),
                None => {
                    names.insert(directive.name.to_owned());
                }
            }
        }
        let protects = |(name, value): &&(String, String)| {
            let known = OTHER.contains(&name.as_str()) || names.contains(name);
            !known || value.ends_with(":/sys")
        };
        // A turn to start protects nothing.
        let turn = |(name, value): &&(String, String)| name == "OpenFile" && value.contains("turn");
        let unit_says: BTreeSet<_> =
            unit.iter().filter(|line| protects(line) && !turn(line)).cloned().collect();
        assert_eq!(said, unit_says);
        for name in names {
            assert!(unit.iter().any(|(one, _)| *one == name), "{name} is not in the unit");
        }
    }

    #[test]
    fn names_are_unique_and_those_that_can_be_given_up_sorted() {
        let names: BTreeSet<_> = all().iter().map(|control| control.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(WORDS.is_sorted() && WORDS.iter().all(|word| find(word).is_some()));
    }
}
