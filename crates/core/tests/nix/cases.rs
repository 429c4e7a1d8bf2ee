//! What the module makes of each configuration in `nix/tests/eval/cases.nix`, with nixpkgs' `lib`.
//!
//! `UPDATE_EXPECT=1 cargo test -p instances-core --test nix` rewrites the expected files.

use std::collections::BTreeSet;
use std::fs;
use std::sync::OnceLock;

use instances_core::code::Code;
use instances_core::desired::desire;
use instances_core::facts::{HostFacts, NixOs};
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::raw::{FLEET, OPTIONS};
use instances_core::spec::{AbsPath, Spec};
use serde_json::{Map, Value, json};

use crate::evaluate::{nix, nixpkgs_lib, repository, value};

const FILE: &str = "nix/tests/eval/default.nix";

/// All that does not end in an error, from one evaluation.
fn all() -> Option<&'static Value> {
    static ALL: OnceLock<Option<Value>> = OnceLock::new();
    ALL.get_or_init(|| {
        let lib = nixpkgs_lib()?;
        Some(value(FILE, &["--argstr", "nixpkgsLib", lib.to_str()?, "--attr", "all"]))
    })
    .as_ref()
}

fn entries(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

/// Store paths without their hashes, which change with every package.
fn without_hashes(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let mut parts = text.split("/nix/store/");
            let mut plain = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let named = part.split_once('-').filter(|(hash, _)| hash.len() == 32);
                plain += &named.map_or_else(
                    || format!("/nix/store/{part}"),
                    |(_, name)| format!("/nix/store/…-{name}"),
                );
            }
            plain.into()
        }
        Value::Array(items) => items.iter().map(without_hashes).collect(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| (key.clone(), without_hashes(value)))
            .collect::<Map<_, _>>()
            .into(),
        _ => value.clone(),
    }
}

/// What is compared with the file: all of it, and of the facts those that differ from the usual.
fn compared(name: &str, case: &Value, usual: &Value) -> Value {
    let mut compared = case.clone();
    let object = compared.as_object_mut().unwrap();
    let attributes = object.remove("attributes");
    object.remove("undisturbed");
    let mut facts = Map::new();
    for (of, one) in attributes.iter().flat_map(entries) {
        if one["facts"] != *usual || (name == "minimal" && of == "website") {
            facts.insert(of.clone(), one["facts"].clone());
        }
    }
    object.insert("facts".to_owned(), facts.into());
    without_hashes(&compared)
}

#[test]
fn cases_become_what_is_expected() {
    let Some(all) = all() else { return };
    let cases = entries(&all["cases"]);
    assert!(cases.len() >= 60, "{}", cases.len());
    let usual = &cases["minimal"]["attributes"]["website"]["facts"];
    let directory = repository().join("nix/tests/eval/expected");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    if update {
        drop(fs::remove_dir_all(&directory));
        fs::create_dir_all(&directory).unwrap();
    }
    for (name, case) in cases {
        let found = format!("{:#}\n", compared(name, case, usual));
        let file = directory.join(format!("{name}.json"));
        if update {
            fs::write(&file, &found).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, expected, "{name}");
    }
    let names: BTreeSet<String> = cases.keys().map(|name| format!("{name}.json")).collect();
    let files = fs::read_dir(&directory).unwrap();
    let files: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, files, "files without a case, or the other way round");
}

#[test]
fn a_case_is_refused_as_its_name_says() {
    let Some(all) = all() else { return };
    for (name, case) in entries(&all["cases"]) {
        let problems = case["problems"].as_array().unwrap();
        assert_eq!(!problems.is_empty(), name.starts_with("refused-"), "{name}: {problems:?}");
        for problem in problems {
            let problem = problem.as_str().unwrap();
            assert!(problem.lines().count() == 2, "a finding and a change: {problem}");
        }
        // Whatever is wrong, no account is made that the engine would refuse.
        for user in entries(&case["users"]).keys() {
            assert!(user.len() <= 31, "{name}: {user}");
        }
    }
}

fn spec(text: &Value) -> Spec {
    let text = text.to_string();
    let refused = |found| format!("the engine refuses {text}: {found:#?}");
    read(&text, Format::Json).map_err(refused).unwrap().0
}

fn paths(value: &Value) -> Vec<AbsPath> {
    let paths = value.as_array().unwrap().iter();
    paths.map(|path| AbsPath::new(path.as_str().unwrap()).unwrap()).collect()
}

#[test]
fn the_engine_takes_and_renders_every_case() {
    let Some(all) = all() else { return };
    let mut rendered = 0;
    for (name, case) in entries(&all["cases"]) {
        let Some(attributes) = case.get("attributes").map(entries) else { continue };
        let Some(fleet) = attributes.get("fleet of all") else {
            assert_eq!(name, "off");
            continue;
        };
        let enabled: Vec<String> =
            spec(&fleet["spec"]).enabled().map(|one| one.name.to_string()).collect();
        let units = entries(&case["fleet"][0]["units"]);
        assert_eq!(units.keys().cloned().collect::<Vec<_>>(), enabled, "{name}");
        assert_eq!(attributes.len(), enabled.len() + 1, "{name}");
        for instance in &enabled {
            let one = &attributes[instance];
            let own = json!({ "instances": { instance: fleet["spec"]["instances"][instance] } });
            assert_eq!(one["spec"], own, "{name}: not a part of the fleet's");
            let mut facts: HostFacts = serde_json::from_value(one["facts"].clone()).unwrap();
            let given = &case["instances"][instance];
            facts.nixos = facts.nixos.map(|nixos| NixOs {
                agent: paths(&given["agent"]),
                proxy: paths(&given["proxy"]),
                ..nixos
            });
            let desired = desire(&spec(&one["spec"]), &facts.supported().unwrap());
            for unit in [
                format!("opencode-{instance}.service"),
                format!("opencode-endpoint@{instance}.service"),
                format!("opencode-identity@{instance}.service"),
                format!("opencode-listen@{instance}.service"),
                format!("opencode-listen@{instance}.socket"),
                format!("opencode-net@{instance}.service"),
            ] {
                let path = format!("/etc/systemd/system/{unit}");
                assert!(desired.files.contains_key(&path), "{name}: {path}");
            }
            rendered += 1;
        }
    }
    assert!(rendered > 40, "{rendered}");
}

