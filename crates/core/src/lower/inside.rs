//! The options about an instance's inside: configuration, content, environment, secrets, scripts.

use super::Judge;
use crate::bound::is_below;
use crate::content::{Content, Kind, Source};
use crate::diagnostic::{Code, Diagnostic, Origin};
use crate::json::Json;
use crate::keys;
use crate::layout::{AUTH_ROOT, CONFIG_DIR, RUNTIME_DIR, STATE_ROOT};
use crate::node::{Node, Value};
use crate::raw::{Located, Named, OneOrMany, RawContent, RawContents, RawInstance, nearest};
use crate::spec::{AbsPath, Argument, Credential, InstanceName, Variable};
use crate::text::{Refusal, no_control};

/// The options of one instance that were judged here.
pub(super) struct Inside {
    pub(super) settings: Json,
    pub(super) enforced_settings: Json,
    pub(super) content: Vec<Content>,
    pub(super) environment: Vec<Variable>,
    pub(super) environment_file: Vec<AbsPath>,
    pub(super) credentials: Vec<Credential>,
}

impl Judge<'_> {
    pub(super) fn inside(&mut self, name: &InstanceName, raw: &RawInstance) -> Inside {
        let credentials = self.credentials(raw.credentials.as_ref());
        // Of defaults alone nobody knows which credentials the instances have.
        let known = (!self.alone && !raw.mistyped.contains("credentials"))
            .then(|| Known { name, credentials: &credentials });
        let settings = self.settings("settings", raw.settings.as_ref(), known.as_ref());
        let enforced =
            self.settings("enforcedSettings", raw.enforced_settings.as_ref(), known.as_ref());
        self.one_configuration(raw, &settings);
        Inside {
            settings,
            enforced_settings: enforced,
            content: self.content(raw),
            environment: self.environment(raw.environment.as_ref()),
            environment_file: self.environment_files(raw.environment_file.as_ref()),
            credentials,
        }
    }

    fn one_configuration(&mut self, raw: &RawInstance, settings: &Json) {
        let (Some(file), Some(typed)) = (&raw.config_file, &raw.settings) else { return };
        if settings.is_empty() {
            return;
        }
        let finding = Diagnostic::new(
            Code::TwoConfigurations,
            &file.at,
            "`configFile` and `settings` are both set",
            "this file would be the whole configuration",
            "remove one of the two; `settings = {}` takes back those of `[defaults]`",
        );
        self.refuse(finding.also(&typed.at, "this too"));
    }

    fn settings(
        &mut self,
        option: &str,
        typed: Option<&Located<Node>>,
        known: Option<&Known<'_>>,
    ) -> Json {
        let Some(typed) = typed else { return Json::default() };
        self.json(option, &typed.value, &mut Vec::new(), known).unwrap_or_default()
    }

    /// What a node says as JSON; `None` where it says nothing or is refused.
    fn json(
        &mut self,
        option: &str,
        node: &Node,
        way: &mut Vec<String>,
        known: Option<&Known<'_>>,
    ) -> Option<Json> {
        Some(match &node.value {
            Value::Null => return None,
            Value::Other(kind) => {
                self.refuse(Diagnostic::new(
                    Code::WrongType,
                    &node.at,
                    format!("`{}` has a value that JSON has not", node.at.path),
                    format!("this is a {kind}"),
                    "write it as a string, or as a number of at most 64 bits",
                ));
                return None;
            }
            Value::Boolean(flag) => Json::Boolean(*flag),
            Value::Integer(number) => Json::Integer(*number),
            Value::Float(number) => Json::Float(*number),
            Value::String(text) => {
                self.setting_text(text, &node.at, known);
                let key = way.last().map_or("", String::as_str);
                self.warn_of_key(option, key, text, &node.at);
                Json::Text(text.clone())
            }
            Value::Array(items) if is_ordered(way) => {
                let mut entries: Vec<(String, Json)> = Vec::new();
                for item in items {
                    let Some((key, at, value)) = self.one_entry(item) else { continue };
                    if entries.iter().any(|(other, _)| other == key) {
                        self.refuse(twice(key, at));
                        continue;
                    }
                    way.push(key.clone());
                    if let Some(value) = self.json(option, value, way, known) {
                        entries.push((key.clone(), value));
                    }
                    way.pop();
                }
                Json::Table(entries)
            }
            Value::Array(items) => Json::List(
                items.iter().filter_map(|item| self.json(option, item, way, known)).collect(),
            ),
            Value::Table(entries) => {
                let mut table = Vec::with_capacity(entries.len());
                for (key, _, value) in entries {
                    way.push(key.clone());
                    if let Some(value) = self.json(option, value, way, known) {
                        table.push((key.clone(), value));
                    }
                    way.pop();
                }
                Json::Table(table)
            }
        })
    }

    /// The one entry of a table in an ordered list.
    fn one_entry<'a>(&mut self, item: &'a Node) -> Option<&'a (String, Origin, Node)> {
        if let Value::Table(entries) = &item.value
            && let [entry] = entries.as_slice()
        {
            return Some(entry);
        }
        self.refuse(Diagnostic::new(
            Code::BadOrder,
            &item.at,
            format!("`{}` is no rule of an ordered list", item.at.path),
            "a table with one key is wanted here",
            "write one table for each rule, as in `[{ \"*\" = \"ask\" }, { \"git *\" = \"allow\" }]`",
        ));
        None
    }

    /// Refuses what the server would not find.
    fn setting_text(&mut self, text: &str, at: &Origin, known: Option<&Known<'_>>) {
        let Some(known) = known else { return };
        for name in marks(text, "{credential:") {
            if known.credentials.iter().all(|one| one.name != name) {
                let names: Vec<_> = known.credentials.iter().map(|one| one.name.as_str()).collect();
                let help = match nearest(name, &names) {
                    Some(near) => format!("did you mean `{{credential:{near}}}`?"),
                    None => format!(
                        "declare it, as in `credentials.{} = \"/run/secrets/key\"`",
                        if credential_name(name).is_ok() { name } else { "key" }
                    ),
                };
                let reason = "no credential has this name";
                let message = format!("`{{credential:{name}}}` names nothing");
                self.refuse(Diagnostic::new(Code::UnknownCredential, at, message, reason, help));
            }
        }
        for file in marks(text, "{file:") {
            let shown = known.credentials.iter().any(|one| known.path(&one.name) == file);
            if (file == "/run" || file.starts_with("/run/")) && !shown {
                self.refuse(Diagnostic::new(
                    Code::HiddenFile,
                    at,
                    format!("the server cannot read {file}"),
                    "the sandbox does not show it",
                    format!(
                        "declare `credentials.key = {file:?}` and write `{{credential:key}}` here"
                    ),
                ));
            }
        }
    }

    fn warn_of_key(&mut self, option: &str, name: &str, value: &str, at: &Origin) {
        if !keys::looks_like_one(name, value) {
            return;
        }
        let help = if option == "environment" {
            format!("move the line to a file and name that in `environmentFile`: {name}=…")
        } else {
            "move it to a file, name that in `credentials.NAME`, and write `{credential:NAME}` here"
                .to_owned()
        };
        self.diagnostics.push(Diagnostic::new(
            Code::KeyInSpecification,
            at,
            format!("`{}` looks like a secret", at.path),
            "everybody on the host can read it",
            help,
        ));
    }

    fn content(&mut self, raw: &RawInstance) -> Vec<Content> {
        let mut all = Vec::new();
        for (kind, typed) in [
            (Kind::Agents, &raw.agents),
            (Kind::Commands, &raw.commands),
            (Kind::Skills, &raw.skills),
            (Kind::Plugins, &raw.plugins),
        ] {
            self.contents(kind, typed.as_ref(), &mut all);
        }
        if let Some(typed) = &raw.instructions
            && let Some(source) = self.source("instructions", &typed.value)
        {
            all.push(Content { place: "AGENTS.md".to_owned(), source });
        }
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }

    fn contents(
        &mut self,
        kind: Kind,
        typed: Option<&Located<RawContents>>,
        all: &mut Vec<Content>,
    ) {
        let key = kind.key();
        for (name, content) in typed.map_or(&[][..], |typed| &typed.value) {
            let Some(source) = self.source(key, content) else { continue };
            match kind.place(&name.value, &source) {
                Ok(place) => all.push(Content { place, source }),
                Err(wanted) => self.refuse(Diagnostic::new(
                    Code::BadContentName,
                    &name.at,
                    format!("`{key}` cannot have the name {:?}", name.value),
                    format!("a name here is {wanted}"),
                    format!("rename it, as in `{key}.{}`", example_of(kind)),
                )),
            }
        }
    }

    fn source(&mut self, option: &str, typed: &RawContent) -> Option<Source> {
        match typed {
            RawContent::Text(text) => {
                let judged = lines(&text.value).and_then(no_path).map(Source::Text);
                self.take(&text.at, &format!("the text of `{option}`"), judged)
            }
            RawContent::File(path) => {
                let what = format!("`{option}` {:?}", path.value);
                let judged = AbsPath::new(&path.value).and_then(shown).map(Source::File);
                self.take(&path.at, &what, judged)
            }
        }
    }

    fn environment(&mut self, typed: Option<&Located<Named>>) -> Vec<Variable> {
        let mut variables = Vec::new();
        for (name, value) in typed.map_or(&[][..], |typed| &typed.value) {
            let what = format!("the variable {:?}", name.value);
            let legal = self.take(&name.at, &what, variable_name(&name.value));
            let what = format!("the value of `{}`", name.value);
            let text = self.take(&value.at, &what, Argument::new(&value.value));
            self.warn_of_key("environment", &name.value, &value.value, &value.at);
            if let (Some(()), Some(value)) = (legal, text) {
                variables.push(Variable { name: name.value.clone(), value });
            }
        }
        variables
    }

    fn environment_files(&mut self, typed: Option<&Located<OneOrMany>>) -> Vec<AbsPath> {
        let files = typed.map_or(&[][..], |typed| &typed.value.0);
        let judge = |file: &Located<String>| {
            let what = format!("`environmentFile` {:?}", file.value);
            let path = AbsPath::new(&file.value).and_then(secret).and_then(no_pattern);
            self.take(&file.at, &what, path)
        };
        files.iter().filter_map(judge).collect()
    }

    fn credentials(&mut self, typed: Option<&Located<Named>>) -> Vec<Credential> {
        let mut credentials = Vec::new();
        for (name, file) in typed.map_or(&[][..], |typed| &typed.value) {
            let what = format!("the credential {:?}", name.value);
            let legal = self.take(&name.at, &what, credential_name(&name.value));
            let what = format!("`credentials.{}` {:?}", name.value, file.value);
            let path = self.take(&file.at, &what, AbsPath::new(&file.value).and_then(secret));
            if let (Some(()), Some(file)) = (legal, path) {
                credentials.push(Credential { name: name.value.clone(), file });
            }
        }
        credentials.sort_by(|a, b| a.name.cmp(&b.name));
        credentials
    }
}

