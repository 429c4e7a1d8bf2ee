//! A schema of a configuration, in the few words of JSON Schema that opencode uses.
//!
//! A general validator would be half of the program, and the supervisor, which is the same program
//! and stays in memory for every instance, would grow with it. A schema that says more than is
//! understood here is refused, so that nothing is left unchecked silently.

use std::collections::HashMap;

use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::json::Json;

/// How deep references and schemas may nest; opencode needs a dozen levels.
const MAX_DEPTH: usize = 64;

/// Keywords that ask nothing of a value.
const SILENT: &[&str] =
    &["$schema", "$defs", "$comment", "title", "description", "default", "examples", "deprecated"];

/// Why a text is no schema that can be judged by.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no JSON at all.
    #[error("not a JSON document")]
    Json(#[from] serde_json::Error),
    /// A keyword, or what it says, is not understood: what it asks for would go unchecked.
    #[error("`{keyword}` at `#{at}` is not understood")]
    Keyword {
        /// The keyword.
        keyword: String,
        /// The JSON pointer of the schema that has it.
        at: String,
    },
    /// A reference leads nowhere, or nesting never ends.
    #[error("no schema is found at `#{0}`")]
    Reference(String),
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

/// A place in a [`Schema`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Id(usize);

/// What a schema says of keys that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Others {
    /// They may have any value.
    #[default]
    Any,
    /// There are none.
    None,
    /// Their values follow a schema.
    Follow(Id),
}

/// What is asked of one value; nothing where nothing is said.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) kind: Option<Kind>,
    /// The only values, unless there are none.
    pub(super) values: Vec<Json>,
    /// The alternatives, unless there are none.
    pub(super) any_of: Vec<Id>,
    pub(super) pattern: Option<Regex>,
    pub(super) at_least: Option<i64>,
    pub(super) at_most: Option<i64>,
    pub(super) more_than: Option<i64>,
    pub(super) min_items: Option<usize>,
    pub(super) max_items: Option<usize>,
    /// What is asked of the first items.
    pub(super) first: Vec<Id>,
    /// What is asked of the other items.
    pub(super) items: Option<Id>,
    /// In the order of the alphabet.
    pub(super) properties: Vec<(String, Id)>,
    pub(super) required: Vec<String>,
    pub(super) others: Others,
}

impl Part {
    pub(super) fn property(&self, key: &str) -> Option<Id> {
        self.properties.iter().find(|(name, _)| name == key).map(|(_, id)| *id)
    }

    pub(super) fn keys(&self) -> Vec<&str> {
        self.properties.iter().map(|(key, _)| key.as_str()).collect()
    }
}

/// A configuration's schema, ready to judge.
#[derive(Debug, Default)]
pub struct Schema {
    parts: Vec<Part>,
    root: Id,
    /// What an [`Id`] of another schema would name.
    nothing: Part,
}

impl Schema {
    /// Reads a schema that refers to nothing outside itself, as `extract` gives it.
    pub fn compile(text: &str) -> Result<Self, Error> {
        let document = serde_json::from_str(text)?;
        let mut reader = Reader { document: &document, parts: Vec::new(), known: HashMap::new() };
        let root = reader.read("", 0)?;
        Ok(Self { parts: reader.parts, root, nothing: Part::default() })
    }

    pub(super) fn root(&self) -> &Part {
        self.part(self.root)
    }

    pub(super) fn part(&self, id: Id) -> &Part {
        self.parts.get(id.0).unwrap_or(&self.nothing)
    }
}

/// Reads every schema of a document once.
struct Reader<'a> {
    document: &'a Value,
    parts: Vec<Part>,
    /// By JSON pointers.
    known: HashMap<String, Id>,
}

