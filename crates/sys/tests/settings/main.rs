//! Holds the check of settings against the real opencode: it takes what the check takes, and
//! refuses or drops what the check refuses.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test without the usual harness, which clippy does not recognise as one"
)]

mod opencode;
#[path = "../supervise/server.rs"]
mod server;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use instances_core::node::join;
use instances_core::opencode::extract::extract;
use instances_core::opencode::known;
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

use self::opencode::{Server, WORDS, run};

/// The table that the tests of `instances-core` hold against the check.
const CASES: &str = include_str!("../../../core/tests/settings/cases.json");

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let skip = !server::has_real_server();
    let trials = [
        ("opencode: the schema", the_schema as fn()),
        ("opencode: every case as the configuration of a project", every_case),
        ("opencode: every place of a configuration", every_place),
    ];
    let trials = trials.map(|(name, test)| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(skip)
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn the_schema() {
    let version = run(&["--version"]);
    let known = known(version.trim());
    let schema = extract(&run(&["generate"])).unwrap();
    assert!(
        known.exact && schema == known.text,
        "schema/opencode/{}.json is missing, or is not this:\n{schema}",
        version.trim()
    );
}

/// One row of the table.
struct Case {
    name: String,
    settings: Value,
    /// Where the check refuses.
    refused: Vec<String>,
    /// Whether opencode takes what the check refuses, for a reason that the table gives.
    differs: bool,
}

fn cases() -> Vec<Case> {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    let case = |case: Value| Case {
        name: case.get("name").unwrap().as_str().unwrap().to_owned(),
        settings: case.get("settings").unwrap().clone(),
        refused: case.get("refused").map(strings).unwrap_or_default(),
        differs: case.get("differs").is_some(),
    };
    cases.into_iter().map(case).collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn every_case() {
    let start = Instant::now();
    let server = Server::start(&[]).unwrap();
    println!("started in {:?}", start.elapsed());
    let start = Instant::now();
    let mut wrong = String::new();
    for case in cases() {
        let (status, answer) = server.judge(&case.settings.to_string());
        if let Some(how) = disagreement(&case, status, &answer) {
            let _ = writeln!(wrong, "{}: {how}: {status} {answer}", case.name);
        }
    }
    println!("judged in {:?}", start.elapsed());
    assert!(wrong.is_empty(), "{wrong}");
}

/// How opencode's answer is not what the table says, if it is not.
fn disagreement(case: &Case, status: u16, answer: &Value) -> Option<String> {
    let mut lost = Vec::new();
    if status == 200 {
        lose(&case.settings, answer, "", &mut lost);
    }
    match (case.refused.as_slice(), case.differs, status) {
        ([], _, 200) => (!lost.is_empty()).then(|| format!("lost {lost:?}")),
        (_, true, 200) => None,
        (refused, false, 200) => {
            let kept = refused.iter().find(|path| !lost.iter().any(|lost| related(path, lost)))?;
            Some(format!("kept {kept}"))
        }
        ([_, ..], false, 400) => {
            let issues = answer.pointer("/data/issues").and_then(Value::as_array)?;
            let places: Vec<String> =
                issues.iter().map(|issue| place(issue, &case.settings)).collect();
            let same = |place: &String| case.refused.iter().any(|path| related(path, place));
            (!places.iter().any(same)).then(|| format!("it is about {places:?}"))
        }
        _ => Some("not as expected".to_owned()),
    }
}

/// Whether one path is the other, or leads to it.
fn related(a: &str, b: &str) -> bool {
    let leads = |a: &str, b: &str| {
        b.strip_prefix(a).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    leads(a, b) || leads(b, a)
}

/// The path of one of opencode's issues, as the check writes it.
fn place(issue: &Value, settings: &Value) -> String {
    let mut path = String::new();
    let mut at = Some(settings);
    for step in strings(issue.get("path").unwrap()) {
        let index = step.parse::<usize>().ok().filter(|_| at.is_some_and(Value::is_array));
        if let Some(index) = index {
            let _ = write!(path, "[{index}]");
            at = at.and_then(|list| list.get(index));
        } else {
            path = join(&path, &step);
            at = at.and_then(|table| table.get(&step));
        }
    }
    path
}

/// Collects the paths of what the answer does not have as it was asked for.
fn lose(settings: &Value, answer: &Value, path: &str, lost: &mut Vec<String>) {
    match (settings, answer) {
        (Value::Object(entries), Value::Object(kept)) => {
            for (key, value) in entries {
                let path = join(path, key);
                match kept.get(key) {
                    Some(kept) => lose(value, kept, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(kept)) if items.len() == kept.len() => {
            for (index, (item, kept)) in items.iter().zip(kept).enumerate() {
                lose(item, kept, &format!("{path}[{index}]"), lost);
            }
        }
        // One permission for everything becomes a table.
        (Value::String(_), Value::Object(_)) if *answer == json!({"*": replaced(settings)}) => {}
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        _ if replaced(settings) == *answer => {}
        _ => lost.push(path.to_owned()),
    }
}

/// A value with what its placeholders stand for.
fn replaced(value: &Value) -> Value {
    let Value::String(text) = value else { return value.clone() };
    let mut text = text.clone();
    for (name, word) in WORDS {
        text = text.replace(&format!("{{env:{name}}}"), word);
        text = text.replace(&format!("{{file:./{}}}", name.to_lowercase()), word);
    }
    Value::String(text.replace("{env:NOT_SET}", ""))
}

/// The global configuration, the one that is named, the one in the environment, and the enforced
/// one are judged by the same schema as the project's.
fn every_place() {
    let mistyped = r#"{"model": "a/b", "share": "never"}"#;
    let misspelt = r#"{"model": "a/b", "modle": "a/b", "mcp": {"a": {"enabled": false, "x": 1}}}"#;
    for place in ["global", "named", "inline", "enforced"] {
        let server = Server::start(&[(place, misspelt)]).unwrap();
        let (status, answer) = server.judge("{}");
        assert_eq!((status, answer.get("model")), (200, Some(&json!("a/b"))), "{place}");
        assert_eq!(answer.get("modle"), None, "{place}");
        assert_eq!(answer.pointer("/mcp/a"), Some(&json!({"enabled": false})), "{place}");
        drop(server);
        match Server::start(&[(place, mistyped)]) {
            Ok(server) => {
                let (status, answer) = server.judge("{}");
                assert_eq!(status, 400, "{place}: {answer}");
                assert_ne!(place, "global");
            }
            Err(output) => {
                assert_eq!(place, "global");
                assert!(output.contains("share"), "{output}");
            }
        }
    }
}
