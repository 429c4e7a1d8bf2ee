//! What was typed, before anything is judged: every option optional, every value with its place.
//!
//! The one list of options stands here, in `options!`. From it come the decoder, the merge with
//! `[defaults]`, the reference in `docs/reference/configuration.md` and the test that no default is inert.

use std::collections::BTreeSet;

use crate::controls;
use crate::devices::NixStore;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Origin};
use crate::network::{DnsPolicy, Policy};
use crate::node::{Node, Value, join};
use crate::spec::{Activation, IdleClients};

/// A value and where it was typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: Origin,
}

/// An option's entry in the reference.
#[derive(Clone, Copy, Debug)]
pub struct OptionDoc {
    /// The key below `[defaults]` and `[instances.NAME]`, groups joined by dots.
    pub key: &'static str,
    /// What it takes, more narrowly than TOML's types.
    pub kind: Kind,
    /// The value where neither the instance nor `[defaults]` says anything, as TOML or in words.
    pub default: &'static str,
    /// A value that differs from the default, as TOML.
    pub example: &'static str,
    /// What it does, in Markdown.
    pub doc: &'static str,
}

/// What an option takes. TOML and JSON only know the wider type; the schema, the reference and the
/// NixOS module say the narrow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A TCP port.
    Port,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// An IPv4 or IPv6 address.
    Address,
    /// An absolute path.
    Path,
    /// An absolute path that must not be in the world-readable Nix store.
    SecretPath,
    /// A program, or the prefix that holds it; on NixOS a package.
    Package,
    /// Prefixes of programs; on NixOS packages.
    Packages,
    /// A user's or group's name.
    Account,
    /// Names of groups.
    Accounts,
    /// Any texts.
    Texts,
    /// systemd's directives, each with one value or a list of them.
    Directives,
    /// An absolute path, or nothing.
    OptionalPath,
    /// An account's name at an HTTP server.
    Username,
    /// A program for the shell.
    Script,
    /// Environment variables.
    Variables,
    /// One secret path or a list of them.
    SecretPaths,
    /// Secret paths by name.
    Secrets,
    /// opencode's own configuration.
    Settings,
    /// A text, or a file that has it.
    Content,
    /// Texts or files, by name.
    Contents,
    /// One of a few words; without one it follows from another option.
    OptionalOneOf(&'static [&'static str]),
    /// TCP ports.
    Ports,
    /// Address ranges, each alone or with ports and a protocol.
    Cidrs,
    /// Names of hosts.
    HostNames,
    /// A range of IPv4 addresses.
    Cidr,
    /// An amount of memory.
    Amount,
    /// An amount of memory, or nothing.
    OptionalAmount,
    /// Percent of one processor core, or nothing.
    OptionalPercent,
    /// Percent of the time, or nothing.
    OptionalShare,
    /// 1 to 10000, or nothing.
    OptionalWeight,
    /// A number of tasks.
    Tasks,
    /// A time in seconds, a week at most.
    Seconds,
    /// 1 to 1000, or nothing.
    OptionalCount,
    /// Places of the host, each with its place in the sandbox.
    Binds,
    /// Some of a few words.
    SomeOf(&'static [&'static str]),
    /// Devices of the host.
    Devices,
    /// An amount of disk space, or nothing.
    OptionalSize,
}

impl Kind {
    /// The type as the reference says it.
    pub fn words(self) -> String {
        match self {
            Self::Flag => "boolean".to_owned(),
            Self::Port => "port number".to_owned(),
            Self::OneOf(words) | Self::OptionalOneOf(words) => {
                format!("one of {}", words.join(", "))
            }
            Self::Address => "IP address".to_owned(),
            Self::Path | Self::OptionalPath => "absolute path".to_owned(),
            Self::SecretPath => "absolute path outside the Nix store".to_owned(),
            Self::Package => "absolute path; on NixOS a package".to_owned(),
            Self::Packages => "list of absolute paths; on NixOS of packages".to_owned(),
            Self::Account => "name of an account".to_owned(),
            Self::Accounts => "list of names of groups".to_owned(),
            Self::Texts => "list of strings".to_owned(),
            Self::Directives => {
                "table of directives, each a string, a number, a boolean or a list of them"
                    .to_owned()
            }
            Self::Username => "name without a colon".to_owned(),
            Self::Script => "commands for bash, of any number of lines".to_owned(),
            Self::Variables => "table of strings, numbers and booleans".to_owned(),
            Self::SecretPaths => {
                "absolute path outside the Nix store, or a list of such paths".to_owned()
            }
            Self::Secrets => "table of absolute paths outside the Nix store".to_owned(),
            Self::Settings => "table as opencode's own configuration has it".to_owned(),
            Self::Content => "text, or `{ file = PATH }`".to_owned(),
            Self::Contents => "table of texts, or of `{ file = PATH }`".to_owned(),
            Self::Ports => "list of port numbers".to_owned(),
            Self::Cidrs => {
                "list of address ranges, each a string or `{ cidr, ports, protocol }`".to_owned()
            }
            Self::HostNames => "list of names, each exact or as `*.example.org`".to_owned(),
            Self::Cidr => "range of IPv4 addresses".to_owned(),
            Self::Amount | Self::OptionalAmount => {
                "bytes with K, M, G or T, a percentage of the host's memory, or `infinity`"
                    .to_owned()
            }
            Self::OptionalPercent => "percentage of one processor core".to_owned(),
            Self::OptionalShare => "percentage of the time, 1% to 99%".to_owned(),
            Self::OptionalWeight => "integer between 1 and 10000".to_owned(),
            Self::Binds => {
                "list of `PATH` or `PATH:PLACE`, each with `-` in front where it may be missing"
                    .to_owned()
            }
            Self::Tasks => "integer between 64 and 4194304".to_owned(),
            Self::OptionalCount => "integer between 1 and 1000".to_owned(),
            Self::Seconds => "integer between 1 and 604800, in seconds".to_owned(),
            Self::SomeOf(words) => format!("list of {}", words.join(", ")),
            Self::Devices => {
                "list of paths below `/dev`, each with `-` in front where it may be missing"
                    .to_owned()
            }
            Self::OptionalSize => "bytes with K, M, G or T".to_owned(),
        }
    }
}

