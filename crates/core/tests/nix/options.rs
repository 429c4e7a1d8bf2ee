//! `nix/instance-options.nix` says what the engine's own table says, read back without nixpkgs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use instances_core::raw::{FLEET, Kind, OPTIONS, OptionDoc};
use serde_json::{Value, json};

use crate::evaluate::{has_nix, nix, repository, value};

fn nix_files(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                nix_files(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "nix") {
            found.push(path.display().to_string());
        }
    }
}

#[test]
fn every_file_parses() {
    if !has_nix() {
        return;
    }
    let mut files = Vec::new();
    nix_files(&repository(), &mut files);
    assert!(files.len() > 5, "{files:?}");
    let arguments: Vec<&str> =
        std::iter::once("--parse").chain(files.iter().map(String::as_str)).collect();
    let output = nix(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The type as the stand-in for nixpkgs' `lib` words it.
fn type_words(kind: Kind) -> String {
    let account = "account name";
    match kind {
        Kind::Flag => "bool".to_owned(),
        Kind::Port => "port".to_owned(),
        Kind::OneOf(words) => format!("one of {}", json!(words)),
        Kind::Address => "IPv4 or IPv6 address".to_owned(),
        Kind::Path => "external path".to_owned(),
        Kind::SecretPath => "null or external path".to_owned(),
        Kind::Package => "package".to_owned(),
        Kind::Packages => "list of (package or external path)".to_owned(),
        Kind::Account => account.to_owned(),
        Kind::Accounts => format!("list of {account}"),
        Kind::Texts | Kind::HostNames | Kind::Binds | Kind::Devices => "list of str".to_owned(),
        Kind::SomeOf(words) => format!("list of one of {}", json!(words)),
        Kind::Directives => "attribute set of systemd directives".to_owned(),
        Kind::OptionalPath => "null or path".to_owned(),
        Kind::Username | Kind::Cidr | Kind::Amount => "str".to_owned(),
        Kind::Script => "null or lines".to_owned(),
        Kind::Variables => "attributes of null or (bool or int or str or path)".to_owned(),
        Kind::SecretPaths => "list of external path, or external path".to_owned(),
        Kind::Secrets => "attributes of external path".to_owned(),
        Kind::Settings => "attributes of JSON value".to_owned(),
        Kind::Content => "null or text or file".to_owned(),
        Kind::Contents => "attributes of text or file".to_owned(),
        Kind::OptionalOneOf(words) => format!("null or one of {}", json!(words)),
        Kind::Ports => "list of port".to_owned(),
        Kind::Cidrs => "list of (str or submodule)".to_owned(),
        Kind::OptionalAmount | Kind::OptionalPercent | Kind::OptionalShare | Kind::OptionalSize => {
            "null or str".to_owned()
        }
        Kind::OptionalWeight => "null or integer between 1 and 10000".to_owned(),
        Kind::Tasks => "integer between 64 and 4194304".to_owned(),
        Kind::OptionalCount => "null or integer between 1 and 1000".to_owned(),
        Kind::Seconds => "integer between 1 and 604800".to_owned(),
    }
}

fn parsed(text: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {text}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// A description without NixOS's roles and line breaks.
fn words(text: &str) -> String {
    let mut text = text.replace("<name>", "NAME");
    for role in ["option", "file", "command", "env"] {
        text = text.replace(&format!("{{{role}}}`"), "`");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn by_key(list: &Value) -> BTreeMap<String, Value> {
    let options = list.as_array().unwrap().iter();
    options.map(|one| (one["key"].as_str().unwrap().to_owned(), one.clone())).collect()
}

/// Whether the option's default has the instance's name in it.
fn is_named(option: &OptionDoc) -> bool {
    option.default.contains("NAME")
}

#[test]
fn the_module_has_the_fleets_options() {
    if !has_nix() {
        return;
    }
    let read = by_key(&value("nix/tests/eval/options.nix", &[])["fleet"]);
    let mut keys: Vec<&str> = FLEET.iter().map(|option| option.key).collect();
    keys.sort_unstable();
    assert_eq!(read.keys().map(String::as_str).collect::<Vec<_>>(), keys);
    for option in FLEET {
        let one = &read[option.key];
        assert_eq!(one["type"], type_words(option.kind), "{}", option.key);
        assert_eq!(one["default"], parsed(option.default).unwrap_or(Value::Null), "{}", option.key);
        assert_eq!(Some(one["example"].clone()), parsed(option.example), "{}", option.key);
        assert_eq!(
            words(one["description"].as_str().unwrap()),
            words(option.doc),
            "{}",
            option.key
        );
    }
}

#[test]
fn the_module_has_the_engines_options() {
    if !has_nix() {
        return;
    }
    let read = value("nix/tests/eval/options.nix", &[]);
    let mut keys: Vec<&str> = OPTIONS.iter().map(|option| option.key).collect();
    keys.sort_unstable();
    let [defaults, instances, own] = ["defaults", "instances", "own"].map(|set| by_key(&read[set]));
    for set in [&defaults, &instances, &own] {
        assert_eq!(set.keys().map(String::as_str).collect::<Vec<_>>(), keys);
    }
    for option in OPTIONS {
        let key = option.key;
        let (base, one) = (&defaults[key], &instances[key]);
        let kind = type_words(option.kind);
        let required = option.default == "required";
        let nullable = required || is_named(option);
        assert_eq!(one["type"], kind, "{key}");
        assert_eq!(base["type"], if nullable { format!("null or {kind}") } else { kind }, "{key}");

        let default = match option.kind {
            Kind::Package => json!("pkgs.opencode"),
            _ => parsed(option.default).unwrap_or(Value::Null),
        };
        assert_eq!((&base["hasDefault"], &base["default"]), (&json!(true), &default), "{key}");

        if required {
            assert_eq!(one["hasDefault"], false, "{key}");
        } else {
            assert_eq!(one["default"], format!("defaults.{key}"), "{key} ignores `defaults`");
        }
        let place = format!("services.opencode.defaults.{key}");
        let text = one["defaultText"].to_string();
        assert!(text.contains(&place), "{key}: {text}");

        if is_named(option) {
            let expected = option.default.trim_matches('`').replace("NAME", "website");
            assert_eq!(own[key]["default"], expected, "{key}");
        }

        let example = &base["example"];
        match option.kind {
            Kind::Package => assert!(example.is_null()),
            Kind::Packages => assert!(example["expression"].is_string()),
            _ => assert_eq!(Some(example.clone()), parsed(option.example), "{key}"),
        }
        for description in [base, one].map(|one| words(one["description"].as_str().unwrap())) {
            if option.kind == Kind::Package {
                assert!(description.contains("opencode 1.x"), "{description}");
            } else {
                assert!(description.starts_with(&words(option.doc)), "{key}: {description}");
            }
        }
    }
}
