//! Settings that opencode takes, and those that it refuses or drops. The same table is held against
//! the real opencode by the tests of `instances-sys`.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod systematic;

use instances_core::diagnostic::Diagnostics;
use instances_core::json::Json;
use instances_core::node::{Format, Node, Value, parse};
use instances_core::opencode::known;
use instances_core::opencode::settings::{Mismatch, validate};

fn read(text: &str) -> Json {
    let mut diagnostics = Diagnostics::new();
    let node = parse(text, Format::Json, &mut diagnostics);
    assert!(!diagnostics.has_errors(), "{text}: {diagnostics:?}");
    as_typed(&node.unwrap()).unwrap()
}

/// What a node holds, without what is `null` in it.
fn as_typed(node: &Node) -> Option<Json> {
    Some(match &node.value {
        Value::Boolean(flag) => Json::Boolean(*flag),
        Value::Integer(number) => Json::Integer(*number),
        Value::Float(number) => Json::Float(*number),
        Value::String(text) => Json::Text(text.clone()),
        Value::Array(items) => Json::List(items.iter().filter_map(as_typed).collect()),
        Value::Table(entries) => {
            let entry = |(key, _, value): &(String, _, Node)| Some((key.clone(), as_typed(value)?));
            Json::Table(entries.iter().filter_map(entry).collect())
        }
        Value::Null | Value::Other(_) => return None,
    })
}

fn judge(settings: &Json) -> Vec<Mismatch> {
    validate(settings, known("1.18.33").schema().unwrap())
}

fn word(case: &Json, key: &str) -> String {
    match case.get(key) {
        Some(Json::Text(text)) => text.clone(),
        other => panic!("{key} is {other:?} in {case:?}"),
    }
}

