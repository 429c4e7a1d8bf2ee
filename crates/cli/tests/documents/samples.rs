//! Every sample is what it says it is, to the engine and to the JSON Schema.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use instances_core::diagnostic::Diagnostics;
use instances_core::lower::read;
use instances_core::node::{Format, Node, Value, parse};
use instances_lab::place;

use crate::blocks::{document, documents, files};
use crate::json_schema::Schema;

/// The codes of all errors; empty for a specification that is accepted.
fn refusals(text: &str) -> Vec<String> {
    refusals_of(text, Format::Toml)
}

fn refusals_of(text: &str, format: Format) -> Vec<String> {
    let findings = read(text, format).err().unwrap_or_default();
    findings.iter().map(|one| one.code.to_string()).filter(|code| code.starts_with('E')).collect()
}

fn schema() -> Schema {
    let path = place::workspace().join("schema/spec.schema.json");
    Schema::new(&fs::read_to_string(path).unwrap())
}

fn node(text: &str) -> Option<Node> {
    node_of(text, Format::Toml)
}

fn node_of(text: &str, format: Format) -> Option<Node> {
    parse(text, format, &mut Diagnostics::new())
}

#[test]
fn samples_in_documents() {
    let mut count = 0;
    for block in documents().iter().flat_map(crate::blocks::Document::blocks) {
        match block.info.as_str() {
            "toml" => assert_eq!(refusals(&block.text), [""; 0], "{}", block.place),
            "toml refused" => assert_ne!(refusals(&block.text), [""; 0], "{}", block.place),
            _ => continue,
        }
        count += 1;
    }
    assert!(count >= 2);
}

/// A refused sample that is followed by a `text` block says what `check` says of it.
#[test]
fn findings_in_documents() {
    let mut count = 0;
    let documents = documents();
    let blocks: Vec<_> = documents.iter().flat_map(crate::blocks::Document::blocks).collect();
    for pair in blocks.windows(2) {
        if pair[0].info != "toml refused" || pair[1].info != "text" {
            continue;
        }
        let mut check = Command::new(env!("CARGO_BIN_EXE_opencode-instances"));
        let mut child = check
            .args(["check", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(pair[0].text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8(output.stderr).unwrap();
        let said: String = said.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        assert_eq!(said, pair[1].text, "{}", pair[1].place);
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn examples_are_accepted() {
    let specifications = files("examples").into_iter();
    for path in specifications.filter(|path| path.extension().is_some_and(|end| end == "toml")) {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(refusals(&text), [""; 0], "{}", path.display());
        assert_eq!(schema().refusal(&node(&text).unwrap()), None, "{}", path.display());
    }
}

/// The demonstration and most tests apply the file; the README must not show another one, but for where its reader has
/// put opencode.
#[test]
fn the_readme_shows_the_example() {
    let example =
        fs::read_to_string(place::workspace().join("examples/two-projects.toml")).unwrap();
    let shown = document("README.md").blocks().into_iter().find(|block| block.info == "toml");
    let package =
        "# package = \"/usr/local/bin/opencode\"    # without this line: /usr/bin/opencode";
    assert!(example.contains(package));
    let example = example.replace(package, "package = \"/usr/local/bin/opencode\"");
    assert_eq!(shown.unwrap().text, example);
}

/// Specifications of earlier versions, which stay as they are. Those of this version are added when it is released, and
/// none is changed or taken away.
#[test]
fn samples_of_earlier_versions() {
    let all = files("crates/cli/tests/samples/0.1");
    assert!(all.len() >= 14, "{all:?}");
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let refused = refusals_of(&text, Format::of(&path.display().to_string()));
        assert_eq!(refused, [""; 0], "{}", path.display());
    }
}

/// The first line of one that is remarked on says how: `# W0410`.
#[test]
fn valid_samples() {
    for path in files("crates/cli/tests/samples/valid") {
        let text = fs::read_to_string(&path).unwrap();
        let format = Format::of(&path.display().to_string());
        assert_eq!(refusals_of(&text, format), [""; 0], "{}", path.display());
        if let Some(wanted) = text.lines().next().and_then(|line| line.strip_prefix("# W")) {
            let (_, remarks) = read(&text, format).unwrap();
            let found: Vec<String> = remarks.iter().map(|one| one.code.to_string()).collect();
            assert_eq!(found.join(", "), format!("W{wanted}"), "{}", path.display());
        }
        let node = node_of(&text, format).unwrap();
        assert_eq!(schema().refusal(&node), None, "{}", path.display());
    }
}

/// The first line of each says how it is refused: `# E0207`, or `# E0301, not by the schema`.
#[test]
fn invalid_samples() {
    for path in files("crates/cli/tests/samples/invalid") {
        let text = fs::read_to_string(&path).unwrap();
        let (first, _) = text.split_once('\n').unwrap();
        let first = first.strip_prefix("# ").unwrap();
        let (code, engine_only) = match first.split_once(", ") {
            Some((code, "not by the schema")) => (code, true),
            _ => (first, false),
        };
        assert_eq!(refusals(&text), [code], "{}", path.display());
        if let Some(node) = node(&text) {
            let refused = schema().refusal(&node).is_some();
            assert_eq!(refused, !engine_only, "{}: the schema", path.display());
        }
    }
}

/// The schema never refuses what the engine accepts, as far as the options' own examples go.
#[test]
fn every_example_of_an_option_passes_the_schema() {
    for option in instances_core::raw::OPTIONS {
        let text = format!("[defaults]\n{} = {}\n", option.key, option.example);
        let node = node(&text).unwrap();
        assert!(matches!(node.value, Value::Table(_)));
        assert_eq!(schema().refusal(&node), None, "{text}");
    }
}