/// What the text of a setting may refer to.
struct Known<'a> {
    name: &'a InstanceName,
    credentials: &'a [Credential],
}

impl Known<'_> {
    fn path(&self, credential: &str) -> String {
        crate::config::credential_path(self.name, credential)
    }
}

fn twice(key: &str, at: &Origin) -> Diagnostic {
    Diagnostic::new(
        Code::DuplicateKey,
        at,
        format!("the rule {key:?} stands twice"),
        "second rule",
        "remove one of the two: the last rule that matches is the one that counts",
    )
}

/// Where the order of a table has a meaning, and a list of tables with one key each keeps it: the
/// last rule that matches counts. No list can stand there otherwise.
fn is_ordered(way: &[String]) -> bool {
    let way: Vec<&str> = way.iter().map(String::as_str).collect();
    let of_agent = match way.as_slice() {
        ["agent" | "agents" | "mode", _, rest @ ..] | rest => rest,
    };
    matches!(of_agent, ["permission" | "tools"] | ["permission", _])
}

/// What stands in `{credential:…}` or `{file:…}`.
fn marks<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(mark).skip(1).filter_map(|rest| rest.split_once('}')).map(|(inner, _)| inner.trim())
}

fn example_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Agents | Kind::Commands | Kind::Skills => "review",
        Kind::Plugins => "\"notify.js\"",
    }
}