/// Nothing but accounts, versions and Nix's own settings, which it does not know, rests on the
/// evaluation.
#[test]
fn the_engine_refuses_what_the_evaluation_refuses() {
    let Some(all) = all() else { return };
    let mut refused = 0;
    for (name, case) in entries(&all["cases"]) {
        let Some(spec) = case.get("undisturbed").and_then(|one| one.get("spec")) else { continue };
        let unknown = [
            "builds-outside-a-sandbox",
            "builds-that-may-leave-it",
            "no-daemon",
            "person",
            "trusted-by-the-operators-group",
            "trusted-group",
            "trusted-user",
            "unknown-user",
        ];
        let known = !unknown.iter().any(|reason| *name == format!("refused-{reason}"));
        assert_eq!(read(&spec.to_string(), Format::Json).is_err(), known, "{name}");
        refused += u32::from(known);
    }
    assert!(refused > 15, "{refused}");
}

/// A value of `defaults` is none that an instance says, though the specification has it in each instance.
#[test]
fn an_idle_option_in_vain_is_remarked_on_by_module_and_engine_alike() {
    let Some(all) = all() else { return };
    let mut remarks = 0;
    for (name, case) in entries(&all["cases"]) {
        let Some(spec) = case.pointer("/attributes/fleet of all/spec") else { continue };
        let (_, found) = read(&spec.to_string(), Format::Json).unwrap();
        let found = found.iter().filter(|one| one.code == Code::UnusedIdle);
        let found: BTreeSet<&str> = found.map(|one| one.at.path.as_str()).collect();
        let warnings = case["warnings"].as_array().unwrap().iter();
        let said = warnings.filter_map(|text| text.as_str()?.strip_prefix("services.opencode."));
        let said = said.filter(|text| text.contains("(W0424)"));
        let said: BTreeSet<&str> = said.filter_map(|text| text.split(' ').next()).collect();
        assert_eq!(found, said, "{name}");
        remarks += found.len();
    }
    assert!(remarks > 0);
}

#[test]
fn no_default_is_inert() {
    let Some(all) = all() else { return };
    let cases = entries(&all["defaults"]);
    let keys: BTreeSet<&str> = cases.keys().map(String::as_str).collect();
    assert_eq!(keys, OPTIONS.iter().map(|option| option.key).collect());
    for (key, case) in cases {
        assert_ne!(case["silent"], case["outspoken"], "{key}");
        assert_eq!(without_hashes(&case["silent"]), without_hashes(&case["value"]), "{key}");
        assert_eq!(without_hashes(&case["outspoken"]), without_hashes(&case["other"]), "{key}");
    }
}

#[test]
fn a_change_of_one_instance_leaves_the_others_store_paths() {
    let Some(all) = all() else { return };
    let output = |case: &str, name: &str| all["cases"][case]["instances"][name]["output"].clone();
    for case in ["two-with-one-changed", "disabled", "opted-in-beside-others"] {
        assert_eq!(output("two", "website"), output(case, "website"), "{case}");
        assert_ne!(output("two", "api"), output(case, "api"), "{case}");
        let fleet = |case: &str| all["cases"][case]["fleet"][0]["output"].clone();
        assert_ne!(fleet("two"), fleet(case), "{case}");
    }
}

#[test]
fn types_refuse_in_words() {
    let Some(all) = all() else { return };
    let lib = nixpkgs_lib().unwrap();
    for (name, says) in entries(&all["says"]) {
        assert_eq!(all["caught"][name], false, "{name} is built");
        let attribute = format!("refused.{name}");
        let lib = lib.to_str().unwrap();
        let arguments = ["--eval", "--strict", FILE, "--argstr", "nixpkgsLib", lib, "--attr"];
        let output = nix(&[&arguments[..], &[&attribute]].concat());
        assert!(!output.status.success(), "{name}");
        // Newer versions of Nix write other quotation marks.
        let plain = |text: &str| text.replace(['`', '\'', '‘', '’'], "'");
        let errors = plain(&String::from_utf8_lossy(&output.stderr));
        let says = plain(says.as_str().unwrap());
        assert!(errors.contains(&says), "{name} should say {says:?}: {errors}");
    }
}

/// As nixpkgs' own manual demands it of every option.
#[test]
fn every_option_is_documented() {
    let Some(all) = all() else { return };
    let options = all["options"].as_array().unwrap();
    assert_eq!(options.len(), 4 + FLEET.len() + 2 * OPTIONS.len());
    for option in options {
        let name = option["name"].as_str().unwrap();
        for part in ["description", "type", "default"] {
            assert!(option[part].is_string(), "{name} has no {part}");
        }
        assert_eq!(option["declared"], true, "{name}");
    }
}
