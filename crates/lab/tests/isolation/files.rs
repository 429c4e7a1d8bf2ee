//! The host's files, and those of the other instance.

use crate::catalogue::{BREACH, Group, Red, Weak, attack, python, steal};

const FILES: Red = Red::With(Weak::Files);
const ROOT: Red = Red::With(Weak::Root);

/// What every canary contains.
pub(crate) const CANARY: &str = "the-canary";

pub(crate) const READING: Group = Group {
    name: "reading",
    attacks: &[
        steal("list the other project", FILES, "canary", "ls /srv/billing"),
        steal("read the other project", FILES, CANARY, "cat /srv/billing/canary"),
        steal("list the projects' parent", FILES, "billing", "ls /srv"),
        steal("read a file beside the projects", FILES, CANARY, "cat /srv/other/canary"),
        steal(
            "list the other state",
            Red::AsRoot,
            "canary",
            "ls -A /var/lib/opencode/instance-state/billing",
        ),
        steal(
            "read the other state",
            Red::AsRoot,
            CANARY,
            "cat /var/lib/opencode/instance-state/billing/canary",
        ),
        steal("list all states", FILES, "billing", "ls /var/lib/opencode/instance-state"),
        steal(
            "read the other password",
            Red::AsRoot,
            BREACH,
            "test -s /var/lib/opencode/instance-auth/billing/password && echo BREACH",
        ),
        steal(
            "read the own password where it is kept",
            Red::AsRoot,
            BREACH,
            "test -s /var/lib/opencode/instance-auth/website/password && echo BREACH",
        ),
        steal(
            "list all credentials",
            Red::AsRoot,
            "opencode-billing.service",
            "ls /run/credentials",
        ),
        steal(
            "read the other credential",
            Red::AsRoot,
            BREACH,
            "test -s /run/credentials/opencode-billing.service/password && echo BREACH",
        ),
        steal("read /etc/shadow", Red::AsRoot, "root:", "cat /etc/shadow"),
        steal("read /etc/gshadow", Red::AsRoot, "root:", "cat /etc/gshadow"),
        steal("read the host's accounts", FILES, "messagebus", "cat /etc/passwd"),
        steal("read a file in /etc", FILES, CANARY, "cat /etc/canary"),
        attack("read the machine's id", FILES, "test -s /etc/machine-id && echo BREACH"),
        steal(
            "read the other's record",
            FILES,
            "4102",
            "cat /etc/opencode-instances/billing/instance.json",
        ),
        steal(
            "read the fleet's specification",
            FILES,
            "4102",
            "cat /etc/opencode-instances/instances.toml",
        ),
        steal(
            "read the units",
            FILES,
            "ExecStart",
            "cat /etc/systemd/system/opencode-billing.service",
        ),
        steal("list the engine's volatile files", FILES, "billing", "ls /run/opencode-instances"),
        steal("read /home", FILES, CANARY, "cat /home/alice/canary"),
        steal("list /home", FILES, "alice", "ls /home"),
        steal("read /root", Red::AsRoot, CANARY, "cat /root/canary"),
        steal("read /var/lib", FILES, CANARY, "cat /var/lib/canary"),
        steal("read /var/log", FILES, CANARY, "cat /var/log/canary"),
        steal("read the journal's files", Red::AsRoot, ".journal", "ls /var/log/journal/*"),
        steal("read /var/tmp", FILES, CANARY, "cat /var/tmp/canary"),
        steal("read /tmp", FILES, CANARY, "cat /tmp/canary"),
        steal("read /opt", FILES, CANARY, "cat /opt/canary"),
        steal("read /boot", FILES, CANARY, "cat /boot/canary"),
        steal("read /mnt", FILES, CANARY, "cat /mnt/canary"),
        steal("read /media", FILES, CANARY, "cat /media/canary"),
        steal("read /run", FILES, CANARY, "cat /run/canary"),
        steal("read /dev/shm", FILES, CANARY, "cat /dev/shm/canary"),
        steal("find a canary anywhere", FILES, "/canary", "timeout 20 find / -xdev -name canary"),
        steal(
            "follow a link out of the project",
            FILES,
            CANARY,
            "ln -sfn /etc/canary exit; cat exit; rm -f exit",
        ),
        steal(
            "walk up from the own root",
            FILES,
            CANARY,
            "cat /../../../etc/canary /proc/self/root/../etc/canary",
        ),
        steal("walk through the supervisor's root", ROOT, "bin", "ls /proc/1/root/"),
        attack(
            "open a file by its handle",
            Red::AsRoot,
            python!(
                "import ctypes
handle = (ctypes.c_char * 136)()
struct.pack_into('I', handle, 0, 128)
mount = ctypes.c_int()
if call(303, -100, b'/dev/shm', handle, ctypes.byref(mount), 0) == 0:
    fd = os.open('/dev/shm', os.O_RDONLY)
    reached(304, fd, handle, os.O_PATH)"
            ),
        ),
    ],
};

