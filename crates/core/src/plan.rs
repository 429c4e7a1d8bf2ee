//! `Desired + Observed → Plan`: the ordered steps from what is to what should be.
//!
//! Invariants: a plan for a host that already is as it should be has no steps; running a plan that
//! was killed at any step, and planning again, ends in the same place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::desired::{Content, Desired, Effect, UNIT_DIR};
use crate::spec::{Instance, InstanceName};
use crate::units::{ADDRESSES, Names, TARGET, TURNS, TURNS_SOCKET, owner};

/// What the host holds now, as far as a plan depends on it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What lies at each path that is desired or owned; absent paths have no entry.
    pub files: BTreeMap<String, Found>,
    /// The paths that an earlier run installed.
    pub owned: BTreeSet<String>,
    /// The state of every unit of ours.
    pub units: BTreeMap<String, Activity>,
    /// The units whose process executes an earlier program than the one that is installed by now.
    pub outdated: BTreeSet<String>,
    /// What a run that did not finish had still to do.
    pub pending: BTreeSet<Effect>,
    /// Whether there is a service manager to talk to; without one only files change.
    pub manager: bool,
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A regular file with the right owner and mode, by the digest of its bytes.
    Text(String),
    /// A symbolic link, by its target.
    Link(String),
    /// Anything else; its description.
    Other(String),
}

/// The state of a unit, as `ActiveState=` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// `active`, `reloading`.
    Active,
    /// `activating`, `deactivating`.
    Changing,
    /// `failed`.
    Failed,
    /// `inactive`.
    Inactive,
}

/// The digest that [`Found::Text`] carries.
pub fn digest(bytes: &[u8]) -> String {
    digest_of([bytes])
}

/// The beginning of a text's digest, for names.
pub(crate) fn short_digest(text: &str) -> String {
    digest(text.as_bytes()).chars().take(16).collect()
}

/// The digest of what the parts are together.
pub(crate) fn digest_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    let mut hasher = Sha256::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    let digest = hasher.finalize();
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// One step. `Display` says it in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Units that no longer should be, or that must be out of the way, are stopped.
    Stop(Vec<String>),
    /// A file or link is written; `new` when nothing was there.
    Write {
        /// Its path.
        path: String,
        /// Whether nothing was there before.
        new: bool,
    },
    /// A file or link of ours is removed.
    Remove(String),
    /// `systemctl daemon-reload`.
    ReloadManager,
    /// `systemd-sysusers` for these files.
    Accounts(Vec<String>),
    /// `systemd-tmpfiles --create` for these files.
    Directories(Vec<String>),
    /// Services of the host's read their configuration anew, those that run.
    Reread(Vec<String>),
    /// Units are reloaded.
    Reload(Vec<String>),
    /// That units failed is forgotten; they start when somebody needs them.
    Forget(Vec<String>),
    /// Units are restarted.
    Restart(Vec<String>),
    /// Servers on demand are restarted that a client has started as they were declared before.
    Renew(Vec<String>),
    /// Units are started.
    Start(Vec<String>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(units) => write!(f, "stop {}", units.join(" ")),
            Self::Write { path, new: true } => write!(f, "create {path}"),
            Self::Write { path, new: false } => write!(f, "change {path}"),
            Self::Remove(path) => write!(f, "remove {path}"),
            Self::ReloadManager => f.write_str("daemon-reload"),
            Self::Accounts(files) => write!(f, "sysusers {}", files.join(" ")),
            Self::Directories(files) => write!(f, "tmpfiles {}", files.join(" ")),
            Self::Reread(units) => write!(f, "reread {}", units.join(" ")),
            Self::Reload(units) => write!(f, "reload {}", units.join(" ")),
            Self::Forget(units) => write!(f, "forget the failure of {}", units.join(" ")),
            Self::Restart(units) => write!(f, "restart {}", units.join(" ")),
            Self::Renew(units) => {
                write!(f, "restart, if a client started it meanwhile, {}", units.join(" "))
            }
            Self::Start(units) => write!(f, "start {}", units.join(" ")),
        }
    }
}

/// The steps, and what must be remembered while they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What restarts no server, in the order in which it is taken.
    pub steps: Vec<Step>,
    /// What restarts servers, one after the other.
    pub turns: Vec<Turn>,
    /// What [`Self::steps`] are for, remembered until the last of them is done.
    pub effects: BTreeSet<Effect>,
}

impl Plan {
    /// Every step, in the order in which they are taken.
    pub fn all(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(self.batches().flat_map(|batch| {
            batch.opening().chain(batch.turns.iter().flat_map(|turn| &turn.steps))
        }))
    }

    /// What must be remembered before the first step is taken.
    pub fn remembered(&self) -> BTreeSet<Effect> {
        self.effects.iter().chain(due(&self.turns)).cloned().collect()
    }

    /// The turns, in the order in which they are taken. The first batch is one turn, and each other one at most as many as
    /// servers were restarted before it, so that systemd reads its units anew a few times and not once for
    /// each server. A turn that writes its own files is a batch by itself.
    pub fn batches(&self) -> impl Iterator<Item = Batch<'_>> {
        let mut later = self.turns.as_slice();
        let mut restarted = 0;
        std::iter::from_fn(move || {
            let joins = |turn: &&Turn| !turn.files.is_empty();
            let joined = later.iter().take(restarted).take_while(joins).count();
            let (turns, rest) = later.split_at_checked(joined.max(1))?;
            restarted += turns.iter().filter(|turn| turn.restarts()).count();
            later = rest;
            Some(Batch { turns, later })
        })
    }
}

