//! As much of JSON Schema as `schema/spec.schema.json` uses. An unknown keyword is a failure, so
//! that nothing in the schema goes unheard.

use instances_core::node::{Node, Value};
use regex_lite::Regex;
use serde_json::{Map, Value as Json};

/// A schema.
pub(crate) struct Schema(Json);

/// What only informs.
const ANNOTATIONS: [&str; 6] = ["$schema", "$defs", "title", "description", "default", "examples"];

impl Schema {
    pub(crate) fn new(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// Why the document is refused, if it is.
    pub(crate) fn refusal(&self, node: &Node) -> Option<String> {
        self.judge(&self.0, node)
    }

    fn judge(&self, schema: &Json, node: &Node) -> Option<String> {
        let Json::Object(keywords) = schema else {
            return (*schema == Json::Bool(false)).then(|| format!("{}: not here", node.at.path));
        };
        keywords.iter().find_map(|(keyword, value)| self.keyword(keywords, keyword, value, node))
    }

    fn keyword(
        &self,
        siblings: &Map<String, Json>,
        keyword: &str,
        value: &Json,
        node: &Node,
    ) -> Option<String> {
        let refuse = |good: bool| (!good).then(|| format!("{}: {keyword} {value}", node.at.path));
        match (keyword, &node.value) {
            (annotation, _) if ANNOTATIONS.contains(&annotation) => None,
            ("$ref", _) => {
                let pointer = value.as_str().unwrap().strip_prefix('#').unwrap();
                self.judge(self.0.pointer(pointer).unwrap(), node)
            }
            ("type", found) => refuse(match value {
                Json::Array(kinds) => kinds.iter().any(|one| one == kind(found)),
                one => one == kind(found),
            }),
            ("anyOf", _) => {
                let schemas = value.as_array().unwrap();
                refuse(schemas.iter().any(|schema| self.judge(schema, node).is_none()))
            }
            ("enum", found) => {
                let found = match found {
                    Value::String(text) => Json::from(text.as_str()),
                    Value::Null => Json::Null,
                    _ => return refuse(false),
                };
                refuse(value.as_array().unwrap().contains(&found))
            }
            ("minimum", Value::Integer(number)) => refuse(*number >= value.as_i64().unwrap()),
            ("maximum", Value::Integer(number)) => refuse(*number <= value.as_i64().unwrap()),
            ("pattern", Value::String(text)) => refuse(matches(value, text)),
            ("minLength", Value::String(text)) => {
                refuse(text.chars().count() as u64 >= value.as_u64().unwrap())
            }
            ("required", Value::Table(entries)) => {
                let is_there = |key: &Json| entries.iter().any(|(name, _, _)| key == name);
                refuse(value.as_array().unwrap().iter().all(is_there))
            }
            ("items", Value::Array(items)) => items.iter().find_map(|item| self.judge(value, item)),
            ("propertyNames", Value::Table(entries)) => {
                let pattern = value.get("pattern").unwrap();
                refuse(entries.iter().all(|(name, _, _)| matches(pattern, name)))
            }
            ("properties", Value::Table(entries)) => entries.iter().find_map(|(name, _, inner)| {
                value.get(name).and_then(|schema| self.judge(schema, inner))
            }),
            ("additionalProperties", Value::Table(entries)) => {
                let known = |name: &str| siblings.get("properties").and_then(|all| all.get(name));
                let others = entries.iter().filter(|(name, _, _)| known(name).is_none());
                others.map(|(_, _, inner)| inner).find_map(|inner| self.judge(value, inner))
            }
            (
                "minimum"
                | "maximum"
                | "minLength"
                | "pattern"
                | "required"
                | "items"
                | "propertyNames"
                | "properties"
                | "additionalProperties",
                _,
            ) => None,
            _ => panic!("the schema has the keyword {keyword}, which this test does not know"),
        }
    }
}

fn matches(pattern: &Json, text: &str) -> bool {
    Regex::new(pattern.as_str().unwrap()).unwrap().is_match(text)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Table(_) => "object",
        other => other.type_name(),
    }
}
