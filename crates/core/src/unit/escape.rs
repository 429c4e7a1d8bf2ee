//! The kinds of values that directives take, and how each is escaped.
//!
//! The rules were measured on systemd 257, and are read back from it in the tests: `BindPaths=` splits at `:` and
//! unquotes, `WorkingDirectory=` and `Assert…=` take the rest of the line, `ExecStart=` expands
//! `$`, `Environment=` does not, and all of them expand `%`. No value starts with a quote and none
//! ends in a backslash, because the parser of NixOS's `switch-to-configuration` would read it
//! differently from systemd.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::bound::BoundPath;
use crate::text::{AbsPath, Argument, DirectiveText};

/// What is assigned to a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `yes`.
    Yes,
    /// A number.
    Number(u64),
    /// A fixed word or list of words, taken as it is. Never operator's text: construct it with
    /// [`Value::word`] from a literal, or [`Value::words`] from names that cannot need escaping.
    Words(Cow<'static, str>),
    /// A path that takes the rest of the line (`WorkingDirectory=`, `AssertPathIsDirectory=`).
    Path(AbsPath),
    /// A path in a list (`RequiresMountsFor=`).
    ListedPath(AbsPath),
    /// A bind mount.
    Bind(Bind),
    /// A command line.
    Command(Command),
    /// One environment variable.
    Variable(Cow<'static, str>, String),
    /// `ID:PATH` of `LoadCredential=`.
    Credential(Cow<'static, str>, String),
    /// An operator's own text in systemd's syntax.
    Text(DirectiveText),
}

/// An entry of `BindPaths=` or `BindReadOnlyPaths=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: Cow<'static, str>,
    /// In the sandbox, where that is another place.
    pub target: Option<String>,
    /// Whether a missing source is passed over (`-`).
    pub optional: bool,
}

impl Bind {
    /// Of an operator's place.
    pub(crate) fn of(path: &BoundPath) -> Self {
        let target = (path.target != path.source).then(|| path.target.to_string());
        Self { source: Cow::Owned(path.source.to_string()), target, optional: path.optional }
    }
}

/// A command line of `Exec…=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// systemd's prefix characters, such as `+`.
    pub prefix: &'static str,
    /// The program and its arguments.
    pub argv: Vec<Word>,
}

/// A word of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Any text; nothing in it is expanded.
    Literal(String),
    /// A variable that systemd itself sets, such as `MAINPID`.
    Variable(&'static str),
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self::Literal(text.to_owned())
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self::Literal(text)
    }
}

impl From<&Argument> for Word {
    fn from(argument: &Argument) -> Self {
        Self::Literal(argument.as_str().to_owned())
    }
}

impl Value {
    /// A literal of this program.
    pub fn word(text: &'static str) -> Self {
        Self::Words(Cow::Borrowed(text))
    }

    /// Names (of units, users, groups, addresses), separated by spaces.
    pub fn words<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Self {
        let mut words = String::new();
        for name in names {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(name.as_ref());
        }
        Self::Words(Cow::Owned(words))
    }

    /// `source` at the same place in the sandbox.
    pub fn bind(source: &str) -> Self {
        let source = Cow::Owned(source.to_owned());
        Self::Bind(Bind { source, target: None, optional: false })
    }

    /// `source` at another place in the sandbox.
    pub fn bind_to(source: &str, target: &str) -> Self {
        let target = (target != source).then(|| target.to_owned());
        Self::Bind(Bind { source: Cow::Owned(source.to_owned()), target, optional: false })
    }

    /// A fixed place of the host at the same place in the sandbox, if it exists.
    pub fn bind_optional(source: &'static str) -> Self {
        Self::Bind(Bind { source: Cow::Borrowed(source), target: None, optional: true })
    }

    /// An environment variable.
    pub fn variable(name: &'static str, value: impl Into<String>) -> Self {
        Self::Variable(Cow::Borrowed(name), value.into())
    }

    /// A command line.
    pub fn command<W: Into<Word>>(argv: impl IntoIterator<Item = W>) -> Self {
        Self::Command(Command { prefix: "", argv: argv.into_iter().map(Into::into).collect() })
    }

    /// The text after the `=`.
    pub fn escaped(&self) -> String {
        let mut text = String::new();
        self.escape_into(&mut text);
        text
    }

    /// Appends the text after the `=`.
    pub(crate) fn escape_into(&self, out: &mut String) {
        match self {
            Self::Yes => out.push_str("yes"),
            Self::Number(number) => {
                let _ = write!(out, "{number}");
            }
            Self::Words(words) => out.push_str(words),
            Self::Path(path) => out.push_str(&specifiers(path.as_str())),
            Self::ListedPath(path) => push_quoted(out, path.as_str(), specifiers),
            Self::Bind(bind) => push_bind(out, bind),
            Self::Command(command) => push_command(out, command),
            Self::Variable(name, value) => {
                out.push_str(name);
                out.push('=');
                push_quoted(out, value, specifiers);
            }
            Self::Credential(id, path) => {
                out.push_str(id);
                out.push(':');
                out.push_str(&specifiers(path));
            }
            Self::Text(text) => out.push_str(text.as_str()),
        }
    }
}

/// `%` is systemd's mark for specifiers.
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// Nothing in it means anything to any directive. Almost every text is like that, and then it is
/// copied as it is.
fn is_plain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_');
    !text.is_empty() && text.bytes().all(plain)
}

/// Whether systemd's word splitting would take the text apart.
fn needs_quotes(text: &str) -> bool {
    let special = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ';' | '#');
    text.is_empty() || text.contains(special)
}

/// Appends a text that the directive's own `escape` has prepared, in quotes where systemd's word
/// splitting needs them. The quotes start after the first character, so that no value starts with
/// one.
fn push_quoted(out: &mut String, text: &str, escape: impl Fn(&str) -> String) {
    if is_plain(text) {
        return out.push_str(text);
    }
    let text = escape(text);
    if !needs_quotes(&text) {
        return out.push_str(&text);
    }
    let mut rest = text.chars();
    let first = text.chars().next().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '-'));
    if let Some(first) = first {
        out.push(first);
        rest.next();
    }
    out.push('"');
    for c in rest {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

fn push_bind(out: &mut String, bind: &Bind) {
    if bind.optional {
        out.push('-');
    }
    push_bound(out, &bind.source);
    if let Some(target) = &bind.target {
        out.push(':');
        push_bound(out, target);
    }
}

/// A colon separates only outside quotes, and inside them its backslash would stay.
fn push_bound(out: &mut String, path: &str) {
    let path = specifiers(path);
    if needs_quotes(&path) {
        push_quoted(out, &path, str::to_owned);
    } else {
        out.push_str(&path.replace(':', "\\:"));
    }
}

fn push_command(out: &mut String, command: &Command) {
    out.push_str(command.prefix);
    for (index, word) in command.argv.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        match word {
            Word::Variable(name) => {
                out.push('$');
                out.push_str(name);
            }
            Word::Literal(text) => {
                push_quoted(out, text, |text| specifiers(text).replace('$', "$$"));
            }
        }
    }
}
