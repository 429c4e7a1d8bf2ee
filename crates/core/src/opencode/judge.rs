//! Holds values against a schema, and says what a person would say.

use std::cmp::Reverse;

use super::expectation::{choices, describe, takes};
use super::placeholder::{Placeholders, placeholders};
use super::rules;
use super::schema::{Kind, Others, Part, Schema};
use super::settings::{Mismatch, Step, name};
use crate::json::Json;
use crate::raw::nearest;

/// The greatest integer that opencode takes for one: JavaScript cannot tell greater ones apart.
const SAFE_INTEGER: i64 = (1 << 53) - 1;

/// How a value is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Its type is.
    Type,
    /// Its type is right.
    Value,
    /// It lacks a key.
    Missing,
    /// Its key is not known.
    Unknown,
}

#[derive(Debug)]
struct Flaw {
    fault: Fault,
    mismatch: Mismatch,
}

impl Flaw {
    fn is_at(&self, path: &[Step]) -> bool {
        self.mismatch.path == path
    }

    /// Whether the value at the path itself is what is wrong.
    fn is_about(&self, path: &[Step]) -> bool {
        matches!(self.fault, Fault::Type | Fault::Value) && self.is_at(path)
    }
}

/// What the schema does not take.
pub(super) fn mismatches(settings: &Json, schema: &Schema) -> Vec<Mismatch> {
    let mut judge = Judge { schema, path: Vec::new() };
    let flaws = judge.flaws(settings, schema.root());
    flaws.into_iter().map(|flaw| flaw.mismatch).collect()
}

struct Judge<'a> {
    schema: &'a Schema,
    /// Where the value is that is being judged.
    path: Vec<Step>,
}

