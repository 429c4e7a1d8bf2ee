//! The part of `docs/explanation/threat-model.md` that is a function of the catalogue of attempts.

use anyhow::Result;
use instances_core::audit::{HOST, catalogue, why};
use instances_core::controls;

/// The document as it is, with that part anew.
pub(super) fn text() -> Result<String> {
    super::between("docs/explanation/threat-model.md", &tables()?)
}

fn tables() -> Result<String> {
    let all = catalogue::all()?;
    let mut text = format!(
        "\n### The controls\n\nWith the number of attempts, of {}, that each is the first to stop.\n\n\
         | control | what it stops | attempts |\n|---|---|---|\n",
        all.len()
    );
    let of_unit = controls::all().iter().map(|control| control.name);
    for name in of_unit.chain(HOST.iter().map(|(name, _)| *name)) {
        let count = all.iter().filter(|attempt| attempt.control == name).count();
        let count = if count == 0 { "compared only".to_owned() } else { count.to_string() };
        text += &format!("| `{name}` | {} | {count} |\n", why(name).unwrap_or_default());
    }
    text += "\n### The attempts\n";
    let mut groups: Vec<&str> = all.iter().map(|attempt| attempt.group.as_str()).collect();
    groups.dedup();
    for group in groups {
        text += &format!(
            "\n#### {group}\n\n| attempt | control | what else stops it |\n|---|---|---|\n"
        );
        for attempt in all.iter().filter(|attempt| attempt.group == group) {
            let what =
                attempt.what.replace("{other.name}", "another").replace("{host.address}", "");
            let defence = attempt.defence.as_deref().unwrap_or_default();
            text += &format!("| {} | `{}` | {defence} |\n", what.trim_end(), attempt.control);
        }
    }
    Ok(text + "\n")
}
