# Puts on the machine what the attacks are after, and what they bring along.
canary() { mkdir -p "$(dirname "$1")"; echo the-canary >"$1"; chmod 644 "$1"; }
for place in /srv/billing /srv/other /etc /home/alice /root /var/lib /var/log /var/tmp /tmp /opt /boot /mnt /media \
	/run /dev/shm /var/lib/opencode/instance-state/billing; do
	canary "$place/canary"
done

ip link add test0 type veth peer name test1
ip address add 192.0.2.10/24 dev test0
ip address add 2001:db8::10/64 dev test0 nodad
ip link set test0 up
ip link set test1 up

serve() { unit=$1; shift; systemd-run --quiet --unit="canary-$unit" "$@"; }
serve tcp4 socat TCP4-LISTEN:4555,fork,reuseaddr 'EXEC:echo the-canary'
serve tcp6 socat TCP6-LISTEN:4555,fork,reuseaddr,ipv6only=1 'EXEC:echo the-canary'
serve udp python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4556))
while True: s.sendto(b"the-canary", s.recvfrom(9)[1])'
serve abstract socat ABSTRACT-LISTEN:the-host,fork 'EXEC:echo the-canary'
serve run socat UNIX-LISTEN:/run/canary.sock,fork,mode=666 'EXEC:echo the-canary'
serve tmp socat UNIX-LISTEN:/tmp/canary.sock,fork,mode=666 'EXEC:echo the-canary'
serve pty socat PTY,mode=620 EXEC:'sleep 86000'
serve sleep --setenv=CANARY=the-canary sleep 86399
python3 - <<'END'
import ctypes, os
libc = ctypes.CDLL(None)
os.umask(0)
assert libc.shmget(0x4f434e41, 4096, 0o1666) >= 0
assert libc.syscall(240, b"the-canary", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
END

# The project belongs to the agent, a repository in it to root, as after a clone by the operator.
cd /srv/website
git init --quiet
mkdir -p rooted shared work/attacks work/out
git -C rooted init --quiet
git -C shared init --quiet
chmod -R a+rwX shared
chown opencode-website:opencode-website . work work/out
cp /usr/bin/id work/rooted-id
cp /usr/bin/grep work/capable-grep
chmod 4755 work/rooted-id
setcap cap_net_raw+ep work/capable-grep
