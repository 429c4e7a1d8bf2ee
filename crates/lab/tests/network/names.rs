//! Instances that are called as units beside instances are.

use std::collections::BTreeSet;

use instances_lab::{Agent, Machine, fleet, unavailable};

use crate::dns::resolvers;
use crate::view::{SOON, assert_healthy, done, property, sh, wait_until_served};

const NAMES: [&str; 6] = ["dns", "listen", "events", "net", "setup", "host"];
/// The kinds of units that have a user of their own.
const HELPERS: [&str; 3] = ["dns", "events", "listen"];

fn spec() -> String {
    let one = |(port, name): (usize, &&str)| {
        format!("[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {}\n", 4120 + port)
    };
    NAMES.iter().enumerate().map(one).collect()
}

#[test]
fn names_of_units_are_names_like_others() {
    if unavailable() {
        return;
    }
    let projects = NAMES.map(|name| format!("/srv/{name}"));
    let machine = fleet::boot("names", &spec(), &projects.each_ref().map(String::as_str)).unwrap();
    resolvers(&machine);
    done(&machine, "apply");
    for name in NAMES {
        wait_until_served(&machine, name, SOON);
        assert_healthy(&machine, name);
    }
    each_helper_is_nobody_else(&machine);
    for name in NAMES {
        each_is_itself(&machine, name);
    }
    // One goes, and takes nothing of the others along.
    let before = NAMES.map(|name| started(&machine, name));
    done(&machine, "stop dns");
    done(&machine, "start dns");
    wait_until_served(&machine, "dns", SOON);
    let after = NAMES.map(|name| started(&machine, name));
    for (name, (before, after)) in NAMES.iter().zip(before.iter().zip(&after)) {
        assert_eq!(before == after, *name != "dns", "{name}");
    }
}

/// Every unit of an instance that runs, with its first process.
fn started(machine: &Machine, name: &str) -> Vec<String> {
    let helpers = HELPERS.iter().map(|helper| format!("opencode-{helper}@{name}.service"));
    let units = helpers.chain([format!("opencode-{name}.service")]);
    units.map(|unit| property(machine, &unit, "MainPID")).collect()
}

fn each_helper_is_nobody_else(machine: &Machine) {
    let mut users = BTreeSet::new();
    for name in NAMES {
        for helper in HELPERS {
            let unit = format!("opencode-{helper}@{name}.service");
            let pid = property(machine, &unit, "MainPID");
            assert_ne!(pid, "0", "{unit}");
            let uid = sh(machine, &format!("stat -c %u /proc/{pid}"));
            assert!(users.insert(uid.clone()), "{unit}: {uid}");
            let user = property(machine, &unit, "User");
            assert!(user.starts_with("oc-") && users.insert(user.clone()), "{unit}: {user}");
        }
        let pid = property(machine, &format!("opencode-{name}.service"), "MainPID");
        let uid = sh(machine, &format!("stat -c %u /proc/{pid}"));
        assert!(users.insert(uid.clone()), "{name}: {uid}");
    }
    // As many namespaces, and no unit that is not whole.
    let namespaces = sh(machine, "ls /run/netns");
    let mut wanted = NAMES.map(|name| format!("opencode-{name}"));
    wanted.sort();
    assert_eq!(namespaces.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(sh(machine, "systemctl list-units --failed --no-legend --plain"), "");
}

/// The server behind the address of `name` is in the namespace of that name, and resolves there.
fn each_is_itself(machine: &Machine, name: &str) {
    let agent = Agent::connect(machine, name).unwrap();
    let said =
        agent.shell("readlink /proc/self/ns/net; id -un; echo $HOME; dig +short good.example.org");
    let said = said.unwrap();
    let inode = sh(machine, &format!("stat -Lc 'net:[%i]' /run/netns/opencode-{name}"));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&inode.as_str()), "{name}: {said}");
    assert!(lines.get(1).is_some_and(|user| user.contains(name)), "{name}: {said}");
    assert!(lines.get(2).is_some_and(|home| home.ends_with(&format!("/{name}"))), "{name}: {said}");
    assert!(lines.contains(&"1.1.1.1"), "{name}: {said}");
}