/// A text of lines: scripts and Markdown have line ends and tabs.
pub(super) fn lines(text: &str) -> Result<String, Refusal> {
    no_control(&text.replace(['\n', '\t'], " "))?;
    Ok(text.to_owned())
}

/// A content that is nothing but a path is one that was meant to be read.
fn no_path(text: String) -> Result<String, Refusal> {
    let line = text.trim();
    if !line.starts_with('/') || line.contains(char::is_whitespace) {
        return Ok(text);
    }
    Err(Refusal {
        code: Code::PathAsText,
        reason: "this would be the text itself".to_owned(),
        help: format!("write `{{ file = {line:?} }}`"),
    })
}

/// A script says something.
pub(super) fn script(text: &str) -> Result<String, Refusal> {
    let text = lines(text)?;
    if text.trim().is_empty() {
        return Err(Refusal {
            code: Code::EmptyScript,
            reason: "it has no command".to_owned(),
            help: "remove the line".to_owned(),
        });
    }
    Ok(text)
}

/// What HTTP's Basic authentication can send.
pub(super) fn username(text: &str) -> Result<Argument, Refusal> {
    if text.is_empty() || text.contains(':') || text.len() > 255 {
        return Err(Refusal {
            code: Code::BadUsername,
            reason: "HTTP sends name and password with a colon between them".to_owned(),
            help: "write a name without colons of 1 to 255 bytes, such as `opencode`".to_owned(),
        });
    }
    Argument::new(text)
}