/// Turns whose files are written, and read by systemd, before the first of them.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// One after the other.
    pub turns: &'a [Turn],
    /// Those of all later batches.
    later: &'a [Turn],
}

impl<'a> Batch<'a> {
    /// The steps before its first turn.
    pub fn opening(&self) -> impl Iterator<Item = &'a Step> + Clone + use<'a> {
        let reads = self.turns.iter().any(|turn| turn.reads);
        self.turns.iter().flat_map(|turn| &turn.files).chain(reads.then_some(&Step::ReloadManager))
    }

    /// What must be remembered while these of its turns are taken, and no later one.
    pub fn remembered(&self, taken: Range<usize>) -> BTreeSet<Effect> {
        let later = self.turns.get(taken.end..).unwrap_or_default();
        let taken = self.turns.get(taken).unwrap_or_default();
        let effects = taken.iter().flat_map(|turn| &turn.effects);
        effects.chain(due(later)).chain(due(self.later)).cloned().collect()
    }
}

/// What is due although no step of these turns was taken yet.
fn due(turns: &[Turn]) -> impl Iterator<Item = &Effect> {
    turns.iter().flat_map(|turn| &turn.due)
}

/// The steps of one instance whose server restarts. The last turn may be of several, whose servers do not
/// run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it is.
    pub instances: Vec<InstanceName>,
    /// Whether a server runs that must be ready again before the next one's turn.
    pub runs: bool,
    /// Its files that are written before the first turn of its batch. Until then it is as it was. There are none where
    /// the new units could not start before the other steps were taken: its files are written by those.
    pub files: Vec<Step>,
    /// Whether systemd must read some of them.
    pub reads: bool,
    /// In the order in which they are taken.
    pub steps: Vec<Step>,
    /// What both are for, remembered from the first of them to the last.
    pub effects: BTreeSet<Effect>,
    /// What of that is due although no step was taken yet.
    pub due: BTreeSet<Effect>,
}

impl Turn {
    /// Whether it restarts a server.
    fn restarts(&self) -> bool {
        let mains: Vec<String> = self.instances.iter().map(|name| Names(name).main()).collect();
        self.steps.iter().any(|step| match step {
            Step::Restart(units) => units.iter().any(|unit| mains.contains(unit)),
            _ => false,
        })
    }

    /// Takes out of its steps what may be done before its server's turn comes: the new units start all the same, with
    /// the namespace, the accounts and the directories that there are, and every unit stays that the earlier ones need.
    fn open_early(&mut self) {
        let nets: Vec<String> = self.instances.iter().map(|name| Names(name).net()).collect();
        let waits = |step: &Step| match step {
            Step::Accounts(_) | Step::Directories(_) | Step::Remove(_) => true,
            Step::Restart(units) => units.iter().any(|unit| nets.contains(unit)),
            _ => false,
        };
        if !self.runs || self.steps.iter().any(waits) {
            return;
        }
        let is_file = |step: &mut Step| matches!(step, Step::Write { .. });
        self.files = self.steps.extract_if(.., is_file).collect();
        if !self.files.is_empty() {
            let steps = self.steps.len();
            self.steps.retain(|step| *step != Step::ReloadManager);
            self.reads = self.steps.len() < steps;
        }
    }
}

/// A path that should hold a file of ours and holds one that is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} exists and was not installed by opencode-instances ({found}); move it away")]
pub struct Foreign {
    /// The path.
    pub path: String,
    /// What lies there.
    pub found: String,
}

/// The steps from `observed` to `desired`, or every file that stands in the way.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Plan, Vec<Foreign>> {
    let change = Change::of(desired, observed)?;
    let on_demand = servers_on_demand(desired);
    let mut parts = change.parts(desired, observed, &on_demand);
    let first = parts.remove(&Place::First).unwrap_or_default();
    let steps = first.steps(desired, observed, &on_demand);
    let mut plan = Plan { steps, effects: first.effects, ..Plan::default() };
    let turns = parts.into_iter().map(|(place, part)| {
        let steps = part.steps(desired, observed, &on_demand);
        let early = part.instances.iter().any(|name| change.moving.contains(name));
        let pending = |effect: &&Effect| early || observed.pending.contains(*effect);
        let due = part.effects.iter().filter(pending).cloned().collect();
        let runs = place != Place::Last;
        let Part { instances, effects, .. } = part;
        let mut turn = Turn { instances, runs, steps, effects, due, ..Turn::default() };
        turn.open_early();
        turn
    });
    plan.turns = turns.filter(|turn| !turn.files.is_empty() || !turn.steps.is_empty()).collect();
    // What an earlier run left undone may be at fault, and is tried first.
    let undone = |turn: &Turn| turn.instances.iter().any(|name| is_pending(observed, name));
    plan.turns.sort_by_key(|turn| (!turn.runs, !undone(turn)));
    Ok(plan)
}

/// When an instance's steps are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// With everything that restarts no server.
    #[default]
    First,
    /// In its turn.
    Turn(InstanceName),
    /// After all turns: its server does not run, and shows nothing of what it is given.
    Last,
}

/// What differs between what is and what should be.
struct Change {
    /// The files that are written, with whether nothing is there.
    written: BTreeMap<String, bool>,
    /// The files of ours that no longer should be.
    removed: BTreeSet<String>,
    /// What both ask for, and what is pending.
    effects: BTreeSet<Effect>,
    /// Whose listener moves. Others may wait for its port, so that these files are written with everything that
    /// restarts no server.
    moving: BTreeSet<InstanceName>,
    /// Who executes an earlier program.
    outdated: BTreeSet<InstanceName>,
}