#[test]
fn every_case_is_judged_as_the_table_says() {
    let Json::List(cases) = read(include_str!("cases.json")) else { panic!("no array") };
    assert!(cases.len() >= 60);
    let mut wrong = Vec::new();
    for case in &cases {
        let name = word(case, "name");
        let expected: Vec<String> = match case.get("refused") {
            Some(Json::List(paths)) => {
                let text = |path: &Json| match path {
                    Json::Text(path) => path.clone(),
                    other => panic!("{other:?} in {name}"),
                };
                paths.iter().map(text).collect()
            }
            None => Vec::new(),
            Some(other) => panic!("{other:?} in {name}"),
        };
        let found = judge(case.get("settings").unwrap());
        let paths: Vec<String> = found.iter().map(|one| one.below("")).collect();
        if paths != expected {
            wrong.push(format!("{name}: expected {expected:?}, got {found:#?}"));
        }
        for one in &found {
            for line in [&one.message, &one.expected, &one.help] {
                assert!(!line.is_empty() && !line.contains('\n'), "{name}: {one:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Settings, and all that is said about them.
const MESSAGES: &[(&str, &str)] = &[
    (
        r#"{"modle": "a/b"}"#,
        "instances.a.settings.modle: opencode has no key `modle` here\n\
             expected a key that opencode knows\n\
             did you mean `model`?\n",
    ),
    (
        r#"{"experimental": {"hook": {}}}"#,
        "instances.a.settings.experimental.hook: opencode has no key `hook` here\n\
             expected a key that opencode knows\n\
             remove it, or use one of: batch_tool, continue_loop_on_deny, disable_paste_summary, \
             mcp_timeout, openTelemetry, policies, primary_tools\n",
    ),
    (
        r#"{"theme": "system"}"#,
        "instances.a.settings.theme: opencode has no key `theme` here\n\
             expected a key that opencode knows\n\
             remove it; opencode reads it from `tui.json`, which the server does not use\n",
    ),
    (
        r#"{"provider": {"x": {"npm": 3}}}"#,
        "instances.a.settings.provider.x.npm: `npm` is an integer\n\
             expected a string\n\
             write it in quotes\n",
    ),
    (
        r#"{"server": {"port": "4096"}}"#,
        "instances.a.settings.server.port: `port` is a string\n\
             expected an integer greater than 0\n\
             write it without quotes\n",
    ),
    (
        r#"{"subagent_depth": 9007199254740993}"#,
        "instances.a.settings.subagent_depth: `subagent_depth` is 9007199254740993\n\
             expected an integer from 0 to 9007199254740991\n\
             write an integer from 0 to 9007199254740991\n",
    ),
    (
        r#"{"subagent_depth": "{env:DEPTH}"}"#,
        "instances.a.settings.subagent_depth: `subagent_depth` is a string\n\
             expected an integer of at least 0\n\
             write an integer of at least 0; what replaces a placeholder stays a string\n",
    ),
    (
        r#"{"share": "never", "logLevel": "info"}"#,
        "instances.a.settings.share: `share` is `never`\n\
             expected one of: manual, auto, disabled\n\
             use one of: manual, auto, disabled\n\
             instances.a.settings.logLevel: `logLevel` is `info`\n\
             expected one of: DEBUG, INFO, WARN, ERROR\n\
             did you mean `INFO`?\n",
    ),
    (
        r#"{"permission": {"bash": {"rm *": "denied"}, "edit": false}}"#,
        "instances.a.settings.permission.bash.\"rm *\": `\"rm *\"` is `denied`\n\
             expected one of: ask, allow, deny\n\
             did you mean `deny`?\n\
             instances.a.settings.permission.edit: `edit` is a boolean\n\
             expected a table, `ask`, `allow` or `deny`\n\
             write a table, `ask`, `allow` or `deny`\n",
    ),
    (
        r#"{"mcp": {"a": {"type": "local", "command": "x", "enabled": true}}}"#,
        "instances.a.settings.mcp.a.command: `command` is a string\n\
             expected an array of strings\n\
             write it in brackets, as an array of one\n",
    ),
    (
        r#"{"mcp": {"a": {"type": "stdio"}, "b": {"command": ["x"]}}}"#,
        "instances.a.settings.mcp.a.type: `type` is `stdio`\n\
             expected one of: local, remote\n\
             use one of: local, remote\n\
             instances.a.settings.mcp.b: `b` has no `type`\n\
             expected the key `type`\n\
             add `type` with the value `local`\n",
    ),
    (
        r#"{"references": {"a": {"repository": "x", "path": "y"}}, "plugin": [["a"]]}"#,
        "instances.a.settings.references.a.path: opencode has no key `path` here\n\
             expected a key that opencode knows\n\
             remove it, or use one of: branch, description, hidden, repository\n\
             instances.a.settings.plugin[0]: `plugin[0]` has 1 item\n\
             expected a string or an array of 2 items\n\
             write a string or an array of 2 items\n",
    ),
    (
        r#"{"lsp": {"own": {"command": ["own"]}}, "username": "{file:/run/name"}"#,
        "instances.a.settings.lsp.own: `own` has no `extensions`\n\
             expected the key `extensions`\n\
             add `extensions`, as in `[\".ext\"]`; opencode does not bring this server\n\
             instances.a.settings.username: `username` has a `{file:` without its `}`\n\
             expected a closing brace in the same string\n\
             close it, as in `{file:NAME}`; opencode reads on to the next `}`\n",
    ),
];

#[test]
fn messages() {
    let said = |text: &str| {
        let found = judge(&read(text));
        let line = |one: &Mismatch| {
            format!(
                "{}: {}\nexpected {}\n{}\n",
                one.below("instances.a.settings"),
                one.message,
                one.expected,
                one.help
            )
        };
        found.iter().map(line).collect::<String>()
    };
    for (settings, expected) in MESSAGES {
        assert_eq!(said(settings), *expected);
    }
}

#[test]
fn every_place_of_the_schema_is_judged_as_a_general_validator_judges_it() {
    let text = known("1.18.33").text;
    let schema = serde_json::from_str(text).unwrap();
    let oracle = jsonschema::draft202012::options().offline().build(&schema).unwrap();
    let all = systematic::settings(&schema);
    let mut right = 0;
    for settings in &all {
        let found = judge(&read(&settings.to_string()));
        let valid = oracle.is_valid(settings);
        assert_eq!(found.is_empty(), valid, "{settings}: {found:#?}");
        right += usize::from(valid);
        for one in &found {
            assert!(!one.expected.contains("another value"), "{settings}: {one:?}");
        }
    }
    println!("{} settings, of which {right} are right", all.len());
    assert!(right > 1000 && all.len() - right > 5000);
}
