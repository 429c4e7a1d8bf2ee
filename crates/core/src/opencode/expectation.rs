//! What a schema expects of a value, in words.

use super::schema::{Kind, Others, Part, Schema};
use crate::json::Json;

/// How deep alternatives are looked into for words; those of opencode nest twice.
const MAX_DEPTH: usize = 4;

/// What a schema takes, for "expected …": ``a boolean or `notify` ``, `one of: ask, allow, deny`.
pub(super) fn describe(schema: &Schema, part: &Part) -> String {
    let mut words = Words::default();
    words.add(schema, part);
    words.join()
}

/// The strings that a schema takes, if it lists them.
pub(super) fn choices<'a>(schema: &'a Schema, part: &'a Part) -> Vec<&'a str> {
    let mut found = Vec::new();
    for plain in alternatives(schema, part) {
        found.extend(plain.values.iter().filter_map(|value| match value {
            Json::Text(text) => Some(text.as_str()),
            _ => None,
        }));
    }
    found
}

/// Whether a schema takes every value of a type, as far as the type says.
pub(super) fn takes(schema: &Schema, part: &Part, kind: Kind) -> bool {
    alternatives(schema, part).iter().any(|plain| {
        plain.values.is_empty()
            && plain.pattern.is_none()
            && plain.kind.is_none_or(|taken| {
                taken == kind || (taken == Kind::Number && kind == Kind::Integer)
            })
    })
}

/// The alternatives that have none themselves.
fn alternatives<'a>(schema: &'a Schema, part: &'a Part) -> Vec<&'a Part> {
    let mut found = Vec::new();
    let mut rest = vec![(part, 0)];
    while let Some((part, depth)) = rest.pop() {
        if part.any_of.is_empty() {
            found.push(part);
        } else if depth < MAX_DEPTH {
            rest.extend(part.any_of.iter().rev().map(|id| (schema.part(*id), depth + 1)));
        }
    }
    found
}

/// The alternatives, each once: values by their names, the others by their types.
#[derive(Default)]
struct Words {
    values: Vec<String>,
    kinds: Vec<String>,
}

impl Words {
    fn add(&mut self, schema: &Schema, part: &Part) {
        for plain in alternatives(schema, part) {
            let (list, words) = if plain.values.is_empty() {
                (&mut self.kinds, vec![kind(schema, plain)])
            } else {
                (&mut self.values, plain.values.iter().map(plainly).collect())
            };
            for word in words {
                if !list.contains(&word) {
                    list.push(word);
                }
            }
        }
    }

    fn join(mut self) -> String {
        // A string takes every value that is listed beside it.
        if self.kinds.iter().any(|kind| kind == "a string") {
            self.values.clear();
        }
        match (self.values.as_slice(), self.kinds.is_empty()) {
            ([only], true) => return format!("`{only}`"),
            (values, true) => return format!("one of: {}", values.join(", ")),
            _ => {}
        }
        let values = self.values.iter().map(|value| format!("`{value}`"));
        let all: Vec<String> = self.kinds.iter().cloned().chain(values).collect();
        match all.as_slice() {
            [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            other => other.concat(),
        }
    }
}

/// A value that a schema lists.
fn plainly(value: &Json) -> String {
    match value {
        Json::Text(text) => text.clone(),
        Json::Boolean(flag) => flag.to_string(),
        Json::Integer(number) => number.to_string(),
        Json::Float(_) | Json::List(_) | Json::Table(_) => String::new(),
    }
}

/// What a schema without alternatives takes.
fn kind(schema: &Schema, part: &Part) -> String {
    match part.kind {
        Some(Kind::Boolean) => "a boolean".to_owned(),
        Some(Kind::Integer) => number("an integer", part),
        Some(Kind::Number) => number("a number", part),
        Some(Kind::String) => match &part.pattern {
            Some(pattern) => format!("a string that matches `{pattern}`"),
            None => "a string".to_owned(),
        },
        Some(Kind::Array) => {
            let items = part.items.and_then(|id| plural(schema.part(id)));
            match (part.min_items, part.max_items, items) {
                (Some(least), Some(most), _) if least == most => {
                    format!("an array of {least} items")
                }
                (_, _, Some(items)) => format!("an array of {items}"),
                _ => "an array".to_owned(),
            }
        }
        Some(Kind::Object) => match part.others {
            Others::Follow(id) if part.properties.is_empty() => plural(schema.part(id))
                .map_or_else(|| "a table".to_owned(), |values| format!("a table of {values}")),
            _ => "a table".to_owned(),
        },
        None => "another value".to_owned(),
    }
}

/// What items or values are, where that is plain.
fn plural(part: &Part) -> Option<&'static str> {
    match part.kind {
        Some(Kind::String) if part.values.is_empty() => Some("strings"),
        Some(Kind::Boolean) if part.values.is_empty() => Some("booleans"),
        _ => None,
    }
}

/// A number with its bounds.
fn number(name: &str, part: &Part) -> String {
    if let (Some(least), Some(most)) = (part.at_least, part.at_most) {
        return format!("{name} from {least} to {most}");
    }
    let bounds: Vec<String> = [
        ("of at least", part.at_least),
        ("greater than", part.more_than),
        ("of at most", part.at_most),
    ]
    .iter()
    .filter_map(|(words, bound)| Some(format!("{words} {}", (*bound)?)))
    .collect();
    if bounds.is_empty() { name.to_owned() } else { format!("{name} {}", bounds.join(" and ")) }
}
