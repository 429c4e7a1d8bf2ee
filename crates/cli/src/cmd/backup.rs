//! `backup`: the state of an instance in one file, while it runs.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::SystemTime;

use instances_core::backup::manifest::LeftOut;
use instances_sys::backup::{Archive, Backup, Count, archive};
use instances_sys::files::Root;
use instances_sys::{installed, status};
use serde_json::json;

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::out;

/// So many of the things that were left out are named; the manifest names more.
const NAMED: usize = 20;

pub(crate) fn run(args: &args::Backup) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), &args.name)?;
    let to = archive(args.file.as_deref().unwrap_or(Path::new("-")));
    if matches!(to, Archive::Pipe) && !args.dry_run {
        if args.json.json {
            return Err("standard output is the archive; name a file for --json".into());
        }
        if std::io::stdout().is_terminal() {
            return Err("standard output is a terminal; name a file, or lead it elsewhere".into());
        }
    }
    let statuses = status::observe(std::slice::from_ref(&record))?;
    let version = statuses.into_iter().next().and_then(|status| status.version);
    let backup = Backup {
        record: &record,
        to,
        force: args.force,
        all: args.all,
        limit: args.freeze_limit,
        opencode: version.filter(|version| is_version(version)),
        time: now(),
    };
    if args.dry_run {
        let count = backup.look()?;
        if args.json.json {
            out::json(&json!({ "version": 1, "instance": record.name, "count": count }));
        } else {
            out::line(format!("{} would be kept", amount(&count)));
            omissions(&count.left_out);
        }
        return Ok(Exit::Done);
    }
    let kept = backup.run()?;
    let seconds = kept.frozen.map(|time| time.as_secs_f64());
    if args.json.json {
        out::json(&json!({
            "version": 1,
            "instance": record.name,
            "file": args.file,
            "time": backup.time,
            "count": kept.count,
            "length": kept.length,
            "frozenSeconds": seconds,
        }));
        return Ok(Exit::Done);
    }
    let length = kept.length.map(|length| format!(", as {}", bytes(length))).unwrap_or_default();
    out::note(format!("kept {}{length}", amount(&kept.count)));
    out::note(match seconds {
        Some(seconds) => format!("the server stood still for {seconds:.2} s at most"),
        None => "the server did not run".to_owned(),
    });
    omissions(&kept.count.left_out);
    Ok(Exit::Done)
}

/// Whether a server's word for its version is one.
fn is_version(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
    (1..=40).contains(&text.len()) && text.bytes().all(legal)
}

/// The time in UTC, in a form that names of files may have.
pub(super) fn now() -> String {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    time.replace(['-', ':'], "")
}

/// How much there is, in words.
pub(super) fn amount(count: &Count) -> String {
    format!("{} files and directories with {}", count.entries, bytes(count.bytes))
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

/// Says what is missing although nobody chose that.
pub(super) fn omissions(left_out: &LeftOut) {
    for one in left_out.named.iter().take(NAMED) {
        out::note(format!("left out: {}: {}", one.path, one.why));
    }
    let shown = left_out.named.len().min(NAMED) as u64;
    if left_out.count > shown {
        out::note(format!("left out: {} more", left_out.count - shown));
    }
}
