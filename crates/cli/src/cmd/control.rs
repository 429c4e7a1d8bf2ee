//! `start`, `stop`, `restart`, `logs`.

use std::os::unix::process::CommandExt as _;

use instances_core::units::Names;
use instances_sys::files::Root;
use instances_sys::installed;
use instances_sys::systemctl;

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::out;

pub(crate) fn start(args: &args::Names) -> Outcome {
    verb("start", args, |names| vec![names.socket(), names.main()])
}

pub(crate) fn stop(args: &args::Names) -> Outcome {
    verb("stop", args, |names| [&[names.refusal()], &names.all()[..]].concat())
}

pub(crate) fn restart(args: &args::Names) -> Outcome {
    // With the namespace, which may have waited for it too (`restartOnSwitch`).
    verb("restart", args, |names| vec![names.net(), names.main()])
}

fn verb(verb: &str, args: &args::Names, units: impl Fn(Names<'_>) -> Vec<String>) -> Outcome {
    let root = Root::new("/".as_ref());
    let records =
        if args.all { installed::instances(&root)? } else { installed::named(&root, &args.names)? };
    let units: Vec<String> = records.iter().flat_map(|record| units(Names(&record.name))).collect();
    if units.is_empty() {
        out::note("no instance is installed; `opencode-instances apply` installs them");
        return Ok(Exit::Done);
    }
    let Err(refusal) = systemctl::verb(verb, &units) else { return Ok(Exit::Done) };
    out::note(crate::report::failure(&refusal));
    super::say_why(&records)?;
    Ok(Exit::Failed)
}

pub(crate) fn logs(args: &args::Logs) -> Outcome {
    let root = Root::new("/".as_ref());
    let record = installed::instance(&root, &args.name)?;
    let helpers = record.helpers(&root)?;
    let mut journalctl = std::process::Command::new("journalctl");
    journalctl.arg("--no-pager").arg(format!("--lines={}", args.lines));
    let names = Names(&record.name);
    let others = names.sometimes().into_iter().chain([names.refusal()]);
    for unit in names.all().into_iter().chain(others).chain(helpers) {
        journalctl.arg(format!("--unit={unit}"));
    }
    if args.follow {
        journalctl.arg("--follow");
    }
    if args.json {
        journalctl.arg("--output=json");
    }
    Err(format!("cannot run journalctl: {}", journalctl.exec()).into())
}