/// systemd's directives as typed, each with its values in order.
pub type Directives = Vec<(Located<String>, Vec<Located<String>>)>;

/// Texts by their names, as typed, in order.
pub type Named = Vec<(Located<String>, Located<String>)>;

/// One text or several, as typed.
#[derive(Clone, Debug, PartialEq)]
pub struct OneOrMany(pub Vec<Located<String>>);

/// A text that stands in the specification, or a file that has it.
#[derive(Clone, Debug, PartialEq)]
pub enum RawContent {
    /// The text.
    Text(Located<String>),
    /// The file's path.
    File(Located<String>),
}

/// Texts or files by their names, as typed, in order.
pub type RawContents = Vec<(Located<String>, RawContent)>;

/// An entry of a list of address ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct RawCidr {
    /// The range.
    pub cidr: Located<String>,
    /// Ports and ranges of ports.
    pub ports: Vec<Located<String>>,
    /// The protocol.
    pub protocol: Option<Located<String>>,
}

/// A type that options take.
trait FromNode: Sized {
    const TYPE: &'static str;
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self>;
}

/// `a string`, `an integer`.
fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn wrong_type(node: &Node, wanted: &str, example: &str, diagnostics: &mut Diagnostics) {
    let (wanted, found) = (with_article(wanted), with_article(node.value.type_name()));
    diagnostics.push(Diagnostic::new(
        Code::WrongType,
        &node.at,
        format!("`{}` takes {wanted}", node.at.path),
        format!("this is {found}"),
        format!("write {wanted}, as in `{example}`"),
    ));
}

impl FromNode for bool {
    const TYPE: &'static str = "boolean";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Value::Boolean(flag) = node.value {
            return Some(flag);
        }
        wrong_type(node, Self::TYPE, "true", diagnostics);
        None
    }
}

impl FromNode for i64 {
    const TYPE: &'static str = "integer";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Value::Integer(number) = node.value {
            return Some(number);
        }
        wrong_type(node, Self::TYPE, "4096", diagnostics);
        None
    }
}

impl FromNode for String {
    const TYPE: &'static str = "string";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Value::String(text) = &node.value {
            return Some(text.clone());
        }
        wrong_type(node, Self::TYPE, "\"text\"", diagnostics);
        None
    }
}

impl FromNode for Vec<Located<String>> {
    const TYPE: &'static str = "list of strings";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            wrong_type(node, Self::TYPE, "[\"one\", \"two\"]", diagnostics);
            return None;
        };
        items
            .iter()
            .map(|item| {
                let value = String::from_node(item, diagnostics)?;
                Some(Located { value, at: item.at.clone() })
            })
            .collect()
    }
}

impl FromNode for Vec<Located<i64>> {
    const TYPE: &'static str = "list of integers";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            wrong_type(node, Self::TYPE, "[11434]", diagnostics);
            return None;
        };
        let one = |item: &Node| {
            let value = i64::from_node(item, diagnostics)?;
            Some(Located { value, at: item.at.clone() })
        };
        items.iter().map(one).collect()
    }
}

impl FromNode for Vec<RawCidr> {
    const TYPE: &'static str = "list of address ranges";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            wrong_type(node, Self::TYPE, "[\"192.0.2.0/24\"]", diagnostics);
            return None;
        };
        items.iter().map(|item| RawCidr::from_node(item, diagnostics)).collect()
    }
}

impl FromNode for RawCidr {
    const TYPE: &'static str = "string or `{ cidr, ports, protocol }`";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        const EXAMPLE: &str = "{ cidr = \"192.0.2.0/24\", ports = [443, \"8000-8100\"] }";
        if let Value::String(text) = &node.value {
            let cidr = Located { value: text.clone(), at: node.at.clone() };
            return Some(Self { cidr, ports: Vec::new(), protocol: None });
        }
        let (mut cidr, mut ports, mut protocol) = (None, Vec::new(), None);
        let entries: Vec<_> = entries(node, Self::TYPE, EXAMPLE, diagnostics)?.collect();
        for (key, value) in entries {
            let located = |value| Located { value, at: key.at.clone() };
            match (key.value.as_str(), &value.value) {
                ("cidr", _) => cidr = Some(located(String::from_node(value, diagnostics)?)),
                ("protocol", _) => protocol = Some(located(String::from_node(value, diagnostics)?)),
                ("ports", Value::Array(items)) => {
                    let text = |item| plain_text(item, "443", diagnostics);
                    ports = items.iter().map(text).collect::<Option<_>>()?;
                }
                ("ports", _) => {
                    wrong_type(value, "list of ports", "[443, \"8000-8100\"]", diagnostics);
                    return None;
                }
                _ => {
                    let known = ["cidr", "ports", "protocol"];
                    unknown_key(&key.value, &key.at, &known, diagnostics);
                    return None;
                }
            }
        }
        if cidr.is_none() {
            wrong_type(node, Self::TYPE, EXAMPLE, diagnostics);
        }
        Some(Self { cidr: cidr?, ports, protocol })
    }
}

impl FromNode for Directives {
    const TYPE: &'static str = "table of directives";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let entries = entries(node, Self::TYPE, "{ MemoryMax = \"4G\" }", diagnostics)?;
        let entries: Vec<_> = entries.collect();
        let one = |(name, value): (_, &Node)| {
            let items = match &value.value {
                Value::Array(items) => items.as_slice(),
                _ => std::slice::from_ref(value),
            };
            let values = items.iter().map(|item| plain_text(item, "\"4G\"", diagnostics));
            Some((name, values.collect::<Option<_>>()?))
        };
        entries.into_iter().map(one).collect()
    }
}

