//! `Plan → host`: takes the steps, remembering before the first one what all of them must achieve.
//!
//! Invariant: killed at any step, the next run ends in the same place. Before a file changes, the
//! manifest lists old and new files and the pending effects are on disk; both shrink only after
//! the last step.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use instances_core::desired::{Desired, Effect, UNIT_DIR};
use instances_core::plan::{
    Activity, Batch, Foreign, Observed, Plan, Step, Turn, plan, plan_removal,
};
use instances_core::spec::InstanceName;
use instances_core::units::{ADDRESSES, Names, TURNS, owner};

use crate::files::{self, Root};
use crate::installed::Record;
use crate::{installed, lock, program, sandbox_root, status, systemctl};
use kept::Kept;

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
    /// Where servers stopped being restarted, if one of them did not come back.
    pub stopped: Option<Stopped>,
    /// Whether something was up and did not come back that no server waits for.
    pub worse: bool,
}

/// The first failure of what restarts servers, after which no other one is restarted.
#[derive(Debug)]
pub struct Stopped {
    /// Whose server did not come back; none where something of all instances' did not.
    pub at: Option<InstanceName>,
    /// Who still is as it was.
    pub untouched: Vec<InstanceName>,
    /// Who had no turn, and is not as it was: its listener has moved, an earlier run was killed, something of it has begun
    /// with the new files, or these could not be put back.
    pub other: Vec<InstanceName>,
    /// Why they could not.
    pub kept: Option<Error>,
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
        if let Some(engine) = &desired.engine {
            let running = observed.units.iter().filter(|(_, state)| **state != Activity::Inactive);
            let running = running.map(|(unit, _)| unit.clone()).collect();
            observed.outdated = program::outdated(Path::new(engine.as_str()), &running);
        }
    }
    observed.owned = owned;
    Ok(observed)
}

/// The units whose files these are.
fn unit_names<'a>(paths: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let names = paths.filter_map(|path| path.strip_prefix(UNIT_DIR)?.strip_prefix('/'));
    names.filter(|name| !name.contains('/')).map(str::to_owned).collect()
}

fn units<'a>(
    paths: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, instances_core::plan::Activity>, Error> {
    let names: Vec<String> = unit_names(paths).into_iter().collect();
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
    take(root, desired, &observed, &plan, narrate)
}

/// Takes away everything that was installed. State directories, passwords, users and projects stay.
pub fn remove(root: &Root, narrate: &mut dyn FnMut(&Step)) -> Result<Receipt, Error> {
    let _lock = lock::take(root)?;
    let nothing = Desired::default();
    let observed = observe(root, &nothing)?;
    let plan = plan_removal(&observed);
    take(root, &nothing, &observed, &plan, narrate)
}

fn take(
    root: &Root,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    narrate: &mut dyn FnMut(&Step),
) -> Result<Receipt, Error> {
    let wanted: BTreeSet<String> = desired.files.keys().cloned().collect();
    if plan.all().next().is_none() {
        finish(root, observed, wanted, BTreeSet::new())?;
        return Ok(Receipt::default());
    }
    // Without a manager the effects stay pending, for the first apply on the running host.
    installed::record_pending(root, plan.remembered())?;
    installed::record_owned(root, wanted.union(&observed.owned).cloned().collect())?;
    let (receipt, unfinished, begun) = (Receipt::default(), BTreeSet::new(), BTreeSet::new());
    let mut run = Run { root, desired, narrate, receipt, unfinished, begun };
    run.take(plan.steps.iter(), &plan.effects)?;
    let mut halt = run.unfinished.iter().any(is_of_all).then(|| Halt::before(0));
    let mut over = 0;
    for batch in plan.batches() {
        if halt.is_some() {
            break;
        }
        halt = run.batch(&batch)?.map(|halt| Halt { begun: over + halt.begun, ..halt });
        over += batch.turns.len();
    }
    let Run { mut receipt, mut unfinished, begun, .. } = run;
    let Some(mut halt) = halt.filter(|_| !plan.turns.is_empty()) else {
        finish(root, observed, wanted, unfinished)?;
        return Ok(receipt);
    };
    let left = plan.turns.get(halt.begun..).unwrap_or_default();
    unfinished.extend(left.iter().flat_map(|turn| turn.due.iter().cloned()));
    let is_new = |name: &InstanceName| {
        let its = |step: &Step| matches!(step, Step::Write { path, .. } if owner(path).as_ref() == Some(name));
        let names = Names(name);
        let due = |unit| unfinished.contains(&Effect::Restart(unit));
        begun.contains(name) || due(names.main()) || due(names.net()) || plan.steps.iter().any(its)
    };
    let (other, untouched) =
        left.iter().flat_map(|turn| turn.instances.iter().cloned()).partition(is_new);
    // Old and new files are ours until the last turn is over. What is on the disk already has all of it.
    if let Err(error) = installed::record_pending(root, unfinished) {
        halt.kept.get_or_insert(error.into());
    }
    receipt.stopped = Some(Stopped { at: halt.at, untouched, other, kept: halt.kept });
    Ok(receipt)
}

