//! Reads the specification and the facts for the commands that need them.

use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use instances_core::desired::{Desired, desire};
use instances_core::diagnostic::{Diagnostic, Diagnostics, Severity};
use instances_core::facts::HostFacts;
use instances_core::layout::{NIXOS_FACTS, NIXOS_SPEC};
use instances_core::lower::read;
use instances_core::node::{Format, parse};
use instances_core::spec::Spec;
use instances_core::suited;
use instances_sys::files::Root;
use instances_sys::opencode;

use crate::args;
use crate::exit::Exit;
use crate::out;
use crate::report::{self, Source};

/// The largest specification; 10,000 instances take about 1 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Reads the text.
pub(crate) fn source(path: &Path) -> Result<Source, Box<dyn Error>> {
    let declared = path == Path::new(args::DEFAULT_SPEC) && is_nixos();
    let path = if declared { Path::new(NIXOS_SPEC) } else { path };
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

/// Whether the host's NixOS configuration installs the units.
fn is_nixos() -> bool {
    Path::new(NIXOS_FACTS).exists()
}

/// Refuses to do on a NixOS host what only its configuration does.
pub(crate) fn not_nixos(root: &Root) -> Result<(), Box<dyn Error>> {
    if !root.is_host() || !is_nixos() {
        return Ok(());
    }
    Err("this host's NixOS configuration declares its instances: change `services.opencode` there \
         and run `nixos-rebuild switch`; the units are in /etc/systemd/system"
        .into())
}

/// What the host is.
pub(crate) fn facts(host: &args::Host) -> Result<HostFacts, Box<dyn Error>> {
    let declared = (host.systemd.is_none() && is_nixos()).then_some(Path::new(NIXOS_FACTS));
    if let Some(path) = host.facts.as_deref().or(declared) {
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

/// Everything that should be on the host, and the facts that it was rendered for; findings are
/// printed, and refuse with [`Exit::Invalid`].
pub(crate) fn desired(
    spec: &args::Spec,
    host: &args::Host,
) -> Result<Result<(Desired, HostFacts), Exit>, Box<dyn Error>> {
    desired_of(&source(&spec.spec)?, host)
}

/// The same for a text that was read.
pub(crate) fn desired_of(
    source: &Source,
    host: &args::Host,
) -> Result<Result<(Desired, HostFacts), Exit>, Box<dyn Error>> {
    match judge(source) {
        Ok((spec, warnings)) => {
            print(source, &warnings);
            let mut facts = facts(host)?;
            let unsuited = suited(source, &spec, &mut facts, host);
            print(source, &unsuited);
            if errors(&unsuited).next().is_some() {
                out::note(refused(source, &unsuited));
                return Ok(Err(Exit::Invalid));
            }
            Ok(Ok((desire(&spec, &facts), facts)))
        }
        Err(findings) => {
            print(source, &findings);
            out::note(refused(source, &findings));
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
    let mut codes = errors(findings).map(|finding| finding.code.as_str());
    let code = codes.next().unwrap_or("E0101");
    let count = codes.count() + 1;
    let s = if count == 1 { "" } else { "s" };
    format!(
        "{} is refused with {count} finding{s}; `opencode-instances explain {code}` tells more",
        source.name,
    )
}

/// What the host says of a legal specification: its packages are looked at, and the findings have
/// their places in the text.
pub(crate) fn suited(
    source: &Source,
    spec: &Spec,
    facts: &mut HostFacts,
    host: &args::Host,
) -> Vec<Diagnostic> {
    if host.facts.is_none() && facts.nixos.is_none() {
        opencode::observe(spec, facts);
    }
    let mut findings = suited::judge(spec, facts);
    locate(source, &mut findings);
    findings
}

/// Gives findings that know their option the place where that, or its default, was typed.
pub(crate) fn locate(source: &Source, findings: &mut [Diagnostic]) {
    if findings.is_empty() {
        return;
    }
    let node = parse(&source.text, Format::of(&source.name), &mut Diagnostics::new());
    let Some(node) = node else { return };
    for finding in findings {
        let path = &finding.at.path;
        // `instances.NAME.` and the option.
        let option = path.splitn(3, '.').nth(2).unwrap_or_default();
        let group = option.split(['.', '[']).next().unwrap_or_default();
        let own = node.nearest(path).filter(|at| at.path.contains(&format!(".{group}")));
        let default = || {
            let at = node.nearest(&format!("defaults.{option}"))?;
            (at.path != "defaults").then_some(at)
        };
        if let Some(at) = own.or_else(default).or_else(|| node.nearest(path)) {
            finding.at.span = at.span;
        }
    }
}

/// What refuses the specification, without what is only remarked.
pub(crate) fn errors(findings: &[Diagnostic]) -> impl Iterator<Item = &Diagnostic> {
    findings.iter().filter(|finding| finding.severity() == Severity::Error)
}