/// The entries of a table that are set: what is `null` is not.
fn entries<'a>(
    node: &'a Node,
    wanted: &str,
    example: &str,
    diagnostics: &mut Diagnostics,
) -> Option<impl Iterator<Item = (Located<String>, &'a Node)>> {
    let Value::Table(entries) = &node.value else {
        wrong_type(node, wanted, example, diagnostics);
        return None;
    };
    let set = entries.iter().filter(|(_, _, value)| value.value != Value::Null);
    Some(set.map(|(name, at, value)| (Located { value: name.clone(), at: at.clone() }, value)))
}

impl FromNode for Named {
    const TYPE: &'static str = "table of strings";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let entries = entries(node, Self::TYPE, "{ NAME = \"text\" }", diagnostics)?;
        let entries: Vec<_> = entries.collect();
        let one = |(name, value)| Some((name, plain_text(value, "\"text\"", diagnostics)?));
        entries.into_iter().map(one).collect()
    }
}

impl FromNode for OneOrMany {
    const TYPE: &'static str = "string or a list of strings";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Value::String(text) = &node.value {
            return Some(Self(vec![Located { value: text.clone(), at: node.at.clone() }]));
        }
        if !matches!(node.value, Value::Array(_)) {
            wrong_type(node, Self::TYPE, "\"text\"", diagnostics);
            return None;
        }
        Vec::from_node(node, diagnostics).map(Self)
    }
}

impl FromNode for RawContent {
    const TYPE: &'static str = "string or `{ file = PATH }`";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let located = |text: &String, at: &Origin| Located { value: text.clone(), at: at.clone() };
        match &node.value {
            Value::String(text) => return Some(Self::Text(located(text, &node.at))),
            Value::Table(entries) => {
                if let [(key, _, Node { value: Value::String(path), at })] = entries.as_slice()
                    && key == "file"
                {
                    return Some(Self::File(located(path, at)));
                }
            }
            _ => {}
        }
        wrong_type(node, Self::TYPE, "{ file = \"/srv/opencode/review.md\" }", diagnostics);
        None
    }
}

impl FromNode for RawContents {
    const TYPE: &'static str = "table of texts";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let entries = entries(node, Self::TYPE, "{ review = \"text\" }", diagnostics)?;
        let entries: Vec<_> = entries.collect();
        let one = |(name, value)| Some((name, RawContent::from_node(value, diagnostics)?));
        entries.into_iter().map(one).collect()
    }
}

/// What is judged with the whole of it in view, as it was typed.
impl FromNode for Node {
    const TYPE: &'static str = "table";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Value::Table(_) = node.value {
            return Some(node.clone());
        }
        wrong_type(node, Self::TYPE, "{ model = \"anthropic/claude-sonnet-4-5\" }", diagnostics);
        None
    }
}

/// A value as an environment or a unit file has it.
fn plain_text(
    node: &Node,
    example: &str,
    diagnostics: &mut Diagnostics,
) -> Option<Located<String>> {
    let value = match &node.value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        _ => {
            wrong_type(node, "string, number or boolean", example, diagnostics);
            return None;
        }
    };
    Some(Located { value, at: node.at.clone() })
}

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty, $key:literal, $kind:expr, default $default:literal, example $example:literal;)*) => {
        /// The options of one instance, or of `[defaults]`, as typed.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct RawInstance {
            $($(#[doc = $doc])+ pub $field: Option<Located<$type>>,)*
            /// The options whose value has a wrong type. That is reported already, and nobody knows
            /// what was meant: not the default.
            pub mistyped: BTreeSet<&'static str>,
        }

        /// Every option, in the order of the reference.
        pub const OPTIONS: &[OptionDoc] = &[$(OptionDoc {
            key: $key,
            kind: $kind,
            default: $default,
            example: $example,
            doc: concat!($($doc, "\n"),+),
        }),*];

        impl RawInstance {
            fn set(&mut self, key: &str, node: &Node, diagnostics: &mut Diagnostics) {
                match key {
                    $($key => {
                        self.$field = <$type>::from_node(node, diagnostics)
                            .map(|value| Located { value, at: node.at.clone() });
                        if self.$field.is_none() {
                            self.mistyped.insert($key);
                        }
                    })*
                    _ => {}
                }
            }

            /// What stands here, and `defaults` wherever nothing stands here.
            #[must_use]
            pub fn or(&self, defaults: &Self) -> Self {
                let mut mistyped = self.mistyped.clone();
                $(if self.$field.is_none() && defaults.mistyped.contains($key) {
                    mistyped.insert($key);
                })*
                Self {
                    $($field: self.$field.clone().or_else(|| defaults.$field.clone()),)*
                    mistyped,
                }
            }
        }
    };
}

/// The words of `logLevel`.
const LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "ERROR"];

