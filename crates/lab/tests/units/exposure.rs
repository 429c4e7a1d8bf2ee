//! How much `systemd-analyze security` sees exposed, and that each point is explained.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use instances_core::desired::desire;
use instances_core::facts::{HostFacts, NixOs};
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
    ("opencode-sockets@web.service", 36),
    ("opencode-refusal@web.service", 8),
    ("opencode-host@addresses.service", 17),
    ("opencode-host@turns.service", 2),
    ("opencode-judge@files.service", 8),
    ("opencode-places@files.service", 39),
    ("opencode-secrets@files.service", 8),
    ("opencode-hostport@files-11434.service", 9),
    ("opencode-endpoint@store.service", 5),
    ("opencode-identity@store.service", 5),
];
/// Instances that have these units: one as it comes but for a socket, one that nests sandboxes, one with what
/// brings further units, one on NixOS.
const USUAL: &str = "[instances.web]\ndirectory = \"/srv/web\"\n\
     sandbox.unixSockets = [\"/run/postgresql/.s.PGSQL.5432\"]\n\
     [instances.nested]\ndirectory = \"/srv/nested\"\nlisten.port = 4097\n\
     sandbox.allowNestedSandbox = true\n";
const FURTHER: &str = "[instances.files]\ndirectory = \"/srv/files\"\nnetwork.hostPorts = [11434]\n\
     environmentFile = [\"/etc/secrets/files\"]\nrestartOnSecretChange = true\n\
     sandbox.readOnlyPaths = [\"/d/1\", \"/d/2\", \"/d/3\", \"/d/4\", \"/d/5\", \"/d/6\", \"/d/7\", \"/d/8\", \
     \"/d/9\", \"/d/a\", \"/d/b\", \"/d/c\", \"/d/d\", \"/d/e\", \"/d/f\", \"/d/g\"]\n";
const NIXOS: &str = "[instances.store]\ndirectory = \"/srv/store\"\n";
/// No unit is more exposed than this, in tenths,
const USUALLY: u32 = 7;
/// but for these, of which the page says why.
const ABOVE: &[&str] = &[
    "opencode-net",
    "opencode-dns",
    "opencode-sockets",
    "opencode-refusal",
    "opencode-host",
    "opencode-judge",
    "opencode-places",
    "opencode-secrets",
    "opencode-hostport",
];
/// Where every point that remains is explained.
const PAGE: &str = "docs/reference/exposure.md";
/// The exposure of a server with `sandbox.allowNestedSandbox`, in tenths, and where that stands.
const NESTED: (u32, &str) = (22, "docs/explanation/sandbox.md");

#[test]
fn exposure_is_no_more_than_recorded() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let machine = boot(Release::Trixie, "exposure")?;
    let nixos = HostFacts { nixos: Some(NixOs::default()), ..HostFacts::usr(257) };
    let specs = [(USUAL, HostFacts::usr(257)), (FURTHER, HostFacts::usr(257)), (NIXOS, nixos)];
    let mut kinds = BTreeSet::new();
    for (spec, facts) in specs {
        let (spec, _) = read(spec, Format::Toml).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        for (unit, text) in units(&desire(&spec, &facts)) {
            machine.put(format!("/etc/systemd/system/{unit}"), text, 0o644)?;
            kinds.extend(unit.ends_with(".service").then(|| kind(unit).to_owned()));
        }
    }
    let recorded = EXPOSURE.iter().map(|(unit, _)| kind(unit).to_owned()).collect();
    assert_eq!(kinds, recorded, "the table has each kind of unit");
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
    let above = EXPOSURE.iter().filter(|(_, recorded)| *recorded > USUALLY);
    let above: Vec<_> = above.map(|(unit, _)| kind(unit)).collect();
    assert_eq!(above, ABOVE);
    let (nested, place) = NESTED;
    assert_eq!(overall(&machine, "opencode-nested.service")?, nested, "a nested sandbox");
    let said = format!("gives such a server {}.{} instead", nested / 10, nested % 10);
    let words = read_page(place)?.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&said), "{place} does not say: {said}");

    let page = read_page(PAGE)?;
    let explained: BTreeSet<String> = page.lines().filter_map(row).collect();
    let missing: Vec<_> = remaining.difference(&explained).collect();
    let stale: Vec<_> = explained.difference(&remaining).collect();
    assert!(missing.is_empty(), "{PAGE} does not explain:\n{missing:#?}");
    assert!(stale.is_empty(), "{PAGE} explains what is not exposed:\n{stale:#?}");
    Ok(())
}

/// What stands before the instance's name; a server's unit is only that.
fn kind(unit: &str) -> &str {
    unit.split_once('@').map_or("opencode", |(kind, _)| kind)
}

fn read_page(page: &str) -> Result<String> {
    let page = place::workspace().join(page);
    std::fs::read_to_string(&page).with_context(|| format!("no {}", page.display()))
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
