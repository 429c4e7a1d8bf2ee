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
fn every_link_between_documents_leads_somewhere() {
    for document in documents() {
        let directory = place::workspace().join(&document.path);
        let directory = directory.parent().unwrap();
        for after in document.prose().split("](").skip(1) {
            let target = after.split(')').next().unwrap();
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap();
            assert!(directory.join(file).exists(), "{}: {target} does not exist", document.path);
        }
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