options! {
    /// Whether the instance exists on the host. `false` removes its units and keeps its state.
    enable: bool, "enable", Kind::Flag, default "true", example "false";
    /// The project: the one place outside `stateDir` that the agent may write to. It must exist and
    /// the instance's user must be able to enter it; it is never created or changed.
    directory: String, "directory", Kind::Path, default "required", example "\"/srv/website\"";
    /// The instance's HOME: sessions, database, configuration and caches. Created by systemd with
    /// mode 0700; never removed.
    state_dir: String, "stateDir", Kind::Path, default "`/var/lib/opencode/instance-state/NAME`", example "\"/data/opencode/website\"";
    /// The user that the server and the agent run as. The default user is created; a user named here
    /// must exist.
    user: String, "user", Kind::Account, default "`opencode-NAME`", example "\"website\"";
    /// The user's group. The default group is created; a group named here must exist.
    group: String, "group", Kind::Account, default "`opencode-NAME`", example "\"website\"";
    /// Further groups of the server and the agent, for projects that a group may write to.
    extra_groups: Vec<Located<String>>, "extraGroups", Kind::Accounts, default "[]", example "[\"www-data\"]";
    /// The opencode binary, or the prefix whose `bin/opencode` it is.
    package: String, "package", Kind::Package, default "\"/usr/bin/opencode\"", example "\"/opt/opencode-1.18.33\"";
    /// What the server runs with: opencode's own configuration, in its own words. It is linked to
    /// `.config/opencode/opencode.json` below `stateDir`, and `check` holds it against the schema of
    /// the opencode that `package` is. The project's own `opencode.json` outranks it.
    /// Everybody on the host can read it: keys belong into `credentials`, and here
    /// `{credential:NAME}` stands for them. Where order has a meaning, in `permission` and `tools`,
    /// a list of tables with one key each keeps it.
    settings: Node, "settings", Kind::Settings, default "{}", example "{ \"model\" = \"anthropic/claude-sonnet-4-5\" }";
    /// A configuration file of yours in the place of `settings`, read-only in the sandbox. A change of
    /// it is seen at the next start of the server.
    config_file: String, "configFile", Kind::OptionalPath, default "none", example "\"/etc/opencode/website.json\"";
    /// What neither the project nor anything below `stateDir` can override key by key: it is
    /// `/etc/opencode/opencode.json` in the sandbox, which outranks every other file.
    enforced_settings: Node, "enforcedSettings", Kind::Settings, default "{}", example "{ \"share\" = \"disabled\" }";
    /// Whether the project may configure the server: its `opencode.json`, its `.opencode` directory
    /// with plugins, agents and tools, its `AGENTS.md`. Plugins run in the server when the first
    /// request comes. With `false` none of it exists for the server, nor in a copy of the project.
    trust_project: bool, "trustProject", Kind::Flag, default "true", example "false";
    /// Agents of the instance's own, `agents/NAME.md`: Markdown with a YAML header.
    agents: RawContents, "agents", Kind::Contents, default "{}", example "{ \"review\" = { file = \"/etc/opencode/review.md\" } }";
    /// Commands of the instance's own, `commands/NAME.md`.
    commands: RawContents, "commands", Kind::Contents, default "{}", example "{ \"lint\" = \"Run the linter and mend what it says.\" }";
    /// Skills of the instance's own: `skills/NAME/SKILL.md` with this text, or a `file` that is such a
    /// directory.
    skills: RawContents, "skills", Kind::Contents, default "{}", example "{ \"release\" = { file = \"/etc/opencode/skills/release\" } }";
    /// Plugins of the instance's own, `plugins/NAME`; a name ends in `.js` or `.ts`. They run in the
    /// server.
    plugins: RawContents, "plugins", Kind::Contents, default "{}", example "{ \"notify.js\" = { file = \"/etc/opencode/notify.js\" } }";
    /// What every session is told, `AGENTS.md`.
    instructions: RawContent, "instructions", Kind::Content, default "none", example "\"Answer in English.\"";
    /// Variables of the server, its tools and the scripts. They outrank the unit's own, and
    /// `environmentFile` outranks them. Everybody on the host can read them.
    environment: Named, "environment", Kind::Variables, default "{}", example "{ \"EDITOR\" = \"vim\" }";
    /// Files of variables, one `NAME=value` a line, which systemd reads when the server starts. They
    /// must be root's and not readable by everybody. Without one of them the server does not start.
    environment_file: OneOrMany, "environmentFile", Kind::SecretPaths, default "[]", example "\"/run/secrets/website.env\"";
    /// Files whose content `settings` can name as `{credential:NAME}`. systemd reads them when the
    /// server starts, and shows them to this server alone, at
    /// `/run/credentials/opencode-INSTANCE.service/NAME`. They must be root's and not readable by
    /// everybody.
    credentials: Named, "credentials", Kind::Secrets, default "{}", example "{ \"anthropic\" = \"/run/secrets/anthropic\" }";
    /// Whether the server restarts when one of its secrets has new content: `environmentFile`,
    /// `credentials`, `auth.passwordFile`.
    restart_on_secret_change: bool, "restartOnSecretChange", Kind::Flag, default "false", example "true";
    /// Commands for bash that run once, before anything is made in an empty `stateDir`: as the
    /// instance's user in its sandbox, without the project. One that fails keeps the server down, and
    /// everything starts over at the next start.
    pre_init_script: String, "preInitScript", Kind::Script, default "none", example "\"git config --global user.name website\"";
    /// The same after the directories and links of `stateDir` are made.
    post_init_script: String, "postInitScript", Kind::Script, default "none", example "\"mkdir notes\"";
    /// What is in front of the service's `PATH`, visible read-only in the sandbox. For each entry
    /// its `bin` and `sbin` are taken where it has them, and the directory itself otherwise.
    path: Vec<Located<String>>, "path", Kind::Packages, default "[]", example "[\"/opt/node-22\"]";
    /// The host's IP address that clients connect to. Anything but a loopback address needs
    /// `auth.enable`.
    listen_address: String, "listen.address", Kind::Address, default "\"127.0.0.1\"", example "\"::1\"";
    /// The host's TCP port that clients connect to. Changing it does not restart the server.
    listen_port: i64, "listen.port", Kind::Port, default "4096", example "4101";
    /// Whether the host's firewall admits `listen.port`. On NixOS this is
    /// `networking.firewall.allowedTCPPorts`; elsewhere `check` says which command opens it. Refused
    /// with a loopback `listen.address`, where it would do nothing.
    open_firewall: bool, "openFirewall", Kind::Flag, default "false", example "true";
    /// How far the agent reaches. `internet`: everything that is globally routable, and never private
    /// networks, the local network, clouds' metadata services, the host or other instances.
    /// `allow-list`: what `network.outbound.allowCidrs` lists. `none`: nothing, there is no link.
    /// `unrestricted`: everything but the host and other instances. What is refused is refused at
    /// once, and `opencode-instances blocked NAME` shows it. A change takes effect without a restart.
    network_policy: String, "network.outbound.policy", Kind::OneOf(Policy::WORDS), default "\"internet\"", example "\"allow-list\"";
    /// Address ranges that the agent reaches: with `allow-list` these alone, with `internet` these too,
    /// such as one machine of the local network. An entry is a range, or `{ cidr, ports, protocol }`
    /// with ports, ranges of ports as strings, and `tcp` or `udp`, where either may be missing.
    /// The host's own addresses stay refused.
    allow_cidrs: Vec<RawCidr>, "network.outbound.allowCidrs", Kind::Cidrs, default "[]", example "[\"192.168.1.20/32\"]";
    /// Which names the agent resolves: with `open` all of them, with `names` those of
    /// `network.dns.allowNames`. A resolver that forwards any name is a way out, so that the default
    /// follows the policy. With `none` there is no resolver.
    dns_policy: String, "network.dns.policy", Kind::OptionalOneOf(DnsPolicy::WORDS), default "`open`, and `names` with `allow-list`", example "\"names\"";
    /// The names that are resolved where `network.dns.policy` is `names`. `*.example.org` stands for all
    /// names below `example.org`, and not for that one.
    dns_names: Vec<Located<String>>, "network.dns.allowNames", Kind::HostNames, default "[]", example "[\"api.anthropic.com\", \"*.example.org\"]";
    /// TCP ports of the host's loopback that appear on the agent's own, such as that of a local model
    /// server. Nothing else of the host can be reached.
    host_ports: Vec<Located<i64>>, "network.hostPorts", Kind::Ports, default "[]", example "[11434]";
    /// The private IPv4 network that the links between host and instances take their addresses from,
    /// the same for all instances.
    network_pool: String, "network.pool", Kind::Cidr, default "\"10.219.0.0/16\"", example "\"172.30.0.0/16\"";
    /// Further places of the host that the agent may write to, as far as their modes let it: `/data`, or
    /// `/data/cache:/cache` for another place in the sandbox. With `-` in front a place may be missing.
    read_write_paths: Vec<Located<String>>, "sandbox.readWritePaths", Kind::Binds, default "[]", example "[\"/data/cache\"]";
    /// Places of the host that the agent may read, as far as their modes let it. Nothing else of the host
    /// is there at all.
    read_only_paths: Vec<Located<String>>, "sandbox.readOnlyPaths", Kind::Binds, default "[]", example "[\"-/srv/handbook:/handbook\"]";
    /// Protections of the server and the scripts that are given up, by the names that
    /// `docs/reference/controls.md` explains. Each one is warned of with what it gives away.
    relax: Vec<Located<String>>, "sandbox.relax", Kind::SomeOf(controls::WORDS), default "[]", example "[\"debug-calls\"]";
    /// Whether the agent can build sandboxes of its own, with bubblewrap or as a rootless container. In
    /// them it is root, and reaches far more of the kernel; what keeps it from the host, its files and its
    /// network stays.
    allow_nested_sandbox: bool, "sandbox.allowNestedSandbox", Kind::Flag, default "false", example "true";
    /// Devices of the host that the agent may use as far as their modes let it, such as `/dev/kvm`; groups
    /// for them are `extraGroups`. With `-` in front a device may be missing. Refused where a device would
    /// be a way out: disks, memory, terminals, input.
    devices: Vec<Located<String>>, "sandbox.devices", Kind::Devices, default "[]", example "[\"/dev/kvm\", \"-/dev/dri\"]";
    /// What the sandbox shows of `/nix/store`: the `closure` of what the instance uses, or with `full` all of it,
    /// settings of other instances among it.
    nix_store: String, "sandbox.nixStore", Kind::OneOf(NixStore::WORDS), default "\"closure\"", example "\"full\"";
    /// Unix sockets of the host that the agent may connect to, as far as their modes let it: the path of a
    /// socket, or `PATH:PLACE` for another place in the sandbox. No other socket of the host is there. With `-`
    /// in front one may be missing when the server starts; it appears when its service makes it, and follows
    /// when that restarts. A service often gives more than its own data: see `docs/explanation/sandbox.md`.
    unix_sockets: Vec<Located<String>>, "sandbox.unixSockets", Kind::Binds, default "[]", example "[\"/run/postgresql/.s.PGSQL.5432\"]";
    /// The most memory of the server, its tools and its temporary files. What would exceed it is ended, rather
    /// a tool than the server, which is known to take tens of gigabytes now and then.
    memory_max: String, "resources.memoryMax", Kind::Amount, default "\"50%\"", example "\"8G\"";
    /// Memory of the server above which everything of it is slowed down. A server that is slowed down
    /// too much answers nobody, so that there is none unless it is set.
    memory_high: String, "resources.memoryHigh", Kind::OptionalAmount, default "none", example "\"6G\"";
    /// The most processor time of the server: `150%` is that of one core and a half.
    cpu_quota: String, "resources.cpuQuota", Kind::OptionalPercent, default "none", example "\"150%\"";
    /// The share of the server in processor time where there is not enough for all; other units have 100.
    cpu_weight: i64, "resources.cpuWeight", Kind::OptionalWeight, default "none", example "50";
    /// The most processes and threads of the server.
    tasks_max: i64, "resources.tasksMax", Kind::Tasks, default "4096", example "1024";
    /// The share of the server in disk time where there is not enough for all; other units have 100.
    io_weight: i64, "resources.ioWeight", Kind::OptionalWeight, default "none", example "50";
    /// The most disk space of `stateDir`, which must be at its default place. It needs systemd 258 and a
    /// file system with quotas of projects.
    disk_quota: String, "resources.diskQuota", Kind::OptionalSize, default "none", example "\"20G\"";
    /// How much the server logs.
    log_level: String, "logLevel", Kind::OneOf(LEVELS), default "\"INFO\"", example "\"WARN\"";
    /// Further arguments of `opencode serve`.
    extra_args: Vec<Located<String>>, "extraArgs", Kind::Texts, default "[]", example "[\"--pure\"]";
    /// Whether the instance starts at boot and when its declaration takes effect. When `false`,
    /// `opencode-instances start NAME` starts it.
    auto_start: bool, "autoStart", Kind::Flag, default "true", example "false";
    /// When the server starts: `boot`, with the host, or `on-demand`, with the first client. An instance
    /// on demand stops when nobody has used it for `idleTimeout`.
    activation: String, "activation", Kind::OneOf(Activation::WORDS), default "\"boot\"", example "\"on-demand\"";
    /// How long an instance with `activation = "on-demand"` stays without a client, a session that works
    /// and a process that was left running, before it stops.
    idle_timeout: i64, "idleTimeout", Kind::Seconds, default "900", example "3600";
    /// Which clients keep an instance on demand: with `connected` every open connection, an event stream
    /// too; with `active` none that has sent nothing for `idleTimeout`.
    idle_clients: String, "idleClients", Kind::OneOf(IdleClients::WORDS), default "\"connected\"", example "\"active\"";
    /// Whether a process that the agent left running, or a terminal, keeps an instance on demand.
    idle_children: bool, "idleChildren", Kind::Flag, default "true", example "false";
    /// Whether `apply` and `nixos-rebuild switch` restart the server when its units changed. When
    /// `false` the agent goes on as it was started, `status` says `pending restart`, and
    /// `opencode-instances restart NAME` ends that. A changed listener or policy takes effect anyway,
    /// and a change of user, groups, directories, `auth`, `nix.enable` or `sandbox.unixSockets` is never put off.
    restart_on_switch: bool, "restartOnSwitch", Kind::Flag, default "true", example "false";
    /// Whether the server asks for a password. Unless `auth.passwordFile` names one it is made once,
    /// readable by root alone; it is handed over as a systemd credential and shown by
    /// `opencode-instances url NAME`.
    auth_enable: bool, "auth.enable", Kind::Flag, default "true", example "false";
    /// A file that holds the password, instead of one that is made. systemd reads it when the server
    /// starts. It must be root's, not readable by everybody, and only root may be able to replace it.
    auth_password_file: String, "auth.passwordFile", Kind::SecretPath, default "none", example "\"/run/secrets/website\"";
    /// The user's name that the server asks for beside the password.
    auth_username: String, "auth.username", Kind::Username, default "\"opencode\"", example "\"team\"";
    /// Whether the agent can use the host's Nix daemon: its socket, and all of `/nix/store` instead
    /// of what the instance needs. The daemon runs the agent's programs in the host's network, where
    /// they reach every listener of the host, and everything in the store can be read.
    nix_enable: bool, "nix.enable", Kind::Flag, default "false", example "true";
    /// Whether programs that were not built for NixOS find a dynamic loader (`nix-ld`), such as
    /// downloaded language servers. NixOS only.
    nix_ld_enable: bool, "nixLd.enable", Kind::Flag, default "false", example "true";
    /// Directives of `opencode-NAME.service`, the server. Each one replaces what the unit says of it,
    /// all of its lines; a list gives several lines. Refused where the isolation rests on it or an
    /// option other than `resources` says it, and warned of unless it is known to be harmless, as resources and times are.
    overrides_main: Directives, "unitOverrides.main", Kind::Directives, default "{}", example "{ \"MemorySwapMax\" = 0 }";
    /// Directives of `opencode-setup@NAME.service`, as in `unitOverrides.main`. An instance with such a line has that unit.
    overrides_setup: Directives, "unitOverrides.setup", Kind::Directives, default "{}", example "{ \"TimeoutStartSec\" = 300 }";
    /// Directives of `opencode-net@NAME.service`, as in `unitOverrides.main`.
    overrides_net: Directives, "unitOverrides.net", Kind::Directives, default "{}", example "{ \"TimeoutStartSec\" = 60 }";
}

