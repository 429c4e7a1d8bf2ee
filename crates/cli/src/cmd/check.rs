//! `check`: is the specification accepted, and what can this host's systemd not give?

use std::collections::BTreeMap;

use instances_core::desired::desire;
use instances_core::unit::Omitted;
use serde_json::json;

use super::Outcome;
use crate::args::Check;
use crate::exit::Exit;
use crate::report::json_diagnostic;
use crate::{out, spec};

pub(crate) fn run(args: &Check) -> Outcome {
    let source = spec::source(&args.spec.spec)?;
    let mut facts = spec::facts(&args.host)?;
    let (mut accepted, mut findings) = match spec::judge(&source) {
        Ok((accepted, warnings)) => (Some(accepted), warnings),
        Err(findings) => (None, findings),
    };
    if let Some(legal) = &accepted {
        findings.extend(spec::suited(&source, legal, &mut facts, &args.host));
    }
    accepted = accepted.filter(|_| spec::errors(&findings).next().is_none());
    let desired = accepted.as_ref().map(|spec| desire(spec, &facts));
    let omitted = desired.map(|desired| by_directive(&desired.omitted)).unwrap_or_default();
    if args.json.json {
        out::json(&json!({
            "version": 1,
            "valid": accepted.is_some(),
            "instances": accepted.as_ref().map(|spec| &spec.instances),
            "diagnostics": findings.iter().map(|one| json_diagnostic(&source, one)).collect::<Vec<_>>(),
            "systemd": facts.systemd,
            "omitted": omitted.iter().map(|(directive, units)| json!({
                "directive": directive.assignment, "since": directive.since, "units": units,
            })).collect::<Vec<_>>(),
        }));
        return Ok(if accepted.is_some() { Exit::Done } else { Exit::Invalid });
    }
    spec::print(&source, &findings);
    let Some(accepted) = accepted else {
        out::note(spec::refused(&source, &findings));
        return Ok(Exit::Invalid);
    };
    for (directive, units) in &omitted {
        out::line(format!(
            "systemd {} is too old for {} (needs {}), left out of {}",
            facts.systemd,
            directive.assignment,
            directive.since,
            units.join(", ")
        ));
    }
    let enabled = accepted.enabled().count();
    let disabled = accepted.instances.len() - enabled;
    let off = if disabled == 0 { String::new() } else { format!(", {disabled} disabled") };
    out::line(format!("{} is accepted: {enabled} enabled{off}", source.name));
    Ok(Exit::Done)
}

fn by_directive(omitted: &BTreeMap<String, Vec<Omitted>>) -> BTreeMap<Omitted, Vec<String>> {
    let mut directives: BTreeMap<Omitted, Vec<String>> = BTreeMap::new();
    for (unit, list) in omitted {
        for one in list {
            directives.entry(one.clone()).or_default().push(unit.clone());
        }
    }
    directives
}