/// No further server is restarted.
struct Halt {
    /// How many turns have begun.
    begun: usize,
    /// Whose server did not come back; none where something of all instances' did not.
    at: Option<InstanceName>,
    /// Why those that follow are not all as before.
    kept: Option<Error>,
}

impl Halt {
    /// Something of all instances' failed before the turn of that number.
    fn before(begun: usize) -> Self {
        Self { begun, at: None, kept: None }
    }
}

/// What takes steps.
struct Run<'a> {
    root: &'a Root,
    desired: &'a Desired,
    narrate: &'a mut dyn FnMut(&Step),
    receipt: Receipt,
    /// Which effects of steps that were taken are not achieved.
    unfinished: BTreeSet<Effect>,
    /// Who has something new although its turn has not come.
    begun: BTreeSet<InstanceName>,
}

impl Run<'_> {
    /// Takes the turns of a batch. One that fails ends it.
    fn batch(&mut self, batch: &Batch<'_>) -> Result<Option<Halt>, Error> {
        let kept = match Kept::of(self.root, batch) {
            Ok(kept) => kept,
            Err(Error::Systemd(refusal)) => {
                self.receipt.refused.push(refusal);
                return Ok(Some(Halt::before(0)));
            }
            Err(error) => return Err(error),
        };
        self.remember(&batch.remembered(0..batch.turns.len()))?;
        let mut begun = 0;
        let taken = self.turns(batch, &mut begun);
        let left = batch.turns.get(begun..).unwrap_or_default();
        if left.is_empty() {
            return taken;
        }
        let back = self
            .put_back(batch, left, &kept)
            .and_then(|()| self.remember(&batch.remembered(begun.saturating_sub(1)..begun)));
        let Some(halt) = taken? else { return Ok(None) };
        Ok(Some(match back {
            Ok(()) => halt,
            Err(error) => {
                self.are_due(left.iter());
                Halt { kept: Some(error), ..halt }
            }
        }))
    }

    /// Whatever their files are, these turns are due.
    fn are_due<'a>(&mut self, turns: impl Iterator<Item = &'a Turn>) {
        for turn in turns {
            self.unfinished.extend(turn.effects.iter().cloned());
            self.begun.extend(turn.instances.iter().cloned());
        }
    }

    /// `begun` is how many of them have begun, whatever comes of it.
    fn turns(&mut self, batch: &Batch<'_>, begun: &mut usize) -> Result<Option<Halt>, Error> {
        if self.take(batch.opening(), &BTreeSet::new())? {
            return Ok(Some(Halt::before(0)));
        }
        for turn in batch.turns {
            if *begun > 0 {
                self.remember(&batch.remembered(*begun..batch.turns.len()))?;
            }
            *begun += 1;
            if !self.take(turn.steps.iter(), &turn.effects)? {
                continue;
            }
            self.receipt.worse = true;
            if self.unfinished.iter().any(is_of_all) {
                return Ok(Some(Halt::before(*begun - 1)));
            }
            if turn.runs {
                // It is the first to be tried when the cause is mended.
                let restarts = |effect: &&Effect| matches!(effect, Effect::Restart(_));
                self.unfinished.extend(turn.effects.iter().filter(restarts).cloned());
                let at = turn.instances.first().cloned();
                return Ok(Some(Halt { begun: *begun, at, kept: None }));
            }
        }
        Ok(None)
    }

    /// Whose turn does not come has its files as before, and would come back so. What began with the new ones goes on,
    /// and its turn is due.
    fn put_back(&mut self, batch: &Batch<'_>, left: &[Turn], kept: &Kept) -> Result<(), Error> {
        let mut done = Ok(());
        for step in left.iter().flat_map(|turn| &turn.files) {
            done = done.and(kept.put_back(self.root, step, self.narrate));
        }
        let reload = batch.opening().filter(|step| **step == Step::ReloadManager);
        let refused = self.take(reload, &BTreeSet::from([Effect::Manager]))?;
        done?;
        // Their rules may have been loaded for another reason.
        let reload = |unit: &String| Effect::Reload(unit.clone());
        let asks = |unit: &String| left.iter().any(|turn| turn.effects.contains(&reload(unit)));
        let names = left.iter().flat_map(|turn| &turn.instances);
        let nets: Vec<String> = names.map(|name| Names(name).net()).filter(asks).collect();
        let nets = still_there(&nets)?;
        if !nets.is_empty() {
            let effects = nets.iter().map(reload).collect();
            self.take([Step::Reload(nets)].iter(), &effects)?;
        }
        let begun = kept.begun_since()?;
        let is_other = |turn: &&Turn| refused || turn.instances.iter().any(|of| begun.contains(of));
        self.are_due(left.iter().filter(is_other));
        Ok(())
    }

    fn remember(&self, due: &BTreeSet<Effect>) -> Result<(), Error> {
        Ok(installed::record_pending(self.root, due.union(&self.unfinished).cloned().collect())?)
    }

    /// Takes steps, which are for these effects, and says whether one of them was refused.
    fn take<'a>(
        &mut self,
        steps: impl Iterator<Item = &'a Step> + Clone,
        effects: &BTreeSet<Effect>,
    ) -> Result<bool, Error> {
        let mut any = false;
        let removes = steps.clone().any(|step| matches!(step, Step::Remove(_)));
        for step in steps {
            (self.narrate)(step);
            if let Err(error) = one(self.root, self.desired, step) {
                any = true;
                match error {
                    // Without their files, units that still run could not be stopped any more.
                    Error::Systemd(refusal) if matches!(step, Step::Stop(_)) && removes => {
                        return Err(refusal.into());
                    }
                    // What follows would be done to the units that systemd has.
                    Error::Systemd(refusal) if *step == Step::ReloadManager => {
                        self.receipt.refused.push(refusal);
                        self.unfinished.extend(effects.iter().cloned());
                        return Ok(true);
                    }
                    Error::Systemd(refusal) => {
                        self.unfinished.extend(left_over(step, effects));
                        self.receipt.refused.push(refusal);
                    }
                    fatal => return Err(fatal),
                }
            }
            self.receipt.steps.push(step.clone());
        }
        Ok(any)
    }
}

