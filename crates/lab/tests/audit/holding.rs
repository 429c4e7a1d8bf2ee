//! Where nothing was taken away, nothing is found.

use instances_lab::{Agent, fleet, unavailable};
use serde_json::{Value, json};

use crate::view::{audit, findings, rows, without_controllers};

#[test]
fn everything_holds_and_nothing_gets_out() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("audit").unwrap();
    let (_, report) = audit(&machine, "website");
    let found = findings(&report);
    assert_eq!(without_controllers(&found), [""; 0]);
    let attempts: Vec<&Value> =
        rows(&report).iter().flat_map(|row| row["attempts"].as_array().unwrap()).collect();
    assert!(attempts.len() > 100, "{}", attempts.len());
    // The same by the agent's own shell, in the real server.
    // But for those that are after what the audit laid out, which is gone by now.
    let laid = |how: &Value| how.get("canary").is_some() || how.get("hear").is_some();
    let tried = attempts.iter().map(|tried| tried["attempt"].clone());
    let tried: Vec<Value> = tried.filter(|attempt| !laid(&attempt["try"])).collect();
    let laid = json!({ "canaries": {}, "listeners": {} });
    let order = json!({ "like": null, "attempts": tried, "laid": laid, "devices": [] });
    machine.put("/srv/website/order.json", order.to_string(), 0o644).unwrap();
    let agent = Agent::connect(&machine, "website").unwrap();
    let said = agent.shell("/usr/bin/opencode-instances probe <order.json").unwrap();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), tried.len(), "{said}");
    for line in lines {
        assert!(line["outcome"].get("refused").is_some(), "{line}");
    }
}
