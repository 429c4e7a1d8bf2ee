//! The kernel's own interfaces.

use crate::catalogue::{Group, Red, Weak, attack, python, steal};

const FILES: Red = Red::With(Weak::Files);
const CALLS: Red = Red::With(Weak::Calls);
const ROOT: Red = Red::With(Weak::Root);

pub(crate) const MOUNTS: Group = Group {
    name: "mounts",
    attacks: &[
        attack(
            "mount",
            ROOT,
            "mount -t tmpfs none /tmp/opencode && echo BREACH; umount /tmp/opencode",
        ),
        attack(
            "bind",
            ROOT,
            "mkdir -p /tmp/b; mount --bind /usr /tmp/b && echo BREACH; umount /tmp/b",
        ),
        attack("remount the root writable", ROOT, "mount -o remount,bind,rw /usr && echo BREACH"),
        attack("unmount /proc", ROOT, "umount -l /home && echo BREACH"),
        attack(
            "mount another /proc",
            ROOT,
            "mkdir -p /tmp/p; mount -t proc proc /tmp/p && echo BREACH; umount /tmp/p",
        ),
        attack("pivot_root", ROOT, python!("reached(155, b'/nonexistent', b'/nonexistent')")),
        attack(
            "chroot",
            ROOT,
            "chroot /usr /bin/true; test $? = 0 && echo BREACH || (mkdir -p /tmp/c; chroot / true && echo BREACH)",
        ),
        attack("open_tree", ROOT, python!("succeeds(428, -100, b'/usr', 1)")),
        attack("move_mount", ROOT, python!("reached(429, -1, b'', -1, b'', 0)")),
        attack("fsopen", ROOT, python!("succeeds(430, b'tmpfs', 0)")),
        attack(
            "mount_setattr",
            ROOT,
            python!("reached(442, -100, b'/nonexistent', 0, b'\\0' * 32, 32)"),
        ),
    ],
};

pub(crate) const NAMESPACES: Group = Group {
    name: "namespaces",
    attacks: &[
        attack("a user namespace", CALLS, "unshare --user true && echo BREACH"),
        attack("a mount namespace", CALLS, "unshare --user --mount true && echo BREACH"),
        attack("a PID namespace", CALLS, "unshare --user --pid --fork true && echo BREACH"),
        attack("an IPC namespace", CALLS, "unshare --user --ipc true && echo BREACH"),
        attack("a UTS namespace", CALLS, "unshare --user --uts true && echo BREACH"),
        attack("a cgroup namespace", CALLS, "unshare --user --cgroup true && echo BREACH"),
        attack("a time namespace", CALLS, "unshare --user --time true && echo BREACH"),
        attack("a network namespace without a user's", ROOT, "unshare --net true && echo BREACH"),
        attack(
            "a user namespace with clone",
            CALLS,
            python!(
                "child = call(56, 0x10000000 | 17, 0, 0, 0, 0)
if child == 0:
    os._exit(0)
print(name(child))
if child > 0:
    print('BREACH')"
            ),
        ),
        attack(
            "a user namespace with clone3",
            CALLS,
            python!(
                "arguments = struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0)
child = call(435, arguments, 64)
if child == 0:
    os._exit(0)
print(name(child))
if child > 0:
    print('BREACH')"
            ),
        ),
        attack(
            "setns with any type",
            CALLS,
            python!("reached(308, os.open('/proc/self/ns/uts', os.O_RDONLY), 0x40000000)"),
        ),
        attack(
            "the supervisor's mounts",
            ROOT,
            "nsenter --mount=/proc/1/ns/mnt true && echo BREACH",
        ),
        attack(
            "the supervisor's users",
            ROOT,
            "readlink /proc/1/ns/user | grep -q user && echo BREACH",
        ),
    ],
};

