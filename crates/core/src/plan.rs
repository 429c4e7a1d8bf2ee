//! `Desired + Observed → Plan`: the ordered steps from what is to what should be.
//!
//! Invariants: a plan for a host that already is as it should be has no steps; running a plan that
//! was killed at any step, and planning again, ends in the same place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::desired::{Content, Desired, Effect, UNIT_DIR};
use crate::units::{ADDRESSES, Names, TARGET, TURNS, TURNS_SOCKET};

/// What the host holds now, as far as a plan depends on it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What lies at each path that is desired or owned; absent paths have no entry.
    pub files: BTreeMap<String, Found>,
    /// The paths that an earlier run installed.
    pub owned: BTreeSet<String>,
    /// The state of every unit of ours.
    pub units: BTreeMap<String, Activity>,
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
    /// In the order in which they are taken.
    pub steps: Vec<Step>,
    /// What the changes ask for, remembered until the last step is done.
    pub effects: BTreeSet<Effect>,
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
    let mut effects = observed.pending.clone();
    let mut files = Vec::new();
    let mut foreign = Vec::new();
    for (path, file) in &desired.files {
        let found = observed.files.get(path);
        if found.is_some_and(|found| same(&file.content, found)) {
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
        effects.extend(file.effects.iter().cloned());
        files.push(Step::Write { path: path.clone(), new: found.is_none() });
    }
    if !foreign.is_empty() {
        return Err(foreign);
    }
    let removed: Vec<&String> =
        observed.owned.iter().filter(|path| !desired.files.contains_key(*path)).collect();
    let gone: Vec<String> = removed.iter().filter_map(|path| unit_of(path)).collect();
    if !gone.is_empty() {
        effects.insert(Effect::Manager);
    }
    files.extend(
        removed
            .iter()
            .filter(|path| observed.files.contains_key(**path))
            .map(|path| Step::Remove((*path).clone())),
    );
    // A listener that nobody opened stays closed, also when this run is killed and resumed.
    effects.retain(|effect| match effect {
        Effect::Listen(socket, _) => observed.pending.contains(effect) || runs(observed, socket),
        _ => true,
    });
    let mut steps = Vec::new();
    if observed.manager {
        stop_gone(&gone, observed, &mut steps);
    }
    steps.extend(files);
    if observed.manager {
        act(desired, observed, &effects, &mut steps);
    }
    Ok(Plan { steps, effects })
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
fn act(desired: &Desired, observed: &Observed, effects: &BTreeSet<Effect>, steps: &mut Vec<Step>) {
    let mut stop = BTreeSet::new();
    let (mut reload, mut restart, mut renew) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut accounts, mut directories, mut reread) = (Vec::new(), Vec::new(), Vec::new());
    let mut manager = false;
    let known = |unit: &str| desired.files.contains_key(&format!("{UNIT_DIR}/{unit}"));
    let runs = |unit: &str| known(unit) && runs(observed, unit);
    let on_demand = servers_on_demand(desired);
    let failed = |unit: &str| observed.units.get(unit) == Some(&Activity::Failed);
    let works = |unit: &str| runs(unit) && !failed(unit);
    let mut start = start(desired, observed);
    for effect in effects {
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
                start.insert(socket.clone());
            }
            _ => {}
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
        Step::Forget(on_demand.into_iter().filter(|unit| failed(unit)).collect()),
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
        plan(desired, observed).unwrap().steps.iter().map(ToString::to_string).collect()
    }

    fn unit_lines(desired: &Desired, observed: &Observed) -> Vec<String> {
        let all = lines(desired, observed);
        all.into_iter().filter(|l| !l.starts_with("change ") && !l.starts_with("create ")).collect()
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
        let effects = plan(&after, &settled(&before)).unwrap().effects;
        // Killed when all files were written and nothing restarted.
        let resumed = Observed { pending: effects, ..settled(&after) };
        assert_eq!(unit_lines(&after, &resumed), ["daemon-reload", "restart opencode-a.service"]);
        // Killed when the listener was closed and not yet open again.
        let moved = want(&TWO.replacen(
            "[instances.a]\n",
            "[instances.a]\nlisten.address = \"127.0.0.2\"\n",
            1,
        ));
        let effects = plan(&moved, &settled(&before)).unwrap().effects;
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
