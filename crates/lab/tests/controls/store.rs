//! `sandbox.nixStore`: all of the store, where there is one, for who asks for it.

use instances_lab::{fleet, unavailable};

use crate::{apply, said};

const SPEC: &str = "
[instances.full]
directory = \"/srv/full\"
listen.port = 4101
sandbox.nixStore = \"full\"

[instances.closed]
directory = \"/srv/closed\"
listen.port = 4102
";

const TRY: &str = "cat /nix/store/*-secret; touch /nix/store/new; ls /nix/var";

#[test]
fn the_whole_store_is_shown_to_who_asks_for_it() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("store", SPEC, &["/srv/full", "/srv/closed"]).unwrap();
    let make =
        "mkdir -p /nix/store /nix/var; chmod 1777 /nix/store; echo told >/nix/store/abc-secret";
    machine.sh(make).unwrap().ok().unwrap();
    apply(&machine);
    let full = said(&machine, "full", TRY);
    assert_eq!(full[0], "told");
    assert!(
        full[1].contains("Read-only file system") && full[2].contains("No such file"),
        "{full:?}"
    );
    let closed = said(&machine, "closed", TRY);
    assert!(closed.iter().all(|line| line.contains("No such file or directory")), "{closed:?}");
    // Where the host has none, nothing is missing.
    machine.sh("rm -r /nix; opencode-instances restart full").unwrap().ok().unwrap();
    assert!(said(&machine, "full", "ls /nix 2>/dev/null; echo here").contains(&"here".to_owned()));
}
