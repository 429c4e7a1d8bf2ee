//! `[fleet]`: a change of the limits of all touches no instance.

use instances_lab::fleet::{PATIENCE, SPEC};
use instances_lab::{fleet, unavailable};

use crate::apply;

const INSTANCE: &str = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n";

#[test]
fn limits_of_all_change_under_running_instances() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("fleet-limits", INSTANCE, &["/srv/website"]).unwrap();
    apply(&machine);
    let shown = |unit: &str, property: &str| {
        let show = ["systemctl", "show", "--value", "-p", property, unit];
        machine.run(show).unwrap().ok().unwrap().trim().to_owned()
    };
    let before = shown("opencode-website.service", "MainPID");
    assert_ne!(before, "0");
    assert_eq!(shown("opencode.slice", "TasksMax"), "32768");

    let limits = "[fleet.resources]\nmemoryMax = \"1G\"\ntasksMax = 9000\ncpuWeight = 50\n";
    machine.put(SPEC, format!("{limits}{INSTANCE}"), 0o644).unwrap();
    let plan = machine.run(["opencode-instances", "plan"]).unwrap().to_string();
    assert!(plan.contains("opencode.slice") && !plan.contains("opencode-website"), "{plan}");
    let applied = machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap();
    assert!(applied.success(), "{applied}");
    let now = ["MemoryMax", "TasksMax", "CPUWeight"].map(|one| shown("opencode.slice", one));
    assert_eq!(now, [(1_u64 << 30).to_string(), "9000".to_owned(), "50".to_owned()]);
    assert_eq!(shown("opencode-website.service", "MainPID"), before);
}