impl Change {
    fn of(desired: &Desired, observed: &Observed) -> Result<Self, Vec<Foreign>> {
        // The manager reads files when they are written, which is not for all of them at one time.
        let is_specific = |effect: &Effect| *effect != Effect::Manager;
        let mut effects = observed.pending.clone();
        let mut written = BTreeMap::new();
        let mut foreign = Vec::new();
        for (path, file) in &desired.files {
            let found = observed.files.get(path);
            if found.is_some_and(|found| same(&file.content, found)) {
                // Whoever executes an earlier program is treated as if its text were another.
                let outdated = unit_of(path).is_some_and(|unit| observed.outdated.contains(&unit));
                let asks = file.effects.iter().filter(|effect| outdated && is_specific(effect));
                effects.extend(asks.cloned());
                continue;
            }
            if let Some(found) = found
                && !observed.owned.contains(path)
            {
                let found = match found {
                    Found::Text(_) => "a file".to_owned(),
                    Found::Link(target) => format!("a link to {target}"),
                    Found::Other(what) => what.clone(),
                };
                foreign.push(Foreign { path: path.clone(), found });
            }
            effects.extend(file.effects.iter().filter(|effect| is_specific(effect)).cloned());
            written.insert(path.clone(), found.is_none());
        }
        if !foreign.is_empty() {
            return Err(foreign);
        }
        let gone = observed.owned.iter().filter(|path| !desired.files.contains_key(*path));
        let removed = gone.cloned().collect();
        // A listener that nobody opened stays closed, also when this run is killed and resumed.
        effects.retain(|effect| match effect {
            Effect::Listen(socket, _) => {
                observed.pending.contains(effect) || runs(observed, socket)
            }
            _ => true,
        });
        // Not the sockets inside, of the resolver and of ports of the host: nobody else waits for those.
        let moved = |effect: &Effect| match effect {
            Effect::Listen(socket, _) if observed.manager => {
                owner(socket).filter(|name| Names(name).socket() == *socket)
            }
            _ => None,
        };
        let moving = effects.iter().filter_map(moved).collect();
        let outdated = observed.outdated.iter().filter_map(|unit| owner(unit)).collect();
        Ok(Self { written, removed, effects, moving, outdated })
    }

    /// What differs, by when it is changed.
    fn parts(
        &self,
        desired: &Desired,
        observed: &Observed,
        on_demand: &BTreeSet<String>,
    ) -> BTreeMap<Place, Part> {
        let mut places = BTreeMap::new();
        let mut parts: BTreeMap<Place, Part> = BTreeMap::new();
        for instance in desired.instances.iter().filter(|_| observed.manager) {
            let place = self.place(instance, observed);
            if place != Place::First {
                let part = parts.entry(place.clone()).or_default();
                part.instances.push(instance.name.clone());
                places.insert(instance.name.clone(), place);
            }
        }
        let of = |subject: &str| {
            owner(subject).and_then(|name| places.get(&name).cloned()).unwrap_or_default()
        };
        let early = |path: &str| owner(path).is_some_and(|name| self.moving.contains(&name));
        let of_file = |path: &str| if early(path) { Place::First } else { of(path) };
        for (path, new) in &self.written {
            let part = parts.entry(of_file(path)).or_default();
            part.files.push(Step::Write { path: path.clone(), new: *new });
            let asks = desired.files.get(path).map(|file| file.effects.as_slice());
            if asks.unwrap_or_default().contains(&Effect::Manager) {
                part.effects.insert(Effect::Manager);
            }
        }
        for path in &self.removed {
            let part = parts.entry(of_file(path)).or_default();
            if observed.files.contains_key(path) {
                part.files.push(Step::Remove(path.clone()));
            }
            if let Some(unit) = unit_of(path) {
                part.gone.push(unit);
                part.effects.insert(Effect::Manager);
            }
        }
        for effect in &self.effects {
            let place = match effect {
                Effect::Listen(socket, _) => of_file(socket),
                other => of(other.subject()),
            };
            parts.entry(place).or_default().effects.insert(effect.clone());
        }
        for unit in start(desired, observed) {
            parts.entry(of(&unit)).or_default().starts.insert(unit);
        }
        let failed = |unit: &String| observed.units.get(unit) == Some(&Activity::Failed);
        for unit in on_demand.iter().filter(|unit| failed(unit)) {
            parts.entry(of(unit)).or_default().failures.insert(unit.clone());
        }
        parts
    }

    fn place(&self, instance: &Instance, observed: &Observed) -> Place {
        let names = Names(&instance.name);
        let (main, net) = (names.main(), names.net());
        let restarts = [&main, &net].into_iter().any(|unit| {
            runs(observed, unit) && self.effects.contains(&Effect::Restart(unit.clone()))
        });
        let outdated = self.outdated.contains(&instance.name);
        let written = [&main, &net]
            .into_iter()
            .any(|unit| self.written.contains_key(&format!("{UNIT_DIR}/{unit}")));
        // One that is still starting, perhaps over and over, says nothing of what is new.
        let up = observed.units.get(&main) == Some(&Activity::Active);
        let undone = is_pending(observed, &instance.name) && !instance.is_on_demand();
        if undone || (up && (restarts || outdated || written)) {
            Place::Turn(instance.name.clone())
        } else if restarts || outdated {
            Place::Last
        } else {
            Place::First
        }
    }
}

/// What is changed at one time.
#[derive(Default)]
struct Part {
    /// Whose it is, where it is an instance's.
    instances: Vec<InstanceName>,
    /// The files that are written, then those that are removed.
    files: Vec<Step>,
    /// The units whose files are removed.
    gone: Vec<String>,
    effects: BTreeSet<Effect>,
    /// The units that should run and do not.
    starts: BTreeSet<String>,
    /// The servers on demand whose failure is forgotten.
    failures: BTreeSet<String>,
}

