//! What is in Nix beside the module: the tests for virtual machines, the samples of the documents and
//! the flake, as far as they can be evaluated without nixpkgs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

use crate::evaluate::{has_nix, nix, nixpkgs_lib, repository, value};

const FILE: &str = "nix/tests/eval/machines.nix";

fn evaluated(attribute: &str, arguments: &[&str]) -> Option<Value> {
    let lib = nixpkgs_lib()?;
    let given = ["--argstr", "nixpkgsLib", lib.to_str()?, "--attr", attribute];
    Some(value(FILE, &[&given, arguments].concat()))
}

fn entries(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

/// The names of the tests, by their files.
fn files() -> BTreeSet<String> {
    let entries = fs::read_dir(repository().join("nix/tests")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| name.strip_suffix(".nix").map(str::to_owned))
        .filter(|name| name != "default")
        .collect()
}

#[test]
fn every_machine_is_one_that_the_module_takes() {
    let Some(machines) = evaluated("machines", &[]) else { return };
    let machines = entries(&machines);
    assert_eq!(machines.keys().cloned().collect::<BTreeSet<_>>(), files());
    for (test, machine) in machines {
        for (node, result) in entries(&machine["nodes"]) {
            assert_eq!(result["problems"], Value::Array(Vec::new()), "{test}: {node}");
            for (one, result) in entries(&result["specialisations"]) {
                assert_eq!(result["problems"], Value::Array(Vec::new()), "{test}: {node}: {one}");
            }
        }
    }
}

/// The test of switching rests on which of its generations differ.
#[test]
fn specialisations_differ_where_they_should() {
    let Some(machines) = evaluated("machines.restart", &[]) else { return };
    let machine = &machines["nodes"]["machine"];
    for (name, other) in entries(&machine["specialisations"]) {
        let same = ["policy", "unrelated"].contains(&name.as_str());
        assert_eq!(machine["fleet"] == other["fleet"], same, "{name}");
    }
}

#[test]
fn every_script_is_python() {
    let Some(machines) = evaluated("machines", &[]) else { return };
    for (test, machine) in entries(&machines) {
        let parse = "import ast, sys; ast.parse(sys.stdin.read())";
        let mut python = Command::new("python3");
        let started = python.args(["-c", parse]).stdin(Stdio::piped()).spawn();
        let mut python = started.expect("python3 is there where NIXPKGS_LIB is set");
        let script = machine["testScript"].as_str().unwrap();
        python.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(python.wait().unwrap().success(), "{test}");
    }
}

/// The README and every page.
fn documents() -> Vec<String> {
    let mut found = vec!["README.md".to_owned()];
    let mut directories = vec!["docs".to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(repository().join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{directory}/{}", entry.file_name().display());
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if Path::new(&path).extension().is_some_and(|end| end == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The blocks of a document that are Nix, with the numbers of their lines.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => block.extend([line, "\n"]),
            None if line == "```nix" => open = Some((number + 2, String::new())),
            None => {}
        }
    }
    blocks
}

#[test]
fn samples_in_documents_are_modules() {
    if !has_nix() {
        return;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nix-samples");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("review.md"), "What a sample names beside itself.").unwrap();
    let mut modules = Vec::new();
    for document in documents() {
        let document = document.as_str();
        for (line, text) in blocks(document) {
            let name = format!("{}-{line}.nix", document.replace('/', "-"));
            let file = directory.join(name).display().to_string();
            fs::write(&file, &text).unwrap();
            let output = nix(&["--parse", &file]);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{document}:{line}: {errors}");
            // Neither a flake nor what names files of the reader's can be evaluated here.
            if !text.contains("outputs =") && !text.contains("import ./") {
                modules.push((format!("{document}:{line}"), file));
            }
        }
    }
    assert!(modules.len() > 5, "{modules:?}");
    let files: Vec<&str> = modules.iter().map(|(_, file)| file.as_str()).collect();
    let list = format!("[ {} ]", files.join(" "));
    let Some(samples) = evaluated("samples", &["--arg", "samples", &list]) else { return };
    for ((place, _), sample) in modules.iter().zip(samples.as_array().unwrap()) {
        assert_eq!(sample["problems"], Value::Array(Vec::new()), "{place}");
    }
}

#[test]
fn the_flake_offers_what_the_documents_name() {
    let Some(flake) = evaluated("flake", &[]) else { return };
    assert_eq!(flake["inputs"], Value::from(vec!["nixpkgs"]));
    assert_eq!(flake["overlay"], Value::from(vec!["opencode-instances"]));
    assert_eq!(flake["modules"]["default"], flake["modules"]["opencode-instances"]);
    assert_eq!(flake["host"]["problems"], Value::Array(Vec::new()));
    assert_eq!(flake["host"]["instances"], Value::from(vec!["billing", "website"]));
    assert_eq!(flake["template"], Value::Bool(true));
    for (system, packages) in entries(&flake["packages"]) {
        assert_eq!(packages["default"], packages["opencode-instances"], "{system}");
        let checks = flake["checks"][system].as_array().unwrap().iter();
        let tests: BTreeSet<String> = checks
            .filter_map(|check| check.as_str()?.strip_prefix("vm-").map(str::to_owned))
            .collect();
        assert_eq!(tests, files(), "{system}");
    }
}

#[test]
fn a_host_gets_the_engine_of_its_overlay_or_of_the_checkout() {
    let Some(engine) = evaluated("engine", &[]) else { return };
    assert_eq!(engine["ofOverlay"], "another-opencode-instances");
    assert_eq!(engine["ofCheckout"], "opencode-instances");
    let builder = |key: &str| engine[key].as_str().unwrap().to_owned();
    assert!(builder("ofBuilder").ends_with("-opencode-instances-0.1.0/bin/opencode-instances"));
    assert!(builder("ofBuilderForAnother").contains("-another-opencode-instances-1.0/bin/"));
}

/// `nix/package.nix` edits manifests whose other members and tests it leaves out.
#[test]
fn the_package_can_still_cut_the_manifests() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let package = read("nix/package.nix");
    let cut = package.split("--replace-fail '").nth(1).unwrap().split('\'').next().unwrap();
    assert!(read("Cargo.toml").contains(cut), "Cargo.toml has no longer {cut}");
    for one in ["cli", "core", "sys"] {
        assert!(package.contains(&format!("../crates/{one}/src")), "{one}");
        let manifest = read(&format!("crates/{one}/Cargo.toml"));
        let after = manifest.split("\n[dev-dependencies]\n").nth(1).unwrap();
        for section in after.lines().filter(|line| line.starts_with('[')) {
            assert!(["[[test]]", "[[bench]]"].contains(&section), "{one}: {section} would be lost");
        }
    }
}
