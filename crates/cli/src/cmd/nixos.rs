//! `nixos`: what the NixOS module's derivations run as their builder. No shell stands between Nix
//! and this program, so a refused declaration fails the build with the diagnostics themselves.
//!
//! One derivation renders the units of one instance, from that instance alone, so that a change of
//! another one leaves its store path as it is. One more judges the whole fleet, and renders what
//! belongs to all of it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use instances_core::desired::{Content, Desired, File, UNIT_DIR, desire};
use instances_core::diagnostic::Diagnostic;
use instances_core::facts::HostFacts;
use instances_core::layout::{NIXOS_FACTS, NIXOS_SPEC};
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::spec::{AbsPath, Instance, Spec};
use instances_core::suited;
use instances_core::units::{FLEET, Names};
use instances_sys::files::Root;
use serde::Deserialize;
use serde_json::Value;

use super::Outcome;
use crate::exit::Exit;
use crate::report::Source;
use crate::spec::{errors, print, refused};

/// What Nix hands to a builder of a derivation with structured attributes, as far as it is read.
#[derive(Deserialize)]
struct Attributes {
    outputs: Outputs,
    spec: Value,
    facts: HostFacts,
    /// The instance that is rendered; none for the fleet.
    instance: Option<String>,
    /// The version of each instance's opencode, where its package says one.
    #[serde(default)]
    versions: BTreeMap<String, String>,
    /// The closure that the agent's sandbox shows.
    #[serde(default)]
    agent: Vec<StorePath>,
    /// The closure that the proxy's sandbox shows.
    #[serde(default)]
    proxy: Vec<StorePath>,
    /// Of the fleet: the output of each instance's derivation.
    #[serde(default)]
    units: BTreeMap<String, PathBuf>,
}

/// The variable by which Nix says where the attributes are.
const ATTRIBUTES: &str = "NIX_ATTRS_JSON_FILE";

#[derive(Deserialize)]
struct Outputs {
    out: PathBuf,
}

#[derive(Deserialize)]
struct StorePath {
    path: AbsPath,
}

pub(crate) fn run() -> Outcome {
    let file = attributes()?;
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let mut given: Attributes = serde_json::from_str(&text)
        .map_err(|error| format!("cannot understand {}: {error}", file.display()))?;
    // A builder makes its output. What is there already is somebody's.
    let out = &given.outputs.out;
    if fs::symlink_metadata(out).is_ok() {
        return Err(format!("{} exists already; a build makes it", out.display()).into());
    }
    let source = Source::new("services.opencode".to_owned(), pretty(&given.spec)?);
    let judged = read(&source.text, Format::Json);
    let (spec, findings) = match judged {
        Ok((spec, warnings)) => (Some(spec), warnings),
        Err(findings) => (None, findings),
    };
    let Some(spec) = spec else { return Ok(refuse(&source, &findings)) };
    let mut facts = given.facts.supported()?;
    for one in &spec.instances {
        if let Some(version) = given.versions.get(one.name.as_str()) {
            facts.opencode.insert(one.package.to_string(), version.clone());
        }
    }
    let findings = [findings, suited::judge(&spec, &facts)].concat();
    if errors(&findings).next().is_some() {
        return Ok(refuse(&source, &findings));
    }
    given.facts = facts;
    let root = Root::new(&given.outputs.out);
    match &given.instance {
        // The fleet's derivation says the warnings.
        Some(name) => instance(&root, &source, &spec, &given, name)?,
        None => fleet(&root, &source, &spec, &given, &findings)?,
    }
    Ok(Exit::Done)
}

/// Says every finding, in a way that Nix shows.
fn refuse(source: &Source, findings: &[Diagnostic]) -> Exit {
    print(source, findings);
    // Nix shows the last lines of a log: each finding is among them.
    for finding in errors(findings) {
        crate::out::note(format!("{}: {}", finding.code, finding.message));
    }
    crate::out::note(refused(source, findings));
    Exit::Invalid
}

