//! An allow-list made from what was refused, as `docs/network.md` shows it step by step.

use std::fs;

use instances_lab::progress::say;
use instances_lab::{Agent, Internet, Machine, fleet, place, unavailable};

use crate::view::{SOON, done, wait_until_served};

const NAMES: &str = include_str!("names.py");
/// The page, with every step's specification and output.
const PAGE: &str = "docs/network.md";
const SPEC: &str = r#"[instances.website]
directory = "/srv/website"
listen.port = 4101
network.outbound.policy = "allow-list"
"#;
/// A name's address over TCP, and an address without a name.
const FETCH: &str = include_str!("fetch.py");
/// What the reader adds, who knows the port.
const ENTRY: &str = r#"{ cidr = "8.8.8.8/32", ports = [443], protocol = "tcp" }"#;
/// The resolver notes names once a second.
const WAIT: &str = "sleep 1.5";

fn commands(machine: &Machine, arguments: &str) -> String {
    let output = machine.sh(&format!("opencode-instances blocked website {arguments}")).unwrap();
    say(&format!(
        "$ opencode-instances blocked website {arguments}\n{}{}",
        output.stdout, output.stderr
    ));
    output.ok().unwrap()
}

fn spec(machine: &Machine, more: &str) {
    machine.put(fleet::SPEC, format!("{SPEC}{more}"), 0o644).unwrap();
    done(machine, "apply");
}

/// The lines of a suggestion that belong to a specification.
fn toml(suggestion: &str) -> String {
    let lines =
        suggestion.lines().map(str::trim).skip_while(|line| !line.starts_with("[instances"));
    let lines = lines.skip(1).take_while(|line| !line.is_empty());
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn an_allow_list_is_made_from_what_was_refused() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("tuning", SPEC, &["/srv/website"]).unwrap();
    let mut internet = Internet::attach(&machine, false).unwrap();
    for address in ["8.8.8.8:443", "192.168.7.7:8080"] {
        internet.greet(address.parse().unwrap()).unwrap();
    }
    machine.put("/srv/website/fetch.py", FETCH, 0o644).unwrap();
    machine.put("/root/names.py", NAMES, 0o644).unwrap();
    machine.put("/etc/resolv.conf", "nameserver 1.1.1.1\n", 0o644).unwrap();
    let serve = "systemd-run --quiet --unit=names ip netns exec internet python3 /root/names.py registry.npmjs.org=8.8.8.8";
    machine.sh(serve).unwrap().ok().unwrap();
    done(&machine, "apply");
    wait_until_served(&machine, "website", SOON);
    let agent = Agent::connect(&machine, "website").unwrap();
    let attempt = || {
        let said = agent.shell("python3 fetch.py").unwrap();
        say(&said);
        machine.sh(WAIT).unwrap().ok().unwrap();
        said
    };

    // Nothing is listed: the name reaches no resolver, and the address is refused.
    let said = attempt();
    assert!(!said.contains("the internet"), "{said}");
    let asked = internet.packets().unwrap();
    assert!(!asked.keys().any(|(to, _)| to.to_string() == "1.1.1.1"), "{asked:?}");
    let seen = commands(&machine, "");
    assert!(seen.contains("registry.npmjs.org") && seen.contains("192.168.7.7"), "{seen}");
    let first = toml(&commands(&machine, "--suggest"));
    assert!(
        first.contains("\"registry.npmjs.org\"") && first.contains("192.168.7.7/32"),
        "{first}"
    );

    // The name is listed: now its address is what is refused.
    spec(&machine, &first);
    let said = attempt();
    assert!(said.contains("192.168.7.7: the internet"), "{said}");
    assert!(!said.contains("registry.npmjs.org: the internet"), "{said}");
    let seen = commands(&machine, "");
    assert!(seen.contains("answer 8.8.8.8"), "{seen}");
    let second = commands(&machine, "--suggest");
    assert!(second.contains("[\"8.8.8.8/32\"]") && !second.contains("443"), "{second}");

    // And its address, with the port that the note cannot know.
    let all = first.replacen("allowCidrs = [", &format!("allowCidrs = [\n{ENTRY},"), 1);
    spec(&machine, &all);
    let said = attempt();
    assert_eq!(said.matches("the internet").count(), 2, "{said}");
    let rest = commands(&machine, "--suggest --since -1s");
    assert!(!rest.contains("[instances"), "{rest}");

    // The page shows these very entries.
    let page = fs::read_to_string(place::workspace().join(PAGE)).unwrap();
    for line in first.lines().chain([ENTRY]) {
        assert!(page.contains(line.trim()), "{PAGE} does not show {line}");
    }
}
