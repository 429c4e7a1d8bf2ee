//! What `resources` says is enforced.

use instances_lab::fleet::{PATIENCE, SPEC};
use instances_lab::{outside, stand_in};

use crate::{inside, up};

const ANY: &str = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n";
const LIMITS: &str = "resources.memoryMax = \"100M\"\nresources.tasksMax = 64\n";

#[test]
#[ignore = "runs in a guest: cargo xtask lab guest --tests"]
fn memory_and_tasks_are_limited() {
    if outside() {
        return;
    }
    let machine = up("limits", ANY, &["/srv/website"]);
    let hoard = "python3 -c 'kept = bytearray(b\"x\") * (200 << 20)'";
    let crowd = "for one in $(seq 80); do sleep 60 >/dev/null 2>&1 & done";
    assert!(inside(&machine, "website", hoard).success());
    assert!(inside(&machine, "website", crowd).success());
    let spec = format!("{}{ANY}{LIMITS}", stand_in::DEFAULTS);
    machine.put(SPEC, spec, 0o644).unwrap();
    machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap().ok().unwrap();
    let pid = "systemctl show --value -p MainPID opencode-website.service";
    let before = machine.sh(pid).unwrap().ok().unwrap();
    let hoard = inside(&machine, "website", hoard);
    assert_eq!(hoard.status.code(), Some(137), "{hoard}");
    let crowd = inside(&machine, "website", crowd);
    assert!(!crowd.success() && crowd.stderr.contains("fork"), "{crowd}");
    // The server goes on.
    assert_eq!(machine.sh(pid).unwrap().ok().unwrap(), before);
    // And what all together may use is less than the host has.
    let slice = |file: &str| machine.get(format!("/sys/fs/cgroup/opencode.slice/{file}")).unwrap();
    assert_eq!(slice("pids.max"), "32768\n");
    assert_ne!(slice("memory.max"), "max\n");
}
