//! Ten thousand specifications that are almost some, in each language: accepted, or refused in words; and no more
//! memory than so many times the text.

#[path = "../../core/tests/malformed/counted.rs"]
mod counted;
#[path = "../../core/tests/malformed/mutants.rs"]
#[expect(dead_code, reason = "bytes are for what is no text")]
mod mutants;

use std::fs;
use std::path::Path;

use instances_core::desired::desire;
use instances_core::diagnostic::Diagnostics;
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::{Format, Node, Value, parse};

use crate::report::{self, Source};
use counted::{Taken, taken};
use mutants::{COUNT, Dice};

/// Every sample; those that are accepted three times, so that what comes behind the parsers gets its share.
fn samples() -> Vec<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let samples = "crates/cli/tests/samples";
    let valid = ["examples".to_owned(), "fuzz/corpus/spec".to_owned(), format!("{samples}/valid")];
    let mut found = Vec::new();
    for (place, times) in
        valid.iter().map(|place| (place, 3)).chain([(&format!("{samples}/invalid"), 1)])
    {
        let entries = fs::read_dir(workspace.join(place)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
        let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
        found.extend(texts.flat_map(|text| vec![text; times]));
    }
    assert!(found.len() > 80, "{}", found.len());
    found
}

/// The same as JSON, which is how a NixOS configuration comes in.
fn in_json(toml: &str) -> Option<String> {
    let node = parse(toml, Format::Toml, &mut Diagnostics::new())?;
    Some(format!("{:#}", json(&node)))
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Boolean(flag) => (*flag).into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Table(entries) => {
            entries.iter().map(|(key, _, value)| (key.clone(), json(value))).collect()
        }
        // As Nix has what is not set.
        Value::Null | Value::Other(_) => serde_json::Value::Null,
    }
}

/// Reads one text as a command does; how many instances it has, if it is accepted.
fn judged(text: &str, format: Format) -> Option<usize> {
    let reading = read(text, format);
    let findings = match &reading {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    };
    let source = Source::new("spec".to_owned(), text.to_owned());
    for finding in findings {
        assert!(
            !finding.message.is_empty() && !finding.label.is_empty() && !finding.help.is_empty(),
            "{finding:?}"
        );
        let said = report::diagnostic(&source, finding);
        assert!(said.contains(finding.code.as_str()) && said.contains("help"), "{said}");
        report::json_diagnostic(&source, finding);
    }
    assert!(
        reading.is_ok() || crate::spec::errors(findings).next().is_some(),
        "refused, and nobody says why"
    );
    let Ok((spec, _)) = reading else { return None };
    desire(&spec, &HostFacts::usr(257));
    Some(spec.instances.len())
}

/// What is taken for each byte of a text at most, as findings, and for each instance, as files.
const EACH_BYTE: usize = 300;
const EACH_INSTANCE: usize = 500_000;

fn all(format: Format, seeds: &[String], seed: u64) {
    let mut dice = Dice::new(seed);
    let (mut accepted, mut kept) = (0, 0);
    for _ in 0..COUNT {
        let text = mutants::text(&mut dice, seeds);
        let mut instances = None;
        let one: Taken = taken(|| instances = judged(&text, format));
        accepted += usize::from(instances.is_some());
        kept += one.kept;
        let most = EACH_BYTE * (text.len() + 1000) + EACH_INSTANCE * instances.unwrap_or(0);
        assert!(one.most < most, "{} of {most} bytes for {}: {text}", one.most, text.len());
    }
    assert_eq!(kept, 0, "bytes are kept");
    assert!((200..COUNT / 2).contains(&accepted), "{accepted} are accepted");
}

#[test]
fn ten_thousand_in_toml() {
    all(Format::Toml, &samples(), 1);
}

#[test]
fn ten_thousand_in_json() {
    let seeds: Vec<String> = samples().iter().filter_map(|toml| in_json(toml)).collect();
    assert!(seeds.len() > 50, "{}", seeds.len());
    all(Format::Json, &seeds, 2);
}