impl Reader<'_> {
    fn read(&mut self, at: &str, depth: usize) -> Result<Id, Error> {
        if let Some(id) = self.known.get(at) {
            return Ok(*id);
        }
        let schema = self.document.pointer(at).and_then(Value::as_object);
        let Some(schema) = schema.filter(|_| depth < MAX_DEPTH) else {
            return Err(Error::Reference(at.to_owned()));
        };
        if let Some(reference) = schema.get("$ref") {
            let strange = schema.keys().find(|key| *key != "$ref" && !is_silent(key));
            let target = reference.as_str().and_then(|text| text.strip_prefix('#'));
            return match (target, strange) {
                (Some(target), None) => self.read(target, depth + 1),
                (_, strange) => Err(unknown(strange.map_or("$ref", String::as_str), at)),
            };
        }
        let id = Id(self.parts.len());
        self.parts.push(Part::default());
        self.known.insert(at.to_owned(), id);
        let part = self.part(schema, at, depth)?;
        if let Some(slot) = self.parts.get_mut(id.0) {
            *slot = part;
        }
        Ok(id)
    }

    fn part(&mut self, schema: &Map<String, Value>, at: &str, depth: usize) -> Result<Part, Error> {
        let mut part = Part::default();
        for (keyword, value) in schema {
            let below = format!("{at}/{keyword}");
            let understood = match (keyword.as_str(), value) {
                ("type", Value::String(name)) => set(&mut part.kind, kind(name)),
                ("enum", Value::Array(values)) => {
                    part.values = values.iter().filter_map(scalar).collect();
                    part.values.len() == values.len() && !values.is_empty()
                }
                ("pattern", Value::String(pattern)) => {
                    set(&mut part.pattern, Regex::new(pattern).ok())
                }
                ("minimum", limit) => set(&mut part.at_least, limit.as_i64()),
                ("maximum", limit) => set(&mut part.at_most, limit.as_i64()),
                ("exclusiveMinimum", limit) => set(&mut part.more_than, limit.as_i64()),
                ("minItems", count) => set(&mut part.min_items, size(count)),
                ("maxItems", count) => set(&mut part.max_items, size(count)),
                ("required", Value::Array(keys)) => {
                    let text = |key: &Value| key.as_str().map(str::to_owned);
                    part.required = keys.iter().filter_map(text).collect();
                    part.required.len() == keys.len()
                }
                ("anyOf", Value::Array(all)) => {
                    part.any_of = self.each(&below, all.len(), depth)?;
                    !all.is_empty()
                }
                ("prefixItems", Value::Array(all)) => {
                    part.first = self.each(&below, all.len(), depth)?;
                    true
                }
                ("items", Value::Object(_)) => {
                    part.items = Some(self.read(&below, depth + 1)?);
                    true
                }
                ("properties", Value::Object(all)) => {
                    for key in all.keys() {
                        let pointer = key.replace('~', "~0").replace('/', "~1");
                        let id = self.read(&format!("{below}/{pointer}"), depth + 1)?;
                        part.properties.push((key.clone(), id));
                    }
                    true
                }
                ("additionalProperties", Value::Bool(any)) => {
                    part.others = if *any { Others::Any } else { Others::None };
                    true
                }
                ("additionalProperties", Value::Object(_)) => {
                    part.others = Others::Follow(self.read(&below, depth + 1)?);
                    true
                }
                _ => is_silent(keyword),
            };
            if !understood {
                return Err(unknown(keyword, at));
            }
        }
        Ok(part)
    }

    fn each(&mut self, at: &str, count: usize, depth: usize) -> Result<Vec<Id>, Error> {
        (0..count).map(|index| self.read(&format!("{at}/{index}"), depth + 1)).collect()
    }
}

fn is_silent(keyword: &str) -> bool {
    SILENT.contains(&keyword)
}

fn unknown(keyword: &str, at: &str) -> Error {
    Error::Keyword { keyword: keyword.to_owned(), at: at.to_owned() }
}

/// Sets what was read, and tells whether there is something to set.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    *place = value;
    place.is_some()
}

fn size(count: &Value) -> Option<usize> {
    count.as_u64()?.try_into().ok()
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "boolean" => Kind::Boolean,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "string" => Kind::String,
        "array" => Kind::Array,
        "object" => Kind::Object,
        _ => return None,
    })
}

/// A value that a schema lists.
fn scalar(value: &Value) -> Option<Json> {
    match value {
        Value::Bool(flag) => Some(Json::Boolean(*flag)),
        Value::String(text) => Some(Json::Text(text.clone())),
        Value::Number(number) => number.as_i64().map(Json::Integer),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        for (schema, said) in [
            (r#"{"type": "strong"}"#, "`type` at `#` is not understood"),
            (r#"{"type": ["string", "null"]}"#, "`type` at `#` is not understood"),
            (r#"{"enum": [null]}"#, "`enum` at `#` is not understood"),
            (r#"{"pattern": "(?=a)"}"#, "`pattern` at `#` is not understood"),
            (r#"{"minimum": 0.5}"#, "`minimum` at `#` is not understood"),
            (r#"{"items": {"oneOf": []}}"#, "`oneOf` at `#/items` is not understood"),
            (r#"{"items": false}"#, "`items` at `#` is not understood"),
            (
                r#"{"properties": {"a/b": {"not": {}}}}"#,
                "`not` at `#/properties/a~1b` is not understood",
            ),
            (r##"{"$ref": "#/$defs/A"}"##, "no schema is found at `#/$defs/A`"),
            (r##"{"$ref": "#"}"##, "no schema is found at `#`"),
            (r#"{"$ref": "a.json"}"#, "`$ref` at `#` is not understood"),
            (
                r##"{"anyOf": [{"$ref": "#", "type": "string"}]}"##,
                "`type` at `#/anyOf/0` is not understood",
            ),
            ("[", "not a JSON document"),
        ] {
            assert_eq!(Schema::compile(schema).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn a_schema_may_hold_itself() {
        let text = r##"{"additionalProperties": {"anyOf": [{"type": "string"}, {"$ref": "#"}]}}"##;
        let schema = Schema::compile(text).unwrap();
        assert_eq!(schema.parts.len(), 3);
    }
}
