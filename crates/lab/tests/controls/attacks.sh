# Attacks on what is around a nested sandbox, by who is root in it.
root() { unshare --user --map-root-user --mount --net --ipc --uts --cgroup --pid --fork sh -c "$1" 2>&1; }
inner() { unshare --user --map-root-user sh -c "$1" 2>&1; }
# What nested root is not allowed.
root 'test "$(id -u)" = 0 && echo is root'
# Files: of the host, under whatever a mount covers, by an old root, a device, a new view of a disk.
root 'umount /etc/passwd && echo BREACH uncovered'
root 'umount -l /usr && echo BREACH unmounted'
root 'umount -l /; cat /etc/shadow && echo BREACH shadow'
root 'mount --bind /usr /tmp; mount -o remount,bind,rw /usr && touch /usr/planted && echo BREACH wrote'
root 'mknod /tmp/disk b 8 0 && echo BREACH node'
root 'mknod /tmp/mem c 1 1 && echo BREACH node'
root 'mount -t devtmpfs dev /tmp && echo BREACH devtmpfs'
root 'for disk in /sys/class/block/*; do n=$(basename "$disk"); mount "/dev/$n" /tmp && echo BREACH "$n"; done'
root 'chroot /proc/self/root cat /etc/shadow && echo BREACH chroot'
inner 'ls /var/lib/opencode/instance-auth /etc/opencode-instances/plain && echo BREACH listed'
root 'ls /home/* /root/.ssh && echo BREACH homes'
# Namespaces: those of the unit, and of its first process.
for kind in net uts ipc pid cgroup; do
    inner "nsenter --$kind=/proc/self/ns/$kind true && echo BREACH $kind"
done
inner 'nsenter --mount=/proc/self/ns/mnt true && echo BREACH mount'
inner 'ls /proc/1/ns && echo BREACH first process'
inner 'nsenter -t 1 -n nft flush ruleset && echo BREACH nsenter'
# The policy: of the instance's namespace.
root 'nft flush ruleset && echo flushed its own'
inner 'nft flush ruleset && echo BREACH flushed'
inner 'nft list ruleset | grep table && echo BREACH listed rules'
inner 'ip link add x type dummy && echo BREACH link'
inner 'ip route add 192.0.2.0/24 dev lo && echo BREACH route'
# The kernel's settings, its modules, its name, its devices.
root 'echo core >/proc/sys/kernel/core_pattern && echo BREACH core_pattern'
root 'echo 1 >/proc/sys/vm/drop_caches && echo BREACH caches'
root 'echo h >/proc/sysrq-trigger && echo BREACH trigger'
root 'hostname taken; hostname | grep taken >/dev/null && echo named its own'
root 'cat /proc/kcore | head -c 1 | grep -q . && echo BREACH kcore'
root 'mount -t cgroup2 cgroup2 /tmp && echo 1 >/tmp/cgroup.procs && echo BREACH cgroup'
# Users: no other one than its own, and no way to root's.
inner 'setpriv --reuid 1 true && echo BREACH user'
unshare --user --map-users 0:0:2 true 2>&1 && echo BREACH users
true
