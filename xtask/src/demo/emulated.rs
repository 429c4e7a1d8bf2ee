//! What the demonstration does otherwise where the processor is emulated.

use anyhow::{Result, ensure};
use instances_lab::Machine;
use instances_lab::progress::say;
use instances_lab::stand_in::{self, SERVER};

use super::INSTANCES;

/// A start takes many times as long there, and so do answers.
const STARTS: &str = "[Service]\nTimeoutStartSec=20min\n";
const ANSWERS: &str = "[Service]\nWatchdogSec=2min\n";

/// Puts the stand-in into a machine, gives its units time, and returns the specification with it.
pub(super) fn prepare(machine: &Machine, spec: &str) -> Result<String> {
    say(
        "The processor is emulated. Instead of opencode, which would take minutes to start, a stand-in is run:",
    );
    say(
        "it answers requests and runs commands. All that surrounds it is as it always is, with more time.",
    );
    stand_in::put(machine)?;
    machine.put("/etc/systemd/system/service.d/emulated.conf", STARTS, 0o644)?;
    for (name, _, _) in INSTANCES {
        let path = format!("/etc/systemd/system/opencode-{name}.service.d/emulated.conf");
        machine.put(path, ANSWERS, 0o644)?;
    }
    with_stand_in(spec)
}

/// The same specification, with the stand-in in the place of opencode.
fn with_stand_in(spec: &str) -> Result<String> {
    let line = "[defaults]\n";
    ensure!(spec.contains(line), "the specification has no [defaults]");
    Ok(spec.replacen(line, &format!("{line}package = \"{SERVER}\"\n"), 1))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use instances_core::lower::read;
    use instances_core::node::Format;
    use instances_lab::place;

    use super::{SERVER, with_stand_in};

    #[test]
    fn every_instance_of_the_demonstration_gets_the_stand_in() {
        let spec = fs::read_to_string(place::workspace().join(crate::demo::SPEC)).unwrap();
        let (spec, _) = read(&with_stand_in(&spec).unwrap(), Format::Toml).unwrap();
        assert_eq!(spec.instances.len(), 2);
        assert!(spec.instances.iter().all(|one| one.package.as_str() == SERVER));
    }
}
