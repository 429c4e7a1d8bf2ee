//! `sandbox.allowNestedSandbox`: the real bubblewrap runs in the unit, and what it makes of the agent, root
//! in namespaces of its own, is no way to the host.

use instances_lab::{Machine, fleet, unavailable};

use crate::{apply, said};

const SPEC: &str = "
[instances.outer]
directory = \"/srv/outer\"
listen.port = 4101
network.outbound.policy = \"none\"
sandbox.allowNestedSandbox = true

[instances.plain]
directory = \"/srv/plain\"
listen.port = 4102
";

/// bubblewrap as agents' own sandboxes use it, and what containers do first.
const NESTED: &str = "
bwrap --unshare-all --ro-bind / / --dev /dev --proc /proc true && echo whole
bwrap --unshare-all --hostname inner --ro-bind / / --dev /dev --proc /proc hostname | grep inner
bwrap --unshare-all --ro-bind / / --bind \"$HOME\" \"$HOME\" touch \"$HOME/made\" && cd && ls made
unshare --user --map-root-user setpriv --ruid 0 --euid 0 id -u
unshare -Urmpf --mount-proc sh -c 'echo process $$'
";
const WORKS: &[&str] = &["whole", "inner", "made", "0", "process 1"];

/// Each line says BREACH where it gets out. `root` is root of new namespaces of every kind, `inner` has only
/// a new user namespace, and so asks for the unit's own ones.
const ATTACKS: &str = include_str!("attacks.sh");

/// The rules and links of the instance, and what the host calls itself.
const STATE: &str = "ip netns exec opencode-outer nft -s list ruleset; ip -n opencode-outer -br link; hostname; \
                     cat /proc/sys/kernel/core_pattern";

#[test]
fn a_sandbox_in_the_sandbox_is_no_way_out() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("nested", SPEC, &["/srv/outer", "/srv/plain"]).unwrap();
    apply(&machine);
    let state = |machine: &Machine| machine.sh(STATE).unwrap().ok().unwrap();
    let before = state(&machine);
    assert!(before.contains("table inet opencode"), "{before}");

    assert_eq!(said(&machine, "outer", NESTED), WORKS);
    let tried = said(&machine, "outer", ATTACKS);
    let breaches: Vec<_> = tried.iter().filter(|line| line.contains("BREACH")).collect();
    assert!(breaches.is_empty(), "{breaches:#?} of {tried:#?}");
    // The attacks were made, by who is root in what is its own.
    for line in ["is root", "flushed its own", "named its own"] {
        assert!(tried.iter().any(|one| one == line), "{line} of {tried:#?}");
    }
    assert_eq!(state(&machine), before);

    // Without the option there is no namespace, and nothing of all that.
    let plain = said(&machine, "plain", &NESTED.replace("outer", "plain"));
    assert!(WORKS.iter().all(|word| plain.iter().all(|line| line != word)), "{plain:#?}");
}
