//! What systemd makes of the rendered units.

mod exposure;
mod odd;
mod read_back;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use instances_core::desired::{Content, Desired, UNIT_DIR, desire};
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;
use instances_lab::{Image, Machine, Options, Release, place, unavailable};

pub(crate) fn boot(release: Release, name: &str) -> Result<Machine> {
    Machine::boot(&Image::ensure(release)?, &Options::new().name(name).engine())
}

/// The unit files of a specification, by their names.
pub(crate) fn units(desired: &Desired) -> BTreeMap<&str, &str> {
    let below = |path: &'_ str| path.strip_prefix(UNIT_DIR)?.strip_prefix('/').map(str::len);
    let units = desired.files.iter().filter_map(|(path, file)| match &file.content {
        Content::Text(text) => {
            let length = below(path)?;
            Some((path.get(path.len() - length..)?, text.as_str()))
        }
        Content::Link(_) => None,
    });
    units.collect()
}

/// Every golden case, rendered for a systemd version.
fn cases(systemd: u32) -> Result<Vec<(String, Desired)>> {
    let root = place::workspace().join("crates/core/tests/cases");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(&root)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    cases.sort();
    let rendered = cases.into_iter().map(|case| {
        let text = fs::read_to_string(case.join("spec.toml"))?;
        let (spec, _) = read(&text, Format::Toml).map_err(|errors| anyhow!("{errors:?}"))?;
        let name = case.file_name().context("a case without a name")?.to_string_lossy();
        Ok((name.into_owned(), desire(&spec, &HostFacts::usr(systemd))))
    });
    rendered.collect()
}

/// `verify` succeeds with a warning about an unknown directive, so nothing may be said at all.
fn verified(release: Release, systemd: u32) -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let machine = boot(release, &format!("verify-{systemd}"))?;
    machine.sh("mkdir -p /opt; ln -s /usr/bin/true /opt/opencode-1.18.33")?.ok()?;
    for (case, desired) in cases(systemd)? {
        let directory = format!("/run/verify/{case}");
        for (unit, text) in units(&desired) {
            machine.put(format!("{directory}/{unit}"), text, 0o644)?;
        }
        let verify =
            format!("cd {directory}; SYSTEMD_UNIT_PATH={directory}: systemd-analyze verify *");
        let output = machine.sh(&verify)?;
        assert!(output.success() && output.stderr.is_empty(), "{case} on {release}: {output}");
    }
    let directory = "/run/verify/broken";
    machine.put(
        format!("{directory}/a.service"),
        "[Service]\nExecStart=/bin/true\nNo=1\n",
        0o644,
    )?;
    let output = machine.sh(&format!("systemd-analyze verify {directory}/a.service"))?;
    assert!(!output.stderr.is_empty(), "an unknown directive goes unnoticed");
    Ok(())
}

#[test]
fn systemd_257_has_nothing_to_say() -> Result<()> {
    verified(Release::Trixie, 257)
}

#[test]
fn systemd_252_has_nothing_to_say() -> Result<()> {
    verified(Release::Bookworm, 252)
}
