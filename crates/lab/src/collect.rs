//! What remains of a machine in which a test failed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::Machine;

/// Each file of a report, with the script that prints its contents.
const REPORTS: &[(&str, &str)] = &[
    ("journal.txt", "journalctl --boot --output=short-precise --no-pager"),
    (
        "status.txt",
        "systemctl --no-pager --full status --all 'opencode*'; systemctl --no-pager list-units --all",
    ),
    (
        "units.txt",
        "find /etc/systemd /run/systemd /usr/local/lib/systemd -name 'opencode*' -type f -exec tail -v -n +1 {} +",
    ),
    ("network.txt", "ip -all netns exec nft list ruleset; nft list ruleset; ip address; ip route"),
];

/// Saves the state of a machine in a directory of the host.
pub(crate) fn collect(machine: &Machine, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let save = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    save("console.txt", &machine.console()?)?;
    for (name, script) in REPORTS {
        // A part that fails says why, and the others are still worth having.
        let text = match machine.run(["/bin/sh", "-c", script]) {
            Ok(output) => format!("{}{}", output.stdout, output.stderr),
            Err(error) => format!("{error:#}\n"),
        };
        save(name, &text)?;
    }
    Ok(())
}
