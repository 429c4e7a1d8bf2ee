//! systemd 252, which has neither `PrivatePIDs=` nor `RestartMode=`.

use instances_lab::{Agent, Image, Machine, Options, Release, unavailable};

use crate::view::{SOON, apply, assert_healthy, done, engine, sh, wait_until_served};

const SPEC: &str = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n\
                    [instances.billing]\ndirectory = \"/srv/billing\"\nlisten.port = 4102\n";

#[test]
fn the_fleet_lives_on_systemd_252() {
    if unavailable() {
        return;
    }
    let image = Image::ensure(Release::Bookworm).unwrap();
    let machine = Machine::boot(&image, &Options::new().name("old-systemd").engine()).unwrap();
    sh(&machine, "mkdir -p /srv/website /srv/billing");
    apply(&machine, SPEC);
    for instance in ["website", "billing"] {
        assert_healthy(&machine, instance);
    }
    let check = engine(&machine, "check");
    assert!(check.success(), "{check}");
    assert!(
        check.stdout.contains("systemd 252 is too old for PrivatePIDs=yes (needs 257)"),
        "{check}"
    );
    let complaints = sh(
        &machine,
        "journalctl -b | grep -E 'Unknown key|Unknown lvalue|Failed to parse' || true",
    );
    assert_eq!(complaints, "");
    let agent = Agent::connect(&machine, "website").unwrap();
    let language = agent.shell("locale charmap; perl -e 'print qq(quiet\\n)' 2>&1").unwrap();
    assert_eq!(language, "UTF-8\nquiet\n");
    let orphan =
        "(setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1004; done' &) >/dev/null 2>&1";
    agent.shell(orphan).unwrap();
    for _ in 0..2 {
        done(&machine, "stop --all");
        for instance in ["website", "billing"] {
            crate::stopping::judge(&machine, instance, 0);
        }
        done(&machine, "start --all");
        wait_until_served(&machine, "website", SOON);
    }
    assert_eq!(sh(&machine, crate::stopping::COMPLAINTS), "");
}