/// A file or directory of the operator's that the sandbox shows read-only.
pub(super) fn shown(path: AbsPath) -> Result<AbsPath, Refusal> {
    const HIDDEN: &[(&str, &str)] = &[
        ("/dev", "the host's devices"),
        ("/proc", "the kernel's interfaces"),
        ("/root", "root's own home, which the sandbox hides"),
        ("/run", "run-time files and secrets of the host"),
        ("/sys", "the kernel's interfaces"),
        ("/tmp", "hidden by the sandbox's own /tmp"),
        ("/var/tmp", "hidden by the sandbox's own /var/tmp"),
        (AUTH_ROOT, "passwords"),
        (CONFIG_DIR, "the engine's own"),
        (STATE_ROOT, "the agents' own"),
    ];
    let text = path.as_str();
    let reason = if text.matches('/').count() < 2 || ["/nix/store"].contains(&text) {
        Some("this holds more than one file of yours")
    } else {
        HIDDEN.iter().find(|(root, _)| is_below(text, root)).map(|(_, reason)| *reason)
    };
    match reason {
        None => Ok(path),
        Some(reason) => Err(Refusal {
            code: Code::ProtectedPath,
            reason: reason.to_owned(),
            help: "put the file where only root writes, for example below `/etc/opencode`"
                .to_owned(),
        }),
    }
}

/// Everybody can read the store, and what belongs to instances is theirs.
pub(super) fn secret(path: AbsPath) -> Result<AbsPath, Refusal> {
    let text = path.as_str();
    if text == "/nix/store" || text.starts_with("/nix/store/") {
        return Err(Refusal {
            code: Code::SecretInStore,
            reason: "everybody can read the store".to_owned(),
            help: "name a file outside it, for example `/run/secrets/opencode`".to_owned(),
        });
    }
    let of_engine = [AUTH_ROOT, CONFIG_DIR, RUNTIME_DIR, STATE_ROOT];
    if of_engine.iter().any(|root| text.starts_with(&format!("{root}/"))) {
        return Err(Refusal {
            code: Code::ProtectedPath,
            reason: "what lies here belongs to an instance".to_owned(),
            help: "name a file elsewhere, for example below `/etc/opencode-secrets`".to_owned(),
        });
    }
    Ok(path)
}

