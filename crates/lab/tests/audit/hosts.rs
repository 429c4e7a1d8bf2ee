//! What a host cannot give, or silently does not.

use std::collections::BTreeSet;

use instances_lab::fleet::BEGIN;
use instances_lab::{Image, Machine, Options, Release, fleet, unavailable};
use serde_json::Value;

use crate::view::{audit, findings, rows, without_controllers};

const SPEC: &str = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n\
                    [instances.billing]\ndirectory = \"/srv/billing\"\nlisten.port = 4102\n";

fn boot(release: Release, options: &Options) -> Machine {
    let machine = Machine::boot(&Image::ensure(release).unwrap(), options).unwrap();
    machine.run(["mkdir", "-p", "/srv/website", "/srv/billing"]).unwrap().ok().unwrap();
    machine.put(fleet::SPEC, SPEC, 0o644).unwrap();
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"]).unwrap().ok().unwrap();
    machine
}

#[test]
fn a_host_that_ignores_filters_without_a_word_is_found() {
    if unavailable() {
        return;
    }
    let options = Options::new().name("audit-no-filters").engine().without_filters();
    let machine = boot(Release::Trixie, &options);
    let (code, report) = audit(&machine, "website");
    assert_eq!(code, 4);
    let found = findings(&report);
    let named: BTreeSet<&str> =
        found.iter().filter_map(|finding| finding.split(':').next()).collect();
    for control in ["system-calls", "namespaces", "io-uring", "address-families", "personality"] {
        assert!(named.contains(control), "{control}: {found:#?}");
    }
}

#[test]
fn what_systemd_252_cannot_give_is_said_and_nothing_gets_out() {
    if unavailable() {
        return;
    }
    let machine = boot(Release::Bookworm, &Options::new().name("audit-252").engine());
    let (_, report) = audit(&machine, "website");
    let found = findings(&report);
    assert_eq!(without_controllers(&found), [""; 0]);
    let partial: Vec<(&str, Vec<&str>)> = rows(&report)
        .iter()
        .filter(|row| row["verdict"] == "partial")
        .map(|row| {
            let notes = row["notes"].as_array().unwrap().iter().filter_map(Value::as_str);
            (row["control"].as_str().unwrap(), notes.collect())
        })
        .collect();
    let expected = [
        (
            "file-system",
            vec![
                "systemd 252 has no BindLogSockets=no: that needs 257",
                "systemd 252 has no private /run that is root's alone: that needs 257",
                "the agent can write to /run: a file was made there",
            ],
        ),
        ("process-visibility", vec!["systemd 252 has no PrivatePIDs=: that needs 257"]),
        (
            "systemd-messages",
            vec![
                "systemd 252 has no OpenFile=: that needs 253",
                "the agent can send messages to systemd: it takes messages",
            ],
        ),
        (
            "control-groups",
            // That /sys is bare keeps the names of the host's units from it all the same.
            vec!["systemd 252 has no ProtectControlGroups=strict: that needs 257"],
        ),
    ];
    assert_eq!(partial, expected);
    // What 252 lacks excuses nothing else.
    let weak = format!(
        "{BEGIN} mkdir -p /run/systemd/system/opencode-website.service.d; \
         printf '[Service]\\nBindPaths=/var/log\\n' >/run/systemd/system/opencode-website.service.d/x.conf; \
         systemctl daemon-reload; begin opencode-website.service"
    );
    machine.run_for(fleet::PATIENCE, ["sh", "-ec", &weak]).unwrap().ok().unwrap();
    let (code, report) = audit(&machine, "website");
    let found = findings(&report);
    assert_eq!(code, 4);
    let listed = |finding: &String| finding.starts_with("file-system: the agent can list /var/log");
    assert!(found.iter().any(listed), "{found:#?}");
}