/// An instance as typed.
#[derive(Clone, Debug, PartialEq)]
pub struct RawNamed {
    /// The instance's name and where it was typed.
    pub name: Located<String>,
    /// Its options, before `[defaults]`.
    pub options: RawInstance,
}

/// The options of `[fleet]`, for all instances together: limits as those of an instance, with defaults
/// of their own, and what no instance has alone.
pub const FLEET: &[OptionDoc] = &[
    OptionDoc {
        key: MAX_CONCURRENT_STARTS,
        kind: Kind::OptionalCount,
        default: "none",
        example: "8",
        doc: "How many servers start at once, so that the host stays usable when all of them do, as after a \
              boot; the others wait for their turn. Without it they are as many as the host has processors. A start \
              that takes longer than 15 seconds no longer counts.",
    },
    OptionDoc {
        key: MEMORY_PRESSURE,
        kind: Kind::OptionalShare,
        default: "none",
        example: "\"10%\"",
        doc: "When an idle server on demand ends before its `idleTimeout`: when something on the host waits for memory \
              for so much of two seconds, as the kernel counts it (PSI, `some`). Then the one ends that nobody has used for the longest time, \
              and the next one if that was not enough; one that was used in the last ten seconds stays. \
              Whoever waits counts, also at a limit of its own alone: an agent that uses up its memory has the idle servers of others end, and their next clients wait for a start.",
    },
    OptionDoc {
        key: "resources.memoryMax",
        kind: Kind::Amount,
        default: "\"80%\"",
        example: "\"64G\"",
        doc: "The most memory of all servers together, with their tools and temporary files. What is left is \
              the host's.",
    },
    OptionDoc {
        key: "resources.memoryHigh",
        kind: Kind::OptionalAmount,
        default: "none",
        example: "\"48G\"",
        doc: "Memory of all servers together above which all of them are slowed down.",
    },
    OptionDoc {
        key: "resources.cpuQuota",
        kind: Kind::OptionalPercent,
        default: "none",
        example: "\"800%\"",
        doc: "The most processor time of all servers together: `800%` is that of eight cores.",
    },
    OptionDoc {
        key: "resources.cpuWeight",
        kind: Kind::OptionalWeight,
        default: "none",
        example: "50",
        doc: "The share of all servers together in processor time where there is not enough for all; other \
              slices have 100.",
    },
    OptionDoc {
        key: "resources.tasksMax",
        kind: Kind::Tasks,
        default: "32768",
        example: "65536",
        doc: "The most processes and threads of all servers together.",
    },
    OptionDoc {
        key: "resources.ioWeight",
        kind: Kind::OptionalWeight,
        default: "none",
        example: "50",
        doc: "The share of all servers together in disk time where there is not enough for all; other slices \
              have 100.",
    },
];

