#!/bin/busybox sh
# PID 1 of the guest until its root is mounted: the host's root file system, read-only, below a layer of memory.
# Whatever fails ends PID 1, and with it the guest.
set -eu
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/modules/$module"
done </modules/order

share=trans=virtio,version=9p2000.L,msize=512000
mkdir /host /layer /new
# What the host changes meanwhile may be seen or not.
mount -t 9p -o "$share,ro,cache=loose" host /host
mount -t tmpfs -o mode=755,size=75% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /new

mount -t tmpfs -o mode=755 run /new/run
mkdir /new/run/lab-guest
mount -t 9p -o "$share" guest /new/run/lab-guest
mount --move /dev /new/dev
exec switch_root /new /bin/sh /run/lab-guest/init.sh
