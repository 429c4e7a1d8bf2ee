//! `Spec → Desired`: every file that should be on the host, with what a change of it asks for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::audit::declared::Declared;
use crate::config;
use crate::facts::HostFacts;
use crate::host_files;
use crate::plan::{digest, digest_of};
use crate::spec::{AbsPath, AccountName, Argument, Credential, Instance, InstanceName, Spec};
use crate::unit::{HEADER, Omitted, Unit};
use crate::units::{self, ADDRESSES, NO_GENERATION, Names, TARGET, TURNS};

/// Where unit files are installed.
pub const UNIT_DIR: &str = "/etc/systemd/system";

/// What the host should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Every file, by its absolute path.
    pub files: BTreeMap<String, File>,
    /// Every enabled instance.
    pub instances: Vec<Instance>,
    /// Every instance that is declared and not enabled.
    pub disabled: Vec<InstanceName>,
    /// What the host's systemd is too old for, by unit.
    pub omitted: BTreeMap<String, Vec<Omitted>>,
    /// The program that the units run; none where none is desired.
    pub engine: Option<AbsPath>,
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
    /// A service of the host's reads its configuration anew, if it runs.
    Reread(String),
    /// The listener (its socket and proxy unit) is closed and opened again.
    Listen(String, String),
}

impl Effect {
    /// The unit or file that it is about; nothing of the service manager itself.
    pub fn subject(&self) -> &str {
        match self {
            Self::Manager => "",
            Self::Accounts(file) | Self::Directories(file) => file,
            Self::Reload(unit)
            | Self::Restart(unit)
            | Self::Stop(unit)
            | Self::Reread(unit)
            | Self::Listen(unit, _) => unit,
        }
    }
}

/// Everything that should be on the host for `spec`.
pub fn desire(spec: &Spec, facts: &HostFacts) -> Desired {
    let mut desired = Desired { engine: Some(facts.engine.clone()), ..Desired::default() };
    for unit in units::of_fleet(spec, facts) {
        let effects = match unit.name.as_str() {
            ADDRESSES | TURNS => vec![Effect::Restart(unit.name.clone())],
            _ => Vec::new(),
        };
        desired.unit(&unit, facts, effects);
    }
    // On NixOS the configuration says it.
    if facts.nixos.is_none() {
        for (path, text, reader) in host_files::unmanaged() {
            let effects = vec![Effect::Reread(reader.to_owned())];
            desired.file(path.to_owned(), Content::Text(text), effects);
        }
    }
    desired.file(
        format!("{UNIT_DIR}/multi-user.target.wants/{TARGET}"),
        Content::Link(format!("{UNIT_DIR}/{TARGET}")),
        vec![Effect::Manager],
    );
    for instance in spec.enabled() {
        desired.instance(instance, facts);
    }
    let disabled = spec.instances.iter().filter(|instance| !instance.enable);
    desired.disabled = disabled.map(|instance| instance.name.clone()).collect();
    desired
}

/// The record that is installed with each instance, so that `status` and `url` know it without the
/// specification.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the record")]
struct Record<'a> {
    version: u32,
    generation: String,
    /// The first number of opencode's version.
    opencode: u32,
    name: &'a InstanceName,
    directory: &'a AbsPath,
    state_dir: &'a AbsPath,
    user: &'a AccountName,
    listen: SocketAddr,
    package: &'a AbsPath,
    auto_start: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    on_demand: bool,
    trust_project: bool,
    auth_enable: bool,
    auth_username: &'a Argument,
    auth_password_file: &'a Option<AbsPath>,
    environment_file: &'a [AbsPath],
    credentials: &'a [Credential],
    #[serde(skip_serializing_if = "Declared::is_usual")]
    sandbox: Declared,
    /// The digest of each unit's text.
    units: BTreeMap<String, String>,
}

impl<'a> Record<'a> {
    fn of(
        instance: &'a Instance,
        facts: &HostFacts,
        generation: String,
        units: BTreeMap<String, String>,
    ) -> Self {
        Self {
            version: 1,
            generation,
            opencode: facts.dialect(instance).major,
            name: &instance.name,
            directory: &instance.directory,
            state_dir: &instance.state_dir,
            user: &instance.user,
            listen: instance.listen,
            package: &instance.package,
            auto_start: instance.auto_start,
            on_demand: instance.is_on_demand(),
            trust_project: instance.trust_project,
            auth_enable: instance.auth_enable,
            auth_username: &instance.auth_username,
            auth_password_file: &instance.auth_password_file,
            environment_file: &instance.environment_file,
            credentials: &instance.credentials,
            sandbox: Declared::of(instance),
            units,
        }
    }
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

    /// Gives the main unit the name of its generation: a digest of its text, of that of the
    /// namespace's unit but for the policy, and of the files that the server reads. By it `status`
    /// sees whether the server runs as it was last declared.
    fn seal(&mut self, names: Names<'_>, read: &[(String, String)]) -> String {
        let text_of = |unit: String| match self.files.get(&format!("{UNIT_DIR}/{unit}")) {
            Some(File { content: Content::Text(text), .. }) => text.as_str(),
            _ => "",
        };
        let policy = |line: &&str| line.starts_with(units::RELOADS);
        let net = text_of(names.net()).split_inclusive('\n').filter(|line| !policy(line));
        let main = text_of(names.main());
        let read = read.iter().flat_map(|(name, text)| ["\0", name, "\0", text.as_str()]);
        let parts = [main, "\0"].into_iter().chain(net).chain(read);
        let mut generation = digest_of(parts.map(str::as_bytes));
        generation.truncate(NO_GENERATION.len());
        let main = self.files.get_mut(&format!("{UNIT_DIR}/{}", names.main()));
        let Some(File { content: Content::Text(text), .. }) = main else { return generation };
        let told = |generation: &str| format!(" supervise --generation {generation} ");
        *text = text.replacen(&told(NO_GENERATION), &told(&generation), 1);
        generation
    }

