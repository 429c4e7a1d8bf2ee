//! `render`: every file that should be on the host, without touching the host.

use std::collections::BTreeMap;
use std::fs;

use instances_core::desired::Content;
use instances_sys::files::Root;
use serde_json::json;

use super::Outcome;
use crate::args::Render;
use crate::exit::Exit;
use crate::{out, spec};

pub(crate) fn run(args: &Render) -> Outcome {
    if args.host.facts.is_none() && args.host.systemd.is_none() {
        spec::not_nixos(&Root::new("/".as_ref()))?;
    }
    let desired = match spec::desired(&args.spec, &args.host)? {
        Ok((desired, _)) => desired,
        Err(exit) => return Ok(exit),
    };
    if let Some(directory) = &args.out {
        let filled = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
        if filled {
            return Err(
                format!("{} is not empty; name an empty directory", directory.display()).into()
            );
        }
        let root = Root::new(directory);
        for (path, file) in &desired.files {
            root.write(path, &file.content)?;
        }
        out::note(format!("{} files below {}", desired.files.len(), directory.display()));
    } else if !args.json.json {
        for (path, file) in &desired.files {
            match &file.content {
                Content::Text(text) => out::line(format!("==> {path}\n{text}")),
                Content::Link(target) => out::line(format!("==> {path} -> {target}\n")),
            }
        }
    }
    if args.json.json {
        let files: BTreeMap<_, _> = desired
            .files
            .iter()
            .map(|(path, file)| {
                let content = match &file.content {
                    Content::Text(text) => json!({ "text": text }),
                    Content::Link(target) => json!({ "link": target }),
                };
                (path, content)
            })
            .collect();
        out::json(&json!({ "version": 1, "files": files }));
    }
    Ok(Exit::Done)
}
