//! What should be, with only legal values: the input of everything that renders.

use std::net::SocketAddr;

use ipnet::Ipv4Net;
use serde::{Serialize, Serializer};

use crate::bound::{Access, BoundPath};
use crate::content::{Content, Source};
use crate::controls::Control;
use crate::devices::{Device, NixStore};
use crate::json::Json;
use crate::layout::{DEFAULT_USERNAME, STATE_ROOT};
use crate::network::Network;
pub use crate::overrides::UnitOverrides;
use crate::resources::{Amount, Resources};
pub use crate::text::{AbsPath, AccountName, Argument, InstanceName};

/// A whole specification, its instances sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spec {
    /// What all instances together may use of the host.
    pub fleet: Fleet,
    /// Every instance, the disabled ones included.
    pub instances: Vec<Instance>,
}

impl Spec {
    /// The instances that should exist on the host.
    pub fn enabled(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.enable)
    }
}

/// What belongs to no instance alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fleet {
    /// The limits of all servers together.
    pub resources: Resources,
    /// How many servers may start at once; otherwise as many as the host has processors.
    pub max_concurrent_starts: Option<u32>,
    /// In how much of the time somebody may wait for memory before idle servers end early, in percent; never
    /// without it.
    pub memory_pressure: Option<u8>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            resources: Resources::of_fleet(),
            max_concurrent_starts: None,
            memory_pressure: None,
        }
    }
}

/// How much the server logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
}

impl LogLevel {
    /// All levels, from the most to the least talkative.
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// As the server's `--log-level` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// When the server starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// With the host.
    #[default]
    Boot,
    /// With the first client, and again after it was idle.
    OnDemand,
}

impl Activation {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Boot, Self::OnDemand];
    /// Their words, in the same order.
    pub const WORDS: &'static [&'static str] = &["boot", "on-demand"];
}

/// Which clients keep an instance on demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdleClients {
    /// Every open connection.
    #[default]
    Connected,
    /// Those that have sent something within the idle timeout.
    Active,
}

impl IdleClients {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Connected, Self::Active];
    /// Their words, in the same order.
    pub const WORDS: &'static [&'static str] = &["connected", "active"];
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name: letters, digits and underscores.
    pub name: String,
    /// Its value, without control characters.
    pub value: Argument,
}

/// A secret that systemd hands to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// Its name, by which settings refer to it.
    pub name: String,
    /// Where systemd reads it.
    pub file: AbsPath,
}

/// One instance; the field's names are the options' names.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Instance {
    /// The name, a part of every unit's name.
    pub name: InstanceName,
    /// Whether it exists on the host.
    pub enable: bool,
    /// The project that the agent may write to.
    pub directory: AbsPath,
    /// HOME.
    pub state_dir: AbsPath,
    /// Who the server and the agent run as.
    pub user: AccountName,
    /// The user's group.
    pub group: AccountName,
    /// Further groups.
    pub extra_groups: Vec<AccountName>,
    /// The opencode binary or its prefix.
    pub package: AbsPath,
    /// Prefixes of programs, in front of `PATH`.
    pub path: Vec<AbsPath>,
    /// Where clients connect on the host.
    pub listen: SocketAddr,
    /// Whether the host's firewall admits the port.
    pub open_firewall: bool,
    /// What it reaches.
    pub network: Network,
    /// Where the links of all instances take their addresses from.
    pub network_pool: Ipv4Net,
    /// Places of the host that the agent may write to.
    pub read_write_paths: Vec<BoundPath>,
    /// Places of the host that it may read.
    pub read_only_paths: Vec<BoundPath>,
    /// The protections that are given up, sorted by name, each once.
    #[serde(serialize_with = "names")]
    pub relax: Vec<&'static Control>,
    /// Whether the agent can build sandboxes of its own.
    pub allow_nested_sandbox: bool,
    /// Devices of the host that it may use.
    pub devices: Vec<Device>,
    /// What it sees of the Nix store.
    pub nix_store: NixStore,
    /// Unix sockets of the host that it may connect to.
    pub unix_sockets: Vec<BoundPath>,
    /// What the server and its tools may use.
    pub resources: Resources,
    /// The most bytes of its state directory.
    pub disk_quota: Option<Amount>,
    /// How much the server logs.
    pub log_level: LogLevel,
    /// Further arguments of `opencode serve`.
    pub extra_args: Vec<Argument>,
    /// Whether it starts at boot and with `apply`.
    pub auto_start: bool,
    /// When the server starts.
    pub activation: Activation,
    /// Seconds without use after which an instance on demand stops, 1 to 604800.
    pub idle_timeout: u32,
    /// Which clients keep an instance on demand.
    pub idle_clients: IdleClients,
    /// Whether a process that was left running keeps an instance on demand.
    pub idle_children: bool,
    /// Whether a change of its units restarts the server.
    pub restart_on_switch: bool,
    /// The server's configuration, `opencode.json`.
    pub settings: Json,
    /// The operator's own file in its place.
    pub config_file: Option<AbsPath>,
    /// What outranks every other configuration.
    pub enforced_settings: Json,
    /// Whether the project configures the server too.
    pub trust_project: bool,
    /// What lies beside `opencode.json`, sorted by place.
    pub content: Vec<Content>,
    /// Variables of the server and its tools.
    pub environment: Vec<Variable>,
    /// Files of variables.
    pub environment_file: Vec<AbsPath>,
    /// Secrets by name, sorted.
    pub credentials: Vec<Credential>,
    /// Whether a replaced secret restarts the server.
    pub restart_on_secret_change: bool,
    /// What runs before an empty HOME is initialised.
    pub pre_init_script: Option<String>,
    /// What runs after that.
    pub post_init_script: Option<String>,
    /// Who the server asks for.
    pub auth_username: Argument,
    /// Whether the server asks for a password.
    pub auth_enable: bool,
    /// The file with the password, instead of one that is made.
    pub auth_password_file: Option<AbsPath>,
    /// Whether the agent can use the host's Nix daemon.
    pub nix_enable: bool,
    /// Whether foreign programs find a dynamic loader.
    pub nix_ld_enable: bool,
    /// The operator's own directives.
    pub unit_overrides: UnitOverrides,
}

