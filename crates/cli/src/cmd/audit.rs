//! `audit [NAME]`: whether what was declared is what is.

use std::collections::BTreeMap;

use instances_core::audit::catalogue::Outcome;
use instances_core::audit::report::{Report, Row};
use instances_sys::audit::{Audit, Bait};
use instances_sys::files::Root;
use instances_sys::{audit, installed};
use serde_json::json;

use super::Outcome as Ended;
use crate::args;
use crate::exit::Exit;
use crate::{out, report, spec};

pub(crate) fn run(args: &args::Audit) -> Ended {
    if !instances_sys::net::can_look() {
        return Err("only root can look into instances and at rules; run it with sudo".into());
    }
    let root = Root::new("/".as_ref());
    let all = installed::instances(&root)?;
    let records =
        if args.names.is_empty() { all.clone() } else { installed::named(&root, &args.names)? };
    let facts = spec::facts(&args::Host { systemd: None, facts: None })?;
    let bait = Bait::lay()?;
    let (mut reports, mut stopped, mut failed) = (Vec::new(), Vec::new(), BTreeMap::new());
    for record in &records {
        match (Audit { record, all: &all, facts: &facts, bait: &bait }).run() {
            Ok(Some(report)) => reports.push(report),
            Ok(None) => stopped.push(record.name.to_string()),
            // The others are looked at all the same.
            Err(error) => {
                failed.insert(record.name.to_string(), report::failure(&error));
            }
        }
    }
    if args.json.json {
        out::json(
            &json!({ "version": 1, "systemd": facts.systemd, "instances": reports, "notRunning": stopped, "failed": failed }),
        );
    } else {
        print(&reports, args.verbose);
        for name in &stopped {
            out::note(format!("{name} does not run: there is nothing to try"));
        }
    }
    for (name, error) in &failed {
        out::note(format!("{name} could not be audited: {error}"));
    }
    Ok(match reports.iter().any(Report::has_findings) {
        true => Exit::Finding,
        false if failed.is_empty() => Exit::Done,
        false => Exit::Failed,
    })
}

fn print(reports: &[Report], verbose: bool) {
    for (at, report) in reports.iter().enumerate() {
        if at > 0 {
            out::line("");
        }
        out::line(format!("{}:", report.name));
        let head = ["control", "declared", "effective", "attempts", "verdict"].map(str::to_owned);
        let rows = report.rows.iter().map(cells);
        out::table(&std::iter::once(head.to_vec()).chain(rows).collect::<Vec<_>>());
        if verbose {
            attempts(report);
        }
        for row in &report.rows {
            for note in &row.notes {
                out::line(format!("note: {}: {note}", row.control));
            }
        }
        for row in &report.rows {
            for finding in &row.findings {
                out::line(format!("finding: {}: {}: {}", report.name, row.control, finding.what));
                out::line(format!("  remedy: {}", finding.remedy));
            }
        }
    }
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.control.clone(),
        short(&row.declared),
        if row.effective == row.declared { "the same".to_owned() } else { short(&row.effective) },
        row.attempted(),
        row.verdict.as_str().to_owned(),
    ]
}

/// So that a row is a line.
const WIDEST: usize = 44;

fn short(text: &str) -> String {
    if text.chars().count() <= WIDEST {
        return text.to_owned();
    }
    text.chars().take(WIDEST - 1).chain(['…']).collect()
}

fn attempts(report: &Report) {
    let rows = report.rows.iter().flat_map(|row| &row.attempts).map(|tried| {
        let (word, how) = match &tried.outcome {
            Outcome::Refused(how) => ("refused", how),
            Outcome::Succeeded(how) => ("SUCCEEDED", how),
            Outcome::Untried(how) => ("NOT TRIED", how),
        };
        vec![format!("  {}", tried.attempt.what), word.to_owned(), how.clone()]
    });
    out::table(&rows.collect::<Vec<_>>());
}

/// The probe, inside an instance.
pub(crate) fn probe() -> Ended {
    audit::obey(&mut std::io::stdin().lock(), &mut std::io::stdout().lock())?;
    Ok(Exit::Done)
}