impl<'a> Judge<'a> {
    fn flaws(&mut self, value: &Json, part: &'a Part) -> Vec<Flaw> {
        if part.kind.is_some_and(|kind| !is_of(value, kind)) {
            return vec![self.wrong(Fault::Type, value, part)];
        }
        if !part.values.is_empty() && !part.values.contains(value) && !is_replaced(value) {
            return vec![self.wrong(Fault::Value, value, part)];
        }
        let mut flaws = match value {
            Json::Boolean(_) => Vec::new(),
            Json::Integer(number) => self.number(as_javascript(*number), value, part),
            Json::Float(number) => self.number(*number, value, part),
            Json::Text(text) => {
                let wrong = part.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(text));
                let wrong = wrong && !is_replaced(value);
                wrong.then(|| self.wrong(Fault::Value, value, part)).into_iter().collect()
            }
            Json::List(items) => self.items(items, value, part),
            Json::Table(entries) => self.entries(entries, part),
        };
        if !part.any_of.is_empty() {
            flaws.extend(self.alternatives(value, part));
        }
        flaws
    }

    fn below(&mut self, step: Step, value: &Json, part: &'a Part) -> Vec<Flaw> {
        self.path.push(step);
        let flaws = self.flaws(value, part);
        self.path.pop();
        flaws
    }

    fn number(&self, number: f64, value: &Json, part: &Part) -> Vec<Flaw> {
        let unsafe_integer =
            part.kind == Some(Kind::Integer) && number.abs() > as_javascript(SAFE_INTEGER);
        let wrong = part.at_least.is_some_and(|limit| number < as_javascript(limit))
            || part.at_most.is_some_and(|limit| number > as_javascript(limit))
            || part.more_than.is_some_and(|limit| number <= as_javascript(limit));
        if unsafe_integer {
            let at_least = part.at_least.unwrap_or(match part.more_than {
                Some(limit) => limit.saturating_add(1),
                None => -SAFE_INTEGER,
            });
            let at_most = part.at_most.unwrap_or(SAFE_INTEGER);
            let bounded = Part { at_least: Some(at_least), at_most: Some(at_most), ..part.clone() };
            return vec![self.wrong(Fault::Value, value, &bounded)];
        }
        wrong.then(|| self.wrong(Fault::Value, value, part)).into_iter().collect()
    }

    fn items(&mut self, items: &[Json], value: &Json, part: &'a Part) -> Vec<Flaw> {
        let wrong = part.min_items.is_some_and(|least| items.len() < least)
            || part.max_items.is_some_and(|most| items.len() > most);
        if wrong {
            return vec![self.wrong(Fault::Value, value, part)];
        }
        let mut flaws = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if let Some(id) = part.first.get(index).copied().or(part.items) {
                flaws.extend(self.below(Step::Item(index), item, self.schema.part(id)));
            }
        }
        flaws
    }

    fn entries(&mut self, entries: &[(String, Json)], part: &'a Part) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        for key in &part.required {
            if !entries.iter().any(|(name, _)| name == key) {
                flaws.push(self.missing(key, part));
            }
        }
        for (key, value) in entries {
            let id = match (part.property(key), part.others) {
                (Some(id), _) | (None, Others::Follow(id)) => id,
                (None, Others::Any) => continue,
                (None, Others::None) => {
                    flaws.push(unknown(&self.path, key, &part.keys()));
                    continue;
                }
            };
            flaws.extend(self.below(Step::Key(key.clone()), value, self.schema.part(id)));
        }
        flaws
    }

    /// The flaws of the alternative that was meant, as far as can be told; none if one fits.
    fn alternatives(&mut self, value: &Json, part: &'a Part) -> Vec<Flaw> {
        let mut all = Vec::new();
        for id in &part.any_of {
            let branch = self.schema.part(*id);
            let flaws = self.flaws(value, branch);
            if flaws.is_empty() {
                return flaws;
            }
            all.push(Branch { part: branch, flaws });
        }
        let path = &self.path;
        all.retain(|branch| {
            !branch.flaws.iter().any(|flaw| flaw.fault == Fault::Type && flaw.is_at(path))
        });
        if let Some((key, found)) = self.named_by(&all, value) {
            let names: Vec<Json> =
                all.iter().filter_map(|branch| self.constant(branch, key)).cloned().collect();
            if !names.contains(found) {
                let among = Part { values: names, ..Part::default() };
                self.path.push(Step::Key(key.to_owned()));
                let flaw = self.wrong(Fault::Value, found, &among);
                self.path.pop();
                return vec![flaw];
            }
            all.retain(|branch| self.constant(branch, key) == Some(found));
        }
        let known: Vec<&str> = all.iter().flat_map(|branch| branch.part.keys()).collect();
        // Of two that lack as much, the one that says more is meant rather than a mere switch.
        let rank =
            |branch: &Branch<'_>| (branch.flaws.len(), Reverse(branch.part.properties.len()));
        let Some(best) = all.into_iter().min_by_key(rank) else {
            return vec![self.wrong(Fault::Type, value, part)];
        };
        if best.flaws.iter().all(|flaw| flaw.is_about(&self.path)) {
            return vec![self.wrong(Fault::Value, value, part)];
        }
        let suggest = |flaw: Flaw| match (flaw.fault, flaw.mismatch.path.split_last()) {
            // A key of another alternative is no misspelling.
            (Fault::Unknown, Some((Step::Key(key), table)))
                if table == self.path
                    && !known.contains(&key.as_str())
                    && nearest(key, &known).is_some() =>
            {
                unknown(table, key, &known)
            }
            _ => flaw,
        };
        best.flaws.into_iter().map(suggest).collect()
    }

    /// The key that tells the alternatives apart, with its value: each that has it has one string
    /// for it.
    fn named_by<'v>(&self, among: &[Branch<'_>], value: &'v Json) -> Option<(&'v str, &'v Json)> {
        let Json::Table(entries) = value else { return None };
        let tells = |key: &str| {
            let mut having =
                among.iter().filter(|branch| branch.part.property(key).is_some()).peekable();
            having.peek().is_some() && having.all(|branch| self.constant(branch, key).is_some())
        };
        let found = entries.iter().find(|(key, value)| !is_replaced(value) && tells(key));
        found.map(|(key, value)| (key.as_str(), value))
    }

    /// The only string that a key may have.
    fn constant(&self, branch: &Branch<'_>, key: &str) -> Option<&'a Json> {
        match self.schema.part(branch.part.property(key)?).values.as_slice() {
            [only @ Json::Text(_)] => Some(only),
            _ => None,
        }
    }

    /// A value that the schema does not take.
    fn wrong(&self, fault: Fault, value: &Json, part: &Part) -> Flaw {
        let expected = describe(self.schema, part);
        let name = name(&self.path);
        let message = match (fault, value) {
            (Fault::Value, Json::Text(text)) => format!("`{name}` is {}", quoted(text)),
            (Fault::Value, Json::Boolean(flag)) => format!("`{name}` is {flag}"),
            (Fault::Value, Json::Integer(number)) => format!("`{name}` is {number}"),
            (Fault::Value, Json::Float(number)) => format!("`{name}` is {number:?}"),
            (Fault::Value, Json::List(items)) if items.len() == 1 => {
                format!("`{name}` has 1 item")
            }
            (Fault::Value, Json::List(items)) => format!("`{name}` has {} items", items.len()),
            _ => format!("`{name}` is {}", type_name(value)),
        };
        let help = self.remedy(value, part, &expected);
        let path = self.path.clone();
        Flaw { fault, mismatch: Mismatch { path, message, expected, help } }
    }

    /// The smallest change to a value.
    fn remedy(&self, value: &Json, part: &Part, expected: &str) -> String {
        let takes = |kind| takes(self.schema, part, kind);
        match value {
            Json::Text(text) => {
                if let Some(near) = nearest(text, &choices(self.schema, part)) {
                    return format!("did you mean `{near}`?");
                }
                if is_replaced(value) {
                    return format!("write {expected}; what replaces a placeholder stays a string");
                }
                let flag = text.parse::<bool>().is_ok() && takes(Kind::Boolean);
                let integer = text.parse::<i64>().is_ok() && takes(Kind::Integer);
                let number = text.parse::<f64>().is_ok_and(f64::is_finite) && takes(Kind::Number);
                if flag || integer || number {
                    return "write it without quotes".to_owned();
                }
            }
            Json::Boolean(_) | Json::Integer(_) | Json::Float(_) if takes(Kind::String) => {
                return "write it in quotes".to_owned();
            }
            _ => {}
        }
        let item = part.items.filter(|_| !matches!(value, Json::List(_)));
        if item.is_some_and(|id| self::takes(self.schema, self.schema.part(id), kind_of(value))) {
            return "write it in brackets, as an array of one".to_owned();
        }
        match expected.strip_prefix("one of: ") {
            Some(_) => format!("use {expected}"),
            None => format!("write {expected}"),
        }
    }

    fn missing(&self, key: &str, part: &Part) -> Flaw {
        let message = format!("`{}` has no `{key}`", name(&self.path));
        let wanted = part.property(key).map(|id| describe(self.schema, self.schema.part(id)));
        let help = match wanted {
            Some(only) if only.starts_with('`') => format!("add `{key}` with the value {only}"),
            Some(kind) => format!("add `{key}`, {kind}"),
            None => format!("add `{key}`"),
        };
        let (path, expected) = (self.path.clone(), format!("the key `{key}`"));
        Flaw { fault: Fault::Missing, mismatch: Mismatch { path, message, expected, help } }
    }
}