    /// Two files that nobody reads: what they say when they change is that the server restarts,
    /// although its units may be the same or may not ask for it.
    fn restarts(&mut self, instance: &Instance) {
        let names = Names(&instance.name);
        // With its namespace, which makes the accounts and the password.
        let anew = || vec![Effect::Restart(names.net())];
        let path = format!("{}/identity", names.config_dir());
        let digest = digest(instance.identity().as_bytes());
        self.file(path, Content::Text(format!("{HEADER}{digest}\n")), anew());
        // It comes back with the option: what was put off until then is done.
        if instance.restart_on_switch {
            let path = format!("{}/restart-on-switch", names.config_dir());
            self.file(path, Content::Text(HEADER.to_owned()), anew());
        }
    }

    fn instance(&mut self, instance: &Instance, facts: &HostFacts) {
        let names = Names(&instance.name);
        let rules = crate::nft::namespace_table(instance.name.as_str(), &instance.network);
        let network = instance.network.render();
        let units = units::of_instance(instance, facts, &rules, &network);
        let names_of_units: Vec<String> = units.iter().map(|unit| unit.name.clone()).collect();
        for unit in units {
            let effects = unit_effects(&unit.name, instance);
            self.unit(&unit, facts, effects);
        }
        let etc = host_files::sandbox_etc(instance);
        let mut read: Vec<_> =
            etc.into_iter().map(|(name, text)| (format!("etc/{name}"), text)).collect();
        read.extend(config::files(instance));
        read.extend(config::enforced(instance));
        read.push(config::plan(instance));
        let generation = self.seal(names, &read);
        // The scripts run once, and ask for nothing.
        for (name, text) in read.into_iter().chain(config::scripts(instance)) {
            // The main unit names the generation, so that it changes with these.
            let path = format!("{}/{name}", names.config_dir());
            self.file(path, Content::Text(text), Vec::new());
        }
        self.restarts(instance);
        self.file(names.rules(), Content::Text(rules), vec![Effect::Reload(names.net())]);
        // Whether there is a link follows from it, and which names the resolver knows.
        let reread = vec![Effect::Reload(names.net()), Effect::Restart(names.dns())];
        self.file(names.network(), Content::Text(network), reread);
        // On NixOS the configuration makes the accounts.
        if let Some(text) = host_files::sysusers(instance).filter(|_| facts.nixos.is_none()) {
            let path = format!("/etc/sysusers.d/opencode-{}.conf", instance.name);
            self.file(path.clone(), Content::Text(text), vec![Effect::Accounts(path)]);
        }
        if let Some(text) = host_files::tmpfiles(instance) {
            let path = format!("/etc/tmpfiles.d/opencode-{}.conf", instance.name);
            self.file(path.clone(), Content::Text(text), vec![Effect::Directories(path)]);
        }
        let texts = names_of_units.into_iter().filter_map(|name| {
            let file = self.files.get(&format!("{UNIT_DIR}/{name}"))?;
            let Content::Text(text) = &file.content else { return None };
            Some((name, digest(text.as_bytes())))
        });
        let units = texts.collect();
        let record = serde_json::to_string_pretty(&Record::of(instance, facts, generation, units));
        if let Ok(record) = record {
            let path = format!("{}/instance.json", names.config_dir());
            self.file(path, Content::Text(record + "\n"), Vec::new());
        }
        self.instances.push(instance.clone());
    }
}

fn unit_effects(unit: &str, instance: &Instance) -> Vec<Effect> {
    let names = Names(&instance.name);
    let stays = !instance.restart_on_switch;
    if (unit == names.main() || unit == names.net()) && stays {
        Vec::new()
    } else if unit == names.main() {
        vec![Effect::Restart(names.main())]
    } else if unit == names.net() {
        vec![Effect::Restart(names.net())]
    } else if unit == names.socket() {
        vec![Effect::Listen(names.socket(), names.proxy())]
    } else if unit == names.proxy() {
        vec![Effect::Stop(names.proxy())]
    } else if unit == names.sockets() {
        // What is no longer listed goes at once.
        vec![Effect::Restart(names.sockets())]
    } else if unit == names.places() {
        // One that waits, perhaps for a server that cannot start, has the old list.
        vec![Effect::Stop(names.places())]
    } else if unit == names.events() {
        vec![Effect::Restart(names.events())]
    } else if unit == names.dns_socket() {
        vec![Effect::Listen(names.dns_socket(), names.dns())]
    } else if unit == names.dns() {
        vec![Effect::Restart(names.dns())]
    } else if let Some(port) = host_port(unit, instance) {
        if unit == names.host_port(port) {
            vec![Effect::Restart(names.host_port(port))]
        } else {
            vec![Effect::Listen(names.host_port_socket(port), names.host_port(port))]
        }
    } else {
        // The setup unit runs anew before each start of the server.
        Vec::new()
    }
}

/// The port of the host's whose socket or proxy this unit is.
fn host_port(unit: &str, instance: &Instance) -> Option<u16> {
    let names = Names(&instance.name);
    let mut ports = instance.network.host_ports.iter().copied();
    ports.find(|port| unit == names.host_port(*port) || unit == names.host_port_socket(*port))
}
