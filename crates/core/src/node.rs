//! A document as it was typed: TOML or JSON, every value with its place.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Origin, Span};

/// How deep TOML's dotted keys may nest before the rest is left out; options need four levels. Both
/// parsers bound the nesting of brackets themselves.
const MAX_DEPTH: usize = 32;
/// How many errors of syntax are told; with each of them the line is shown that it is in, and one long line may have
/// thousands.
const MAX_ERRORS: usize = 20;

/// The language of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.1.
    Toml,
    /// JSON (RFC 8259).
    Json,
}

impl Format {
    /// JSON for names that end in `.json`, TOML otherwise.
    pub fn of(file_name: &str) -> Self {
        let json = file_name.len() >= 5
            && file_name
                .get(file_name.len() - 5..)
                .is_some_and(|end| end.eq_ignore_ascii_case(".json"));
        if json { Self::Json } else { Self::Toml }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub at: Origin,
}

/// A value of either language.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Boolean(bool),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// A finite number with a fraction or an exponent.
    Float(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Node>),
    /// A table, in the order it was typed. The origin is the key's.
    Table(Vec<(String, Origin, Node)>),
    /// JSON's `null`; TOML has none.
    Null,
    /// What no option takes: dates, integers beyond 64 bits, floats that are no numbers. Holds the
    /// type's name.
    Other(&'static str),
}

impl Value {
    /// The type's name as diagnostics say it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Table(_) => "table",
            Self::Null => "null",
            Self::Other(name) => name,
        }
    }
}

impl Node {
    /// The place of the value at a path, or of the nearest one above it that was typed.
    pub fn nearest(&self, path: &str) -> Option<&Origin> {
        let mut path = path;
        while !path.is_empty() {
            if let Some(found) = self.find(path) {
                return Some(found);
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
        None
    }

    fn find(&self, path: &str) -> Option<&Origin> {
        if self.at.path == path {
            return Some(&self.at);
        }
        // A path begins with that of what it is in.
        if !path.starts_with(self.at.path.as_str()) {
            return None;
        }
        match &self.value {
            Value::Table(entries) => {
                entries.iter().find_map(
                    |(_, at, value)| {
                        if at.path == path { Some(at) } else { value.find(path) }
                    },
                )
            }
            Value::Array(items) => items.iter().find_map(|item| item.find(path)),
            _ => None,
        }
    }
}

/// Reads a text into a [`Node`], collecting every syntax error.
pub fn parse(text: &str, format: Format, diagnostics: &mut Diagnostics) -> Option<Node> {
    match format {
        Format::Toml => parse_toml(text, diagnostics),
        Format::Json => parse_json(text, diagnostics),
    }
}

/// Joins a key to its parent's path; keys that are not plain words are quoted.
pub fn join(path: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn parse_toml(text: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let more = errors.len().saturating_sub(MAX_ERRORS);
    for (number, error) in errors.iter().take(MAX_ERRORS).enumerate() {
        let span = error.span().map(|range| Span { start: range.start, end: range.end });
        let mut label = error.message().replace('\n', ", ");
        if more > 0 && number + 1 == MAX_ERRORS {
            label.push_str(&format!("; {more} more like this are not shown"));
        }
        diagnostics.push(Diagnostic::new(
            Code::Syntax,
            &Origin { span, path: String::new() },
            "invalid TOML",
            label,
            "write the value as TOML has it, as in `name = \"value\"`",
        ));
    }
    if !errors.is_empty() {
        return None;
    }
    let span = table.span();
    let whole =
        Origin { span: Some(Span { start: span.start, end: span.end }), path: String::new() };
    Some(Node { value: from_toml_table(table.get_ref(), "", 0), at: whole })
}

fn from_toml_table(table: &DeTable<'_>, path: &str, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Other("table nested too deeply");
    }
    let entries = table.iter().map(|(key, value)| {
        let name = key.get_ref().as_ref();
        let path = join(path, name);
        let key_at = Origin { span: Some(span_of(key)), path: path.clone() };
        (name.to_owned(), key_at, from_toml(value, path, depth + 1))
    });
    Value::Table(entries.collect())
}

fn from_toml(value: &Spanned<DeValue<'_>>, path: String, depth: usize) -> Node {
    let typed = match value.get_ref() {
        DeValue::String(text) => Value::String(text.as_ref().to_owned()),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("integer beyond 64 bits"), Value::Integer),
        DeValue::Float(number) => float(number.as_str()),
        DeValue::Datetime(_) => Value::Other("date"),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| from_toml(item, format!("{path}[{index}]"), depth + 1))
                .collect(),
        ),
        DeValue::Table(table) => from_toml_table(table, &path, depth),
    };
    Node { value: typed, at: Origin { span: Some(span_of(value)), path } }
}

/// TOML has infinities and numbers that are none; JSON, which is what is written, has not.
fn float(text: &str) -> Value {
    let number = text.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite());
    number.map_or(Value::Other("float that is no number"), Value::Float)
}

