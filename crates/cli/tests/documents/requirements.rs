//! What was asked for is there: what the page names as fulfilling a sentence exists, and so does
//! each test that proves it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use instances_core::raw::{FLEET, OPTIONS};
use instances_lab::place;

use crate::blocks::document;

const PAGE: &str = "docs/requirements.md";
/// How many sentences were asked for; none gets lost.
const SENTENCES: usize = 20;

/// A sentence, and the lines below it.
struct Requirement {
    sentence: String,
    by: String,
    proven_by: String,
}

fn requirements() -> Vec<Requirement> {
    let text = document(PAGE).text;
    let of = |part: &str, start: &str| {
        let line = part.lines().find_map(|line| line.strip_prefix(start));
        line.unwrap_or_else(|| panic!("{start} is missing: {part}")).to_owned()
    };
    text.split("\n> ")
        .skip(1)
        .map(|part| Requirement {
            sentence: part.lines().next().unwrap().to_owned(),
            by: of(part, "- By: "),
            proven_by: of(part, "- Proven by: "),
        })
        .collect()
}

/// The words in code, without the texts of links.
fn code(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// What may be named beside options.
fn names() -> BTreeSet<String> {
    let command = opencode_instances::command();
    let commands = command.get_subcommands().map(|one| one.get_name().to_owned());
    let options = OPTIONS.iter().map(|option| option.key.to_owned());
    let fleet = FLEET.iter().map(|option| format!("fleet.{}", option.key));
    // Whole tables, an attribute of Nix's, a flag, a value.
    let others = [
        "services.opencode.instances",
        "services.opencode.defaults",
        "[instances.NAME]",
        "[defaults]",
        "pkgs.opencode-instances",
        "networking.firewall.allowedTCPPorts",
        "--suggest",
        "\"full\"",
        "PATH",
    ];
    commands.chain(options).chain(fleet).chain(others.map(str::to_owned)).collect()
}

#[test]
fn what_fulfils_a_requirement_exists() {
    let names = names();
    let units = document("docs/reference/units.md").text;
    let all = requirements();
    assert_eq!(all.len(), SENTENCES);
    for one in all {
        let fulfilling = code(&one.by);
        assert!(!fulfilling.is_empty(), "{}: nothing fulfils it", one.sentence);
        for name in fulfilling {
            let is_there = match name {
                unit if unit.starts_with("opencode-") => units.contains(&format!("`{unit}`")),
                name => names.contains(name),
            };
            assert!(is_there, "{}: there is no `{name}`", one.sentence);
        }
    }
}

#[test]
fn what_proves_a_requirement_exists() {
    for one in requirements() {
        let mut count = 0;
        for part in one.proven_by.split("[`").skip(1) {
            let (name, rest) = part.split_once("`](").unwrap();
            let (path, _) = rest.split_once(')').unwrap();
            let path = place::workspace().join("docs").join(path);
            assert!(
                has_test(&path, name),
                "{}: no test {name} in {}",
                one.sentence,
                path.display()
            );
            count += 1;
        }
        assert!(count > 0, "{}: nothing proves it", one.sentence);
    }
}

/// Whether a file has a test of this name: one of the harness's, or of a table of cases.
fn has_test(path: &Path, name: &str) -> bool {
    let text = fs::read_to_string(path).unwrap();
    let Some((before, _)) = text.split_once(&format!("fn {name}()")) else { return false };
    let attributes: Vec<&str> =
        before.lines().rev().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let in_a_table = |file: &Path| {
        let table = fs::read_to_string(file).unwrap_or_default();
        table.contains(&format!("\", {name})"))
    };
    attributes.contains(&"#[test]")
        || in_a_table(path)
        || in_a_table(&path.with_file_name("main.rs"))
}
