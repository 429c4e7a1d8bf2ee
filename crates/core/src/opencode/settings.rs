//! Judges a configuration: all mistakes at once, each with its place and the smallest change that
//! would be taken.

use super::schema::Schema;
use super::{judge, rules};
use crate::json::Json;
use crate::node::join;

/// A step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// To the value of a key.
    Key(String),
    /// To an item of an array, counted from zero.
    Item(usize),
}

/// Something that opencode would refuse, or drop without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The value or key that is wrong, from the top of the settings. Where a key is missing, the
    /// table that lacks it.
    pub path: Vec<Step>,
    /// One line: what is wrong. Names the last key of the path.
    pub message: String,
    /// What would be right, for "expected …": `one of: ask, allow, deny`.
    pub expected: String,
    /// One line: the smallest change that would be accepted.
    pub help: String,
}

impl Mismatch {
    /// The path as diagnostics write it, below the path of the settings.
    pub fn below(&self, settings: &str) -> String {
        self.path.iter().fold(settings.to_owned(), |path, step| match step {
            Step::Key(key) => join(&path, key),
            Step::Item(index) => format!("{path}[{index}]"),
        })
    }
}

/// Judges settings by a schema, in the order in which they were typed.
///
/// A string with `{env:…}` or `{file:…}` stands for any string, since only opencode knows what
/// replaces them. It stands for nothing else: opencode replaces them inside the quotes.
pub fn validate(settings: &Json, schema: &Schema) -> Vec<Mismatch> {
    let mut found = rules::judge(settings);
    found.extend(judge::mismatches(settings, schema));
    found.sort_by_cached_key(|one| position(settings, &one.path));
    found
}

/// Where a path leads in the order of the text.
fn position(settings: &Json, path: &[Step]) -> Vec<usize> {
    let mut at = Some(settings);
    let mut position = Vec::new();
    for step in path {
        let (index, next) = match (at, step) {
            (Some(Json::Table(entries)), Step::Key(key)) => {
                let index = entries.iter().position(|(name, _)| name == key).unwrap_or(usize::MAX);
                (index, entries.get(index).map(|(_, value)| value))
            }
            (Some(Json::List(items)), Step::Item(index)) => (*index, items.get(*index)),
            _ => (usize::MAX, None),
        };
        position.push(index);
        at = next;
    }
    position
}

/// The last key of a path, with the items below it.
pub(super) fn name(path: &[Step]) -> String {
    let mut items = String::new();
    for step in path.iter().rev() {
        match step {
            Step::Item(index) => items.insert_str(0, &format!("[{index}]")),
            Step::Key(key) => return format!("{}{items}", join("", key)),
        }
    }
    "settings".to_owned()
}
