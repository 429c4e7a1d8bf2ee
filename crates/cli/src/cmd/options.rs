//! `options`: the reference of the specification.

use instances_core::raw::OPTIONS;
use serde_json::json;

use crate::args::Json;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &Json) -> Exit {
    if args.json {
        let all: Vec<_> = OPTIONS
            .iter()
            .map(|one| {
                json!({"key": one.key, "type": one.kind.words(), "default": one.default,
                       "example": one.example, "description": one.doc.trim()})
            })
            .collect();
        out::json(&json!({ "version": 1, "options": all }));
        return Exit::Done;
    }
    for one in OPTIONS {
        out::line(format!("{} ({}, default {})", one.key, one.kind.words(), one.default));
        for line in one.doc.trim().lines() {
            out::line(format!("    {}", line.trim()));
        }
        out::line(format!("    Example: {} = {}\n", one.key, one.example));
    }
    Exit::Done
}
