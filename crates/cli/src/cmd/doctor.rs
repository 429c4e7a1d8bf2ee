//! `doctor`: whether this host can hold the promises.

use instances_core::doctor::{Finding, judge};
use instances_sys::doctor;
use serde_json::{Value, json};

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::{out, spec};

pub(crate) fn run(args: &args::Json) -> Outcome {
    let facts = spec::facts(&args::Host { systemd: None, facts: None })?;
    let found = judge(&doctor::observe(&facts)?);
    if args.json {
        out::json(&report(&found));
    } else {
        for finding in &found {
            for line in lines(finding) {
                out::line(line);
            }
        }
    }
    Ok(if found.iter().any(|one| one.code.is_finding()) { Exit::Finding } else { Exit::Done })
}

fn report(found: &[Finding]) -> Value {
    let (findings, notes): (Vec<_>, Vec<_>) =
        found.iter().partition(|finding| finding.code.is_finding());
    json!({ "version": 1, "findings": findings, "notes": notes })
}

fn lines(finding: &Finding) -> Vec<String> {
    let word = if finding.code.is_finding() { "finding" } else { "note" };
    let mut lines = vec![format!("{word}[{}]: {}", finding.code, finding.what)];
    if !finding.remedy.is_empty() {
        lines.push(format!("  remedy: {}", finding.remedy));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use instances_core::doctor::Code;

    #[test]
    fn findings_and_notes_are_told_apart() {
        let one = |code, remedy: &str| Finding {
            code,
            what: "what".to_owned(),
            remedy: remedy.to_owned(),
        };
        let found = [one(Code::NoResolver, "mend it"), one(Code::NoIpv6, "")];
        let text: Vec<String> = found.iter().flat_map(lines).collect();
        assert_eq!(text, ["finding[D0501]: what", "  remedy: mend it", "note[N0402]: what"]);
        assert_eq!(
            report(&found),
            json!({
                "version": 1,
                "findings": [{ "code": "D0501", "what": "what", "remedy": "mend it" }],
                "notes": [{ "code": "N0402", "what": "what", "remedy": "" }],
            })
        );
    }
}
