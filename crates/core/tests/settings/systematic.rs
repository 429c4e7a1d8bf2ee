//! Values of every type at every place of the schema.

use serde_json::{Map, Value, json};

/// The name of a key where any name will do. Language servers are known by theirs.
const NAME: &str = "rust";

/// All settings in which one place has one of several values, and everything else is as short as
/// the schema allows.
pub(crate) fn settings(schema: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    walk(schema, schema, &|value| value, &mut found);
    found
}

fn resolve<'a>(root: &'a Value, part: &'a Value) -> &'a Value {
    match part.get("$ref").and_then(Value::as_str) {
        Some(reference) => resolve(root, root.pointer(reference.trim_start_matches('#')).unwrap()),
        None => part,
    }
}

fn list<'a>(part: &'a Value, keyword: &str) -> &'a [Value] {
    part.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The shortest value that is right.
fn shortest(root: &Value, part: &Value) -> Value {
    let part = resolve(root, part);
    if let Some(value) = list(part, "enum").first() {
        return value.clone();
    }
    if let Some(branch) = list(part, "anyOf").last() {
        return shortest(root, branch);
    }
    match part["type"].as_str() {
        Some("string") if part.get("pattern").is_some() => json!("#ffffff"),
        Some("string") => json!("word"),
        Some("integer") => json!(7),
        Some("number") => json!(0.5),
        Some("boolean") => json!(true),
        Some("array") => {
            list(part, "prefixItems").iter().map(|item| shortest(root, item)).collect()
        }
        _ => Value::Object(required(root, part)),
    }
}

fn required(root: &Value, part: &Value) -> Map<String, Value> {
    let keys = list(part, "required").iter().map(|key| key.as_str().unwrap());
    keys.map(|key| (key.to_owned(), shortest(root, &part["properties"][key]))).collect()
}

fn walk(root: &Value, part: &Value, wrap: &dyn Fn(Value) -> Value, found: &mut Vec<Value>) {
    let part = resolve(root, part);
    let any = [
        json!("str"),
        json!(""),
        json!("#ffffff"),
        json!(3),
        json!(2.0),
        json!(1.5),
        json!(0),
        json!(-1),
        json!(65_535),
        json!(65_536),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!(["a"]),
        json!([1, "a"]),
        json!({"zz": 1}),
        json!({"enabled": true}),
    ];
    found.extend(any.into_iter().chain(list(part, "enum").iter().cloned()).map(wrap));
    for branch in list(part, "anyOf") {
        walk(root, branch, wrap, found);
    }
    let least = required(root, part);
    let with = |key: &str, value: Value| {
        let mut entries = least.clone();
        entries.insert(key.to_owned(), value);
        wrap(Value::Object(entries))
    };
    if part["type"] == "object" {
        found.push(wrap(Value::Object(least.clone())));
        found.push(with("zzz", json!(1)));
        for key in least.keys() {
            let mut entries = least.clone();
            entries.remove(key);
            found.push(wrap(Value::Object(entries)));
        }
    }
    for (key, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(root, property, &|value| with(key, value), found);
    }
    if let Some(others) = part.get("additionalProperties").filter(|others| others.is_object()) {
        walk(root, others, &|value| with(NAME, value), found);
    }
    if let Some(items) = part.get("items") {
        walk(root, items, &|value| wrap(json!([value])), found);
    }
    for (index, item) in list(part, "prefixItems").iter().enumerate() {
        let array = |value| {
            let mut items = shortest(root, part);
            items[index] = value;
            wrap(items)
        };
        walk(root, item, &array, found);
    }
}