/// The file of attributes that Nix names. Never one of the working directory alone: whoever wrote that
/// would choose what is written where.
fn attributes() -> Result<PathBuf, String> {
    let by_hand = |name| format!("{name} is not set; Nix runs this, as the module's builder");
    let named = |name| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| by_hand(name));
    let file = named(ATTRIBUTES)?;
    if file.exists() {
        return Ok(file);
    }
    // Nix 2.8 names it as it is called outside the build's own root.
    Ok(named("NIX_BUILD_TOP")?.join(".attrs.json"))
}

fn pretty(value: &Value) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(value).map(|text| text + "\n")
}

fn write(root: &Root, path: &str, text: String) -> Result<(), Box<dyn Error>> {
    Ok(root.write(path, &Content::Text(text))?)
}

/// The units of one instance and the files that they read.
fn instance(
    root: &Root,
    source: &Source,
    spec: &Spec,
    given: &Attributes,
    name: &str,
) -> Result<(), Box<dyn Error>> {
    let mut facts = given.facts.clone();
    if let Some(nixos) = &mut facts.nixos {
        let sorted = |paths: &[StorePath]| {
            let mut paths: Vec<AbsPath> = paths.iter().map(|one| one.path.clone()).collect();
            paths.sort();
            paths
        };
        nixos.agent = sorted(&given.agent);
        nixos.proxy = sorted(&given.proxy);
    }
    let Desired { files, instances, .. } = desire(spec, &facts);
    let Some(one) = instances.iter().find(|one| one.name.as_str() == name) else {
        return Err(format!("the specification does not enable an instance `{name}`").into());
    };
    if let Some(own) = spec.instances.iter().find(|own| own.name == one.name) {
        referenced(own, given)?;
    }
    let config = Names(&one.name).config_dir();
    for (path, File { content, .. }) in &files {
        let of_fleet = FLEET.iter().any(|unit| path.ends_with(&format!("/{unit}")));
        let of_instance = path.starts_with(UNIT_DIR) || path.starts_with(&config);
        if of_instance && !of_fleet {
            root.write(path, content)?;
        }
    }
    write(root, &format!("{config}/spec.json"), source.text.clone())
}

/// Refuses a file of the store that the system does not refer to, because Nix knew it as a mere text:
/// it would be there until the next collection of garbage.
fn referenced(instance: &Instance, given: &Attributes) -> Result<(), String> {
    for (option, file) in instance.shown_files() {
        let file = Path::new(file.as_str());
        let is_known = || given.agent.iter().any(|one| file.starts_with(one.path.as_str()));
        if file.starts_with("/nix/store") && !is_known() {
            return Err(format!(
                "`{option}` of `{}` names {}, and nothing keeps that from garbage collection: give \
                 Nix the path or the package itself, as in `./file`, and no `toString` of it",
                instance.name,
                file.display()
            ));
        }
    }
    Ok(())
}

/// What belongs to all instances, with links to what belongs to each.
fn fleet(
    root: &Root,
    source: &Source,
    spec: &Spec,
    given: &Attributes,
    warnings: &[Diagnostic],
) -> Result<(), Box<dyn Error>> {
    print(source, warnings);
    let Desired { files, instances, .. } = desire(spec, &given.facts);
    for unit in FLEET {
        let path = format!("{UNIT_DIR}/{unit}");
        if let Some(file) = files.get(&path) {
            root.write(&path, &file.content)?;
        }
    }
    // NixOS takes the directory even where no state directory needs it.
    write(root, "/lib/tmpfiles.d/opencode.conf", instances_core::unit::HEADER.to_owned())?;
    for (path, file) in &files {
        if let Some(name) = path.strip_prefix("/etc/tmpfiles.d/") {
            root.write(&format!("/lib/tmpfiles.d/{name}"), &file.content)?;
        }
    }
    for one in &instances {
        let config = Names(&one.name).config_dir();
        let Some(output) = given.units.get(one.name.as_str()) else {
            return Err(format!("the module gave no units of the instance `{}`", one.name).into());
        };
        let target = output.join(Path::new(&config).strip_prefix("/")?);
        root.write(&config, &Content::Link(target.display().to_string()))?;
    }
    write(root, NIXOS_SPEC, source.text.clone())?;
    let facts = serde_json::to_value(&given.facts)?;
    write(root, NIXOS_FACTS, pretty(&facts)?)
}
