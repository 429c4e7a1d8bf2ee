//! `explain`: what a code means, of a diagnostic or of what `doctor` says.

use instances_core::code::Code;
use instances_core::doctor;
use serde_json::{Value, json};

use crate::args::Explain;
use crate::exit::Exit;
use crate::out;

/// What is known of a code.
struct Known {
    code: &'static str,
    severity: Value,
    title: &'static str,
    explanation: &'static str,
}

/// The diagnostics, and then what `doctor` says.
fn all() -> impl Iterator<Item = Known> {
    let diagnostics = Code::ALL.iter().map(|code| Known {
        code: code.as_str(),
        severity: json!(code.severity()),
        title: code.title(),
        explanation: code.explanation(),
    });
    let of_doctor = doctor::Code::ALL.iter().map(|code| Known {
        code: code.as_str(),
        severity: json!(if code.is_finding() { "finding" } else { "note" }),
        title: code.title(),
        explanation: code.explanation(),
    });
    diagnostics.chain(of_doctor)
}

pub(crate) fn run(args: &Explain) -> Exit {
    let wanted = args.code.as_ref().map(|text| text.trim().to_ascii_uppercase());
    let codes: Vec<Known> =
        all().filter(|known| wanted.as_ref().is_none_or(|code| code == known.code)).collect();
    if let (true, Some(text)) = (codes.is_empty(), &args.code) {
        out::note(format!(
            "error: no diagnostic has the code {text:?}; `opencode-instances explain` lists them"
        ));
        return Exit::Usage;
    }
    if args.json.json {
        let all: Vec<_> = codes
            .iter()
            .map(|known| {
                json!({"code": known.code, "severity": known.severity, "title": known.title,
                       "explanation": known.explanation})
            })
            .collect();
        out::json(&json!({ "version": 1, "codes": all }));
    } else if args.code.is_some() {
        for known in codes {
            out::line(format!("{}: {}\n\n{}", known.code, known.title, known.explanation));
        }
    } else {
        for known in codes {
            out::line(format!("{}  {}", known.code, known.title));
        }
    }
    Exit::Done
}
