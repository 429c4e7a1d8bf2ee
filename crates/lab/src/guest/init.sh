# PID 1 of the guest once its root is mounted: makes it a host on which machines boot, runs the command there, and leaves
# the command's status behind.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
shared=/run/lab-guest

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
	echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mkdir -p /lib/modules
mount --bind "$(cat "$shared/modules")" /lib/modules
ip link set lo up

# Reports are carried out; everything else that is written is gone with the guest.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 failures "$(cat "$shared/failures")"

port=$(grep -l lab-command /sys/class/virtio-ports/*/name)
port=/dev/$(basename "$(dirname "$port")")
status=0
if [ -e "$shared/terminal" ]; then
	sh "$shared/command" <>"$port" >&0 2>&1 || status=$?
else
	sh "$shared/command" </dev/null >"$port" 2>&1 || status=$?
fi
echo "$status" >"$shared/status"
# A reset ends the emulator, which was told not to start anew.
echo b >/proc/sysrq-trigger
