//! What an audit says.

use std::time::Duration;

use instances_lab::Machine;
use serde_json::Value;

/// How long an audit may take on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Audits an instance, and returns its exit status beside the report.
pub(crate) fn audit(machine: &Machine, name: &str) -> (i32, Value) {
    let output =
        machine.run_for(PATIENCE, ["opencode-instances", "audit", "--json", name]).unwrap();
    let report = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output}"));
    (output.code(), report)
}

/// The rows of the one instance that was audited.
pub(crate) fn rows(report: &Value) -> &[Value] {
    report["instances"][0]["rows"].as_array().unwrap()
}

/// Every finding, as `control: what`.
pub(crate) fn findings(report: &Value) -> Vec<String> {
    let of = |row: &Value| {
        let control = row["control"].as_str().unwrap().to_owned();
        let findings = row["findings"].as_array().unwrap().clone();
        findings
            .into_iter()
            .map(move |finding| format!("{control}: {}", finding["what"].as_str().unwrap()))
    };
    rows(report).iter().flat_map(of).collect()
}

/// The machines of the lab have no controllers of control groups, which the audit finds.
pub(crate) fn without_controllers(findings: &[String]) -> Vec<&str> {
    let missing = |finding: &&str| {
        finding.starts_with("limits: the kernel does not enforce")
            && finding.contains("no controller")
    };
    findings.iter().map(String::as_str).filter(|finding| !missing(finding)).collect()
}
