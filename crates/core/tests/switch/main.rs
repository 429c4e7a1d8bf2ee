//! `nixos-rebuild switch`, as a model: which units it stops, starts, restarts, reloads and leaves
//! alone for each change of a declaration, and whose agent lives through it.
//!
//! On NixOS nobody else restarts units. What the units must say for that is in `src/units/switch.rs`.

#![expect(clippy::unwrap_used, reason = "clippy allows it in tests, but not in what tests share")]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows it in tests, but not in what tests share"
)]

mod fleet;
mod model;
mod systemd;
mod table;
mod text;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use fleet::Generation;
use systemd::{Became, Event};
use table::{ROWS, Row, decided, happened};

/// Every row, with the generations before and after it.
static CASES: LazyLock<Vec<(Row, [Generation; 2])>> =
    LazyLock::new(|| ROWS.iter().map(|row| (*row, row.generations())).collect());

/// What `nixos-rebuild` says, and what becomes of the agents.
#[test]
fn every_change_does_what_the_table_says() {
    let mut wrong = Vec::new();
    for (row, [old, new]) in CASES.iter() {
        let mut host = row.host(old);
        let actions = host.switch(new.units.clone(), false);
        let found = (decided(&actions), happened(host.events()));
        let wanted = (row.decides.to_owned(), row.happens.to_owned());
        if found != wanted {
            wrong.push(format!("{}\n found {found:?}\n wanted {wanted:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_switch_leads_to_what_is_declared() {
    for (row, generations) in CASES.iter() {
        for impatient in [false, true] {
            leads_to_what_is_declared(row, generations, impatient);
        }
    }
}

fn leads_to_what_is_declared(row: &Row, [old, new]: &[Generation; 2], impatient: bool) {
    let name = format!("{} (impatient: {impatient})", row.name);
    let before = row.host(old);
    let mut host = before.clone();
    let mut skipped = host.switch(new.units.clone(), impatient).skip;

    let failed = host.events().iter().find(|event| matches!(event, Event::Failed(_)));
    assert_eq!(failed, None, "{name}");
    let mut became = host.became(&before);
    // Not what restarted with another unit.
    skipped.retain(|unit| became.get(unit) == Some(&Became::Same));
    let agent = became.remove("opencode-blue.service");
    assert_eq!(agent, row.agent, "{name}");

    // What was to be left alone is as it was started, and nothing else is. The proxy of such a
    // server may be an old one as well, and leads to it as the new one would.
    let stale: BTreeSet<_> =
        host.stale().into_iter().filter(|unit| !unit.starts_with("opencode-listen@")).collect();
    assert_eq!(stale, skipped, "{name}");

    // An instance that was started by hand goes on.
    let open = |socket: &String, by_itself| by_itself || before.active().contains(socket);
    let declared: BTreeSet<&str> = new
        .listens
        .iter()
        .filter(|(socket, (_, by_itself))| open(socket, *by_itself))
        .map(|(_, (address, _))| address.as_str())
        .collect();
    let open = host.listening().into_keys().filter(|address| !address.starts_with("/run/"));
    assert_eq!(open.collect::<BTreeSet<_>>(), declared, "{name}");
}

#[test]
fn the_neighbour_notices_nothing() {
    for (row, [old, new]) in CASES.iter().filter(|(row, _)| !row.both) {
        let own = |path: &&String| path.contains("green");
        assert!(old.all.keys().filter(own).count() > 8);
        for path in old.all.keys().chain(new.all.keys()).filter(own) {
            assert_eq!(old.all.get(path), new.all.get(path), "{}: {path}", row.name);
        }
        let mut host = row.host(old);
        host.switch(new.units.clone(), false);
        let of_neighbour = happened(host.events()).split(' ').any(|event| event.contains("green"));
        assert!(!of_neighbour, "{}: {}", row.name, happened(host.events()));
    }
}

#[test]
fn a_second_switch_does_nothing() {
    for (row, [old, new]) in CASES.iter() {
        let mut host = row.host(old);
        host.switch(new.units.clone(), false);
        host.forget();
        let actions = host.switch(new.units.clone(), false);
        assert_eq!(
            (decided(&actions), happened(host.events())),
            Default::default(),
            "{}",
            row.name
        );
    }
}