impl Part {
    fn steps(
        &self,
        desired: &Desired,
        observed: &Observed,
        on_demand: &BTreeSet<String>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        if observed.manager {
            stop_gone(&self.gone, observed, &mut steps);
        }
        steps.extend(self.files.iter().cloned());
        if observed.manager {
            act(desired, observed, on_demand, self, &mut steps);
        }
        steps
    }
}

/// Whether an earlier run had still to restart the instance.
fn is_pending(observed: &Observed, name: &InstanceName) -> bool {
    let names = Names(name);
    [names.main(), names.net()]
        .into_iter()
        .any(|unit| observed.pending.contains(&Effect::Restart(unit)))
}

/// The steps that take away everything an earlier run installed.
pub fn plan_removal(observed: &Observed) -> Plan {
    let nothing = Desired::default();
    plan(&nothing, observed).unwrap_or_default()
}

fn same(content: &Content, found: &Found) -> bool {
    match (content, found) {
        (Content::Text(text), Found::Text(found)) => digest(text.as_bytes()) == *found,
        (Content::Link(target), Found::Link(found)) => target == found,
        _ => false,
    }
}

/// The unit whose file this is.
fn unit_of(path: &str) -> Option<String> {
    let name = path.strip_prefix(UNIT_DIR)?.strip_prefix('/')?;
    (!name.contains('/')).then(|| name.to_owned())
}

fn runs(observed: &Observed, unit: &str) -> bool {
    observed.units.get(unit).is_some_and(|one| *one != Activity::Inactive)
}

fn stop_gone(gone: &[String], observed: &Observed, steps: &mut Vec<Step>) {
    let mut stop: Vec<String> = gone.iter().filter(|unit| runs(observed, unit)).cloned().collect();
    // Listeners first: a client that comes meanwhile would start its server again.
    stop.sort_by_key(|unit| !unit.ends_with(".socket"));
    if !stop.is_empty() {
        steps.push(Step::Stop(stop));
    }
}

/// What the service manager is asked, in order: stop what moves, know the new files, make accounts
/// and directories, reload, restart, start.
fn act(
    desired: &Desired,
    observed: &Observed,
    on_demand: &BTreeSet<String>,
    part: &Part,
    steps: &mut Vec<Step>,
) {
    let mut stop = BTreeSet::new();
    let (mut reload, mut restart, mut renew) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut accounts, mut directories, mut reread) = (Vec::new(), Vec::new(), Vec::new());
    let mut listens = BTreeSet::new();
    let mut manager = false;
    let known = |unit: &str| desired.files.contains_key(&format!("{UNIT_DIR}/{unit}"));
    let runs = |unit: &str| known(unit) && runs(observed, unit);
    let failed = |unit: &str| observed.units.get(unit) == Some(&Activity::Failed);
    let works = |unit: &str| runs(unit) && !failed(unit);
    let mut start = part.starts.clone();
    for effect in &part.effects {
        match effect {
            Effect::Accounts(file) if desired.files.contains_key(file) => {
                accounts.push(file.clone());
            }
            Effect::Directories(file) if desired.files.contains_key(file) => {
                directories.push(file.clone());
            }
            Effect::Manager => manager = true,
            Effect::Reread(unit) if !desired.files.is_empty() => reread.push(unit.clone()),
            Effect::Reload(unit) if runs(unit) => drop(reload.insert(unit.clone())),
            Effect::Restart(unit) if on_demand.contains(unit) && !works(unit) => {
                renew.insert(unit.clone());
            }
            Effect::Restart(unit) if runs(unit) => drop(restart.insert(unit.clone())),
            Effect::Stop(unit) if runs(unit) => drop(stop.insert(unit.clone())),
            Effect::Listen(socket, proxy) if known(socket) => {
                stop.extend([socket, proxy].into_iter().filter(|unit| runs(unit)).cloned());
                listens.insert(proxy.clone());
                start.insert(socket.clone());
            }
            _ => {}
        }
    }
    for instance in &part.instances {
        let names = Names(instance);
        // It restarts with its namespace, and is waited for.
        if restart.contains(&names.net()) && works(&names.main()) {
            restart.insert(names.main());
        }
        // Its proxy restarts with it: who connects meanwhile is not cut off twice.
        if restart.contains(&names.main()) && !listens.contains(&names.proxy()) {
            stop.remove(&names.proxy());
        }
    }
    reload.retain(|unit| !restart.contains(unit));
    start.retain(|unit| !restart.contains(unit));
    let list = |units: BTreeSet<String>| units.into_iter().collect::<Vec<_>>();
    let steps_of = [
        Step::Stop(list(stop)),
        Step::ReloadManager,
        Step::Accounts(accounts),
        Step::Directories(directories),
        // Before there is a link that they would configure.
        Step::Reread(reread),
        Step::Reload(list(reload)),
        Step::Forget(list(part.failures.clone())),
        Step::Restart(list(restart)),
        Step::Renew(list(renew)),
        Step::Start(list(start)),
    ];
    steps.extend(steps_of.into_iter().filter(|step| match step {
        Step::ReloadManager => manager,
        Step::Stop(list)
        | Step::Accounts(list)
        | Step::Directories(list)
        | Step::Reread(list)
        | Step::Reload(list)
        | Step::Forget(list)
        | Step::Restart(list)
        | Step::Renew(list)
        | Step::Start(list) => !list.is_empty(),
        Step::Write { .. } | Step::Remove(_) => true,
    }));
}

