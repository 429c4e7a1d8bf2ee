//! What was typed, before anything is judged: every option optional, every value with its place.
//!
//! The one list of options stands here, in `options!`. From it come the decoder, the merge with
//! `[defaults]`, the reference in `docs/options.md` and the test that no default is inert.

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
    /// The type as diagnostics and the reference say it.
    pub type_name: &'static str,
    /// The value where neither the instance nor `[defaults]` says anything, as TOML or in words.
    pub default: &'static str,
    /// A value that differs from the default, as TOML.
    pub example: &'static str,
    /// What it does, in Markdown.
    pub doc: &'static str,
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

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty, $key:literal, default $default:literal, example $example:literal;)*) => {
        /// The options of one instance, or of `[defaults]`, as typed.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct RawInstance {
            $($(#[doc = $doc])+ pub $field: Option<Located<$type>>,)*
        }

        /// Every option, in the order of the reference.
        pub const OPTIONS: &[OptionDoc] = &[$(OptionDoc {
            key: $key,
            type_name: <$type as FromNode>::TYPE,
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
                    })*
                    _ => {}
                }
            }

            /// What stands here, and `defaults` wherever nothing stands here.
            #[must_use]
            pub fn or(&self, defaults: &Self) -> Self {
                Self { $($field: self.$field.clone().or_else(|| defaults.$field.clone()),)* }
            }
        }
    };
}

options! {
    /// Whether the instance exists on the host. `false` removes its units and keeps its state.
    enable: bool, "enable", default "true", example "false";
    /// The project: the one place outside `stateDir` that the agent may write to. It must exist and
    /// the instance's user must be able to enter it; it is never created or changed by `apply`.
    directory: String, "directory", default "required", example "\"/srv/website\"";
    /// The instance's HOME: sessions, database, configuration and caches. Created by systemd with
    /// mode 0700; never removed.
    state_dir: String, "stateDir", default "`/var/lib/opencode/instance-state/NAME`", example "\"/data/opencode/website\"";
    /// The user that the server and the agent run as. The default user is created; a user named here
    /// must exist.
    user: String, "user", default "`opencode-NAME`", example "\"website\"";
    /// The user's group. The default group is created; a group named here must exist.
    group: String, "group", default "`opencode-NAME`", example "\"website\"";
    /// Further groups of the server and the agent, for projects that a group may write to.
    extra_groups: Vec<Located<String>>, "extraGroups", default "[]", example "[\"www-data\"]";
    /// The opencode binary, or the prefix whose `bin/opencode` it is.
    package: String, "package", default "\"/usr/bin/opencode\"", example "\"/opt/opencode-1.18.33\"";
    /// The host's IP address that clients connect to. Anything but a loopback address needs
    /// `auth.enable`.
    listen_address: String, "listen.address", default "\"127.0.0.1\"", example "\"::1\"";
    /// The host's TCP port that clients connect to, and the server's port inside its namespace.
    listen_port: i64, "listen.port", default "4096", example "4101";
    /// How much the server logs: `DEBUG`, `INFO`, `WARN` or `ERROR`.
    log_level: String, "logLevel", default "\"INFO\"", example "\"WARN\"";
    /// Further arguments of `opencode serve`.
    extra_args: Vec<Located<String>>, "extraArgs", default "[]", example "[\"--pure\"]";
    /// Whether the instance starts at boot and with `apply`. When `false`, `opencode-instances start
    /// NAME` starts it.
    auto_start: bool, "autoStart", default "true", example "false";
    /// Whether the server asks for a password. It is made once, readable by root alone, handed over
    /// as a systemd credential, and shown by `opencode-instances url NAME`.
    auth_enable: bool, "auth.enable", default "true", example "false";
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

/// Decodes the options below `prefix`, a group such as `listen`, or all of them for "".
fn group(node: &Node, prefix: &str, raw: &mut RawInstance, diagnostics: &mut Diagnostics) {
    for (key, at, value) in table(node, diagnostics).unwrap_or_default() {
        let path = join(prefix, key);
        if OPTIONS.iter().any(|option| option.key == path) {
            raw.set(&path, value, diagnostics);
        } else if is_group(&path) {
            group(value, &path, raw, diagnostics);
        } else {
            unknown_key(key, at, &siblings(prefix), diagnostics);
        }
    }
}

fn is_group(path: &str) -> bool {
    OPTIONS.iter().any(|one| one.key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
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
        let mut diagnostics = Diagnostics::new();
        let node = parse(text, Format::Toml, &mut diagnostics);
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
    fn wrong_types_are_all_reported() {
        let (_, found) = decoded("[instances.a]\nenable = 1\nlisten = 3\nextraArgs = [1]\n");
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|one| one.code == Code::WrongType));
    }
}
