//! `Plan → host`: takes the steps, remembering before the first one what all of them must achieve.
//!
//! Invariant: killed at any step, the next run ends in the same place. Before a file changes, the
//! manifest lists old and new files and the pending effects are on disk; both shrink only after
//! the last step.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use instances_core::desired::{Desired, Effect, UNIT_DIR};
use instances_core::plan::{Foreign, Observed, Plan, Step, plan, plan_removal};
use instances_core::units::Names;

use crate::files::{self, Root};
use crate::installed::Record;
use crate::{installed, lock, status, systemctl};

/// How long systemd may take from a process to a supervisor, and how often that is looked at.
const BEGINS: Duration = Duration::from_secs(5);
const LOOKS: Duration = Duration::from_millis(20);

/// Nothing, or not everything, was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another run.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// What is installed is not known.
    #[error(transparent)]
    Installed(#[from] installed::Error),
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// systemd could not be asked.
    #[error(transparent)]
    Systemd(#[from] systemctl::Error),
    /// Files of somebody else stand where ours should be. Nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Foreign(Vec<Foreign>),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Receipt {
    /// The steps that were taken.
    pub steps: Vec<Step>,
    /// What systemd refused; the other steps were taken all the same.
    pub refused: Vec<systemctl::Error>,
}

/// Looks at everything that a plan for `desired` depends on.
pub fn observe(root: &Root, desired: &Desired) -> Result<Observed, Error> {
    let owned = installed::owned(root)?;
    let mut observed = Observed {
        pending: installed::pending(root)?,
        manager: root.is_host() && systemctl::booted(),
        ..Observed::default()
    };
    for path in owned.iter().chain(desired.files.keys()).collect::<BTreeSet<_>>() {
        if let Some(found) = root.find(path)? {
            observed.files.insert(path.clone(), found);
        }
    }
    if observed.manager {
        observed.units = units(owned.iter().chain(desired.files.keys()))?;
    }
    observed.owned = owned;
    Ok(observed)
}

fn units<'a>(
    paths: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, instances_core::plan::Activity>, Error> {
    let names: BTreeSet<String> = paths
        .filter_map(|path| path.strip_prefix(UNIT_DIR)?.strip_prefix('/'))
        .filter(|name| !name.contains('/'))
        .map(str::to_owned)
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    let mut loaded = systemctl::loaded(&names)?;
    let state = |name: String| {
        let state = loaded.remove(&name).unwrap_or_default();
        (name, systemctl::activity(&state))
    };
    Ok(names.into_iter().map(state).collect())
}

/// The steps that [`apply`] would take.
pub fn preview(root: &Root, desired: &Desired) -> Result<Plan, Error> {
    plan(desired, &observe(root, desired)?).map_err(Error::Foreign)
}

/// Makes the host be as `desired`. `narrate` is told each step before it is taken.
pub fn apply(
    root: &Root,
    desired: &Desired,
    narrate: &mut dyn FnMut(&Step),
) -> Result<Receipt, Error> {
    let _lock = lock::take(root)?;
    let observed = observe(root, desired)?;
    let plan = plan(desired, &observed).map_err(Error::Foreign)?;
    take(root, desired, &observed, plan, narrate)
}

/// Takes away everything that was installed. State directories, passwords, users and projects stay.
pub fn remove(root: &Root, narrate: &mut dyn FnMut(&Step)) -> Result<Receipt, Error> {
    let _lock = lock::take(root)?;
    let nothing = Desired::default();
    let observed = observe(root, &nothing)?;
    let plan = plan_removal(&observed);
    take(root, &nothing, &observed, plan, narrate)
}

fn take(
    root: &Root,
    desired: &Desired,
    observed: &Observed,
    plan: Plan,
    narrate: &mut dyn FnMut(&Step),
) -> Result<Receipt, Error> {
    let mut receipt = Receipt::default();
    let wanted: BTreeSet<String> = desired.files.keys().cloned().collect();
    if plan.steps.is_empty() {
        finish(root, observed, wanted, BTreeSet::new())?;
        return Ok(receipt);
    }
    // Without a manager the effects stay pending, for the first apply on the running host.
    installed::record_pending(root, plan.effects.clone())?;
    installed::record_owned(root, wanted.union(&observed.owned).cloned().collect())?;
    let mut unfinished = BTreeSet::new();
    let removes = plan.steps.iter().any(|step| matches!(step, Step::Remove(_)));
    for step in plan.steps {
        narrate(&step);
        if let Err(error) = one(root, desired, &step) {
            match error {
                // Without their files, units that still run could not be stopped any more.
                Error::Systemd(refusal) if matches!(step, Step::Stop(_)) && removes => {
                    return Err(refusal.into());
                }
                Error::Systemd(refusal) => {
                    unfinished.extend(left_over(&step, &plan.effects));
                    receipt.refused.push(refusal);
                }
                fatal => return Err(fatal),
            }
        }
        receipt.steps.push(step);
    }
    finish(root, observed, wanted, unfinished)?;
    Ok(receipt)
}

fn finish(
    root: &Root,
    observed: &Observed,
    wanted: BTreeSet<String>,
    unfinished: BTreeSet<Effect>,
) -> Result<(), Error> {
    // Gone already, but a run that was killed may have left a file's directory or its next content.
    for path in observed.owned.difference(&wanted) {
        root.remove(path)?;
    }
    if installed::owned(root)? != wanted {
        installed::record_owned(root, wanted)?;
    }
    if observed.manager && installed::pending(root)? != unfinished {
        installed::record_pending(root, unfinished)?;
    }
    Ok(())
}

fn one(root: &Root, desired: &Desired, step: &Step) -> Result<(), Error> {
    match step {
        Step::Write { path, .. } => match desired.files.get(path) {
            Some(file) => Ok(root.write(path, &file.content)?),
            None => Ok(()),
        },
        Step::Remove(path) => Ok(root.remove(path)?),
        Step::Stop(units) => Ok(systemctl::verb("stop", units)?),
        Step::ReloadManager => Ok(systemctl::run("systemctl", &["daemon-reload"]).map(drop)?),
        Step::Accounts(files) => {
            Ok(each(files, |file| systemctl::run("systemd-sysusers", &[file]))?)
        }
        Step::Directories(files) => {
            Ok(each(files, |file| systemctl::run("systemd-tmpfiles", &["--create", file]))?)
        }
        Step::Reread(units) => Ok(each(units, systemctl::reread)?),
        Step::Reload(units) => Ok(systemctl::verb("reload", units)?),
        // One that is not loaded any more has nothing to forget.
        Step::Forget(units) => {
            let _ = systemctl::forget(units);
            Ok(())
        }
        Step::Restart(units) => Ok(systemctl::verb("restart", units)?),
        Step::Renew(units) => {
            let mut old = Vec::new();
            for record in installed::instances(root)? {
                let unit = Names(&record.name).main();
                if units.contains(&unit) && runs_another(&record, &unit)? {
                    old.push(unit);
                }
            }
            if old.is_empty() { Ok(()) } else { Ok(systemctl::verb("try-restart", &old)?) }
        }
        Step::Start(units) => Ok(systemctl::verb("start", units)?),
    }
}

/// Whether a server runs, or starts, as it was declared before. One that systemd has begun to start has no
/// generation for a moment.
fn runs_another(record: &Record, unit: &str) -> Result<bool, systemctl::Error> {
    let end = Instant::now() + BEGINS;
    loop {
        let shown = systemctl::show(&[unit.to_owned()], &["MainPID"])?;
        let pid = shown.first().and_then(|one| one.get("MainPID")?.parse().ok()).unwrap_or(0);
        if pid == 0 {
            return Ok(false);
        }
        if status::generation(pid).is_some() {
            return Ok(status::runs_another(record, pid));
        }
        // Nobody knows.
        if Instant::now() > end {
            return Ok(true);
        }
        thread::sleep(LOOKS);
    }
}

/// One call for each file, so that one that is refused does not keep the others from their due.
fn each(
    files: &[String],
    run: impl Fn(&str) -> Result<String, systemctl::Error>,
) -> Result<(), systemctl::Error> {
    let results: Vec<_> = files.iter().map(|file| run(file).map(drop)).collect();
    results.into_iter().collect()
}

/// The effects that a refused step leaves to the next run. Units that did not start are seen by
/// their state.
fn left_over(step: &Step, effects: &BTreeSet<Effect>) -> BTreeSet<Effect> {
    let kind = |effect: &&Effect| match step {
        Step::ReloadManager => matches!(effect, Effect::Manager),
        Step::Accounts(_) => matches!(effect, Effect::Accounts(_)),
        Step::Directories(_) => matches!(effect, Effect::Directories(_)),
        Step::Reread(_) => matches!(effect, Effect::Reread(_)),
        Step::Reload(_) => matches!(effect, Effect::Reload(_)),
        Step::Stop(_) => matches!(effect, Effect::Listen(..) | Effect::Stop(_)),
        _ => false,
    };
    effects.iter().filter(kind).cloned().collect()
}
