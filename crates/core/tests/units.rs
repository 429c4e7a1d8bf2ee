//! NixOS reads unit files with another parser than systemd: what is rendered must pass that, too.

use ini::{Ini, ParseOption};
use instances_core::desired::{Content, UNIT_DIR, desire};
use instances_core::facts::{HostFacts, NixOs};
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::text::AbsPath;
use proptest::prelude::*;
use serde_json::json;

/// As `switch-to-configuration` of NixOS sets it. It also has the parser's feature `inline-comment`,
/// and so have the tests.
fn option() -> ParseOption {
    ParseOption { enabled_quote: true, enabled_escape: false, ..ParseOption::default() }
}

/// A value without what the parser takes for a comment.
fn before_comment(value: &str) -> &str {
    let mut ends = value.match_indices([' ', '\t']).map(|(at, _)| value.split_at(at));
    let end = ends.find(|(_, rest)| rest.get(1..).is_some_and(|rest| rest.starts_with(['#', ';'])));
    end.map_or(value, |(value, _)| value).trim_end()
}

fn path(below: &'static str) -> impl Strategy<Value = String> {
    let odd = r"[a-z %$:;#=\[\]{}!@&*()<>|~^+,.?`_ü漢-]{0,12}";
    odd.prop_map(move |rest| format!("{below}{rest}"))
        .prop_filter("legal", |path| AbsPath::new(path).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_parser_of_nixos_takes_every_unit(
        directory in path("/srv/a"),
        state in path("/data/a"),
        package in path("/opt/a"),
        arguments in prop::collection::vec("\\PC{0,12}", 0..4),
        groups in prop::collection::vec("[a-z_][a-z0-9_-]{0,20}", 0..3),
        tools in prop::collection::vec(path("/opt/b"), 0..2),
        override_text in "\\PC{0,12}",
    ) {
        let spec = json!({ "instances": { "odd": {
            "directory": directory, "stateDir": state, "package": package,
            "extraArgs": arguments, "extraGroups": groups, "path": tools, "restartOnSwitch": false,
            "unitOverrides": { "main": { "EnvironmentFile": [override_text], "X-Note": override_text } },
        }}});
        let Ok((spec, _)) = read(&spec.to_string(), Format::Json) else {
            return Err(TestCaseError::reject("not legal together"));
        };
        let nixos = HostFacts { nixos: Some(NixOs::default()), ..HostFacts::default() };
        for facts in [HostFacts::usr(252), HostFacts::usr(257), nixos] {
            for (name, file) in desire(&spec, &facts).files {
                let Content::Text(text) = file.content else { continue };
                if !name.starts_with(UNIT_DIR) {
                    continue;
                }
                let parsed = match Ini::load_from_str_opt(&text, option()) {
                    Ok(parsed) => parsed,
                    Err(error) => return Err(TestCaseError::fail(format!("{name}: {error}\n{text}"))),
                };
                let sections = text.lines().filter(|line| line.starts_with('[')).count();
                prop_assert_eq!(parsed.sections().flatten().count(), sections);
                // It is one line, one assignment, for this parser as well.
                let assignments =
                    text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])).count();
                let found: usize = parsed.iter().map(|(_, properties)| properties.iter().count()).sum();
                prop_assert_eq!(found, assignments, "{}\n{}", name, text);
                // And what it takes for the value is what systemd reads, so that no change is missed;
                // but for what follows ` #` or ` ;`. The main unit's generation tells of that.
                let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
                let mut written: Vec<_> = lines
                    .filter_map(|line| line.split_once('='))
                    .map(|(directive, value)| (directive, before_comment(value)))
                    .collect();
                let mut read: Vec<_> =
                    parsed.iter().flat_map(|(_, properties)| properties.iter()).collect();
                written.sort_unstable();
                read.sort_unstable();
                prop_assert_eq!(read, written, "{}", name);
            }
        }
    }
}
