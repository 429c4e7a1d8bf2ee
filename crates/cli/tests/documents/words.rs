//! What the documents name exists, and what is generated can be generated.

use std::collections::BTreeSet;
use std::process::Command;

use instances_lab::place;

use crate::blocks::documents;

fn program(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_opencode-instances")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that operators see.
fn commands() -> BTreeSet<String> {
    let command = opencode_instances::command();
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    shown.map(|one| one.get_name().to_owned()).collect()
}

#[test]
fn every_command_that_a_document_names_exists() {
    let all: BTreeSet<String> = opencode_instances::command()
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect();
    for document in documents() {
        for after in document.text.split("opencode-instances ").skip(1) {
            let word: String =
                after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let typed = document.text.contains(&format!("`opencode-instances {word}"))
                || document.text.contains(&format!("sudo opencode-instances {word}"));
            if typed && !word.is_empty() {
                assert!(all.contains(&word), "{}: there is no command `{word}`", document.path);
            }
        }
    }
}

#[test]
fn the_readme_names_every_command() {
    let readme = crate::blocks::document("README.md").text;
    for command in commands() {
        assert!(readme.contains(&format!("`{command}")), "README.md does not name `{command}`");
    }
}

#[test]
fn the_man_page_and_every_completion_can_be_generated() {
    let man = program(&["man"]);
    assert!(man.starts_with(".ie") || man.contains(".TH opencode-instances 1"), "{man}");
    for command in commands() {
        assert!(man.contains(&command.replace('-', "\\-")), "the man page lacks {command}");
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = program(&["completions", shell]);
        for command in commands() {
            assert!(text.contains(&command), "{shell}'s completions lack {command}");
        }
    }
}

#[test]
fn the_help_tells_the_exit_statuses() {
    let help = program(&["--help"]);
    let line = help.lines().find(|line| line.starts_with("Exit status: ")).unwrap();
    for (status, _) in opencode_instances::exit_statuses() {
        assert!(line.contains(&format!(" {status} ")), "{line}");
    }
}

/// Where they send who wants to change something.
#[test]
fn every_file_that_contributors_are_sent_to_exists() {
    let mut missing = Vec::new();
    let mut count = 0;
    for page in ["CONTRIBUTING.md", "docs/explanation/architecture.md"] {
        for name in crate::blocks::document(page).text.split('`').skip(1).step_by(2) {
            let (first, rest) = name.split_once('/').unwrap_or((name, ""));
            let path = match first {
                "core" | "sys" | "cli" | "lab" => format!("crates/{name}"),
                "crates" | "xtask" | "nix" | "schema" | "docs" => name.to_owned(),
                _ => continue,
            };
            // Patterns and places to be filled in.
            let is_a_path = !rest.is_empty() && !path.contains([' ', '*', '{', '(']);
            if !is_a_path || path.contains("NAME") || path.contains("VERSION") {
                continue;
            }
            count += 1;
            if !place::workspace().join(&path).exists() {
                missing.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(count > 60, "{count}");
    assert!(missing.is_empty(), "do not exist: {missing:#?}");
}

#[test]
fn every_guarantee_names_its_test() {
    let page = crate::blocks::document("docs/explanation/guarantees.md").text;
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 25, "{}", rows.len());
    for row in rows {
        let proof = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let is_code =
            ["crates", "xtask"].iter().any(|top| proof.contains(&format!("](../../{top}/")));
        assert!(is_code, "no test: {row}");
    }
}

#[test]
fn the_page_on_nixos_lists_the_modules_that_the_rules_need() {
    let page = crate::blocks::document("docs/how-to/nixos.md").text;
    let (_, list) = page.split_once("boot.kernelModules = [").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let listed: Vec<&str> = list.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let needed: Vec<&str> = instances_core::nft::MODULES.into_iter().chain(["veth"]).collect();
    assert_eq!(listed, needed);
}