/// Whether it is about what all instances need; without a reload systemd would start them as they were declared before.
fn is_of_all(effect: &Effect) -> bool {
    match effect {
        Effect::Restart(unit) => [ADDRESSES, TURNS].contains(&unit.as_str()),
        effect => *effect == Effect::Manager,
    }
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
    if wanted.is_empty() && root.is_host() {
        sandbox_root::clear();
    }
    // What a power cut could bring back must not be forgotten.
    root.sync_removed(observed.owned.difference(&wanted))?;
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
        Step::Restart(units) => match still_there(units)? {
            units if units.is_empty() => Ok(()),
            units => Ok(systemctl::verb("restart", &units)?),
        },
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

/// Those of units that are to be restarted whose instance nobody has stopped, and whose server has not ended,
/// while others had their turns.
fn still_there(units: &[String]) -> Result<Vec<String>, systemctl::Error> {
    let owners: BTreeSet<InstanceName> = units.iter().filter_map(|unit| owner(unit)).collect();
    let asked: Vec<String> =
        owners.iter().flat_map(|name| [Names(name).main(), Names(name).net()]).collect();
    let states = systemctl::loaded(&asked)?;
    let is_up = |unit: &str| {
        states.get(unit).is_some_and(|state| systemctl::activity(state) != Activity::Inactive)
    };
    let still = |unit: &&String| {
        owner(unit).is_none_or(|name| {
            let names = Names(&name);
            is_up(&names.net()) && (**unit != names.main() || is_up(unit))
        })
    };
    Ok(units.iter().filter(still).cloned().collect())
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
        Step::Accounts(_) => matches!(effect, Effect::Accounts(_)),
        Step::Directories(_) => matches!(effect, Effect::Directories(_)),
        Step::Reread(_) => matches!(effect, Effect::Reread(_)),
        Step::Reload(_) => matches!(effect, Effect::Reload(_)),
        Step::Stop(_) => matches!(effect, Effect::Listen(..) | Effect::Stop(_)),
        Step::Restart(units) => {
            is_of_all(effect) && units.iter().any(|unit| effect.subject() == unit)
        }
        _ => false,
    };
    effects.iter().filter(kind).cloned().collect()
}
