//! An audit where the kernel has everything that an instance is promised.

use std::time::Duration;

use instances_lab::outside;

use crate::up;

/// More than a hundred attempts, on a processor that is emulated.
const PATIENCE: Duration = Duration::from_mins(4);

#[test]
#[ignore = "runs in a guest: cargo xtask lab guest --tests"]
fn nothing_is_found_where_everything_holds() {
    if outside() {
        return;
    }
    let spec = "[instances.one]\ndirectory = \"/srv/one\"\nlisten.port = 4101\n\
                [instances.two]\ndirectory = \"/srv/two\"\nlisten.port = 4102\n";
    let machine = up("audited", spec, &["/srv/one", "/srv/two"]);
    let audit = machine.run_for(PATIENCE, ["opencode-instances", "audit", "one"]).unwrap();
    assert_eq!(audit.code(), 0, "{audit}");
}