/// The controls by their names.
fn names<S: Serializer>(controls: &[&Control], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(controls.iter().map(|control| control.name))
}

impl Instance {
    /// Whether the user is the instance's own, made with it.
    pub fn owns_user(&self) -> bool {
        self.user == self.name.account()
    }

    /// Whether the group is the instance's own, made with it.
    pub fn owns_group(&self) -> bool {
        self.group == self.name.account()
    }

    /// What a server must never outlive: as whom it runs, what is its own, who may ask it, what it may
    /// reach beyond its sandbox, sockets of the host among it. A change of it is not put off, or the server would hold what another
    /// instance has now, or answer at a new address without the password that it should ask for.
    pub fn identity(&self) -> String {
        let parts = (
            (&self.user, &self.group, &self.extra_groups),
            (&self.directory, &self.state_dir),
            (self.auth_enable, &self.auth_password_file),
            self.nix_enable,
        );
        // Names, paths and flags always serialise.
        let mut identity = serde_json::to_string(&parts).unwrap_or_default();
        // Said only where it is another one: an instance of an earlier version keeps its identity.
        if self.auth_username.as_str() != DEFAULT_USERNAME {
            identity.push_str(self.auth_username.as_str());
        }
        // A connection outlives the sight of its socket, and ends with the server.
        for socket in &self.unix_sockets {
            identity.extend(["\0", socket.source.as_str(), ":", socket.target.as_str()]);
        }
        identity
    }

    /// The operator's secret files, each with the option that names it.
    pub fn secrets(&self) -> Vec<(String, &AbsPath)> {
        let password = self.auth_password_file.iter().filter(|_| self.auth_enable);
        let password = password.map(|file| ("auth.passwordFile".to_owned(), file));
        let files = self.environment_file.iter();
        let files = files.map(|file| ("environmentFile".to_owned(), file));
        let credentials = self.credentials.iter();
        let credentials = credentials.map(|one| (format!("credentials.{}", one.name), &one.file));
        password.chain(files).chain(credentials).collect()
    }

    /// The operator's files that the sandbox shows, each with the option that names it.
    pub fn shown_files(&self) -> Vec<(&'static str, &AbsPath)> {
        let content = self.content.iter().filter_map(|one| match &one.source {
            Source::File(path) => Some((one.option(), path)),
            Source::Text(_) => None,
        });
        self.config_file.iter().map(|file| ("configFile", file)).chain(content).collect()
    }

    /// The operator's places of the host, with the option that lists each.
    pub fn bound(&self) -> impl Iterator<Item = (&'static str, Access, &BoundPath)> {
        let written = self.read_write_paths.iter();
        let read = self.read_only_paths.iter();
        written
            .map(|path| ("sandbox.readWritePaths", Access::Write, path))
            .chain(read.map(|path| ("sandbox.readOnlyPaths", Access::Read, path)))
    }

    /// Whether all of the Nix store is shown, where the host has one.
    pub fn shows_store(&self) -> bool {
        self.nix_enable || self.nix_store == NixStore::Full
    }

    /// Whether the first client starts it, and it ends when nobody uses it.
    pub fn is_on_demand(&self) -> bool {
        self.activation == Activation::OnDemand
    }

    /// The leaf below [`STATE_ROOT`] when the state directory is there under a plain name, which
    /// systemd's `StateDirectory=` makes; `None` for a place that `tmpfiles.d` makes.
    pub fn state_leaf(&self) -> Option<&str> {
        let leaf = self.state_dir.as_str().strip_prefix(STATE_ROOT)?.strip_prefix('/')?;
        // `StateDirectory=` splits at spaces and colons and expands more than other paths do.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let safe = leaf.bytes().all(plain) && !leaf.starts_with(['.', '-']);
        (safe && !leaf.is_empty()).then_some(leaf)
    }
}
