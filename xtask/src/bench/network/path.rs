//! The ways to the internet: instances, without servers, and one without a rule.

use anyhow::Result;
use instances_core::network::Network;
use instances_lab::Machine;

/// The path without rules.
pub(super) const BARE: &str = "bare";
/// Where everything goes.
pub(super) const TARGET: &str = "1.1.1.1";

/// As many links as an instance's path has, with a router between them that is not the machine itself,
/// whose tables would see the packets.
const SETUP: &str = "set -e
ip netns add router
ip netns add bare
ip link add eth0 netns bare type veth peer name in netns router
ip link add out netns router type veth peer name bare netns internet
for end in 'bare lo' 'bare eth0' 'router lo' 'router in' 'router out' 'internet bare'; do
  set -- $end; ip -n $1 link set $2 up
done
ip -n bare addr add 10.250.0.1/31 dev eth0
ip -n router addr add 10.250.0.0/31 dev in
ip -n router addr add 9.8.0.2/24 dev out
ip -n internet addr add 9.8.0.1/24 dev bare
ip -n bare route add default via 10.250.0.0
ip -n router route add default via 9.8.0.1
ip -n internet route add 10.250.0.0/31 via 9.8.0.2
ip netns exec router sysctl -q net.ipv4.ip_forward=1
# Nothing that is measured should pass what counts for tests.
ip netns exec internet nft delete table inet seen
mkdir -p /run/bench
";

/// Lays the path without rules.
pub(super) fn bare(machine: &Machine) -> Result<()> {
    machine.sh(SETUP)?.ok().map(drop)
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
    if name == BARE { BARE.to_owned() } else { format!("opencode-{name}") }
}
