//! How much `systemd-analyze security` sees exposed, and that each point is explained.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use instances_core::desired::desire;
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;
use instances_lab::{Machine, Release, place, unavailable};
use serde_json::Value;

use crate::{boot, units};

/// The exposure of each unit of an instance and of the fleet, in tenths. Lower it when a unit gets better.
const EXPOSURE: &[(&str, u32)] = &[
    ("opencode-web.service", 6),
    ("opencode-setup@web.service", 4),
    ("opencode-listen@web.service", 6),
    ("opencode-net@web.service", 39),
    ("opencode-dns@web.service", 10),
    ("opencode-events@web.service", 7),
    ("opencode-host@addresses.service", 17),
];
/// Where every point that remains is explained.
const PAGE: &str = "docs/exposure.md";

#[test]
fn exposure_is_no_more_than_recorded() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let machine = boot(Release::Trixie, "exposure")?;
    let spec = "[instances.web]\ndirectory = \"/srv/web\"\n";
    let (spec, _) = read(spec, Format::Toml).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let desired = desire(&spec, &HostFacts::usr(257));
    for (unit, text) in units(&desired) {
        machine.put(format!("/etc/systemd/system/{unit}"), text, 0o644)?;
    }
    machine.sh("systemctl daemon-reload")?.ok()?;
    let mut remaining = BTreeSet::new();
    for (unit, recorded) in EXPOSURE {
        let exposure = overall(&machine, unit)?;
        assert_eq!(exposure, *recorded, "{unit}: the table says {recorded} tenths");
        for (point, weight) in points(&machine, unit)? {
            // A bar would end the cell.
            let point = point.replace('|', "\\|");
            remaining.insert(format!("| `{unit}` | `{point}` | {weight} |"));
        }
    }
    let page = place::workspace().join(PAGE);
    let page = std::fs::read_to_string(&page).with_context(|| format!("no {}", page.display()))?;
    let explained: BTreeSet<String> = page.lines().filter_map(row).collect();
    let missing: Vec<_> = remaining.difference(&explained).collect();
    let stale: Vec<_> = explained.difference(&remaining).collect();
    assert!(missing.is_empty(), "{PAGE} does not explain:\n{missing:#?}");
    assert!(stale.is_empty(), "{PAGE} explains what is not exposed:\n{stale:#?}");
    Ok(())
}

/// A row's first three cells, if it has an explanation in the fourth.
fn row(line: &str) -> Option<String> {
    let (cells, why) = line.trim_end().strip_suffix('|')?.rsplit_once('|')?;
    (cells.starts_with("| `") && why.trim().len() > 20).then(|| format!("{cells}|"))
}

fn overall(machine: &Machine, unit: &str) -> Result<u32> {
    let text = machine.run(["systemd-analyze", "security", "--no-pager", unit])?.ok()?;
    let (_, rest) = text.rsplit_once(&format!("{unit}: ")).context("no verdict")?;
    let number = rest.split_whitespace().next().context("no number")?;
    let (whole, tenth) = number.split_once('.').context("no decimal")?;
    Ok(whole.parse::<u32>()? * 10 + tenth.parse::<u32>()?)
}

fn points(machine: &Machine, unit: &str) -> Result<Vec<(String, String)>> {
    let text = machine.run(["systemd-analyze", "security", "--json=short", unit])?.ok()?;
    let list: Vec<Value> = serde_json::from_str(&text)?;
    let exposed = list.iter().filter_map(|point| {
        let weight = point.get("exposure")?.as_str()?;
        Some((point.get("name")?.as_str()?.to_owned(), weight.to_owned()))
    });
    Ok(exposed.filter(|(_, weight)| weight != "0.0").collect())
}
