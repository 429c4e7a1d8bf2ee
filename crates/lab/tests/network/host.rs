//! What happens on the host beside its instances: its firewall is flushed and restarted, it gets
//! another address, another way out comes, an instance goes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use instances_lab::{Internet, Machine, fleet, unavailable};

use crate::view::{SOON, apply, done, pid, sh, wait_for, wait_until_served};

const SPEC: &str = r#"
[instances.open]
directory = "/srv/open"
listen.port = 4101

[instances.closed]
directory = "/srv/closed"
listen.port = 4103
[instances.closed.network.outbound]
policy = "none"
"#;

const SITE: &str = "1.1.1.1";
const ADDRESSES: &str = "opencode-host@addresses.service";

/// Whether the instance's user in its namespace hears the site.
fn reaches(machine: &Machine, instance: &str, to: &str) -> bool {
    let connect = format!(
        "nsenter --net=/run/netns/opencode-{instance} socat -T1 - TCP:{to}:443,connect-timeout=1 </dev/null"
    );
    machine.sh(&connect).unwrap().stdout.contains("the internet")
}

fn wait_until(machine: &Machine, what: &str, is: impl Fn(&Machine) -> bool) {
    machine.wait_until(what, Duration::from_secs(20), |machine| Ok(is(machine))).unwrap();
}

#[test]
fn what_others_do_to_the_host_is_followed() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("host-side", SPEC, &["/srv/open", "/srv/closed"]).unwrap();
    // Somebody's configuration for every link: networkd would give one of these an address.
    sh(
        &machine,
        "printf '[Match]\\nName=oc-*\\n[Network]\\nAddress=198.18.0.1/30\\n' \
         >/etc/systemd/network/50-all.network; systemctl start systemd-networkd",
    );
    // The way out comes when the instances are there already, as after a boot.
    done(&machine, "apply");
    wait_until_served(&machine, "open", SOON);
    let agent = pid(&machine, "open");
    assert!(!reaches(&machine, "open", SITE));
    let mut internet = Internet::attach(&machine, true).unwrap();
    let site: IpAddr = SITE.parse().unwrap();
    internet.greet(SocketAddr::new(site, 443)).unwrap();
    wait_until(&machine, "the new way is taken", |machine| reaches(machine, "open", SITE));
    a_firewall_is_flushed(&machine, &internet);
    addresses_come_and_go(&machine);
    the_watcher_dies(&machine);
    assert_eq!(pid(&machine, "open"), agent, "the agent was restarted");
    nobody_else_configures_links(&machine);
    instances_go(&machine);
}

fn a_firewall_is_flushed(machine: &Machine, internet: &Internet<'_>) {
    let inside = "ip netns exec opencode-open nft -s list ruleset";
    let (policy, host) = (sh(machine, inside), sh(machine, "nft -s list table inet opencode_host"));
    internet.forget().unwrap();
    // What an administrator does, and what the distribution's service does when it starts and stops.
    sh(machine, "printf '#!/usr/sbin/nft -f\\nflush ruleset\\n' >/etc/nftables.conf");
    for command in [
        "nft flush ruleset",
        "systemctl restart nftables",
        "systemctl reload nftables",
        "systemctl stop nftables",
        "nft flush table inet opencode_host",
    ] {
        sh(machine, command);
        let back = || machine.sh("nft -s list table inet opencode_host").unwrap().stdout;
        wait_until(machine, command, |_| back().trim_end() == host);
        wait_until(machine, command, |machine| reaches(machine, "open", SITE));
        assert_eq!(sh(machine, inside), policy, "{command}");
    }
    // While nobody is there to bring it back, nothing leaves.
    sh(machine, &format!("systemctl stop {ADDRESSES}; nft flush ruleset"));
    internet.forget().unwrap();
    assert!(!reaches(machine, "open", SITE));
    let count = internet.packets().unwrap().get(&(SITE.parse().unwrap(), 6)).copied();
    assert_eq!(count, None, "packets left without the host's table");
    sh(machine, &format!("systemctl start {ADDRESSES}"));
    wait_until(machine, "the table is back", |machine| reaches(machine, "open", SITE));
    let inner = internet.sources().unwrap();
    let inner = inner.iter().any(|one| one.to_string().starts_with("10.219."));
    assert!(!inner, "an inner source left");
}

