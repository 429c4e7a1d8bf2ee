//! `plan`, `apply` and `remove`: the steps from what is to what should be.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;

use instances_core::facts::HostFacts;
use instances_core::node::Format;
use instances_core::plan::Step;
use instances_core::spec::{AbsPath, InstanceName};
use instances_core::units::Names;
use instances_sys::apply::{self, Receipt, Stopped};
use instances_sys::files::{self, Root};
use instances_sys::installed::{self, Record};
use instances_sys::{applied, net, sandbox_root, shell, systemctl, trust};
use serde_json::json;

use super::Outcome;
use crate::args::{Apply, DEFAULT_SPEC, Plan, Remove};
use crate::exit::Exit;
use crate::report::Source;
use crate::{out, spec};

pub(crate) fn plan(args: &Plan) -> Outcome {
    spec::not_nixos(&Root::new(&args.root.root))?;
    let desired = match spec::desired(&args.spec, &args.host)? {
        Ok((desired, _)) => desired,
        Err(exit) => return Ok(exit),
    };
    let plan = apply::preview(&Root::new(&args.root.root), &desired)?;
    if args.json.json {
        out::json(&json!({ "version": 1, "steps": plan.all().collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    for step in plan.all() {
        out::line(step.to_string());
    }
    if plan.all().next().is_none() {
        out::note("nothing to do");
    }
    Ok(Exit::Done)
}

pub(crate) fn apply(args: &Apply) -> Outcome {
    spec::not_nixos(&Root::new(&args.root.root))?;
    let source = spec::source(&args.spec.spec)?;
    let (desired, facts) = match spec::desired_of(&source, &args.host)? {
        Ok(both) => both,
        Err(exit) => return Ok(exit),
    };
    let root = Root::new(&args.root.root);
    let mut gone = installed::instances(&root)?;
    if desired.instances.is_empty() && !gone.is_empty() {
        return Err(
            "the specification enables no instance; if that is meant, `opencode-instances \
                    remove` removes them all"
                .into(),
        );
    }
    if root.is_host() {
        facts.runnable()?;
        sandbox_root::suits()?;
        trust::programs(&facts)?;
        trust::programs_of_instances(&desired.instances)?;
        trust::paths_of_instances(&desired.instances)?.into_iter().for_each(out::note);
        trust::devices_of_instances(&desired.instances)?;
        trust::sockets_of_instances(&desired.instances)?.into_iter().for_each(out::note);
        desired.instances.iter().try_for_each(|instance| {
            trust::files_of(instance)?;
            trust::state_directory(instance)
        })?;
    }
    let declared: BTreeSet<&InstanceName> = desired.instances.iter().map(|one| &one.name).collect();
    gone.retain(|record| !declared.contains(&record.name));
    let receipt = apply::apply(&root, &desired, &mut narrate)?;
    let way = Way { root: &root, source: &source, given: &args.spec.spec, engine: &facts.engine };
    let exit = match &receipt.stopped {
        Some(stopped) => halt(&way, &receipt, stopped)?,
        None => close(&root, &receipt)?,
    };
    // Who failed all the same was down before, or is new: whoever ran has had its turn.
    let stopped = receipt.stopped.is_some() || receipt.worse;
    if !stopped {
        way.keep();
    }
    if root.is_host() {
        taken_down(&gone, &facts.nft);
    }
    left_alone(&gone);
    // The way back leads to the same addresses.
    if root.is_host() && !stopped {
        let kept = desired.instances.iter().map(|one| &one.name);
        // Who is only disabled comes back to its own addresses.
        net::forget(&kept.chain(&desired.disabled).collect::<Vec<&InstanceName>>())?;
    }
    if receipt.steps.is_empty() {
        out::note("nothing to do");
    } else if exit == Exit::Done {
        let words = match desired.instances.len() {
            1 => "1 instance is".to_owned(),
            count => format!("{count} instances are"),
        };
        let next = if root.is_host() {
            "; `opencode-instances status` shows their health"
        } else {
            " below the given root"
        };
        out::note(format!("{words} as specified{next}"));
    }
    Ok(exit)
}

pub(crate) fn remove(args: &Remove) -> Outcome {
    let root = Root::new(&args.root.root);
    spec::not_nixos(&root)?;
    let records = installed::instances(&root)?;
    let receipt = apply::remove(&root, &mut narrate)?;
    let exit = close(&root, &receipt)?;
    if root.is_host() {
        taken_down(&records, &HostFacts::default().nft);
    }
    left_alone(&records);
    if root.is_host() {
        net::forget(&[])?;
        applied::forget(&root)?;
    }
    if receipt.steps.is_empty() {
        out::note("nothing is installed");
    }
    Ok(exit)
}

/// Takes away what units that are gone have left: one that was killed while it stopped leaves its namespace, and
/// systemd its failure.
fn taken_down(gone: &[Record], nft: &AbsPath) {
    let units: Vec<String> = gone.iter().flat_map(|record| Names(&record.name).all()).collect();
    if !units.is_empty() {
        // Most have not failed, or are not loaded any more.
        let _ = systemctl::forget(&units);
    }
    for record in gone {
        if net::is_pinned(&record.name)
            && let Err(error) = net::down(&record.name, Some(Path::new(nft.as_str())))
        {
            out::note(crate::report::failure(&error));
        }
    }
}

/// Says what an instance that is no longer installed leaves behind on purpose.
fn left_alone(gone: &[Record]) {
    for record in gone {
        out::note(format!(
            "left alone: {} (state of {}), {} (its project), user {}",
            record.state_dir, record.name, record.directory, record.user
        ));
    }
    if !gone.is_empty() {
        out::note(format!("passwords are kept in {}", instances_core::layout::AUTH_ROOT));
    }
}

fn narrate(step: &Step) {
    out::note(step.to_string());
}

/// Says what systemd refused, and why, instance by instance.
fn close(root: &Root, receipt: &Receipt) -> Outcome {
    if receipt.refused.is_empty() {
        return Ok(Exit::Done);
    }
    say_refused(root, receipt)?;
    out::note("the rest was done; run apply again once the cause is repaired");
    Ok(Exit::Failed)
}

fn say_refused(root: &Root, receipt: &Receipt) -> Result<(), Box<dyn Error>> {
    for refusal in &receipt.refused {
        out::note(crate::report::failure(refusal));
    }
    Ok(super::say_why(&installed::instances(root)?)?)
}

/// Says where servers stopped being restarted, who is still as it was, and both ways on.
fn halt(way: &Way<'_>, receipt: &Receipt, stopped: &Stopped) -> Outcome {
    say_refused(way.root, receipt)?;
    let at = match &stopped.at {
        Some(name) => format!("stopped at `{name}`, which did not come back"),
        None => "stopped: what all instances need did not come back".to_owned(),
    };
    out::note(at);
    if !stopped.untouched.is_empty() {
        let names: Vec<&str> = stopped.untouched.iter().map(InstanceName::as_str).collect();
        out::note(format!("not touched, and as before: {}", names.join(", ")));
    }
    if !stopped.other.is_empty() {
        let names: Vec<&str> = stopped.other.iter().map(InstanceName::as_str).collect();
        out::note(format!("had no turn, and not as before: {}", names.join(", ")));
    }
    if let Some(error) = &stopped.kept {
        out::note(format!("not all is as before: {}", crate::report::failure(error)));
    }
    match way.back() {
        Ok(commands) if commands.is_empty() => out::note(
            "to go back: apply the specification that was applied before, with the program that did it",
        ),
        Ok(commands) => {
            out::note("to go back:");
            for command in commands {
                out::note(format!("  {command}"));
            }
        }
        Err(error) => out::note(crate::report::failure(&error)),
    }
    out::note(format!("to go on, once the cause is repaired:\n  {}", way.again()));
    if let Some(name) = &stopped.at {
        out::note(format!(
            "to go on without it, `enable = false` in instances.{name} takes it out"
        ));
    }
    Ok(Exit::Failed)
}

/// What leads from one specification and program to another, and back.
struct Way<'a> {
    root: &'a Root,
    source: &'a Source,
    /// The specification as it was named.
    given: &'a Path,
    engine: &'a AbsPath,
}

impl Way<'_> {
    /// Makes what is applied now the way back of the next one. Without it everything is as specified all the same.
    fn keep(&self) {
        if !self.root.is_host() {
            return;
        }
        let format = Format::of(&self.source.name);
        // What did it, and not what may lie in its place by now.
        let engine = Path::new("/proc/self/exe");
        if let Err(error) = applied::keep(self.root, format, &self.source.text, engine) {
            out::note(format!("no way back is kept: {}", crate::report::failure(&error)));
        }
    }

    /// The commands that lead back; none where it is not known where to, or there is no other place.
    fn back(&self) -> Result<Vec<String>, files::Error> {
        let engine = Path::new(self.engine.as_str());
        let earlier = applied::earlier(self.root, &self.source.text, engine)?;
        if !earlier.known || (earlier.engine.is_none() && earlier.spec.is_none()) {
            return Ok(Vec::new());
        }
        let (place, new) = (shell::word(engine), shell::word(format!("{}.new", self.engine)));
        let install = earlier.engine.map(|kept| {
            format!("install --mode=755 {} {new} && mv {new} {place}", shell::word(kept))
        });
        let spec = earlier.spec.map_or_else(|| self.again(), |kept| self.apply(&kept));
        Ok(install.into_iter().chain([spec]).collect())
    }

    /// The command that was given.
    fn again(&self) -> String {
        if self.given == Path::new(DEFAULT_SPEC) {
            return format!("{} apply", shell::word(self.engine.as_str()));
        }
        self.apply(self.given)
    }

    fn apply(&self, spec: &Path) -> String {
        format!("{} apply {}", shell::word(self.engine.as_str()), shell::word(spec))
    }
}
