//! Units that a machine can run in the place of rendered ones: the same dependencies and the same
//! differences between two generations, but `sleep` instead of programs.

use instances_core::plan::digest;

use crate::text::Files;

/// Directives that stay as they are; all others only leave a trace that systemd ignores.
const KEPT: &[&str] = &[
    "After",
    "BindsTo",
    "Description",
    "PartOf",
    "RemainAfterExit",
    "Requires",
    "Restart",
    "RestartSec",
    "Slice",
    "StartLimitIntervalSec",
    "Wants",
];

/// The same units, fit to run.
pub(crate) fn of(units: &Files) -> Files {
    let ours = units.iter().filter(|(name, _)| name.starts_with("opencode"));
    ours.map(|(name, text)| (name.clone(), unit(name, text))).collect()
}

fn unit(name: &str, text: &str) -> String {
    let oneshot = text.contains("\nType=oneshot\n");
    let mut made = String::new();
    for line in text.lines() {
        let Some((directive, value)) = line.split_once('=').filter(|_| !line.starts_with('#'))
        else {
            made += &format!("{line}\n");
            if line == "[Service]" {
                made += match (name.contains('/'), oneshot) {
                    (true, _) => "",
                    (false, true) => "Type=oneshot\nExecStart=/usr/bin/true\n",
                    (false, false) => "Type=exec\nExecStart=/usr/bin/sleep infinity\n",
                };
                let file = if name.contains('/') { "DROP_IN" } else { "TEXT" };
                made += &format!("Environment={file}={}\n", digest(text.as_bytes()));
            }
            continue;
        };
        if directive == "ExecReload" {
            made += &format!("ExecReload=/usr/bin/true {}\n", digest(value.as_bytes()));
        } else if KEPT.contains(&directive)
            || directive.starts_with("X-")
            || name.ends_with(".socket")
        {
            made += &format!("{line}\n");
        } else {
            made += &format!("X-Was-{line}\n");
        }
    }
    made
}
