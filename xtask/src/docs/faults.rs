//! The part of `docs/reference/reliability.md` that is a function of the table of faults.

use anyhow::Result;
use instances_lab::faults;

/// The document as it is, with that part anew.
pub(super) fn text() -> Result<String> {
    super::between("docs/reference/reliability.md", &tables()?)
}

fn tables() -> Result<String> {
    let all = faults::all()?;
    let mut text = String::new();
    for group in all.chunk_by(|a, b| a.command == b.command) {
        let command = group.first().map(|row| row.command.as_str()).unwrap_or_default();
        // A command has no space in its name.
        let title = if command.contains(' ') { command.to_owned() } else { format!("`{command}`") };
        text += &format!("\n### {title}\n\n| fault | outcome | test |\n|---|---|---|\n");
        for row in group {
            let (file, function) = row.place()?;
            let name = file.rsplit('/').next().unwrap_or(file);
            text += &format!(
                "| {} | {} | [`{function}`](../../crates/{file}) of `{name}` |\n",
                row.fault, row.outcome
            );
        }
    }
    Ok(text + "\n")
}
