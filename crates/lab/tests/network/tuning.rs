//! An allow-list made from what was refused, as `docs/how-to/allow-list.md` shows it step by step.

use std::fs;

use instances_lab::progress::say;
use instances_lab::{Agent, Internet, Machine, fleet, place, unavailable};

use crate::view::{SOON, done, wait_until_served};

const NAMES: &str = include_str!("names.py");
/// The page, with every step's specification and output.
const PAGE: &str = "docs/how-to/allow-list.md";
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

/// What a terminal shows of a command.
fn commands(machine: &Machine, arguments: &str) -> String {
    let command = format!("opencode-instances blocked website {arguments}");
    let output = machine.sh(&command).unwrap();
    let shown = format!("$ {}\n{}{}", command.trim_end(), output.stdout, output.stderr);
    say(&shown);
    output.ok().unwrap();
    shown
}

/// The lines of what was printed, without what differs from one run to the next: times, how often opencode itself has asked
/// for a name, and so the widths of columns.
fn masked(shown: &str) -> Vec<String> {
    let is_time = |word: &str| {
        let digits =
            word.strip_suffix('Z').map(|word| word.trim_matches(|c: char| c.is_ascii_digit()));
        digits.is_some_and(|rest| rest.contains(':'))
    };
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        for word in words.iter_mut().filter(|word| is_time(word)) {
            *word = "TIME";
        }
        if words.get(1) == Some(&"dns")
            && words.last() == Some(&"TIME")
            && let Some(count) = words.iter_mut().nth_back(2)
        {
            *count = "COUNT";
        }
        words.join(" ")
    };
    shown.trim().lines().map(line).collect()
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
    let mut shown = vec![said];
    let asked = internet.packets().unwrap();
    assert!(!asked.keys().any(|(to, _)| to.to_string() == "1.1.1.1"), "{asked:?}");
    let seen = commands(&machine, "");
    assert!(seen.contains("registry.npmjs.org") && seen.contains("192.168.7.7"), "{seen}");
    let suggested = commands(&machine, "--suggest");
    shown.push(format!("{seen}\n{suggested}"));
    let first = toml(&suggested);
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
    shown.push(format!("{said}\n{seen}\n{second}"));

    // And its address, with the port that the note cannot know.
    let all = first.replacen("allowCidrs = [", &format!("allowCidrs = [\n{ENTRY},"), 1);
    spec(&machine, &all);
    let said = attempt();
    assert_eq!(said.matches("the internet").count(), 2, "{said}");
    let rest = commands(&machine, "--suggest --since -1s");
    assert!(!rest.contains("[instances"), "{rest}");

    // The page shows this very output, and these entries.
    let page = fs::read_to_string(place::workspace().join(PAGE)).unwrap();
    let blocks = page.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks: Vec<_> = blocks.map(masked).collect();
    assert_eq!(blocks, shown.iter().map(|shown| masked(shown)).collect::<Vec<_>>(), "{PAGE}");
    for line in first.lines().chain([ENTRY]) {
        assert!(page.contains(line.trim()), "{PAGE} does not show {line}");
    }
}