/// systemd takes patterns for `EnvironmentFile=`.
fn no_pattern(path: AbsPath) -> Result<AbsPath, Refusal> {
    if path.as_str().contains(['*', '?', '[']) {
        return Err(Refusal {
            code: Code::PathNotBindable,
            reason: "systemd reads `*`, `?` and `[` here as a pattern".to_owned(),
            help: "rename the file, or list each file by its name".to_owned(),
        });
    }
    Ok(path)
}

/// Variables that an option says, that systemd says, or that carry a guarantee; and what to do
/// instead.
const RESERVED: &[(&str, &str)] = &[
    ("BUN_BE_BUN", OF_BUN),
    ("BUN_INSPECT", OF_BUN),
    ("BUN_INSPECT_PRELOAD", "`enforcedSettings` and `trustProject` rest on it"),
    ("CREDENTIALS_DIRECTORY", OF_SYSTEMD),
    ("HOME", "use `stateDir`"),
    ("INVOCATION_ID", OF_SYSTEMD),
    ("JOURNAL_STREAM", OF_SYSTEMD),
    ("MAINPID", OF_SYSTEMD),
    ("NODE_PATH", "the server would run code that it finds there"),
    ("NOTIFY_SOCKET", OF_SYSTEMD),
    ("OPENCODE_CONFIG", SETTINGS),
    ("OPENCODE_CONFIG_CONTENT", SETTINGS),
    ("OPENCODE_CONFIG_DIR", "use `agents`, `commands`, `skills`, `plugins` and `settings`"),
    ("OPENCODE_DB", "by its database setup knows a state that is in use"),
    ("OPENCODE_DISABLE_PROJECT_CONFIG", "use `trustProject`"),
    ("OPENCODE_PASSWORD", "use `auth.passwordFile`"),
    ("OPENCODE_PERMISSION", "use `enforcedSettings.permission`"),
    ("OPENCODE_PURE", "`enforcedSettings` and `trustProject` rest on a plugin"),
    ("OPENCODE_SERVER_PASSWORD", "use `auth.passwordFile`"),
    ("OPENCODE_SERVER_USERNAME", "use `auth.username`"),
    ("OPENCODE_TEST_MANAGED_CONFIG_DIR", "`enforcedSettings` rests on it"),
    ("PATH", "use `path`"),
    ("STATE_DIRECTORY", OF_SYSTEMD),
    ("XDG_CACHE_HOME", OF_HOME),
    ("XDG_CONFIG_HOME", OF_HOME),
    ("XDG_DATA_HOME", OF_HOME),
    ("XDG_STATE_HOME", OF_HOME),
];

const OF_BUN: &str = "it turns the server into another program";
const OF_SYSTEMD: &str = "systemd says it to the supervisor";
const OF_HOME: &str = "everything of the instance's is below `stateDir`";
const SETTINGS: &str = "use `settings`, or `enforcedSettings` for what must hold";

fn variable_name(name: &str) -> Result<(), Refusal> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !begins || !name.bytes().all(legal) {
        return Err(Refusal {
            code: Code::BadVariable,
            reason: "a letter or underscore, then letters, digits and underscores".to_owned(),
            help: "rename it, as in `EDITOR`".to_owned(),
        });
    }
    let of_systemd = name.starts_with("LISTEN_") || name.starts_with("WATCHDOG_");
    let instead = RESERVED.iter().find(|(reserved, _)| *reserved == name).map(|(_, words)| *words);
    match instead.or(of_systemd.then_some(OF_SYSTEMD)) {
        None => Ok(()),
        Some(instead) => Err(Refusal {
            code: Code::ReservedVariable,
            reason: "the instance rests on this variable".to_owned(),
            help: format!("remove it: {instead}"),
        }),
    }
}

fn credential_name(name: &str) -> Result<(), Refusal> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !begins || !name.bytes().all(legal) || name.len() > 64 || name == "password" {
        return Err(Refusal {
            code: Code::BadCredential,
            reason: "letters, digits, `_`, `-` and `.`, 64 at most; `password` is the server's own"
                .to_owned(),
            help: "rename it, as in `credentials.anthropic`".to_owned(),
        });
    }
    Ok(())
}
