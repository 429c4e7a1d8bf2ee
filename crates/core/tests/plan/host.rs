//! A host as far as plans reach: files, what systemd has read of them, and which units run with what.

use std::collections::{BTreeMap, BTreeSet};

use instances_core::desired::{Content, Desired, Effect, UNIT_DIR};
use instances_core::plan::{Activity, Found, Observed, Step, digest};

/// What lies where.
type Files = BTreeMap<String, Found>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) observed: Observed,
    /// The unit files as the service manager last read them.
    loaded: Files,
    /// The files with which each unit runs.
    runs_with: BTreeMap<String, Files>,
    /// The files for which accounts and directories were last made.
    made: Files,
    /// How often each unit was stopped, started, restarted or reloaded.
    pub(crate) touched: BTreeMap<String, u32>,
}

pub(crate) fn found(content: &Content) -> Found {
    match content {
        Content::Text(text) => Found::Text(digest(text.as_bytes())),
        Content::Link(target) => Found::Link(target.clone()),
    }
}

pub(crate) fn unit_path(unit: &str) -> String {
    format!("{UNIT_DIR}/{unit}")
}

/// The instance's part of a unit's name, with another kind around it.
fn sibling(unit: &str, kind: fn(&str) -> String) -> Option<String> {
    let (stem, _) = unit.split_once('.')?;
    stem.strip_prefix("opencode-net@").or(stem.strip_prefix("opencode-")).map(kind)
}

impl Host {
    /// A host on which all of `desired` is installed and runs.
    pub(crate) fn settled(desired: &Desired) -> Self {
        let files: Files =
            desired.files.iter().map(|(path, file)| (path.clone(), found(&file.content))).collect();
        let observed = Observed {
            owned: files.keys().cloned().collect(),
            files: files.clone(),
            manager: true,
            ..Observed::default()
        };
        let mut host = Self { observed, loaded: files.clone(), made: files, ..Self::default() };
        let units: Vec<String> = desired.files.keys().filter_map(|path| unit_of(path)).collect();
        for unit in units.iter().filter(|unit| !unit.contains("setup@")) {
            host.enter(unit);
        }
        host.touched.clear();
        host
    }

    /// Sets the state of a unit that is installed.
    pub(crate) fn set(&mut self, unit: &str, state: Activity) {
        if state == Activity::Inactive {
            self.runs_with.remove(unit);
        }
        self.observed.units.insert(unit.to_owned(), state);
    }

    /// Begins a run, or a turn of it, as `apply` does.
    pub(crate) fn begin(&mut self, desired: &Desired, effects: BTreeSet<Effect>) {
        self.observed.pending = effects;
        self.observed.owned.extend(desired.files.keys().cloned());
    }

    /// Ends a run that took all of its steps.
    pub(crate) fn finish(&mut self, desired: &Desired) {
        self.observed.pending = BTreeSet::new();
        self.observed.owned = desired.files.keys().cloned().collect();
    }

    pub(crate) fn take(&mut self, desired: &Desired, step: &Step) {
        match step {
            Step::Write { path, new } => {
                let content = found(&desired.files[path].content);
                let before = self.observed.files.insert(path.clone(), content);
                assert_eq!(before.is_none(), *new, "{step}");
            }
            Step::Remove(path) => {
                assert!(self.observed.files.remove(path).is_some(), "{step}");
                assert!(
                    unit_of(path).is_none_or(|unit| !self.is_active(&unit)),
                    "{path} is active"
                );
            }
            Step::ReloadManager => self.loaded = self.observed.files.clone(),
            // They are none of ours, and what they read is written by now; nobody is a client here.
            Step::Reread(_) | Step::Renew(_) => {}
            Step::Accounts(files) | Step::Directories(files) => {
                for path in files {
                    self.made.insert(path.clone(), self.observed.files[path].clone());
                }
            }
            Step::Stop(units) => units.iter().for_each(|unit| self.stop(unit)),
            Step::Reload(units) => {
                for unit in units {
                    assert!(self.runs_with.contains_key(unit), "{unit} does not run");
                    let rules = self.observed.files.clone();
                    self.runs_with
                        .entry(unit.clone())
                        .or_default()
                        .extend(rules.into_iter().filter(|(path, _)| unit_of(path).is_none()));
                    *self.touched.entry(unit.clone()).or_default() += 1;
                }
            }
            Step::Forget(units) => {
                for unit in units {
                    self.set(unit, Activity::Inactive);
                }
            }
            Step::Restart(units) => {
                // One transaction: what requires a restarted unit is restarted with it.
                let main = |name: &str| format!("opencode-{name}.service");
                let mut all: BTreeSet<String> = units.iter().cloned().collect();
                for unit in units.iter().filter(|unit| unit.contains("net@")) {
                    all.extend(sibling(unit, main).filter(|main| self.is_active(main)));
                }
                for unit in &all {
                    self.stop(unit);
                }
                for unit in &all {
                    self.start(unit);
                }
            }
            Step::Start(units) => units.iter().for_each(|unit| self.start(unit)),
        }
    }

