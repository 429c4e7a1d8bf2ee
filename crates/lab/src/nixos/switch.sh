# Does with a fleet's output what a NixOS host does with its configuration: accounts, one entry of
# /etc, the units of its packages as links among all others, and a target that the boot wants. What
# is active and has another text now is stopped, and started again; a changed socket is not looked at.
fleet=$1
system=/etc/systemd/system before=/run/units-before
rm -rf $before
mkdir -p $before $system/multi-user.target.wants
for unit in $system/opencode*.*; do
	if test -L "$unit"; then
		cp "$unit" $before/
		rm "$unit"
	fi
done

ln -sfn "$fleet/etc/opencode-instances" /etc/opencode-instances
ln -sf "$fleet"/etc/systemd/system/* $system/
for instance in /etc/opencode-instances/*/; do
	name=$(basename "$instance")
	ln -sf "$(realpath "$instance")"/../../systemd/system/* $system/
	home=/var/lib/opencode/instance-state/$name
	id "opencode-$name" >/dev/null 2>&1 || useradd --system --user-group --home-dir "$home" "opencode-$name"
done
ln -sf ../opencode.target $system/multi-user.target.wants/
systemd-tmpfiles --create "$fleet"/lib/tmpfiles.d/*.conf

changed=
for unit in $before/*.service; do
	test -e "$unit" || continue
	name=$(basename "$unit")
	if ! cmp -s "$unit" "$system/$name" && systemctl --quiet is-active "$name"; then
		changed="$changed $name"
	fi
done
echo "changed:$changed"
test -z "$changed" || systemctl stop $changed
systemctl daemon-reload
systemctl start opencode.target $changed
