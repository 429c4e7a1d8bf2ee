//! `status`: one line for each instance.

use instances_sys::files::Root;
use instances_sys::installed;
use instances_sys::status::{self, State, Status};
use serde_json::json;

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &args::Status) -> Outcome {
    let root = Root::new("/".as_ref());
    let records = if args.names.is_empty() {
        installed::instances(&root)?
    } else {
        installed::named(&root, &args.names)?
    };
    let all = status::observe(&records)?;
    if args.json.json {
        out::json(&json!({ "version": 1, "instances": all }));
    } else if all.is_empty() {
        out::note("no instance is installed; `opencode-instances apply` installs them");
    } else {
        let mut rows = vec![
            ["INSTANCE", "STATE", "HEALTH", "VERSION", "LISTEN", "REASON"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(all.iter().map(row));
        out::table(&rows);
    }
    let wrong = |one: &Status| one.state == State::Failed || one.healthy == Some(false);
    Ok(if all.iter().any(wrong) { Exit::Finding } else { Exit::Done })
}

fn row(status: &Status) -> Vec<String> {
    let state = match status.state {
        State::Running => "running",
        State::Starting => "starting",
        State::Stopping => "stopping",
        State::Restarting => "restarting",
        State::Failed => "failed",
        State::Stopped => "stopped",
        State::Idle => "idle (on demand)",
    };
    let health = match status.healthy {
        Some(true) => "healthy",
        Some(false) => "unhealthy",
        None => "-",
    };
    let listen =
        if status.listening { status.listen.to_string() } else { format!("({})", status.listen) };
    vec![
        status.name.clone(),
        state.to_owned(),
        health.to_owned(),
        status.version.clone().unwrap_or_else(|| "-".to_owned()),
        listen,
        status.reason.clone(),
    ]
}