/// The servers that only clients start.
fn servers_on_demand(desired: &Desired) -> BTreeSet<String> {
    let instances = desired.instances.iter().filter(|instance| instance.is_on_demand());
    instances.map(|instance| Names(&instance.name).main()).collect()
}

/// What should run and does not.
fn start(desired: &Desired, observed: &Observed) -> BTreeSet<String> {
    let started = desired.instances.iter().filter(|instance| instance.auto_start);
    let mut units: BTreeSet<String> = started
        .flat_map(|instance| {
            let main = (!instance.is_on_demand()).then(|| Names(&instance.name).main());
            main.into_iter().chain([Names(&instance.name).socket()])
        })
        .collect();
    // What came to a namespace that is there already: a policy that has a resolver by now.
    let present = desired.instances.iter().filter(|instance| {
        observed.units.get(&Names(&instance.name).net()) == Some(&Activity::Active)
    });
    units.extend(present.flat_map(|instance| {
        let names = Names(&instance.name);
        // What runs beside a server on demand comes with it.
        let runs = !instance.is_on_demand();
        let dns = instance
            .network
            .has_dns()
            .then(|| [Some(names.dns_socket()), runs.then(|| names.dns())]);
        let dns = dns.into_iter().flatten().flatten();
        let events = runs.then(|| names.events());
        let ports = instance.network.host_ports.iter();
        let sockets = ports.map(move |port| names.host_port_socket(*port));
        let target = (!instance.network.host_ports.is_empty()).then(|| names.host_ports());
        dns.chain(target).chain(sockets).chain(events)
    }));
    if !desired.files.is_empty() {
        units.extend([TARGET, ADDRESSES, TURNS_SOCKET, TURNS].map(str::to_owned));
    }
    units.retain(|unit| observed.units.get(unit) != Some(&Activity::Active));
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::desire;
    use crate::facts::HostFacts;
    use crate::lower::read;
    use crate::node::Format;
    use crate::spec::Spec;

    fn spec(text: &str) -> Spec {
        read(text, Format::Toml).unwrap().0
    }

    const TWO: &str = "[instances.a]\ndirectory = \"/srv/a\"\nlisten.port = 1\n\
        [instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 2\n";

    fn want(text: &str) -> Desired {
        desire(&spec(text), &HostFacts::default())
    }

    /// A host on which everything of `desired` is installed and runs.
    fn settled(desired: &Desired) -> Observed {
        let mut observed = Observed { manager: true, ..Observed::default() };
        for (path, file) in &desired.files {
            observed.owned.insert(path.clone());
            let found = match &file.content {
                Content::Text(text) => Found::Text(digest(text.as_bytes())),
                Content::Link(target) => Found::Link(target.clone()),
            };
            observed.files.insert(path.clone(), found);
            if let Some(unit) = unit_of(path) {
                let idle = unit.contains("setup@") || unit == crate::units::SLICE;
                let state = if idle { Activity::Inactive } else { Activity::Active };
                observed.units.insert(unit, state);
            }
        }
        observed
    }

    fn lines(desired: &Desired, observed: &Observed) -> Vec<String> {
        plan(desired, observed).unwrap().all().map(ToString::to_string).collect()
    }

    fn unit_lines(desired: &Desired, observed: &Observed) -> Vec<String> {
        let all = lines(desired, observed);
        all.into_iter().filter(|l| !l.starts_with("change ") && !l.starts_with("create ")).collect()
    }

    /// All that a plan is for.
    fn asked(desired: &Desired, observed: &Observed) -> BTreeSet<Effect> {
        let plan = plan(desired, observed).unwrap();
        plan.effects
            .into_iter()
            .chain(plan.turns.into_iter().flat_map(|turn| turn.effects))
            .collect()
    }

    #[test]
    fn a_settled_host_needs_nothing() {
        let desired = want(TWO);
        assert_eq!(lines(&desired, &settled(&desired)), [""; 0]);
    }

    #[test]
    fn the_first_plan_installs_everything_and_starts_it() {
        let steps = unit_lines(&want(TWO), &Observed { manager: true, ..Observed::default() });
        assert_eq!(
            steps,
            [
                "daemon-reload",
                "sysusers /etc/sysusers.d/opencode-a.conf /etc/sysusers.d/opencode-b.conf",
                "reread NetworkManager.service systemd-networkd.service",
                "start opencode-a.service opencode-b.service opencode-host@addresses.service opencode-host@turns.service \
                 opencode-host@turns.socket opencode-listen@a.socket \
                 opencode-listen@b.socket opencode.target",
            ]
        );
    }

    #[test]
    fn changing_one_instance_leaves_the_other_alone() {
        let before = want(TWO);
        for (options, steps) in [
            ("logLevel = \"WARN\"", vec!["daemon-reload", "restart opencode-a.service"]),
            (
                "extraGroups = [\"x\"]",
                vec!["daemon-reload", "restart opencode-a.service opencode-net@a.service"],
            ),
            (
                "listen.address = \"127.0.0.2\"",
                vec![
                    "stop opencode-listen@a.service opencode-listen@a.socket",
                    "daemon-reload",
                    "start opencode-listen@a.socket",
                ],
            ),
            ("autoStart = false", vec!["daemon-reload"]),
        ] {
            let after =
                want(&TWO.replacen("[instances.a]\n", &format!("[instances.a]\n{options}\n"), 1));
            assert_eq!(unit_lines(&after, &settled(&before)), steps, "{options}");
            for (path, file) in &before.files {
                if path.contains("opencode-b") || path.contains("@b.") || path.contains("/b/") {
                    assert_eq!(after.files.get(path), Some(file), "{path} changed with {options}");
                }
            }
        }
    }

    #[test]
    fn a_server_on_demand_that_does_not_run_stays_so() {
        let text =
            TWO.replacen("[instances.a]\n", "[instances.a]\nactivation = \"on-demand\"\n", 1);
        let before = want(&text);
        let after =
            want(&text.replacen("[instances.a]\n", "[instances.a]\nlogLevel = \"WARN\"\n", 1));
        let forget = "forget the failure of opencode-a.service";
        let renew = "restart, if a client started it meanwhile, opencode-a.service";
        for (state, unchanged, changed) in [
            (Activity::Active, vec![], vec!["daemon-reload", "restart opencode-a.service"]),
            (Activity::Changing, vec![], vec!["daemon-reload", "restart opencode-a.service"]),
            (Activity::Inactive, vec![], vec!["daemon-reload", renew]),
            (Activity::Failed, vec![forget], vec!["daemon-reload", forget, renew]),
        ] {
            let mut observed = settled(&before);
            observed.units.insert("opencode-a.service".into(), state);
            assert_eq!(unit_lines(&before, &observed), unchanged, "{state:?}");
            assert_eq!(unit_lines(&after, &observed), changed, "{state:?}");
        }
    }

    /// The turns of a plan, each as its instances and what is asked of systemd.
    fn turns(desired: &Desired, observed: &Observed) -> Vec<String> {
        let plan = plan(desired, observed).unwrap();
        let turns = plan.turns.iter().map(|turn| {
            let names: Vec<&str> = turn.instances.iter().map(InstanceName::as_str).collect();
            let steps = turn.steps.iter().filter(|step| !matches!(step, Step::Write { .. }));
            let steps: Vec<String> = steps.map(ToString::to_string).collect();
            format!("{}: {}", names.join(" "), steps.join(", "))
        });
        turns.collect()
    }

    const FOUR: &str = "[instances.a]\ndirectory = \"/srv/a\"\nlisten.port = 1\n\
        [instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 2\n\
        [instances.idle]\ndirectory = \"/srv/idle\"\nlisten.port = 3\nactivation = \"on-demand\"\n\
        [instances.off]\ndirectory = \"/srv/off\"\nlisten.port = 4\nautoStart = false\n";

    /// All four of them, two of which run a server.
    fn four(text: &str) -> Observed {
        let mut observed = settled(&want(text));
        observed.units.insert("opencode-idle.service".into(), Activity::Inactive);
        for (unit, state) in &mut observed.units {
            if owner(unit).is_some_and(|name| name.as_str() == "off") {
                *state = Activity::Inactive;
            }
        }
        observed
    }

    #[test]
    fn servers_restart_one_after_the_other_each_with_its_own_files() {
        let after =
            want(&format!("[defaults]\nlogLevel = \"WARN\"\nextraGroups = [\"x\"]\n{FOUR}"));
        let observed = four(FOUR);
        assert_eq!(
            turns(&after, &observed),
            [
                "a: daemon-reload, restart opencode-a.service opencode-net@a.service",
                "b: daemon-reload, restart opencode-b.service opencode-net@b.service",
                // Its server starts with the next client.
                "idle: daemon-reload, restart opencode-net@idle.service, \
                 restart, if a client started it meanwhile, opencode-idle.service",
            ]
        );
        let plan = plan(&after, &observed).unwrap();
        let first: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert!(first.iter().all(|step| !step.contains("restart")), "{first:?}");
        for turn in &plan.turns {
            let own = |step: &Step| match step {
                Step::Write { path, .. } => owner(path).as_ref() == turn.instances.first(),
                _ => true,
            };
            assert!(turn.steps.iter().all(own), "{turn:?}");
            assert!(turn.steps.iter().any(|step| matches!(step, Step::Write { .. })));
        }
        let runs: Vec<bool> = plan.turns.iter().map(|turn| turn.runs).collect();
        assert_eq!(runs, [true, true, false]);
        // Killed before a turn, nothing of it is due: its files are the earlier ones.
        let due = plan.remembered();
        let is_due = |unit: &str| due.contains(&Effect::Restart(unit.into()));
        assert!(!is_due("opencode-a.service") && !is_due("opencode-b.service"), "{due:?}");
    }

    /// As many at one time as came back before; what is due meanwhile is theirs.
    #[test]
    fn batches_grow_with_those_that_came_back() {
        let fleet = |options: &str| {
            let one = |n: u16| {
                format!("[instances.i{n}]\ndirectory = \"/srv/{n}\"\nlisten.port = {n}\n{options}")
            };
            want(&(1..=11).map(one).collect::<String>())
        };
        let observed = settled(&fleet(""));
        let after = fleet("logLevel = \"WARN\"\n");
        let plan = plan(&after, &observed).unwrap();
        let batches: Vec<Batch<'_>> = plan.batches().collect();
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.turns.len()).collect();
        assert_eq!(sizes, [1, 1, 2, 4, 3]);
        let reloads = plan.all().filter(|step| **step == Step::ReloadManager).count();
        assert_eq!(reloads, sizes.len());
        for batch in batches {
            let opening: Vec<&Step> = batch.opening().collect();
            assert_eq!(opening.last(), Some(&&Step::ReloadManager));
            for over in 0..=batch.turns.len() {
                let remembered = batch.remembered(over..batch.turns.len());
                let left = remembered.iter().filter(|one| matches!(one, Effect::Restart(_)));
                assert_eq!(left.count(), batch.turns.len() - over, "{remembered:?}");
                assert_eq!(remembered.contains(&Effect::Manager), over < batch.turns.len());
            }
        }
    }

    /// With files that name what is not there yet it would not come back from a crash before its turn.
    #[test]
    fn who_cannot_start_before_its_turn_has_its_files_in_it() {
        let fleet = |fifth: &str| {
            let one = |n: u16| {
                let more = if n == 5 { fifth } else { "" };
                format!("[instances.i{n}]\ndirectory = \"/srv/{n}\"\nlisten.port = {n}\n{more}")
            };
            want(&(1..=8).map(one).collect::<String>())
        };
        let batches = |before: &str, after: &str| {
            let mut desired = fleet(after);
            for (path, file) in &mut desired.files {
                if owner(path)
                    .is_some_and(|name| *path == format!("{UNIT_DIR}/{}", Names(&name).main()))
                {
                    let Content::Text(text) = &mut file.content else { panic!("{path}") };
                    text.push_str("# other\n");
                }
            }
            let plan = plan(&desired, &settled(&fleet(before))).unwrap();
            plan.batches().map(|batch| batch.turns.len()).collect::<Vec<_>>()
        };
        assert_eq!(batches("", ""), [1, 1, 2, 4]);
        for (before, after) in [
            // An account, a directory, its namespace with a password, and a unit that goes.
            ("", "extraGroups = [\"new\"]\n"),
            ("", "stateDir = \"/data/state\"\n"),
            ("auth.enable = false\n", ""),
            ("network.hostPorts = [11434]\n", ""),
        ] {
            assert_eq!(batches(before, after), [1, 1, 2, 1, 3], "{before} {after}");
        }
    }

    /// Servers that are not restarted prove nothing for others.
    #[test]
    fn who_goes_on_as_it_is_makes_no_batch_larger() {
        let fleet = |level: &str| {
            let one = |n: u16| {
                let stays = if n <= 4 { "restartOnSwitch = false\n" } else { "" };
                format!(
                    "[instances.i{n}]\ndirectory = \"/srv/{n}\"\nlisten.port = {n}\nlogLevel = \"{level}\"\n{stays}"
                )
            };
            want(&(1..=8).map(one).collect::<String>())
        };
        let plan = plan(&fleet("WARN"), &settled(&fleet("INFO"))).unwrap();
        let batches: Vec<usize> = plan.batches().map(|batch| batch.turns.len()).collect();
        assert_eq!(batches, [1, 1, 1, 1, 1, 1, 2]);
    }

    /// The restart of one that did not come back is tried before any other one.
    #[test]
    fn what_was_left_undone_has_the_first_turn() {
        let before = want(TWO);
        let after = want(&format!("[defaults]\nlogLevel = \"WARN\"\n{TWO}"));
        let mut observed = settled(&before);
        for (path, file) in &after.files {
            if owner(path).is_some_and(|name| name.as_str() == "b")
                && let Content::Text(text) = &file.content
            {
                observed.files.insert(path.clone(), Found::Text(digest(text.as_bytes())));
            }
        }
        observed.units.insert("opencode-b.service".into(), Activity::Failed);
        observed.pending.insert(Effect::Restart("opencode-b.service".into()));
        let expected = ["b: restart opencode-b.service", "a: restart opencode-a.service"];
        assert_eq!(turns(&after, &observed), expected);
        // One that failed by itself says nothing of what is new, and holds up nobody.
        observed.pending.clear();
        let plan = plan(&after, &observed).unwrap();
        assert_eq!(turns(&after, &observed), [expected[1]]);
        assert_eq!(plan.steps, [Step::Start(vec!["opencode-b.service".into()])]);
    }

    #[test]
    fn who_executes_an_earlier_program_is_treated_as_if_its_unit_were_another() {
        let desired = want(FOUR);
        let mut observed = four(FOUR);
        let units = [
            "opencode-a.service",
            "opencode-dns@a.service",
            "opencode-events@a.service",
            "opencode-listen@a.service",
            "opencode-dns@idle.service",
            ADDRESSES,
        ];
        observed.outdated = units.map(str::to_owned).into();
        // No listener is touched, and the proxy restarts with its server.
        assert_eq!(
            unit_lines(&desired, &observed),
            [
                format!("restart {ADDRESSES}").as_str(),
                "restart opencode-a.service opencode-dns@a.service opencode-events@a.service",
                "restart opencode-dns@idle.service"
            ]
        );
        let stays =
            want(&FOUR.replacen("listen.port = 1", "listen.port = 1\nrestartOnSwitch = false", 1));
        observed.files = settled(&stays).files;
        assert_eq!(
            turns(&stays, &observed)[0],
            "a: stop opencode-listen@a.service, restart opencode-dns@a.service opencode-events@a.service"
        );
    }

    /// Another one may wait for its port: the listener does not wait for the turn, nor what says where it is.
    #[test]
    fn a_listener_that_moves_does_not_wait_for_the_turn() {
        let before = want(TWO);
        let after = want(&TWO.replace("= 1\n", "= 2\n").replacen("listen.port = 2\n[instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 2", "listen.port = 2\nlogLevel = \"WARN\"\n[instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 1", 1));
        let observed = settled(&before);
        let plan = plan(&after, &observed).unwrap();
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        let open = "start opencode-listen@a.socket opencode-listen@b.socket".to_owned();
        assert!(steps.contains(&open), "{steps:?}");
        assert_eq!(turns(&after, &observed), ["a: restart opencode-a.service"]);
        // Its files are the new ones before its turn, which is due from then on.
        let restart = Effect::Restart("opencode-a.service".into());
        assert!(plan.remembered().contains(&restart));
    }

    /// A socket inside is no listener that others may wait for: the files wait for their turn.
    #[test]
    fn a_socket_inside_moves_nothing() {
        let before = want(TWO);
        let mut after = want(&format!("[defaults]\nlogLevel = \"WARN\"\n{TWO}"));
        for name in ["a", "b"] {
            let file = format!("{UNIT_DIR}/opencode-dns@{name}.socket");
            after.files.get_mut(&file).unwrap().content = Content::Text("other".into());
        }
        let plan = plan(&after, &settled(&before)).unwrap();
        let writes = plan.steps.iter().filter(|step| matches!(step, Step::Write { .. })).count();
        assert_eq!((writes, plan.turns.len()), (0, 2));
    }

    #[test]
    fn a_policy_is_reloaded_and_the_agent_not_restarted() {
        let before = want(TWO);
        let mut after = before.clone();
        let file = after.files.get_mut("/etc/opencode-instances/a/rules.nft").unwrap();
        file.content = Content::Text("other".into());
        assert_eq!(unit_lines(&after, &settled(&before)), ["reload opencode-net@a.service"]);
    }

    #[test]
    fn a_port_of_the_host_comes_and_goes_beside_the_agent() {
        let before = want(TWO);
        let ports = "[instances.a]\nnetwork.hostPorts = [11434]\n";
        let after = want(&TWO.replacen("[instances.a]\n", ports, 1));
        assert_eq!(
            unit_lines(&after, &settled(&before)),
            [
                "daemon-reload",
                "reload opencode-net@a.service",
                "restart opencode-dns@a.service",
                "start opencode-hostport@a-11434.socket opencode-hostports@a.target",
            ]
        );
        let back = unit_lines(&before, &settled(&after));
        let stop = "stop opencode-hostport@a-11434.socket opencode-hostport@a-11434.service \
            opencode-hostports@a.target";
        assert_eq!(back.first().map(String::as_str), Some(stop));
        assert!(!back.iter().any(|line| line.contains("opencode-a.service")), "{back:?}");
    }

    #[test]
    fn a_removed_instance_stops_before_its_files_go() {
        let before = want(TWO);
        let only_b = TWO.split_at(TWO.find("[instances.b]").unwrap()).1;
        let steps = lines(&want(only_b), &settled(&before));
        assert_eq!(
            steps[0],
            "stop opencode-dns@a.socket opencode-listen@a.socket opencode-a.service \
            opencode-dns@a.service opencode-events@a.service opencode-listen@a.service \
            opencode-net@a.service \
             opencode-refusal@a.service"
        );
        assert!(steps.contains(&"remove /etc/systemd/system/opencode-a.service".to_owned()));
        assert_eq!(steps.last().map(String::as_str), Some("daemon-reload"));
    }

    #[test]
    fn removal_takes_everything_and_nothing_else() {
        let observed = settled(&want(TWO));
        let plan = plan_removal(&observed);
        let removed = plan.steps.iter().filter(|step| matches!(step, Step::Remove(_))).count();
        assert_eq!(removed, observed.owned.len());
        assert!(!plan.steps.iter().any(|step| matches!(step, Step::Start(_) | Step::Write { .. })));
    }

    #[test]
    fn a_foreign_file_is_never_overwritten() {
        let desired = want(TWO);
        let mut observed = Observed { manager: true, ..Observed::default() };
        let path = "/etc/systemd/system/opencode-a.service".to_owned();
        observed.files.insert(path.clone(), Found::Text("x".into()));
        let foreign = plan(&desired, &observed).unwrap_err();
        assert_eq!(foreign, [Foreign { path, found: "a file".into() }]);
    }

    #[test]
    fn what_a_killed_run_had_to_do_is_done_by_the_next() {
        let before = want(TWO);
        let after =
            want(&TWO.replacen("[instances.a]\n", "[instances.a]\nlogLevel = \"WARN\"\n", 1));
        let effects = asked(&after, &settled(&before));
        // Killed when all files were written and nothing restarted.
        let resumed = Observed { pending: effects, ..settled(&after) };
        assert_eq!(unit_lines(&after, &resumed), ["daemon-reload", "restart opencode-a.service"]);
        // Killed when the listener was closed and not yet open again.
        let moved = want(&TWO.replacen(
            "[instances.a]\n",
            "[instances.a]\nlisten.address = \"127.0.0.2\"\n",
            1,
        ));
        let effects = asked(&moved, &settled(&before));
        let mut resumed = Observed { pending: effects, ..settled(&moved) };
        resumed.units.insert("opencode-listen@a.socket".into(), Activity::Inactive);
        assert!(
            unit_lines(&moved, &resumed).contains(&"start opencode-listen@a.socket".to_owned())
        );
    }

    #[test]
    fn without_a_manager_only_files_change() {
        let steps = plan(&want(TWO), &Observed::default()).unwrap().steps;
        assert!(steps.iter().all(|step| matches!(step, Step::Write { .. })));
    }

    #[test]
    fn a_stopped_instance_that_does_not_start_by_itself_stays_stopped() {
        let text = TWO.replacen("[instances.a]\n", "[instances.a]\nautoStart = false\n", 1);
        let before = want(&text);
        let mut observed = settled(&before);
        for unit in [
            "opencode-a.service",
            "opencode-listen@a.socket",
            "opencode-listen@a.service",
            "opencode-net@a.service",
        ] {
            observed.units.insert(unit.into(), Activity::Inactive);
        }
        let after = want(&text.replacen(
            "autoStart",
            "logLevel = \"WARN\"\nlisten.address = \"::1\"\nautoStart",
            1,
        ));
        assert_eq!(unit_lines(&after, &observed), ["daemon-reload"]);
    }
}