pub(crate) const KERNEL: Group = Group {
    name: "the kernel",
    attacks: &[
        attack(
            "the hostname",
            ROOT,
            "hostname=$(uname -n); python3 -c \"import socket; socket.sethostname('$hostname')\" && echo BREACH",
        ),
        attack("the clock", ROOT, python!("reached(227, 99, None)")),
        attack("settimeofday", ROOT, python!("reached(164, 1, 1)")),
        attack("reboot", ROOT, python!("reached(169, 0, 0, 0, 0)")),
        attack("kexec", ROOT, python!("reached(246, 0, 999, 0, 0xffff)")),
        attack("load a module", ROOT, python!("reached(313, -1, b'', 0)")),
        attack("unload a module", ROOT, python!("reached(176, b'nonexistent', 0x800)")),
        attack("swap", ROOT, python!("reached(167, b'/nonexistent', 0)")),
        attack("accounting", ROOT, python!("reached(163, b'/nonexistent')")),
        attack("quota", ROOT, python!("reached(179, 0x7fffff00, b'/nonexistent', 0, 0)")),
        attack("I/O ports", ROOT, python!("reached(173, 0x80, 1, 0x7fff)")),
        attack("bpf", CALLS, python!("reached(321, 9999, b'\\0' * 64, 64)")),
        attack("performance events", ROOT, python!("reached(298, 0, 0, -1, -1, 0)")),
        attack("userfaultfd", CALLS, python!("reached(323, 1)")),
        attack("io_uring", CALLS, python!("reached(425, 1, 0)")),
        attack("the kernel's log", ROOT, python!("succeeds(103, 10, 0, 0)")),
        attack("fanotify", ROOT, python!("succeeds(300, 0x4, 0)")),
        attack("the session's keyring", CALLS, python!("succeeds(250, 0, -3, 1)")),
        attack("add a key", CALLS, python!("succeeds(248, b'user', b'evil', b'x', 1, -3)")),
        attack("persistent keyring", CALLS, python!("reached(250, 22, -1, -3)")),
        attack("personality", CALLS, python!("succeeds(135, 0x0040000)")),
        attack("32-bit calls", CALLS, python!("calls_as_32_bit()")),
        attack("NUMA policy", CALLS, python!("reached(238, 0, 0, 0)")),
        attack("hang up the terminal", ROOT, python!("succeeds(153)")),
        attack(
            "compare with the supervisor",
            ROOT,
            python!("succeeds(312, 1, os.getpid(), 0, 0, 0)"),
        ),
        attack("write a cgroup", ROOT, "echo $$ >/sys/fs/cgroup/cgroup.procs && echo BREACH"),
        attack(
            "make a cgroup",
            ROOT,
            "mkdir /sys/fs/cgroup/evil && echo BREACH; rmdir /sys/fs/cgroup/evil",
        ),
        attack(
            "thaw or kill the own cgroup",
            ROOT,
            "echo 0 >/sys/fs/cgroup/cgroup.freeze && echo BREACH",
        ),
        steal(
            "see other cgroups",
            FILES,
            "billing",
            "find /sys/fs/cgroup -maxdepth 3 -name '*.service'",
        ),
        steal("know the own cgroup's place", FILES, "slice", "cat /proc/self/cgroup"),
        attack(
            "write below /sys",
            Red::Nowhere("the machine's /sys is read-only"),
            "for f in /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state /sys/kernel/uevent_helper; do test -w $f && echo BREACH; done",
        ),
        attack(
            "write kernel tunables",
            Red::Nowhere("the machine's /proc/sys is read-only"),
            "for f in kernel/core_pattern kernel/modprobe vm/overcommit_memory; do test -w /proc/sys/$f && echo BREACH; done",
        ),
        attack(
            "trigger SysRq",
            Red::Nowhere("the machine's is read-only"),
            "test -w /proc/sysrq-trigger && echo BREACH",
        ),
        attack(
            "see other devices",
            Red::Nowhere("the machine has hardly more than the sandbox"),
            "find /dev -type b -o -type c | grep -vE '^/dev/(full|null|random|urandom|tty|zero|ptmx|pts/.*|char/.*)$' && echo BREACH",
        ),
    ],
};
