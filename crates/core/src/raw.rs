//! What was typed, before anything is judged: every option optional, every value with its place.
//!
//! The one list of options stands here, in `options!`. From it come the decoder, the merge with
//! `[defaults]`, the reference in `docs/options.md` and the test that no default is inert.

use std::collections::BTreeSet;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Origin};
use crate::node::{Node, Value, join};

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
}

impl Kind {
    /// The type as the reference says it.
    pub fn words(self) -> String {
        match self {
            Self::Flag => "boolean".to_owned(),
            Self::Port => "port number".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Address => "IP address".to_owned(),
            Self::Path => "absolute path".to_owned(),
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
        }
    }
}

/// systemd's directives as typed, each with its values in order.
pub type Directives = Vec<(Located<String>, Vec<Located<String>>)>;

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

impl FromNode for Directives {
    const TYPE: &'static str = "table of directives";
    fn from_node(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            wrong_type(node, Self::TYPE, "{ MemoryMax = \"4G\" }", diagnostics);
            return None;
        };
        entries
            .iter()
            .filter(|(_, _, value)| value.value != Value::Null)
            .map(|(name, at, value)| {
                let items = match &value.value {
                    Value::Array(items) => items.as_slice(),
                    _ => std::slice::from_ref(value),
                };
                let values = items.iter().map(|item| directive_value(item, diagnostics));
                let name = Located { value: name.clone(), at: at.clone() };
                Some((name, values.collect::<Option<_>>()?))
            })
            .collect()
    }
}

/// A directive's value as a unit file has it.
fn directive_value(node: &Node, diagnostics: &mut Diagnostics) -> Option<Located<String>> {
    let value = match &node.value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        _ => {
            wrong_type(node, "string, number or boolean", "\"4G\"", diagnostics);
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
    /// How much the server logs.
    log_level: String, "logLevel", Kind::OneOf(LEVELS), default "\"INFO\"", example "\"WARN\"";
    /// Further arguments of `opencode serve`.
    extra_args: Vec<Located<String>>, "extraArgs", Kind::Texts, default "[]", example "[\"--pure\"]";
    /// Whether the instance starts at boot and when its declaration takes effect. When `false`,
    /// `opencode-instances start NAME` starts it.
    auto_start: bool, "autoStart", Kind::Flag, default "true", example "false";
    /// Whether `apply` and `nixos-rebuild switch` restart the server when its units changed. When
    /// `false` the agent goes on as it was started, `status` says `pending restart`, and
    /// `opencode-instances restart NAME` ends that. A changed listener or policy takes effect anyway,
    /// and a change of user, groups, directories, `auth` or `nix.enable` is never put off.
    restart_on_switch: bool, "restartOnSwitch", Kind::Flag, default "true", example "false";
    /// Whether the server asks for a password. Unless `auth.passwordFile` names one it is made once,
    /// readable by root alone; it is handed over as a systemd credential and shown by
    /// `opencode-instances url NAME`.
    auth_enable: bool, "auth.enable", Kind::Flag, default "true", example "false";
    /// A file that holds the password, instead of one that is made. systemd reads it when the server
    /// starts. It must be root's, not readable by everybody, and only root may be able to replace it.
    auth_password_file: String, "auth.passwordFile", Kind::SecretPath, default "none", example "\"/run/secrets/website\"";
    /// Whether the agent can use the host's Nix daemon: its socket, and all of `/nix/store` instead
    /// of what the instance needs. The daemon runs the agent's programs in the host's network, where
    /// they reach every listener of the host, and everything in the store can be read.
    nix_enable: bool, "nix.enable", Kind::Flag, default "false", example "true";
    /// Whether programs that were not built for NixOS find a dynamic loader (`nix-ld`), such as
    /// downloaded language servers. NixOS only.
    nix_ld_enable: bool, "nixLd.enable", Kind::Flag, default "false", example "true";
    /// Directives of `opencode-NAME.service`, the server. Each one replaces what the unit says of it,
    /// all of its lines; a list gives several lines. Refused where the isolation rests on it or an
    /// option says it, and warned of unless it is known to be harmless, as resources and times are.
    overrides_main: Directives, "unitOverrides.main", Kind::Directives, default "{}", example "{ \"MemoryMax\" = \"4G\" }";
    /// Directives of `opencode-setup@NAME.service`, as in `unitOverrides.main`.
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

/// A whole document as typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawSpec {
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
            "defaults" => raw.defaults = instance(value, diagnostics),
            "instances" => {
                for (name, at, options) in table(value, diagnostics).unwrap_or_default() {
                    raw.instances.push(RawNamed {
                        name: Located { value: name.clone(), at: at.clone() },
                        options: instance(options, diagnostics),
                    });
                }
            }
            _ => unknown_key(key, at, &["defaults", "instances"], diagnostics),
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

fn instance(node: &Node, diagnostics: &mut Diagnostics) -> RawInstance {
    let mut raw = RawInstance::default();
    group(node, "", &mut raw, diagnostics);
    raw
}

/// Decodes the options below `prefix`, a group such as `listen`, or all of them for "". What is
/// `null` is not set: generated JSON has nulls.
fn group(node: &Node, prefix: &str, raw: &mut RawInstance, diagnostics: &mut Diagnostics) {
    let Some(entries) = table(node, diagnostics) else {
        let keys = OPTIONS.iter().map(|option| option.key);
        raw.mistyped.extend(keys.filter(|key| is_below(key, prefix)));
        return;
    };
    for (key, at, value) in entries {
        let path = join(prefix, key);
        let is_option = OPTIONS.iter().any(|option| option.key == path);
        if (is_option || is_group(&path)) && value.value == Value::Null {
            continue;
        }
        if is_option {
            raw.set(&path, value, diagnostics);
        } else if is_group(&path) {
            group(value, &path, raw, diagnostics);
        } else {
            unknown_key(key, at, &siblings(prefix), diagnostics);
        }
    }
}

fn is_group(path: &str) -> bool {
    OPTIONS.iter().any(|one| is_below(one.key, path))
}

/// Whether an option belongs to a group, or to all of them for "".
fn is_below(key: &str, group: &str) -> bool {
    group.is_empty() || key.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'))
}

/// The keys that may stand below `prefix`.
fn siblings(prefix: &str) -> Vec<&'static str> {
    let mut keys = Vec::new();
    for option in OPTIONS {
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
