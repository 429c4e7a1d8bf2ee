//! `Spec → Desired`: every file that should be on the host, with what a change of it asks for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::HostFacts;
use crate::host_files;
use crate::spec::{Instance, Spec};
use crate::unit::{Omitted, Unit};
use crate::units::{self, Names, TARGET};

/// Where unit files are installed.
pub const UNIT_DIR: &str = "/etc/systemd/system";

/// What the host should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Every file, by its absolute path.
    pub files: BTreeMap<String, File>,
    /// Every enabled instance.
    pub instances: Vec<Instance>,
    /// What the host's systemd is too old for, by unit.
    pub omitted: BTreeMap<String, Vec<Omitted>>,
}

/// A file that should be on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// What it is.
    pub content: Content,
    /// What a change of it asks for, beside being written.
    pub effects: Vec<Effect>,
}

/// A file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text with mode 0644, owned by root.
    Text(String),
    /// A symbolic link to this target.
    Link(String),
}

/// What the change of a file asks for. The classes are part of the model: a unit whose text changed
/// is restarted, a policy is reloaded without touching the agent, a listener moves although nobody
/// restarts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// `systemd-sysusers` for this file.
    Accounts(String),
    /// `systemd-tmpfiles --create` for this file.
    Directories(String),
    /// `systemctl daemon-reload`.
    Manager,
    /// The unit is reloaded.
    Reload(String),
    /// The unit is restarted.
    Restart(String),
    /// The unit is stopped; traffic or another unit starts it again.
    Stop(String),
    /// The listener (its socket and proxy unit) is closed and opened again.
    Listen(String, String),
}

/// Everything that should be on the host for `spec`.
pub fn desire(spec: &Spec, facts: &HostFacts) -> Desired {
    let mut desired = Desired::default();
    for unit in units::of_fleet(spec) {
        desired.unit(&unit, facts, Vec::new());
    }
    desired.file(
        format!("{UNIT_DIR}/multi-user.target.wants/{TARGET}"),
        Content::Link(format!("{UNIT_DIR}/{TARGET}")),
        vec![Effect::Manager],
    );
    for instance in spec.enabled() {
        desired.instance(instance, facts);
    }
    desired
}

/// The record that is installed with each instance, so that `status` and `url` know it without the
/// specification.
#[derive(Serialize)]
struct Record<'a> {
    version: u32,
    #[serde(flatten)]
    instance: &'a Instance,
}

impl Desired {
    fn file(&mut self, path: String, content: Content, effects: Vec<Effect>) {
        self.files.insert(path, File { content, effects });
    }

    fn unit(&mut self, unit: &Unit, facts: &HostFacts, mut effects: Vec<Effect>) {
        let (text, omitted) = unit.render(facts.systemd);
        if !omitted.is_empty() {
            self.omitted.insert(unit.name.clone(), omitted);
        }
        effects.insert(0, Effect::Manager);
        self.file(format!("{UNIT_DIR}/{}", unit.name), Content::Text(text), effects);
    }

    fn instance(&mut self, instance: &Instance, facts: &HostFacts) {
        let names = Names(&instance.name);
        for unit in units::of_instance(instance, facts) {
            let effects = unit_effects(&unit.name, names);
            self.unit(&unit, facts, effects);
        }
        let restart = || vec![Effect::Restart(names.main())];
        for (name, text) in host_files::sandbox_etc(instance) {
            let path = format!("{}/etc/{name}", names.config_dir());
            self.file(path, Content::Text(text), restart());
        }
        let rules = crate::nft::deny_all(instance.name.as_str());
        self.file(names.rules(), Content::Text(rules), vec![Effect::Reload(names.net())]);
        if let Some(text) = host_files::sysusers(instance) {
            let path = format!("/etc/sysusers.d/opencode-{}.conf", instance.name);
            self.file(path.clone(), Content::Text(text), vec![Effect::Accounts(path)]);
        }
        if let Some(text) = host_files::tmpfiles(instance) {
            let path = format!("/etc/tmpfiles.d/opencode-{}.conf", instance.name);
            self.file(path.clone(), Content::Text(text), vec![Effect::Directories(path)]);
        }
        let record = serde_json::to_string_pretty(&Record { version: 1, instance });
        if let Ok(record) = record {
            let path = format!("{}/instance.json", names.config_dir());
            self.file(path, Content::Text(record + "\n"), Vec::new());
        }
        self.instances.push(instance.clone());
    }
}

fn unit_effects(unit: &str, names: Names<'_>) -> Vec<Effect> {
    if unit == names.main() {
        vec![Effect::Restart(names.main())]
    } else if unit == names.net() {
        vec![Effect::Restart(names.net())]
    } else if unit == names.socket() {
        vec![Effect::Listen(names.socket(), names.proxy())]
    } else if unit == names.proxy() {
        vec![Effect::Stop(names.proxy())]
    } else {
        // The setup unit runs anew before each start of the server.
        Vec::new()
    }
}
