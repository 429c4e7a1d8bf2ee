//! Processes, the supervisor and the manager.

use crate::catalogue::{Group, Red, Weak, attack, python, steal};
use crate::files::CANARY;

const PROCESSES: Red = Red::With(Weak::Processes);
const FILES: Red = Red::With(Weak::Files);
const CALLS: Red = Red::With(Weak::Calls);
const ROOT: Red = Red::With(Weak::Root);

pub(crate) const PROCESS: Group = Group {
    name: "processes",
    attacks: &[
        steal("see a process of the host", PROCESSES, "86399", "ps -eo args | grep '[8]6399'"),
        steal(
            "see the proxy",
            PROCESSES,
            "instances proxy",
            "ps -eo args | grep '^/.*instances proxy'",
        ),
        steal(
            "see the other server",
            PROCESSES,
            "two servers",
            "test $(ps -eo args | grep -c '^/usr/bin/opencode serve') -ge 2 && echo two servers",
        ),
        steal("see the supervisor", ROOT, "supervise", "cat /proc/1/cmdline"),
        steal("read the supervisor's environment", ROOT, "HOME=", "cat /proc/1/environ"),
        steal(
            "read another process's environment",
            Red::AsRoot,
            CANARY,
            "cat /proc/*/environ | grep -ao the-canary",
        ),
        attack(
            "read the supervisor's memory map",
            ROOT,
            "test -n \"$(cat /proc/1/maps)\" && echo BREACH",
        ),
        attack(
            "open the supervisor's memory",
            ROOT,
            python!(
                "try:
    os.open('/proc/1/mem', os.O_RDWR)
    print('BREACH')
except OSError as error:
    print(error)"
            ),
        ),
        attack("list the supervisor's descriptors", ROOT, "ls /proc/1/fd/0 && echo BREACH"),
        attack("trace the supervisor", ROOT, python!("succeeds(101, 0x4206, 1, 0, 0)")),
        attack(
            "read the supervisor's memory by a call",
            ROOT,
            python!(
                "buffer = (ctypes.c_char * 8)()
local = (ctypes.c_long * 2)(ctypes.addressof(buffer), 8)
remote = (ctypes.c_long * 2)(0x1000, 8)
reached(310, 1, local, 1, remote, 1, 0)"
            ),
        ),
        attack(
            "take the supervisor's descriptors",
            ROOT,
            python!("succeeds(438, os.pidfd_open(1), 0, 0)"),
        ),
        attack(
            "kill the supervisor",
            Red::Nowhere("the kernel ignores it, and the test sees that it lives"),
            "kill -KILL 1; kill -STOP 1; true",
        ),
        attack("trace at all", CALLS, python!("reached(101, 0x4206, 0x7ffffff0, 0, 0)")),
        attack("see the host's command line", PROCESSES, "test -s /proc/cmdline && echo BREACH"),
        attack(
            "see the host's mounts",
            Red::AsRoot,
            "grep -q ' /sys/fs/bpf\\| /run/host' /proc/1/mountinfo && echo BREACH",
        ),
        attack("see IPC of the host", PROCESSES, "test -r /proc/sysvipc/shm && echo BREACH"),
        attack("raise the priority", ROOT, "nice -n -5 true 2>&1 | grep -q . || echo BREACH"),
        attack(
            "become a realtime process",
            ROOT,
            python!(
                "try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print('BREACH')
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
except OSError as error:
    print(error)"
            ),
        ),
        attack("dump core", CALLS, "ulimit -c unlimited && echo BREACH"),
        attack(
            "type into a terminal of the host",
            Red::AsRoot,
            "for t in /dev/pts/[0-9]*; do : >$t && echo BREACH; done",
        ),
        attack("shared memory of the host", FILES, python!("succeeds(29, 0x4f434e41, 0, 0)")),
        attack(
            "a message queue of the host",
            FILES,
            python!("succeeds(240, b'the-canary', os.O_RDWR, 0, None)"),
        ),
    ],
};

pub(crate) const MANAGER: Group = Group {
    name: "the manager",
    attacks: &[
        attack("D-Bus", FILES, python!("unix('/run/dbus/system_bus_socket')")),
        steal("systemctl", FILES, "opencode-billing", "systemctl list-units --no-pager"),
        attack("the manager's own socket", Red::AsRoot, python!("unix('/run/systemd/private')")),
        attack("start a unit", Red::AsRoot, "systemd-run --quiet --wait true && echo BREACH"),
        attack(
            "stop the other",
            Red::AsRoot,
            "systemctl is-active opencode-billing && systemctl reload-or-restart opencode-net@nothing; test $? = 5 && echo BREACH",
        ),
        steal(
            "read the journal",
            Red::AsRoot,
            "opencode",
            "journalctl --no-pager | grep -o opencode | head -n 1",
        ),
        attack(
            "the journal's socket",
            FILES,
            python!("unix('/run/systemd/journal/socket', kind=socket.SOCK_DGRAM)"),
        ),
        attack("the journal's stream", FILES, python!("unix('/run/systemd/journal/stdout')")),
        attack("syslog", FILES, python!("unix('/dev/log', kind=socket.SOCK_DGRAM)")),
        attack("a socket in /run", FILES, python!("unix('/run/canary.sock')")),
        attack("a socket in /tmp", FILES, python!("unix('/tmp/canary.sock')")),
        steal(
            "find any socket",
            FILES,
            "/run/",
            "timeout 20 find /run / -xdev -type s 2>/dev/null",
        ),
        attack(
            "the manager's messages",
            PROCESSES,
            python!("unix('/run/systemd/notify', kind=socket.SOCK_DGRAM)"),
        ),
        steal(
            "claim another state",
            PROCESSES,
            "owned-by-agent",
            python!("notify(b'STATUS=owned-by-agent'); time.sleep(3)"),
        ),
        attack(
            "claim the end of the service",
            Red::Nowhere("it would end the weakened server too; the status shows who is believed"),
            python!(
                "notify(b'MAINPID=%d' % os.getpid())
notify(b'STOPPING=1')
notify(b'WATCHDOG=trigger')
notify(b'RELOADING=1')
notify(b'ERRNO=5')"
            ),
        ),
    ],
};
