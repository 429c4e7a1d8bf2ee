//! Flows that are open while the policy changes: what is no longer allowed ends at once, everything
//! else goes on, and the agent notices nothing.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use instances_lab::{Agent, Internet, Machine, fleet, unavailable};
use serde_json::Value;

use crate::view::{SOON, apply, done, pid, sh, wait_until_served};

const FLOW: &str = include_str!("flow.py");
const PORT: u16 = 9000;
const STAYS: [&str; 2] = ["1.1.1.1", "2606:4700::1111"];
const LEAVES: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];

fn spec(policy: &str, allowed: &[&str]) -> String {
    let allowed: Vec<String> = allowed.iter().map(|one| format!("\"{one}\"")).collect();
    format!(
        "[instances.busy]\ndirectory = \"/srv/busy\"\nlisten.port = 4106\n\
         [instances.busy.network.outbound]\npolicy = \"{policy}\"\nallowCidrs = [{}]\n",
        allowed.join(", ")
    )
}

/// Echoes on every address of the internet.
fn echo(machine: &Machine) -> Internet<'_> {
    let mut internet = Internet::attach(machine, true).unwrap();
    let server = format!(
        "systemd-run -q --unit=echo ip netns exec internet socat TCP6-LISTEN:{PORT},fork,reuseaddr,ipv6only=0 EXEC:cat"
    );
    sh(machine, &server);
    for address in STAYS.iter().chain(&LEAVES) {
        let address: IpAddr = address.parse().unwrap();
        internet.echo(SocketAddr::new(address, PORT)).unwrap();
    }
    internet
}

/// Opens flows to all of them from the agent's shell; they are written down in a file of that name.
fn open(machine: &Machine, name: &str) {
    wait_until_served(machine, "busy", SOON);
    let addresses = [STAYS, LEAVES].concat().join(" ");
    let start = format!(
        "setsid python3 /srv/busy/flow.py /srv/busy/{name} {PORT} {addresses} </dev/null >/srv/busy/said 2>&1 & sleep 0.1"
    );
    Agent::connect(machine, "busy").unwrap().shell(&start).unwrap();
    machine
        .wait_until("there are flows", SOON, |machine| {
            Ok(machine.get(format!("/srv/busy/{name}")).is_ok())
        })
        .unwrap();
}

fn look(machine: &Machine, name: &str) -> Value {
    serde_json::from_str(&machine.get(format!("/srv/busy/{name}")).unwrap()).unwrap()
}

/// Which flows something came back on within a moment.
fn alive(machine: &Machine, name: &str) -> Vec<String> {
    // Over the time of a writer that is about to write what came before.
    thread::sleep(Duration::from_millis(500));
    let before = look(machine, name);
    thread::sleep(Duration::from_millis(1500));
    let after = look(machine, name);
    assert_eq!(before["pid"], after["pid"]);
    let flows = after["came"].as_object().unwrap();
    let came = |flow: &&String| after["came"][*flow].as_u64() > before["came"][*flow].as_u64();
    flows.keys().filter(came).cloned().collect()
}

fn flows(addresses: &[&str]) -> Vec<String> {
    let mut flows: Vec<String> = ["tcp", "udp"]
        .iter()
        .flat_map(|kind| addresses.iter().map(move |to| format!("{kind} {to}")))
        .collect();
    flows.sort();
    flows
}

#[test]
fn a_flow_ends_when_its_destination_leaves_the_list_and_no_other_does() {
    if unavailable() {
        return;
    }
    let wide = ["1.1.1.0/24", "2606:4700::/32", "8.8.8.8/32", "2001:4860:4860::8888/128"];
    let machine = fleet::boot("flows", &spec("allow-list", &wide), &["/srv/busy"]).unwrap();
    machine.put("/srv/busy/flow.py", FLOW, 0o644).unwrap();
    sh(&machine, "chmod 777 /srv/busy");
    let internet = echo(&machine);
    done(&machine, "apply");
    open(&machine, "first");
    let agent = pid(&machine, "busy");
    let all = [STAYS, LEAVES].concat();
    assert_eq!(alive(&machine, "first"), flows(&all), "{}", look(&machine, "first"));

    // Some leave the list; others stay on it in another form.
    apply(&machine, &spec("allow-list", &["1.1.1.1/32", "2606:4700::1111/128"]));
    internet.forget().unwrap();
    assert_eq!(alive(&machine, "first"), flows(&STAYS));
    let came = internet.packets().unwrap();
    let late = came.keys().find(|(to, _)| LEAVES.contains(&to.to_string().as_str()));
    assert_eq!(late, None, "{came:?}");
    let ended = look(&machine, "first")["ended"].clone();
    for address in LEAVES {
        // Told at once, not left to a timeout.
        assert_eq!(ended[format!("tcp {address}")], "ECONNRESET", "{ended}");
    }

    // And back: nothing that ended comes back by itself but datagrams, and new flows are welcome.
    apply(&machine, &spec("allow-list", &wide));
    let mut back = flows(&STAYS);
    back.extend(LEAVES.iter().map(|address| format!("udp {address}")));
    back.sort();
    assert_eq!(alive(&machine, "first"), back);
    open(&machine, "second");
    assert_eq!(alive(&machine, "second"), flows(&all));

    // From everything to nothing, and back.
    apply(&machine, &spec("internet", &[]));
    assert_eq!(alive(&machine, "second"), flows(&all));
    apply(&machine, &spec("none", &[]));
    assert_eq!(alive(&machine, "second"), [""; 0]);
    internet.forget().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let came = internet.packets().unwrap();
    let late = came.keys().find(|(to, _)| all.contains(&to.to_string().as_str()));
    assert_eq!(late, None, "{came:?} {:?}", internet.sources());
    open(&machine, "none");
    assert_eq!(alive(&machine, "none"), [""; 0]);
    apply(&machine, &spec("internet", &[]));
    open(&machine, "third");
    assert_eq!(alive(&machine, "third"), flows(&all), "{}", look(&machine, "third"));
    assert_eq!(pid(&machine, "busy"), agent, "the agent was restarted");
}
