//! Nothing is shown as a command that no test runs, unless it says why.

use std::fs;

use instances_lab::place;

use crate::blocks::{Block, Document, documents, files};

/// The source with the tests that run pages.
const TESTS: &str = include_str!("commands.rs");

/// Pages with commands that a test elsewhere runs: the page, how such blocks begin, and that test.
const ELSEWHERE: [(&str, &str, &str); 2] = [
    ("docs/how-to/allow-list.md", "text", "crates/lab/tests/network/tuning.rs"),
    ("docs/how-to/debian.md", "sh debian ", "crates/lab/tests/package/main.rs"),
];

/// What is wrong with a block.
fn fault(block: &Block, page: &str) -> Option<String> {
    let shows_commands = block.text.lines().any(|line| line.starts_with("$ "));
    let elsewhere = ELSEWHERE
        .iter()
        .filter(|(shown, ..)| *shown == page)
        .find_map(|(_, class, test)| Some((block.info.strip_prefix(class)?, *test)));
    if let Some((word, test)) = elsewhere {
        return (!names(test, word)).then(|| format!("{test} runs no `{word}`"));
    }
    match block.info.as_str() {
        "text" if shows_commands => Some("no test shows this".to_owned()),
        // Judged by `samples_in_documents`, and by the tests of what is in Nix.
        "text" | "toml" | "toml refused" | "nix" => None,
        "sh run" => (!TESTS.contains(&format!("{page:?}")))
            .then(|| format!("no test in commands.rs runs the blocks of {page}")),
        info => match info.strip_prefix("sh not run: ") {
            Some(reason) if reason.len() > 10 => None,
            _ => Some(format!(
                "what is `{info}`? Known are `sh run`, `sh not run: REASON`, `toml`, `toml refused`, \
                 `nix` and `text`"
            )),
        },
    }
}

/// Whether a test, or a file beside it, names what is left of a block's class.
fn names(test: &str, word: &str) -> bool {
    let directory = test.rsplit_once('/').unwrap().0;
    let named =
        |file| fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("{word:?}")));
    word.is_empty() || files(directory).into_iter().any(named)
}

fn faults(document: &Document) -> Vec<String> {
    let blocks = document.blocks();
    let of_blocks = blocks.iter().filter_map(|block| {
        fault(block, &document.path).map(|fault| format!("{}: {fault}", block.place))
    });
    of_blocks.chain(indented(document)).collect()
}

/// Blocks that are only indented: nothing says what they are.
fn indented(document: &Document) -> Vec<String> {
    let mut found = Vec::new();
    let mut before = "";
    let mut in_list = false;
    for (number, line) in document.lines_outside() {
        let inside = line.starts_with("    ");
        if !inside && !line.is_empty() {
            let first = line.trim_start().split(' ').next().unwrap_or_default();
            in_list = line.starts_with(' ')
                || ["-", "*"].contains(&first)
                || first.strip_suffix('.').is_some_and(|one| one.parse::<u8>().is_ok());
        }
        if inside && before.is_empty() && !in_list {
            found.push(format!("{}:{number}: a block without a fence", document.path));
        }
        if ["```", "~~~"].iter().any(|fence| line.trim_start().starts_with(fence)) {
            found.push(format!("{}:{number}: a fence that nothing here reads", document.path));
        }
        before = line;
    }
    found
}

#[test]
fn every_block_says_what_becomes_of_it() {
    let wrong: Vec<String> = documents().iter().flat_map(faults).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pages_with_a_test_elsewhere_are_named_there() {
    for (page, _, test) in ELSEWHERE {
        let source = fs::read_to_string(place::workspace().join(test)).unwrap();
        assert!(source.contains(&format!("{page:?}")), "{test} does not name {page}");
    }
}

/// What somebody might add without a thought.
#[test]
fn a_block_that_nothing_runs_is_seen() {
    for text in [
        "```sh\nsudo rm -r /\n```\n",
        "```bash\ntrue\n```\n",
        "```\ntrue\n```\n",
        "```sh not run\ntrue\n```\n",
        "```sh not run: why\ntrue\n```\n",
        "```sh run\ntrue\n```\n",
        "```console\n$ true\n```\n",
        "```text\n$ true\n```\n",
        "```toml partly\n```\n",
        "Words:\n\n    sudo rm -r /\n",
        "- one\n\n  ```sh\n",
        "~~~sh\n",
    ] {
        let document = Document { path: "docs/NAME.md".to_owned(), text: text.to_owned() };
        assert_eq!(faults(&document).len(), 1, "{text}");
    }
    let list =
        "- one\n\n    more of it\n\n1. two\n\n    more\n\n```sh not run: no such program\n```\n";
    let document = Document { path: "docs/NAME.md".to_owned(), text: list.to_owned() };
    assert_eq!(faults(&document), [""; 0]);
}
