//! The ways to the internet: instances, without servers, and two without a policy.

use anyhow::Result;
use instances_core::network::Network;
use instances_lab::Machine;

/// The path without rules.
pub(super) const BARE: &str = "bare";
/// The same, whose router does what any private address needs: it tracks connections and translates.
pub(super) const MASQUERADED: &str = "masqueraded";
/// A namespace without privileges, whose packets a process of its user's carries.
pub(super) const PASTA: &str = "pasta";
/// Where everything goes.
pub(super) const TARGET: &str = "1.1.1.1";

/// As many links as an instance's path has, with a router between them that is not the machine itself,
/// whose tables would see the packets.
const SETUP: &str = "set -e
# The namespace, its router, the number of its networks.
lay() {
  ip netns add $2
  ip netns add $1
  ip link add eth0 netns $1 type veth peer name in netns $2
  ip link add out netns $2 type veth peer name $1 netns internet
  for end in \"$1 lo\" \"$1 eth0\" \"$2 lo\" \"$2 in\" \"$2 out\" \"internet $1\"; do
    ip -n ${end% *} link set ${end#* } up
  done
  ip -n $1 addr add 10.250.$3.1/31 dev eth0
  ip -n $2 addr add 10.250.$3.0/31 dev in
  ip -n $2 addr add 9.8.$3.2/24 dev out
  ip -n internet addr add 9.8.$3.1/24 dev $1
  ip -n $1 route add default via 10.250.$3.0
  ip -n $2 route add default via 9.8.$3.1
  ip -n internet route add 10.250.$3.0/31 via 9.8.$3.2
  ip netns exec $2 sysctl -q net.ipv4.ip_forward=1
}
lay bare router 0
lay masqueraded translator 1
ip netns exec translator nft -f - <<'END'
table ip nat {
  chain postrouting { type nat hook postrouting priority srcnat; oifname out masquerade; }
}
END
# Nothing that is measured should pass what counts for tests. Datagrams that are only timed end here.
ip netns exec internet nft -f - <<'END'
delete table inet seen
table inet sink {
  chain in { type filter hook prerouting priority raw; udp dport 5003 udp length 24 drop; }
}
END
mkdir -p /run/bench
";

/// Lays the paths without a policy.
pub(super) fn baselines(machine: &Machine) -> Result<()> {
    machine.sh(SETUP)?.ok().map(drop)
}

/// Lets a user without privileges have a namespace, as for bubblewrap or a rootless container, and gives it a name
/// for the client. Says what it is.
pub(super) fn pasta(machine: &Machine) -> Result<String> {
    let script = format!(
        "systemd-sysusers --inline 'u peer - - /'
         chmod 666 /dev/net/tun # as udev does on a host
         systemd-run --quiet --unit={PASTA} --uid=peer --gid=peer pasta --config-net -- sleep infinity
         for try in $(seq 100); do
           pid=$(pgrep -u peer -x sleep || true)
           if [ -n \"$pid\" ] && nsenter -t $pid -U -n ip -4 route show default | grep -q default; then
             ip netns attach {PASTA} $pid; dpkg-query -W passt; exit
           fi
           sleep 0.1
         done
         journalctl --no-pager -u {PASTA} >&2; exit 1"
    );
    Ok(machine.sh(&script)?.ok()?.trim().replace('\t', " "))
}

/// Brings an instance's network up, as its unit does.
pub(super) fn instance(
    machine: &Machine,
    name: &str,
    (rules, network): &(String, Network),
) -> Result<()> {
    let [rules_path, network_path] = ["nft", "json"].map(|end| format!("/run/bench/{name}.{end}"));
    machine.put(&rules_path, rules, 0o644)?;
    machine.put(&network_path, serde_json::to_vec(network)?, 0o644)?;
    let up = ["opencode-instances", "net", "up", name, "--rules", &rules_path];
    let link = ["--network", &network_path, "--pool", "10.219.0.0/16", "--nft", "/usr/sbin/nft"];
    machine.run(up.into_iter().chain(link))?.ok().map(drop)
}

/// The namespace of a path.
pub(super) fn namespace(name: &str) -> String {
    match name {
        BARE | MASQUERADED | PASTA => name.to_owned(),
        _ => format!("opencode-{name}"),
    }
}
