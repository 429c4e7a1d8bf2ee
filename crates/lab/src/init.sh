# PID 1 of a test machine's own PID namespace, in a mount namespace of its own.
# It ends, and the kernel then ends everything below it, when its standard input does: that is a pipe whose other end
# only the owner holds, so that even an owner killed with -9 leaves nothing behind.
# Arguments: the cached root, the name of the control group, then further options for systemd-nspawn.
set -eu
lower=$1 group=/sys/fs/cgroup/$2
shift 2

# systemd-nspawn wants a /run that it may manage, and the unified hierarchy where systemd looks for it.
mount -t tmpfs -o mode=755,size=75% tmpfs /run
mkdir -p /run/systemd /run/lab/lower /run/lab/upper /run/lab/work /run/lab/root
if ! [ -e /sys/fs/cgroup/cgroup.controllers ]; then
	umount -R /sys/fs/cgroup 2>/dev/null || true
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mount --bind "$lower" /run/lab/lower
mount -t overlay overlay -o lowerdir=/run/lab/lower,upperdir=/run/lab/upper,workdir=/run/lab/work /run/lab/root

# Where this hierarchy has controllers, systemd in there gets them.
mkdir -p "$group"
for controller in $(cat "$group/cgroup.controllers"); do
	echo "+$controller" >"$group/cgroup.subtree_control"
done

# One line, one boot: the upper layer stays, so the next boot finds what the last one left.
boot=0
while read -r _; do
	boot=$((boot + 1))
	mkdir -p "$group/$boot"
	# Without nspawn's filter of system calls, which no real machine has: it forbids bpf(2), and so IPAddressDeny=.
	{
		status=0
		# Nothing else is in the group: one with processes of its own gives no controllers to those below.
		(
			echo 0 >"$group/$boot/cgroup.procs" &&
				SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_SECCOMP=0 \
					exec systemd-nspawn --quiet --directory=/run/lab/root --boot \
					--private-network --register=no --keep-unit --console=pipe --link-journal=no \
					--resolv-conf=off --timezone=off --capability=all "$@" </dev/null
		) || status=$?
		echo "instances-lab: boot $boot ended with status $status"
	} &
done
