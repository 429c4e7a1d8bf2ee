//! An internet for a machine: a namespace in it that everything leads to, and that counts what comes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::machine::Machine;

const NAMESPACE: &str = "internet";
/// The machine's own global addresses on its way out.
pub const HOST: [&str; 2] = ["9.9.0.2", "2a00:9900::2"];
/// What the internet answers for: global, private and special addresses alike, so that a refusal is
/// never the lack of a way.
pub const ADDRESSES: &[&str] = &[
    "1.1.1.1",
    "8.8.8.8",
    "10.1.2.3",
    "100.64.1.1",
    "169.254.169.254",
    "172.16.9.9",
    "192.168.7.7",
    "2606:4700::1111",
    "2001:4860:4860::8888",
    "fd00:ec2::254",
];
/// What a server on it says first.
pub const GREETING: &str = "the internet";

/// Two links and routes both ways; `wan0` is the machine's end.
const UP: &str = "
ip netns add internet
ip link add wan0 type veth peer name wan1 netns internet
ip link set wan0 up
ip addr add 9.9.0.2/24 dev wan0
ip -n internet link set lo up
ip -n internet link set wan1 up
ip -n internet addr add 9.9.0.1/24 dev wan1
ip route add default via 9.9.0.1
for address in 10.0.0.0/8 100.64.0.0/10 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16; do ip route add $address via 9.9.0.1; done
# Whatever comes by, with whatever source, is counted by what it is and where it goes.
ip netns exec internet nft -f - <<'END'
table inet seen {
  set to4 { type ipv4_addr . inet_proto; flags dynamic; counter; size 65535; }
  set to6 { type ipv6_addr . inet_proto; flags dynamic; counter; size 65535; }
  set from4 { type ipv4_addr; flags dynamic; counter; size 65535; }
  set from6 { type ipv6_addr; flags dynamic; counter; size 65535; }
  chain in { type filter hook prerouting priority raw; iif != lo jump count; }
  chain count {
    meta nfproto ipv4 update @to4 { ip daddr . ip protocol }
    meta nfproto ipv4 update @from4 { ip saddr }
    meta nfproto ipv6 update @to6 { ip6 daddr . meta l4proto }
    meta nfproto ipv6 update @from6 { ip6 saddr }
  }
}
END
";

const UP6: &str = "
ip addr add 2a00:9900::2/64 dev wan0 nodad
ip -n internet addr add 2a00:9900::1/64 dev wan1 nodad
ip -6 route add default via 2a00:9900::1
";

/// Lives as long as the machine; its servers as long as this value.
#[derive(Debug)]
pub struct Internet<'a> {
    machine: &'a Machine,
    done: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

impl<'a> Internet<'a> {
    /// Gives a machine its way out, with IPv6 or without.
    pub fn attach(machine: &'a Machine, ipv6: bool) -> Result<Self> {
        machine.sh(&Self::script(ipv6))?.ok()?;
        Ok(Self::of(machine))
    }

    /// What [`Self::attach`] runs in a machine, for one that brings its way out itself at boot.
    pub fn script(ipv6: bool) -> String {
        let mut script = format!("set -e\n{UP}");
        if ipv6 {
            script += UP6;
        }
        for address in ADDRESSES.iter().filter(|address| ipv6 || !address.contains(':')) {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            script += &format!("ip -n {NAMESPACE} addr add {address} dev lo {nodad}\n");
        }
        script
    }

    /// The internet that a machine has already.
    pub fn of(machine: &'a Machine) -> Self {
        Self { machine, done: Arc::default(), servers: Vec::new() }
    }

    /// Greets whoever connects to an address.
    pub fn greet(&mut self, address: SocketAddr) -> Result<()> {
        let listener = self.machine.in_named_netns(NAMESPACE, || TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let done = Arc::clone(&self.done);
        self.servers.push(thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                match listener.accept() {
                    // A client that leaves early has nobody to be told to.
                    Ok((mut stream, _)) => drop(stream.write_all(GREETING.as_bytes())),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        }));
        Ok(())
    }

    /// Sends back every datagram that comes to an address.
    pub fn echo(&mut self, address: SocketAddr) -> Result<()> {
        let socket = self.machine.in_named_netns(NAMESPACE, || UdpSocket::bind(address))?;
        let socket = socket.with_context(|| format!("cannot listen on {address}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let done = Arc::clone(&self.done);
        self.servers.push(thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !done.load(Ordering::Acquire) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _gone = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
                }
            }
        }));
        Ok(())
    }

    /// How many packets came to each address, by protocol number.
    pub fn packets(&self) -> Result<BTreeMap<(IpAddr, u64), u64>> {
        let mut packets = BTreeMap::new();
        for (key, count) in self.sets(&["to4", "to6"])? {
            let Some(parts) = key.get("concat").and_then(Value::as_array) else { continue };
            let [address, protocol] = parts.as_slice() else { continue };
            if let Some(address) = address.as_str().and_then(|text| text.parse().ok()) {
                packets.insert((address, number(protocol)), count);
            }
        }
        Ok(packets)
    }

    /// Where packets came from.
    pub fn sources(&self) -> Result<Vec<IpAddr>> {
        let keys = self.sets(&["from4", "from6"])?.into_iter();
        Ok(keys.filter_map(|(key, _)| key.as_str()?.parse().ok()).collect())
    }

    /// Forgets what came.
    pub fn forget(&self) -> Result<()> {
        let sets = ["to4", "to6", "from4", "from6"].map(|set| format!("flush set inet seen {set}"));
        let script = format!("ip netns exec {NAMESPACE} nft '{}'", sets.join("; "));
        self.machine.sh(&script)?.ok().map(drop)
    }

    fn sets(&self, names: &[&str]) -> Result<Vec<(Value, u64)>> {
        let mut all = Vec::new();
        for name in names {
            let list = format!("ip netns exec {NAMESPACE} nft -nj list set inet seen {name}");
            let text = self.machine.sh(&list)?.ok()?;
            let document: Value = serde_json::from_str(&text)?;
            let objects = document.get("nftables").and_then(Value::as_array);
            let sets = objects.into_iter().flatten().filter_map(|object| object.get("set"));
            for element in sets.filter_map(|set| set.get("elem")?.as_array()).flatten() {
                let element = element.get("elem").context("an element without a counter")?;
                let count = element.pointer("/counter/packets").and_then(Value::as_u64);
                let key = element.get("val").cloned().unwrap_or_default();
                all.push((key, count.unwrap_or_default()));
            }
        }
        Ok(all)
    }
}

impl Drop for Internet<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        for server in self.servers.drain(..) {
            let _panicked = server.join();
        }
    }
}

/// A protocol as nft prints it, by its number or by its name.
fn number(protocol: &Value) -> u64 {
    protocol.as_u64().unwrap_or(match protocol.as_str() {
        Some("icmp") => 1,
        Some("tcp") => 6,
        Some("udp") => 17,
        Some("icmpv6" | "ipv6-icmp") => 58,
        _ => 255,
    })
}
