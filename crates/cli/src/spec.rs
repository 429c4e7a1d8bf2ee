//! Reads the specification and the facts for the commands that need them.

use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use instances_core::desired::{Desired, desire};
use instances_core::diagnostic::Diagnostic;
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::spec::Spec;

use crate::args;
use crate::exit::Exit;
use crate::out;
use crate::report::{self, Source};

/// The largest specification; 10,000 instances take about 1 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Reads the text.
pub(crate) fn source(path: &Path) -> Result<Source, Box<dyn Error>> {
    let piped = path == Path::new("-");
    let name = if piped { "standard input".to_owned() } else { path.display().to_string() };
    let refuse = |error: std::io::Error| format!("cannot read the specification {name}: {error}");
    let mut text = String::new();
    if piped {
        std::io::stdin().take(MAX_BYTES + 1).read_to_string(&mut text).map_err(refuse)?;
    } else {
        let file = fs::File::open(path).map_err(refuse)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(refuse)?;
    }
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("the specification {name} has more than {MAX_BYTES} bytes").into());
    }
    Ok(Source::new(name, text))
}

/// The specification, or the findings that refuse it.
pub(crate) fn judge(source: &Source) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    read(&source.text, Format::of(&source.name))
}

/// What the host is.
pub(crate) fn facts(host: &args::Host) -> Result<HostFacts, Box<dyn Error>> {
    if let Some(path) = &host.facts {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the facts {}: {error}", path.display()))?;
        let facts: HostFacts = serde_json::from_str(&text)
            .map_err(|error| format!("the facts {} are refused: {error}", path.display()))?;
        return Ok(facts.supported()?);
    }
    let mut facts = instances_sys::facts::observe()?;
    if let Some(systemd) = host.systemd {
        facts.systemd = systemd;
    }
    Ok(facts.supported()?)
}

/// Everything that should be on the host; findings are printed, and refuse with [`Exit::Invalid`].
pub(crate) fn desired(
    spec: &args::Spec,
    host: &args::Host,
) -> Result<Result<Desired, Exit>, Box<dyn Error>> {
    let source = source(&spec.spec)?;
    match judge(&source) {
        Ok((spec, warnings)) => {
            print(&source, &warnings);
            Ok(Ok(desire(&spec, &facts(host)?)))
        }
        Err(findings) => {
            print(&source, &findings);
            out::note(refused(&source, &findings));
            Ok(Err(Exit::Invalid))
        }
    }
}

/// Prints findings as narration.
pub(crate) fn print(source: &Source, findings: &[Diagnostic]) {
    for finding in findings {
        out::note(report::diagnostic(source, finding));
        out::note("");
    }
}

/// The closing line when a specification is refused.
pub(crate) fn refused(source: &Source, findings: &[Diagnostic]) -> String {
    let code = findings.first().map_or("E0101", |finding| finding.code.as_str());
    format!(
        "{} is refused with {} finding{}; `opencode-instances explain {code}` tells more",
        source.name,
        findings.len(),
        if findings.len() == 1 { "" } else { "s" }
    )
}