    fn is_active(&self, unit: &str) -> bool {
        self.observed.units.get(unit) == Some(&Activity::Active)
    }

    fn stop(&mut self, unit: &str) {
        *self.touched.entry(unit.to_owned()).or_default() += 1;
        self.set(unit, Activity::Inactive);
        // Requires= and BindsTo=: without its namespace no server, without its server no proxy.
        let main = |name: &str| format!("opencode-{name}.service");
        let proxy = |name: &str| format!("opencode-listen@{name}.service");
        for helper in helpers(unit) {
            if self.runs_with.contains_key(&helper) {
                self.stop(&helper);
            }
        }
        let dependent = match unit {
            _ if unit.contains("net@") => sibling(unit, main),
            _ if !unit.contains('@') => sibling(unit, proxy),
            _ => None,
        };
        if let Some(dependent) = dependent.filter(|unit| self.runs_with.contains_key(unit)) {
            self.stop(&dependent);
        }
    }

    fn start(&mut self, unit: &str) {
        if self.is_active(unit) {
            return;
        }
        if !unit.contains('@')
            && let Some(net) = sibling(unit, |name| format!("opencode-net@{name}.service"))
        {
            self.start(&net);
        }
        *self.touched.entry(unit.to_owned()).or_default() += 1;
        self.enter(unit);
        // Wants=: what begins in a namespace when it is there.
        for helper in helpers(unit) {
            if self.loaded.contains_key(&unit_path(&helper)) {
                self.start(&helper);
            }
        }
    }

    fn enter(&mut self, unit: &str) {
        let path = unit_path(unit);
        let known = self.loaded.get(&path);
        assert!(known.is_some(), "{unit} is not known to the service manager");
        assert_eq!(known, self.observed.files.get(&path), "{unit} starts from an old text");
        self.observed.units.insert(unit.to_owned(), Activity::Active);
        self.runs_with.insert(unit.to_owned(), self.observed.files.clone());
    }

    /// Every file is as desired, and whatever runs, runs with the files that are there.
    pub(crate) fn assert_is(&self, desired: &Desired) {
        let wanted: Files =
            desired.files.iter().map(|(path, file)| (path.clone(), found(&file.content))).collect();
        assert_eq!(self.observed.files, wanted);
        for (path, file) in &desired.files {
            let content = Some(&wanted[path]);
            for effect in &file.effects {
                match effect {
                    Effect::Manager => {
                        assert_eq!(self.loaded.get(path), content, "{path} is not loaded");
                    }
                    Effect::Accounts(path) | Effect::Directories(path) => {
                        assert_eq!(self.made.get(path), content, "{path} is not made");
                    }
                    Effect::Reread(_) => {}
                    Effect::Reload(unit)
                    | Effect::Restart(unit)
                    | Effect::Stop(unit)
                    | Effect::Listen(unit, _) => {
                        if let Some(files) = self.runs_with.get(unit) {
                            assert_eq!(files.get(path), content, "{unit} runs with an old {path}");
                        }
                    }
                }
            }
        }
        for unit in self.observed.units.iter().filter(|(_, state)| **state == Activity::Active) {
            assert!(desired.files.contains_key(&unit_path(unit.0)), "{} still runs", unit.0);
        }
        for instance in desired.instances.iter().filter(|instance| instance.auto_start) {
            assert!(self.is_active(&format!("opencode-{}.service", instance.name)));
            assert!(self.is_active(&format!("opencode-listen@{}.socket", instance.name)));
        }
    }

    /// Which units are active, but for the proxies: traffic starts them.
    pub(crate) fn active(&self) -> Vec<&String> {
        let units = self.observed.units.keys().filter(|unit| self.is_active(unit));
        let proxy = |unit: &str| unit.contains("listen@") && unit.ends_with(".service");
        units.filter(|unit| !proxy(unit)).collect()
    }
}

/// What is bound to a namespace's unit, and wanted by it; and the resolver to its socket.
fn helpers(unit: &str) -> Vec<String> {
    let units: &[&str] = match unit {
        _ if unit.contains("net@") => &["dns@{}.socket", "dns@{}.service", "events@{}.service"],
        _ if unit.contains("dns@") && unit.ends_with(".socket") => &["dns@{}.service"],
        _ => &[],
    };
    let name = unit.split(['@', '.']).nth(1).unwrap_or_default();
    units.iter().map(|kind| format!("opencode-{}", kind.replace("{}", name))).collect()
}

pub(crate) fn unit_of(path: &str) -> Option<String> {
    let name = path.strip_prefix(UNIT_DIR)?.strip_prefix('/')?;
    (!name.contains('/')).then(|| name.to_owned())
}