const MAX_CONCURRENT_STARTS: &str = "maxConcurrentStarts";
const MEMORY_PRESSURE: &str = "memoryPressure";

/// `[fleet]` as typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawFleet {
    /// Of these options, only those of [`FLEET`].
    pub limits: RawInstance,
    /// How many servers start at once.
    pub max_concurrent_starts: Option<Located<i64>>,
    /// From which pressure on idle servers end early.
    pub memory_pressure: Option<Located<String>>,
}

/// A whole document as typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawSpec {
    /// `[fleet]`.
    pub fleet: RawFleet,
    /// `[defaults]`: what an instance takes where it says nothing.
    pub defaults: RawInstance,
    /// `[instances.NAME]`, in the order of the document.
    pub instances: Vec<RawNamed>,
}

/// Decodes a document. What cannot be decoded is reported and left out.
pub fn decode(node: &Node, diagnostics: &mut Diagnostics) -> RawSpec {
    let mut raw = RawSpec::default();
    let Some(entries) = table(node, diagnostics) else { return raw };
    for (key, at, value) in entries {
        match key.as_str() {
            "fleet" => group(value, "", FLEET, &mut raw.fleet, diagnostics),
            "defaults" => raw.defaults = options(value, OPTIONS, diagnostics),
            "instances" => {
                for (name, at, options) in table(value, diagnostics).unwrap_or_default() {
                    raw.instances.push(RawNamed {
                        name: Located { value: name.clone(), at: at.clone() },
                        options: self::options(options, OPTIONS, diagnostics),
                    });
                }
            }
            _ => unknown_key(key, at, &["fleet", "defaults", "instances"], diagnostics),
        }
    }
    raw
}

