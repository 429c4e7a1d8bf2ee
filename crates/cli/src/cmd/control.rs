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

/// One of systemd's verbs, and for which units of an instance.
type Step = (&'static str, fn(Names<'_>) -> Vec<String>);

pub(crate) fn start(args: &args::Names) -> Outcome {
    take(args, &[("start", |names| vec![names.socket(), names.main()])])
}

pub(crate) fn stop(args: &args::Names) -> Outcome {
    take(args, &[("stop", |names| [&[names.refusal()], &names.all()[..]].concat())])
}

pub(crate) fn restart(args: &args::Names) -> Outcome {
    // With the namespace, which may have waited for it too (`restartOnSwitch`). A listener stays open; one that was
    // stopped is opened.
    let servers: Step = ("restart", |names| vec![names.net(), names.main()]);
    take(args, &[servers, ("start", |names| vec![names.socket()])])
}

fn take(args: &args::Names, steps: &[Step]) -> Outcome {
    let root = Root::new("/".as_ref());
    let records =
        if args.all { installed::instances(&root)? } else { installed::named(&root, &args.names)? };
    if records.is_empty() {
        out::note("no instance is installed; `opencode-instances apply` installs them");
        return Ok(Exit::Done);
    }
    for (verb, of) in steps {
        let units: Vec<String> =
            records.iter().flat_map(|record| of(Names(&record.name))).collect();
        if let Err(refusal) = systemctl::verb(verb, &units) {
            out::note(crate::report::failure(&refusal));
            super::say_why(&records)?;
            return Ok(Exit::Failed);
        }
    }
    Ok(Exit::Done)
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
