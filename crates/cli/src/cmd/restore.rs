//! `restore`: the state of a backup in the place of an instance's.

use std::path::Path;

use instances_sys::backup::{Restore, archive, forget};
use instances_sys::files::Root;
use instances_sys::installed;
use serde_json::json;

use super::Outcome;
use super::backup::{amount, now, omissions};
use crate::args;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &args::Restore) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), &args.name)?;
    let name = &record.name;
    if args.forget {
        let forgotten = forget(&record)?;
        if args.json.json {
            out::json(&json!({ "version": 1, "instance": name, "removed": forgotten }));
        } else if forgotten.is_empty() {
            out::note(format!("no restore has put aside a state of `{name}`"));
        }
        for path in forgotten.iter().filter(|_| !args.json.json) {
            out::note(format!("removed {}", path.display()));
        }
        return Ok(Exit::Done);
    }
    let restore = Restore {
        record: &record,
        from: archive(args.file.as_deref().unwrap_or(Path::new("-"))),
        other: args.from_other.clone(),
        time: now(),
    };
    if args.dry_run {
        let count = restore.look()?;
        if args.json.json {
            out::json(&json!({ "version": 1, "instance": name, "count": count }));
        } else {
            out::line(format!("the backup is whole: {}", amount(&count)));
            omissions(&count.left_out);
        }
        return Ok(Exit::Done);
    }
    let (count, before) = restore.run()?;
    if args.json.json {
        out::json(&json!({
            "version": 1, "instance": name, "count": count, "before": before,
        }));
        return Ok(Exit::Done);
    }
    out::note(format!("restored {}", amount(&count)));
    if let Some(before) = before {
        let before = before.display();
        out::note(format!("the state before is in {before}, until `restore {name} --forget`"));
    }
    out::note(format!("start it: opencode-instances start {name}"));
    Ok(Exit::Done)
}
