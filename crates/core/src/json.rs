//! Freeform values, as `settings` takes them: JSON in the order in which it was typed.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

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

impl Default for Json {
    fn default() -> Self {
        Self::Table(Vec::new())
    }
}

impl Json {
    /// The value of a key, where this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// What a table has; nothing for other values.
    pub fn entries(&self) -> &[(String, Self)] {
        let Self::Table(entries) = self else { return &[] };
        entries
    }

    /// Whether there is nothing in a table.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Table(entries) if entries.is_empty())
    }

    /// The same with every string, keys excepted, replaced.
    #[must_use]
    pub fn map_texts(&self, replace: &impl Fn(&str) -> String) -> Self {
        match self {
            Self::Text(text) => Self::Text(replace(text)),
            Self::List(items) => {
                Self::List(items.iter().map(|item| item.map_texts(replace)).collect())
            }
            Self::Table(entries) => {
                let entry = |(key, value): &(String, Self)| (key.clone(), value.map_texts(replace));
                Self::Table(entries.iter().map(entry).collect())
            }
            other => other.clone(),
        }
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