/// One of several alternatives, and what speaks against it.
struct Branch<'a> {
    part: &'a Part,
    flaws: Vec<Flaw>,
}

/// A key that a table may not have.
fn unknown(table: &[Step], key: &str, known: &[&str]) -> Flaw {
    let help = if rules::belongs_to_tui(key) && table.is_empty() {
        "remove it; opencode reads it from `tui.json`, which the server does not use".to_owned()
    } else if placeholders(key) != Placeholders::None {
        "write the key itself, so that its value can be checked".to_owned()
    } else {
        match nearest(key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("remove it, or use one of: {}", known.join(", ")),
        }
    };
    let path = [table, &[Step::Key(key.to_owned())]].concat();
    let message = format!("opencode has no key {} here", quoted(key));
    let expected = "a key that opencode knows".to_owned();
    Flaw { fault: Fault::Unknown, mismatch: Mismatch { path, message, expected, help } }
}

/// Whether a value is a string that opencode makes another one of.
fn is_replaced(value: &Json) -> bool {
    matches!(value, Json::Text(text) if placeholders(text) == Placeholders::Some)
}

/// A number as opencode reads it.
#[expect(clippy::cast_precision_loss, reason = "JavaScript loses it, too")]
fn as_javascript(number: i64) -> f64 {
    number as f64
}

fn is_of(value: &Json, kind: Kind) -> bool {
    match (kind, value) {
        (Kind::Integer, Json::Float(number)) => number.fract() == 0.0,
        (Kind::Number, Json::Integer(_)) => true,
        _ => kind == kind_of(value),
    }
}

fn kind_of(value: &Json) -> Kind {
    match value {
        Json::Boolean(_) => Kind::Boolean,
        Json::Integer(_) => Kind::Integer,
        Json::Float(_) => Kind::Number,
        Json::Text(_) => Kind::String,
        Json::List(_) => Kind::Array,
        Json::Table(_) => Kind::Object,
    }
}

/// A value's type, as its author knows it.
fn type_name(value: &Json) -> &'static str {
    match kind_of(value) {
        Kind::Boolean => "a boolean",
        Kind::Integer => "an integer",
        Kind::Number => "a float",
        Kind::String => "a string",
        Kind::Array => "an array",
        Kind::Object => "a table",
    }
}

/// A text of the configuration inside a message, on one line and not too long.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{dots}`", short.escape_debug())
}
