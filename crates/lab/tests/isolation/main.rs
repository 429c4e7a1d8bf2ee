//! What an agent can do to the host, to the other instance and to its own supervisor: nothing.
//!
//! Every attack is run by the real server's own shell endpoint, in the unit as it is rendered. And
//! every attack is seen to succeed where its defences are missing, or says why that cannot be.

mod catalogue;
mod files;
mod kernel;
mod links;
mod needs;
mod network;
mod processes;
mod stage;
mod store;
mod tenants;

use anyhow::Result;
use catalogue::{Attack, Group, Red, Weak};
use instances_lab::unavailable;
use stage::Stage;

/// Everything that is tried.
const GROUPS: &[Group] = &[
    files::READING,
    files::WRITING,
    network::REACHING,
    network::SOCKETS,
    processes::PROCESS,
    processes::MANAGER,
    kernel::MOUNTS,
    kernel::NAMESPACES,
    kernel::KERNEL,
];

/// What is tried on NixOS besides.
const STORE: &[Group] = &[store::STORE];

type Named = (String, &'static Attack);

fn named(groups: &'static [Group]) -> Vec<Named> {
    let all = groups.iter().flat_map(|group| {
        group.attacks.iter().map(|attack| (format!("{}: {}", group.name, attack.name), attack))
    });
    all.collect()
}

fn red(groups: &'static [Group], wanted: Red) -> Vec<Named> {
    named(groups).into_iter().filter(|(_, attack)| attack.red == wanted).collect()
}

/// Fails with all of them at once.
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{} {what}:\n{}", found.len(), found.join("\n"));
}

/// Runs attacks where the agent's tools run; none may succeed or last.
fn contains(stage: &Stage, attacks: &[Named]) -> Result<()> {
    let before = stage.state()?;
    let outcomes = stage.by_agent(attacks, None)?;
    let breaches: Vec<String> =
        outcomes.iter().filter(|outcome| outcome.breach).map(ToString::to_string).collect();
    assert_none("attacks got out", &breaches);
    let late: Vec<String> =
        outcomes.iter().filter(|outcome| outcome.late()).map(ToString::to_string).collect();
    assert_none("attacks did not end", &late);
    assert_eq!(stage.state()?, before, "the manager or the supervisor was impressed");
    Ok(())
}

#[test]
fn no_attack_gets_out() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let stage = Stage::new("isolation")?;
    contains(&stage, &named(GROUPS))?;
    assert_none("needs are not met", &needs::unmet(&stage)?);
    assert_none("time zones are not the host's", &needs::other_zones(&stage)?);
    stage.units_obey()?;
    stage.flood()?;
    links::plant(&stage)
}

#[test]
fn every_attack_succeeds_without_its_defences() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let stage = Stage::new("no-isolation")?;
    let mut harmless = Vec::new();
    let mut keep = |outcomes: Vec<stage::Outcome>, place: &str| {
        let failed = outcomes.iter().filter(|outcome| !outcome.breach);
        harmless.extend(failed.map(|outcome| format!("{place}: {outcome}")));
    };
    keep(stage.as_root(&red(GROUPS, Red::AsRoot))?, "root");
    for weak in Weak::ALL {
        stage.weaken(weak)?;
        keep(stage.by_agent(&red(GROUPS, Red::With(weak)), weak.port())?, &format!("{weak:?}"));
    }
    assert_none("attacks prove nothing", &harmless);
    Ok(())
}

#[test]
fn no_attack_gets_out_of_a_store() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let stage = Stage::on_nixos("isolation-nixos")?;
    contains(&stage, &[named(STORE), named(GROUPS)].concat())?;
    stage.units_obey()?;
    let harmless = stage.as_root(&red(STORE, Red::AsRoot))?;
    let harmless: Vec<String> =
        harmless.iter().filter(|outcome| !outcome.breach).map(ToString::to_string).collect();
    assert_none("attacks prove nothing", &harmless);
    Ok(())
}
