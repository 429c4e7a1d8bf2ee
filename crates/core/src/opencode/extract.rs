//! The schema of opencode's configuration, taken from its `OpenAPI` document.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Where an `OpenAPI` document keeps its schemas, as its references say it.
const COMPONENTS: &str = "#/components/schemas/";
/// Where a schema keeps its own.
const DEFINITIONS: &str = "#/$defs/";
/// The schema of a configuration file, among those of the document.
const CONFIG: &str = "Config";
/// The dialect that `OpenAPI` 3.1 and opencode's schemas are written in.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Why a document gives no schema.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no JSON at all.
    #[error("not a JSON document")]
    Json(#[from] serde_json::Error),
    /// The document says nothing about a configuration, so it is another program's, or a version
    /// of opencode that describes its configuration elsewhere.
    #[error("the document has no schema `Config` among its components")]
    NoConfig,
    /// A part of the configuration's schema is missing, so nothing below it could be checked.
    #[error("the schema `{from}` refers to {to:?}, which the document does not have")]
    Dangling {
        /// The schema that refers.
        from: String,
        /// The reference as it stands.
        to: String,
    },
}

/// The schema of a configuration file, from the `OpenAPI` document that `opencode generate` prints.
///
/// The text is a JSON Schema (draft 2020-12) that refers to nothing outside itself, indented, its
/// keys sorted, with a line break at its end: the same for the same document.
pub fn extract(openapi: &str) -> Result<String, Error> {
    let document: Value = serde_json::from_str(openapi)?;
    let schemas = document.pointer("/components/schemas").ok_or(Error::NoConfig)?;
    let mut config = schemas.get(CONFIG).ok_or(Error::NoConfig)?.clone();
    let mut wanted = localize(&mut config, CONFIG)?;
    let mut definitions = BTreeMap::new();
    while let Some((from, name)) = wanted.pop() {
        if definitions.contains_key(&name) {
            continue;
        }
        let found = schemas.get(&name);
        let mut schema = found
            .cloned()
            .ok_or_else(|| Error::Dangling { from, to: format!("{COMPONENTS}{name}") })?;
        wanted.extend(localize(&mut schema, &name)?);
        definitions.insert(name, schema);
    }
    let entries = config.as_object_mut().ok_or(Error::NoConfig)?;
    entries.insert("$schema".to_owned(), DIALECT.into());
    if !definitions.is_empty() {
        entries.insert("$defs".to_owned(), json!(definitions));
    }
    Ok(format!("{config:#}\n"))
}

/// Turns the references of a schema into local ones, and tells which schemas they name, each
/// behind the name of this one.
fn localize(schema: &mut Value, name: &str) -> Result<Vec<(String, String)>, Error> {
    let mut wanted = Vec::new();
    let mut rest = vec![schema];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(entries) => {
                if let Some(Value::String(reference)) = entries.get_mut("$ref") {
                    let Some(target) = reference.strip_prefix(COMPONENTS) else {
                        let (from, to) = (name.to_owned(), reference.clone());
                        return Err(Error::Dangling { from, to });
                    };
                    wanted.push((name.to_owned(), target.to_owned()));
                    *reference = format!("{DEFINITIONS}{target}");
                }
                rest.extend(entries.values_mut());
            }
            _ => {}
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_of_the_references_is_taken() {
        let openapi = r##"{"components": {"schemas": {
            "Config": {"type": "object", "properties": {"a": {"$ref": "#/components/schemas/A"}}},
            "A": {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/B"}]},
            "B": {"type": "array", "items": {"$ref": "#/components/schemas/A"}},
            "Unused": {"type": "string"}
        }}}"##;
        let text = extract(openapi).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&String> = schema["$defs"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["A", "B"]);
        assert_eq!(schema["properties"]["a"]["$ref"], "#/$defs/A");
        assert!(text.ends_with("}\n") && !text.contains("components"));
    }

    #[test]
    fn what_gives_no_schema_says_why() {
        let said = |openapi: &str| extract(openapi).unwrap_err().to_string();
        let nothing = "the document has no schema `Config` among its components";
        assert_eq!(said("opencode: command not found"), "not a JSON document");
        assert_eq!(said("{}"), nothing);
        assert_eq!(said(r#"{"components": {"schemas": {"Configuration": {}}}}"#), nothing);
        let dangling =
            r##"{"components": {"schemas": {"Config": {"$ref": "#/components/schemas/X"}}}}"##;
        assert_eq!(
            said(dangling),
            "the schema `Config` refers to \"#/components/schemas/X\", which the document does not \
             have"
        );
        let elsewhere = r#"{"components": {"schemas": {"Config": {"$ref": "other.json"}}}}"#;
        assert!(matches!(extract(elsewhere), Err(Error::Dangling { .. })));
    }
}
