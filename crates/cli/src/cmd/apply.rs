//! `plan`, `apply` and `remove`: the steps from what is to what should be.

use instances_core::plan::Step;
use instances_core::spec::InstanceName;
use instances_sys::apply::{self, Receipt};
use instances_sys::files::Root;
use instances_sys::installed::{self, Record};
use instances_sys::{net, trust};
use serde_json::json;

use super::Outcome;
use crate::args::{Apply, Plan, Remove};
use crate::exit::Exit;
use crate::{out, spec};

pub(crate) fn plan(args: &Plan) -> Outcome {
    spec::not_nixos(&Root::new(&args.root.root))?;
    let desired = match spec::desired(&args.spec, &args.host)? {
        Ok((desired, _)) => desired,
        Err(exit) => return Ok(exit),
    };
    let plan = apply::preview(&Root::new(&args.root.root), &desired)?;
    if args.json.json {
        out::json(&json!({ "version": 1, "steps": plan.steps }));
        return Ok(Exit::Done);
    }
    for step in &plan.steps {
        out::line(step.to_string());
    }
    if plan.steps.is_empty() {
        out::note("nothing to do");
    }
    Ok(Exit::Done)
}

pub(crate) fn apply(args: &Apply) -> Outcome {
    spec::not_nixos(&Root::new(&args.root.root))?;
    let (desired, facts) = match spec::desired(&args.spec, &args.host)? {
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
    gone.retain(|record| desired.instances.iter().all(|one| one.name != record.name));
    let receipt = apply::apply(&root, &desired, &mut narrate)?;
    let exit = close(&root, &receipt)?;
    left_alone(&gone);
    if root.is_host() {
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
    left_alone(&records);
    if root.is_host() {
        net::forget(&[])?;
    }
    if receipt.steps.is_empty() {
        out::note("nothing is installed");
    }
    Ok(exit)
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
    for refusal in &receipt.refused {
        out::note(crate::report::failure(refusal));
    }
    super::say_why(&installed::instances(root)?)?;
    out::note("the rest was done; run apply again once the cause is repaired");
    Ok(Exit::Failed)
}