fn table<'a>(
    node: &'a Node,
    diagnostics: &mut Diagnostics,
) -> Option<&'a [(String, Origin, Node)]> {
    if let Value::Table(entries) = &node.value {
        return Some(entries);
    }
    // The nearest example: an option below this group, or an instance.
    let group = node.at.path.rsplit('.').next().unwrap_or_default();
    let option = OPTIONS.iter().find(|one| one.key.split('.').next() == Some(group));
    let example = option.filter(|one| one.key.contains('.')).map_or_else(
        || "[instances.website]".to_owned(),
        |one| format!("{} = {}", one.key, one.example),
    );
    wrong_type(node, "table", &example, diagnostics);
    None
}

/// Those of `known` that are typed.
fn options(node: &Node, known: Known, diagnostics: &mut Diagnostics) -> RawInstance {
    let mut raw = RawInstance::default();
    group(node, "", known, &mut raw, diagnostics);
    raw
}

/// The options that a table may have.
type Known = &'static [OptionDoc];

/// What takes the options of a table.
trait Take {
    fn set(&mut self, key: &str, node: &Node, diagnostics: &mut Diagnostics);
    fn mistyped(&mut self, keys: impl Iterator<Item = &'static str>);
}

impl Take for RawInstance {
    fn set(&mut self, key: &str, node: &Node, diagnostics: &mut Diagnostics) {
        self.set(key, node, diagnostics);
    }

    fn mistyped(&mut self, keys: impl Iterator<Item = &'static str>) {
        self.mistyped.extend(keys);
    }
}

impl Take for RawFleet {
    fn set(&mut self, key: &str, node: &Node, diagnostics: &mut Diagnostics) {
        if key == MAX_CONCURRENT_STARTS {
            let value = i64::from_node(node, diagnostics);
            self.max_concurrent_starts = value.map(|value| Located { value, at: node.at.clone() });
        } else if key == MEMORY_PRESSURE {
            let value = String::from_node(node, diagnostics);
            self.memory_pressure = value.map(|value| Located { value, at: node.at.clone() });
        } else {
            self.limits.set(key, node, diagnostics);
        }
    }

