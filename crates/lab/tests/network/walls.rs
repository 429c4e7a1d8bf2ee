//! What `IPAddressDeny=` on a server would do beside the rules of its namespace, and why it is not set:
//! it holds without them, and takes from the agent the answer by which it learns of a refusal.

use instances_lab::fleet::BEGIN;
use instances_lab::{ADDRESSES, Internet, Machine, stand_in, unavailable};

use crate::policies::REACH;
use crate::view::{done, sh};

const SPEC: &str = r#"
[instances.listed]
directory = "/srv/listed"
listen.port = 4102
[instances.listed.network.outbound]
policy = "allow-list"
allowCidrs = ["1.1.1.0/24", "2606:4700::/32"]
"#;
const DROP_IN: &str = "/etc/systemd/system/opencode-listed.service.d/list.conf";
const LIST: &str =
    "[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost 1.1.1.0/24 2606:4700::/32\n";
/// Two that are allowed, and two that are not.
const TARGETS: &str =
    "'tcp 1.1.1.1 443' 'tcp 2606:4700::1111 443' 'tcp 8.8.8.8 443' 'tcp 2001:4860:4860::8888 443'";

/// What is reached in the server's control group and its network.
fn reach(machine: &Machine) -> Vec<String> {
    let script = format!(
        "echo $$ >/sys/fs/cgroup/opencode.slice/opencode-listed.service/cgroup.procs
         exec ip netns exec opencode-listed python3 /srv/listed/reach.py {TARGETS}"
    );
    serde_json::from_str(&sh(machine, &script)).unwrap()
}

#[test]
fn a_list_of_the_units_holds_alone_and_silences_refusals() {
    if unavailable() {
        return;
    }
    let spec = format!("{}{SPEC}", stand_in::DEFAULTS);
    let machine = stand_in::boot("walls", &spec, &["/srv/listed"]).unwrap();
    machine.put("/srv/listed/reach.py", REACH, 0o644).unwrap();
    let mut internet = Internet::attach(&machine, true).unwrap();
    for address in ADDRESSES {
        internet.greet((address.parse::<std::net::IpAddr>().unwrap(), 443).into()).unwrap();
    }
    done(&machine, "apply");
    assert_eq!(reach(&machine), ["reached", "reached", "EHOSTUNREACH", "ECONNREFUSED"]);

    // Of the two refusals one is a packet that seems to come from the destination, which the unit's list drops.
    machine.put(DROP_IN, LIST, 0o644).unwrap();
    sh(&machine, &format!("{BEGIN} systemctl daemon-reload; begin opencode-listed.service"));
    assert_eq!(reach(&machine), ["reached", "reached", "EHOSTUNREACH", "silence"]);

    // Without the first wall the second one stands; without both nothing does.
    sh(&machine, "ip netns exec opencode-listed nft delete table inet opencode");
    assert_eq!(reach(&machine), ["reached", "reached", "silence", "silence"]);
    sh(&machine, "systemctl set-property --runtime opencode-listed.service IPAddressDeny=");
    assert_eq!(reach(&machine), ["reached"; 4]);
}
