//! SIGKILL for setup at its calls, by strace: the next start ends where an undisturbed one does.

use instances_lab::faults::Fault;
use instances_lab::{Machine, stand_in, unavailable};

use crate::spec;
use crate::table::{Case, each};
use crate::view::{done, sh};

const CASES: &[Case] = &[("setup_at_its_calls", setup_at_its_calls)];

/// Its setup has links, directories for them, and notes.
const MANY: &str = "[instances.many]\ndirectory = \"/srv/many\"\nlisten.port = 4102\nautoStart = false\n\
                    settings.username = \"somebody\"\nagents.one = \"One.\"\ncommands.two = \"Two.\"\n\
                    skills.three = \"---\\nname: three\\ndescription: x\\n---\\n\"\n";
const HOME: &str = "/var/lib/opencode/instance-state/many";

/// What names, makes or removes something, and what writes.
const CALLS: [&str; 5] = [
    "rename,renameat,renameat2",
    "mkdir,mkdirat",
    "symlink,symlinkat",
    "unlink,unlinkat,rmdir",
    "write,pwrite64,fsync",
];

#[test]
fn setup_that_is_killed_is_finished_by_the_next() {
    if unavailable() {
        return;
    }
    let mut machine =
        stand_in::boot("faults-killed", &spec(&[MANY]), &["/srv/kept", "/srv/many"]).unwrap();
    done(&machine, "apply");
    sh(&machine, &format!("install -d -m 700 -o opencode-many -g opencode-many {HOME}"));
    each("killed.rs", &mut machine, CASES);
}

/// Runs setup as its unit does; its status where that is not 0.
fn setup(machine: &Machine, plan: &str, under: &str) -> String {
    let script = format!(
        "cd {HOME}; {under} env HOME={HOME} setpriv --reuid=opencode-many --regid=opencode-many --clear-groups \
         opencode-instances setup --plan {plan} 2>/root/said || echo $?"
    );
    sh(machine, &script)
}

fn killed(machine: &Machine, plan: &str, calls: &str, number: usize) -> bool {
    let strace = format!(
        "strace -f -o /dev/null -e trace={calls} -e inject={calls}:signal=KILL:when={number}"
    );
    match setup(machine, plan, &strace).as_str() {
        "137" => true,
        "" => false,
        other => panic!("{calls} {number}: {other}: {}", machine.get("/root/said").unwrap()),
    }
}

/// Every name, with what it is, whose it is, where it leads and what is in it.
fn tree(machine: &Machine) -> String {
    let script = "find . -mindepth 1 -printf '%p %y %m %u %l\\n' | sort; find . -type f -exec sha256sum {} + | sort";
    sh(machine, &format!("cd {HOME}; {script}"))
}

fn setup_at_its_calls(machine: &mut Machine, _: &Fault) {
    let plan = "/etc/opencode-instances/many/setup/plan.json";
    // Links that change and go, where setup has run before.
    let other = "/srv/plan.json";
    sh(machine, &format!("jq '.links |= .[1:]' {plan} >{other}"));
    let empty = format!("find {HOME} -mindepth 1 -delete");
    sh(machine, &empty);
    assert_eq!(setup(machine, plan, ""), "");
    let first = tree(machine);
    assert_eq!(setup(machine, other, ""), "");
    let second = tree(machine);
    assert_ne!(first, second);
    let mut count = 0;
    for calls in CALLS {
        for (before, plan, wanted) in [(None, plan, &first), (Some(plan), other, &second)] {
            for number in 1.. {
                sh(machine, &empty);
                if let Some(before) = before {
                    assert_eq!(setup(machine, before, ""), "");
                }
                let is_killed = killed(machine, plan, calls, number);
                // And once more, one call later.
                killed(machine, plan, calls, number + 1);
                assert_eq!(setup(machine, plan, ""), "", "{calls} {number}");
                assert_eq!(&tree(machine), wanted, "killed at {calls} {number}");
                if !is_killed {
                    break;
                }
                count += 1;
            }
        }
    }
    assert!(count > 20, "killed {count} times");
}
