//! `doctor`: whether this host can hold the promises.

use std::path::{Path, PathBuf};

use instances_core::doctor::{Finding, Observed, judge};
use instances_core::terminal::harmless;
use instances_sys::doctor;
use serde_json::{Value, json};

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::{out, spec};

pub(crate) fn run(args: &args::Json) -> Outcome {
    let facts = spec::facts(&args::Host { systemd: None, facts: None })?;
    let seen = doctor::observe(&facts, declared())?;
    let found = judge(&seen);
    if args.json {
        out::json(&report(&seen, &found));
    } else {
        out::line(versions(&seen));
        for finding in &found {
            for line in lines(finding) {
                out::line(line);
            }
        }
    }
    Ok(if found.iter().any(|one| one.code.is_finding()) { Exit::Finding } else { Exit::Done })
}

/// The packages that the specification names. One that is refused says nothing here: `check` says why.
fn declared() -> doctor::Users {
    let mut users = doctor::Users::new();
    let source = spec::source(Path::new(args::DEFAULT_SPEC)).ok();
    let judged = source.and_then(|source| spec::judge(&source).ok());
    for instance in judged.iter().flat_map(|(spec, _)| spec.enabled()) {
        let package = PathBuf::from(instance.package.as_str());
        users.entry(package).or_default().push(instance.name.to_string());
    }
    users
}

/// systemd's version where it runs, and nft's where it works.
fn known(seen: &Observed) -> (Option<u32>, Option<String>) {
    let nft = seen.nft.version.as_ref().and_then(|version| version.as_ref().ok());
    (seen.systemd.filter(|version| *version != 0), nft.map(|version| harmless(version)))
}

fn versions(seen: &Observed) -> String {
    let (systemd, nft) = known(seen);
    let systemd = systemd.map_or("unknown".to_owned(), |version| version.to_string());
    format!("systemd {systemd}, nft {}", nft.as_deref().unwrap_or("unknown"))
}

fn report(seen: &Observed, found: &[Finding]) -> Value {
    let (systemd, nft) = known(seen);
    let (findings, notes): (Vec<_>, Vec<_>) =
        found.iter().partition(|finding| finding.code.is_finding());
    json!({ "version": 1, "systemd": systemd, "nft": nft, "findings": findings, "notes": notes })
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
    use instances_core::doctor::observed::Nft;

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
        let nft = Nft { version: Some(Ok("1.1.3".to_owned())), ..Nft::default() };
        let seen = Observed { systemd: Some(257), nft, ..Observed::default() };
        assert_eq!(versions(&seen), "systemd 257, nft 1.1.3");
        assert_eq!(
            report(&seen, &found),
            json!({
                "version": 1,
                "systemd": 257,
                "nft": "1.1.3",
                "findings": [{ "code": "D0501", "what": "what", "remedy": "mend it" }],
                "notes": [{ "code": "N0402", "what": "what", "remedy": "" }],
            })
        );
        let none = Nft { version: Some(Err("gone".to_owned())), ..Nft::default() };
        let bare = Observed { systemd: Some(0), nft: none, ..Observed::default() };
        assert_eq!(versions(&bare), "systemd unknown, nft unknown");
        assert_eq!(
            (&report(&bare, &[])["systemd"], &report(&bare, &[])["nft"]),
            (&Value::Null, &Value::Null)
        );
    }
}
