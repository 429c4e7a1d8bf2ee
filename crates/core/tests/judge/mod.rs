//! What holds for every text, checked by the properties and by the fuzzer.

use instances_core::desired::{Content, Desired, desire};
use instances_core::diagnostic::Diagnostic;
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::spec::Spec;

/// What reading gives.
pub(crate) type Reading = Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>>;

/// Reads, and checks what holds for every reading.
pub(crate) fn judged(text: &str, format: Format) -> Reading {
    let reading = read(text, format);
    assert_eq!(reading, read(text, format), "the second reading differs");
    let (refused, findings) = match &reading {
        Ok((_, warnings)) => (false, warnings),
        Err(findings) => (true, findings),
    };
    assert_eq!(refused, findings.iter().any(|one| one.code.as_str().starts_with('E')));
    for finding in findings {
        assert!(
            !finding.message.is_empty() && !finding.label.is_empty() && !finding.help.is_empty()
        );
        for (at, _) in finding.also.iter().chain([&(finding.at.clone(), String::new())]) {
            if let Some(span) = at.span {
                assert!(text.get(span.start..span.end).is_some(), "{span:?} is outside the text");
            }
        }
    }
    if let Ok((spec, _)) = &reading {
        for systemd in [252, 257] {
            let facts = HostFacts::usr(systemd);
            let desired = desire(spec, &facts);
            assert_eq!(desired, desire(spec, &facts));
            well_formed(&desired);
        }
    }
    reading
}

/// What every reader of unit files relies on, systemd's and the simple one of NixOS alike.
fn well_formed(desired: &Desired) {
    for (path, file) in &desired.files {
        assert!(
            path.starts_with("/etc/") && !path.contains("//") && !path.contains("/../"),
            "{path}"
        );
        let Content::Text(text) = &file.content else { continue };
        // An operator's own text is shown as it was written.
        let own = path.contains("/config/") && !path.ends_with("/opencode.json");
        assert!(own || text.ends_with('\n'), "{path}");
        if !path.starts_with("/etc/systemd/system/") {
            continue;
        }
        let mut in_section = false;
        for line in text.lines() {
            assert!(!line.contains(char::is_control), "{path}: {line:?}");
            assert!(!line.starts_with(char::is_whitespace), "{path}: {line:?}");
            let section = line.starts_with('[') && line.ends_with(']');
            in_section |= section;
            if section || line.is_empty() || line.starts_with('#') {
                continue;
            }
            assert!(in_section, "{path}: {line:?} is in no section");
            let (key, value) = line.split_once('=').unwrap_or_default();
            let legal =
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            assert!(legal, "{path}: {line:?}");
            assert!(!value.starts_with(['"', '\'']), "{path}: {line:?}");
            assert!(!value.starts_with(char::is_whitespace), "{path}: {line:?}");
            assert!(
                !value.ends_with('\\') && !value.ends_with(char::is_whitespace),
                "{path}: {line:?}"
            );
        }
    }
}
