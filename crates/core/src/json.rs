//! Freeform values, as `settings` takes them: JSON in the order in which it was typed.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::node::{Node, Value};

/// A JSON value whose tables keep their order. There is no `null`: what is `null` is not set.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `true` or `false`.
    Boolean(bool),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object, in order.
    Table(Vec<(String, Json)>),
}

impl Json {
    /// What a node holds, without what is `null` in it; `None` for `null` itself and for what JSON
    /// cannot say.
    pub fn of(node: &Node) -> Option<Self> {
        Some(match &node.value {
            Value::Boolean(flag) => Self::Boolean(*flag),
            Value::Integer(number) => Self::Integer(*number),
            Value::Float(number) => Self::Float(*number),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().filter_map(Self::of).collect()),
            Value::Table(entries) => Self::Table(
                entries
                    .iter()
                    .filter_map(|(key, _, value)| Some((key.clone(), Self::of(value)?)))
                    .collect(),
            ),
            Value::Null | Value::Other(_) => return None,
        })
    }

    /// The value of a key, where this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Table(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Boolean(flag) => serializer.serialize_bool(*flag),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Table(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