fn addresses_come_and_go(machine: &Machine) {
    let refuses = |machine: &Machine, address: &str| {
        sh(machine, "ip netns exec opencode-open nft list table inet opencode").contains(address)
    };
    sh(machine, "ip addr add 9.9.0.77/24 dev wan0; ip addr add 2a00:9900::77/64 dev wan0 nodad");
    for address in ["9.9.0.77", "2a00:9900::77"] {
        wait_until(machine, "a new address is refused", |machine| refuses(machine, address));
    }
    sh(machine, "ip addr del 9.9.0.77/24 dev wan0");
    wait_until(machine, "an old one is not", |machine| !refuses(machine, "9.9.0.77"));
}

fn the_watcher_dies(machine: &Machine) {
    sh(machine, &format!("systemctl kill --signal=KILL {ADDRESSES}; nft flush ruleset"));
    wait_for(machine, ADDRESSES, "active");
    wait_until(machine, "the table is back", |machine| reaches(machine, "open", SITE));
    let journal = sh(machine, &format!("journalctl -o cat -u {ADDRESSES}"));
    assert!(journal.contains("it is back") && !journal.contains("cannot"), "{journal}");
    wait_for(machine, "opencode-net@open.service", "active");
}

fn nobody_else_configures_links(machine: &Machine) {
    let network = "/etc/systemd/network/05-opencode.network";
    let manager = "/etc/NetworkManager/conf.d/95-opencode.conf";
    assert!(machine.get(network).unwrap().contains("Name=oc-*\n\n[Link]\nUnmanaged=yes"));
    assert!(machine.get(manager).unwrap().contains("unmanaged-devices+=interface-name:oc-*"));
    let taken = |machine: &Machine| sh(machine, "ip -o -4 addr").contains("198.18.0.1");
    assert!(!taken(machine), "networkd has configured a link");
    assert!(sh(machine, "networkctl list --no-legend 'oc-*'").contains("unmanaged"));
    // It would, if it were not told.
    sh(machine, &format!("rm {network}; networkctl reload"));
    wait_until(machine, "networkd takes a link that nobody keeps from it", taken);
}

fn instances_go(machine: &Machine) {
    let records = "/var/lib/opencode/network/links.json";
    // Who is disabled comes back to its addresses; who is gone, does not.
    let disabled = SPEC.replace("listen.port = 4101", "listen.port = 4101\nenable = false");
    apply(machine, &disabled);
    assert!(machine.get(records).unwrap().contains("\"open\""));
    let left = "ip -o link | grep -c oc- || true; ip rule | grep -c 10.219 || true; \
                nft list table inet opencode_host 2>/dev/null || true";
    let left = |machine: &Machine| machine.sh(left).unwrap().stdout;
    assert_eq!(left(machine), "0\n0\n");
    let (_, closed) = SPEC.split_at(SPEC.find("[instances.closed]").unwrap());
    apply(machine, closed);
    assert_eq!(sh(machine, &format!("ls {records} 2>/dev/null || echo none")), "none");
    apply(machine, SPEC);
    wait_until(machine, "it is back", |machine| reaches(machine, "open", SITE));
    done(machine, "remove");
    assert_eq!(left(machine), "0\n0\n");
    let files = format!(
        "ls {records} /etc/systemd/network/05-opencode.network \
         /etc/NetworkManager/conf.d/95-opencode.conf /etc/systemd/system/opencode* 2>/dev/null || true"
    );
    assert_eq!(sh(machine, &files), "");
}