pub(crate) const WRITING: Group = Group {
    name: "writing",
    attacks: &[
        attack("write the other project", Red::AsRoot, "touch /srv/billing/owned && echo BREACH"),
        attack("write beside the projects", Red::AsRoot, "touch /srv/owned && echo BREACH"),
        attack(
            "write to /tmp of the host",
            FILES,
            "touch /tmp/owned; ls -l /tmp/canary && echo BREACH",
        ),
        attack(
            "write to /var/tmp of the host",
            FILES,
            "touch /var/tmp/owned; ls -l /var/tmp/canary && echo BREACH",
        ),
        attack(
            "write to /dev/shm of the host",
            FILES,
            "touch /dev/shm/owned; ls -l /dev/shm/canary && echo BREACH",
        ),
        attack("write to /run/lock", FILES, "touch /run/lock/owned && echo BREACH"),
        attack("write to /", Red::AsRoot, "touch /owned && echo BREACH"),
        attack("write to /etc", Red::AsRoot, "touch /etc/owned && echo BREACH"),
        attack("write to /usr/bin", Red::AsRoot, "touch /usr/bin/owned && echo BREACH"),
        attack("write to /bin", Red::AsRoot, "touch /bin/owned && echo BREACH"),
        attack("write to /lib", Red::AsRoot, "touch /lib/owned && echo BREACH"),
        attack("write to /var/lib", Red::AsRoot, "touch /var/lib/owned && echo BREACH"),
        attack("write to /run", Red::AsRoot, "touch /run/owned && echo BREACH"),
        attack("write to /home", Red::AsRoot, "touch /home/owned && echo BREACH"),
        attack("write to /root", Red::AsRoot, "touch /root/owned && echo BREACH"),
        attack("write to /boot", Red::AsRoot, "touch /boot/owned && echo BREACH"),
        attack(
            "add an account",
            Red::AsRoot,
            "echo 'evil:x:0:0::/:/bin/sh' >> /etc/passwd && echo BREACH; sed -i /^evil:/d /etc/passwd",
        ),
        attack(
            "change another project's policy",
            Red::AsRoot,
            "touch /etc/opencode-instances/website/rules.nft && echo BREACH",
        ),
        attack(
            "redirect names",
            Red::AsRoot,
            "test -w /etc/resolv.conf && test -w /etc/hosts && echo BREACH",
        ),
        attack(
            "trust another repository's owner",
            Red::AsRoot,
            "touch /etc/gitconfig && echo BREACH",
        ),
        attack(
            "replace the server",
            Red::Nowhere("the machine binds it read-only, for root as well"),
            "test -w /usr/bin/opencode && echo BREACH",
        ),
        attack(
            "make a setuid file",
            Red::With(Weak::Calls),
            "cp $(command -v id) mine; chmod 4755 mine; test -u mine && echo BREACH; rm -f mine",
        ),
        attack(
            "make a setgid directory",
            Red::With(Weak::Calls),
            "mkdir -p mined; chmod 2777 mined; test -g mined && echo BREACH; rmdir mined",
        ),
        attack(
            "open a file that is setuid at once",
            Red::With(Weak::Calls),
            python!(
                "try:
    os.close(os.open('at-once', os.O_CREAT | os.O_WRONLY, 0o4755))
    print('BREACH' if os.stat('at-once').st_mode & 0o4000 else 'no bit')
    os.unlink('at-once')
except OSError as error:
    print(error)"
            ),
        ),
        attack(
            "make a setuid file with fchmodat2",
            Red::With(Weak::Calls),
            python!(
                "open('fourth', 'w').close()
succeeds(452, -100, b'fourth', 0o4755, 0)
os.unlink('fourth')"
            ),
        ),
        attack(
            "give a file capabilities",
            Red::AsRoot,
            "cp $(command -v id) capable; setcap cap_net_raw+ep capable && echo BREACH; rm -f capable",
        ),
        steal("run a setuid file of the project", Red::With(Weak::Calls), "euid=0", "./rooted-id"),
        steal(
            "run a capable file of the project",
            Red::With(Weak::Calls),
            "CapEff:\t0000000000002000",
            "./capable-grep CapEff /proc/self/status",
        ),
        attack(
            "gain by sudo, su, mount or passwd",
            Red::AsRoot,
            "sudo -n true && echo BREACH; su root -c true </dev/null && echo BREACH; passwd -S root && echo BREACH",
        ),
        attack(
            "link to a setuid program",
            Red::AsRoot,
            "ln /usr/bin/su su-link && echo BREACH; rm -f su-link",
        ),
        attack(
            "make a block device",
            ROOT,
            "mknod /tmp/disk b 254 0 && echo BREACH; rm -f /tmp/disk",
        ),
        attack(
            "make a character device",
            ROOT,
            "mknod /tmp/mem c 1 1 && echo BREACH; rm -f /tmp/mem",
        ),
    ],
};