fn span_of<T>(value: &Spanned<T>) -> Span {
    let range = value.span();
    Span { start: range.start, end: range.end }
}

fn parse_json(text: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = JsonNode { path: String::new(), diagnostics };
    let node = seed.deserialize(&mut reader).and_then(|node| reader.end().map(|()| node));
    match node {
        Ok(node) => Some(node),
        Err(error) => {
            let at = Origin {
                span: None,
                path: format!("line {}, column {}", error.line(), error.column()),
            };
            diagnostics.push(Diagnostic::new(
                Code::Syntax,
                &at,
                "invalid JSON",
                error.to_string(),
                "write the document as one JSON object",
            ));
            None
        }
    }
}

/// Builds a [`Node`] from JSON and refuses a key that stands twice.
struct JsonNode<'a> {
    path: String,
    diagnostics: &'a mut Diagnostics,
}

impl JsonNode<'_> {
    fn node(self, value: Value) -> Node {
        Node { value, at: Origin { span: None, path: self.path } }
    }

    fn child(&mut self, path: String) -> JsonNode<'_> {
        JsonNode { path, diagnostics: self.diagnostics }
    }
}

impl<'de> DeserializeSeed<'de> for JsonNode<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonNode<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Node, E> {
        Ok(self.node(Value::Boolean(flag)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Node, E> {
        Ok(self.node(Value::Integer(number)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Node, E> {
        let value =
            i64::try_from(number).map_or(Value::Other("integer beyond 64 bits"), Value::Integer);
        Ok(self.node(value))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Node, E> {
        Ok(self.node(Value::Float(number)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        Ok(self.node(Value::String(text.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(self.node(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, nodes.len());
            match items.next_element_seed(self.child(path))? {
                Some(node) => nodes.push(node),
                None => return Ok(self.node(Value::Array(nodes))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Node, A::Error> {
        let mut table: Vec<(String, Origin, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = join(&self.path, &key);
            let at = Origin { span: None, path: path.clone() };
            let node = entries.next_value_seed(self.child(path))?;
            if seen.insert(key.clone()) {
                table.push((key, at, node));
            } else {
                self.diagnostics.push(Diagnostic::new(
                    Code::DuplicateKey,
                    &at,
                    format!("the key `{key}` stands twice"),
                    "second value",
                    "remove one of the two",
                ));
            }
        }
        Ok(self.node(Value::Table(table)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str, format: Format) -> Vec<Code> {
        let mut diagnostics = Diagnostics::new();
        parse(text, format, &mut diagnostics);
        diagnostics.iter().map(|one| one.code).collect()
    }

    #[test]
    fn both_languages_give_the_same_tree() {
        fn strip(node: &Node) -> String {
            match &node.value {
                Value::Table(entries) => entries
                    .iter()
                    .map(|(key, at, node)| format!("{key}@{}={};", at.path, strip(node)))
                    .collect(),
                Value::Array(items) => items.iter().map(strip).collect(),
                other => format!("{other:?}@{}", node.at.path),
            }
        }
        let mut diagnostics = Diagnostics::new();
        let toml = "[instances.a]\nport = 1\nlist = [\"x\", true]\n\"odd key\" = 2\n";
        let json = r#"{"instances":{"a":{"port":1,"list":["x",true],"odd key":2}}}"#;
        let a = parse(toml, Format::Toml, &mut diagnostics).map(|node| strip(&node));
        let b = parse(json, Format::Json, &mut diagnostics).map(|node| strip(&node));
        assert_eq!(a, b);
        assert!(a.is_some_and(|text| text.contains("instances.a.\"odd key\"")));
    }

    #[test]
    fn a_path_leads_back_to_its_place() {
        let text = "[instances.a.settings]\nmodel = 1\npermission = [{ bash = \"ask\" }]\n";
        let node = parse(text, Format::Toml, &mut Diagnostics::new()).unwrap();
        let words = |path: &str| {
            let span = node.nearest(path)?.span?;
            text.get(span.start..span.end)
        };
        assert_eq!(words("instances.a.settings.model"), Some("model"));
        assert_eq!(words("instances.a.settings.permission.bash"), Some("permission"));
        assert_eq!(words("instances.a.settings.permission[0].bash"), Some("bash"));
        assert_eq!(words("instances.b.settings.model"), Some("instances"));
        assert_eq!(words("defaults"), None);
    }

    #[test]
    fn a_json_key_that_stands_twice_is_refused() {
        assert_eq!(codes(r#"{"a":1,"a":2}"#, Format::Json), [Code::DuplicateKey]);
    }

    #[test]
    fn depth_is_bounded_in_both_languages() {
        let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(codes(&deep, Format::Toml).first(), Some(&Code::Syntax));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(codes(&deep, Format::Json), [Code::Syntax]);
        let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
        codes(&dotted, Format::Toml);
    }

    #[test]
    fn every_syntax_error_is_reported() {
        assert_eq!(codes("a = \nb = \n", Format::Toml).len(), 2);
    }
}
