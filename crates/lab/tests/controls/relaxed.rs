//! `sandbox.relax`: each protection stops what it says, and stops it no longer when it is given up.

use std::collections::BTreeSet;

use instances_core::controls::WORDS;
use instances_lab::{fleet, unavailable};

use crate::{apply, said};

const PROBE: &str = include_str!("probe.py");

/// Without a difference that an unprivileged program of a lab's machine could see: what they keep is
/// root's as well, or said by the host's own settings.
const UNSEEN: &[&str] = &["hostname", "kernel-logs", "kernel-tunables"];

#[test]
fn each_protection_stops_what_it_says_unless_it_is_given_up() {
    if unavailable() {
        return;
    }
    let all = WORDS.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let spec = format!(
        "[instances.whole]\ndirectory = \"/srv/whole\"\nlisten.port = 4101\n\
         [instances.weak]\ndirectory = \"/srv/weak\"\nlisten.port = 4102\nsandbox.relax = [{all}]\n\
         postInitScript = \"python3 -c 'import socket; socket.socket(16, 3, 0)' && umask >notes\"\n\
         [instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4103\n\
         sandbox.relax = [\"debug-calls\"]\n"
    );
    let machine = fleet::boot("relaxed", &spec, &["/srv/whole", "/srv/weak", "/srv/one"]).unwrap();
    machine.sh("mkdir -p /usr/lib/modules/6.1").unwrap().ok().unwrap();
    apply(&machine);
    let succeeded = |instance: &str| {
        machine.put(format!("/srv/{instance}/probe.py"), PROBE, 0o644).unwrap();
        said(&machine, instance, "python3 probe.py 2>/dev/null")
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    let seen = WORDS.iter().filter(|word| !UNSEEN.contains(word)).map(|word| (*word).to_owned());
    assert_eq!(succeeded("weak"), seen.collect::<BTreeSet<_>>());
    assert_eq!(succeeded("whole"), BTreeSet::new());
    assert_eq!(succeeded("one"), BTreeSet::from(["debug-calls".to_owned()]));
    // The scripts run with the same.
    let notes = machine.get("/var/lib/opencode/instance-state/weak/notes").unwrap();
    assert_eq!(notes, "0022\n");

    // What programs that are known say of it.
    assert_eq!(said(&machine, "one", "strace -o /dev/null true && echo traced"), ["traced"]);
    let refused = said(&machine, "whole", "strace -o /dev/null true && echo traced").concat();
    assert!(refused.contains("not permitted"), "{refused}");
}