    fn mistyped(&mut self, keys: impl Iterator<Item = &'static str>) {
        self.limits.mistyped.extend(keys);
    }
}

/// Decodes the options below `prefix`, a group such as `listen`, or all of them for "". What is
/// `null` is not set: generated JSON has nulls.
fn group(
    node: &Node,
    prefix: &str,
    known: Known,
    raw: &mut impl Take,
    diagnostics: &mut Diagnostics,
) {
    let Some(entries) = table(node, diagnostics) else {
        let keys = known.iter().map(|option| option.key);
        raw.mistyped(keys.filter(|key| is_below(key, prefix)));
        return;
    };
    for (key, at, value) in entries {
        let path = join(prefix, key);
        let is_option = known.iter().any(|option| option.key == path);
        let is_group = known.iter().any(|one| is_below(one.key, &path));
        if (is_option || is_group) && value.value == Value::Null {
            continue;
        }
        if is_option {
            raw.set(&path, value, diagnostics);
        } else if is_group {
            group(value, &path, known, raw, diagnostics);
        } else {
            unknown_key(key, at, &siblings(prefix, known), diagnostics);
        }
    }
}

/// Whether an option belongs to a group, or to all of them for "".
fn is_below(key: &str, group: &str) -> bool {
    group.is_empty() || key.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'))
}

/// The keys that may stand below `prefix`.
fn siblings(prefix: &str, known: Known) -> Vec<&'static str> {
    let mut keys = Vec::new();
    for option in known {
        let rest = if prefix.is_empty() {
            Some(option.key)
        } else {
            option.key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'))
        };
        if let Some(key) = rest.and_then(|rest| rest.split('.').next())
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    keys
}

fn unknown_key(key: &str, at: &Origin, known: &[&str], diagnostics: &mut Diagnostics) {
    let help = match nearest(key, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("remove it, or use one of: {}", known.join(", ")),
    };
    diagnostics.push(Diagnostic::new(
        Code::UnknownKey,
        at,
        format!("`{}` is not an option", at.path),
        "unknown key",
        help,
    ));
}

/// The candidate that most resembles `text`, if any does.
pub fn nearest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let fold = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let text = fold(text);
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&text, &fold(candidate)), *candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Format, parse};

    fn decoded(text: &str) -> (RawSpec, Vec<Diagnostic>) {
        decoded_as(text, Format::Toml)
    }

    fn decoded_json(text: &str) -> (RawSpec, Vec<Diagnostic>) {
        decoded_as(text, Format::Json)
    }

    fn decoded_as(text: &str, format: Format) -> (RawSpec, Vec<Diagnostic>) {
        let mut diagnostics = Diagnostics::new();
        let node = parse(text, format, &mut diagnostics);
        let raw = node.map(|node| decode(&node, &mut diagnostics)).unwrap_or_default();
        (raw, diagnostics.into_sorted())
    }

    #[test]
    fn dotted_and_grouped_keys_are_the_same() {
        let (a, _) = decoded("[instances.a]\nlisten.port = 1\n");
        let (b, _) = decoded("[instances.a.listen]\nport = 1\n");
        let port = |raw: &RawSpec| raw.instances[0].options.listen_port.clone().map(|p| p.value);
        assert_eq!(port(&a), Some(1));
        assert_eq!(port(&a), port(&b));
    }

    #[test]
    fn unknown_keys_suggest_the_nearest() {
        let (_, found) =
            decoded("[default]\n[instances.a]\nstate-dir = \"/x\"\nlisten.prot = 1\nzzzz = 1\n");
        let help: Vec<_> = found.iter().map(|one| one.help.as_str()).collect();
        assert_eq!(help[0], "did you mean `defaults`?");
        assert_eq!(help[1], "did you mean `stateDir`?");
        assert_eq!(help[2], "did you mean `port`?");
        assert!(help[3].starts_with("remove it, or use one of: enable, directory"));
    }

    #[test]
    fn every_example_decodes_and_every_option_is_reached() {
        for option in OPTIONS {
            let (raw, found) =
                decoded(&format!("[defaults]\n{} = {}\n", option.key, option.example));
            assert_eq!(found, [], "{}", option.key);
            assert_ne!(raw.defaults, RawInstance::default(), "{} is not decoded", option.key);
        }
    }

    #[test]
    fn the_fleet_takes_limits_and_nothing_else() {
        for option in FLEET {
            let (raw, found) = decoded(&format!("[fleet]\n{} = {}\n", option.key, option.example));
            assert_eq!(found, [], "{}", option.key);
            assert_ne!(raw.fleet, RawFleet::default(), "{} is not decoded", option.key);
        }
        let (_, found) = decoded("[fleet]\nresources.diskQuota = \"1G\"\nuser = \"a\"\n");
        assert_eq!(found.iter().map(|one| one.code).collect::<Vec<_>>(), [Code::UnknownKey; 2]);
    }

    #[test]
    fn null_is_not_set_and_nothing_else_may_be_null() {
        let options = OPTIONS.iter().map(|option| {
            let (open, close) =
                (option.key.replace('.', "\":{\""), option.key.matches('.').count());
            format!("{{\"{open}\":null{}}}", "}".repeat(close))
        });
        for options in options.chain(["{\"listen\":null}".to_owned()]) {
            let (raw, found) = decoded_json(&format!("{{\"defaults\":{options}}}"));
            assert_eq!((raw.defaults, found), (RawInstance::default(), vec![]), "{options}");
        }
        for (text, code) in [
            ("null", Code::WrongType),
            ("{\"defaults\":null}", Code::WrongType),
            ("{\"instances\":null}", Code::WrongType),
            ("{\"instances\":{\"a\":null}}", Code::WrongType),
            ("{\"defaults\":{\"extraArgs\":[null]}}", Code::WrongType),
            ("{\"defaults\":{\"users\":null}}", Code::UnknownKey),
        ] {
            let found = decoded_json(text).1;
            assert_eq!(found.iter().map(|one| one.code).collect::<Vec<_>>(), [code], "{text}");
        }
    }

    #[test]
    fn wrong_types_are_all_reported() {
        let (_, found) = decoded("[instances.a]\nenable = 1\nlisten = 3\nextraArgs = [1]\n");
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|one| one.code == Code::WrongType));
    }
}
