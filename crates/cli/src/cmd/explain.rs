//! `explain`: what a diagnostic's code means.

use instances_core::code::Code;
use serde_json::json;

use crate::args::Explain;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &Explain) -> Exit {
    let codes: Vec<Code> = match &args.code {
        None => Code::ALL.to_vec(),
        Some(text) => match text.parse::<Code>() {
            Ok(code) => vec![code],
            Err(unknown) => {
                out::note(format!("error: {unknown}; `opencode-instances explain` lists them"));
                return Exit::Usage;
            }
        },
    };
    if args.json.json {
        let all: Vec<_> = codes
            .iter()
            .map(|code| {
                json!({"code": code, "severity": code.severity(), "title": code.title(),
                       "explanation": code.explanation()})
            })
            .collect();
        out::json(&json!({ "version": 1, "codes": all }));
    } else if args.code.is_some() {
        for code in codes {
            out::line(format!("{code}: {}\n\n{}", code.title(), code.explanation()));
        }
    } else {
        for code in codes {
            out::line(format!("{code}  {}", code.title()));
        }
    }
    Exit::Done
}
