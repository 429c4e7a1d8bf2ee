//! The part of `docs/reference/controls.md` that is a function of the table of controls.

use anyhow::Result;
use instances_core::controls::{self, Control, Directive, Weaker};

/// The document as it is, with that part anew.
pub(super) fn text() -> Result<String> {
    super::between("docs/reference/controls.md", &tables())
}

fn tables() -> String {
    let (given_up, kept): (Vec<&Control>, Vec<&Control>) =
        controls::all().iter().partition(|control| control.relaxed.is_some());
    let mut text = "\n## What can be given up\n\n\
                    | name | directives | what it stops |\n|---|---|---|\n"
        .to_owned();
    for control in &given_up {
        text += &format!(
            "| [`{0}`](#{0}) | {1} | {2} |\n",
            control.name,
            made_of(control),
            control.why
        );
    }
    for control in given_up {
        let Some(how) = control.relaxed else { continue };
        let changes: Vec<String> = how.weaker.iter().map(change).collect();
        text += &format!(
            "\n### `{}`\n\nStops: {}.\n\n- Needed by: {}.\n- Gives away: {}.\n- In the unit: {}.\n",
            control.name,
            control.why,
            how.needed,
            how.gives,
            changes.join("; ")
        );
    }
    text += "\n## What cannot\n\n| name | directives | what it stops |\n|---|---|---|\n";
    for control in kept {
        text += &format!("| `{}` | {} | {} |\n", control.name, made_of(control), control.why);
    }
    text + "\n"
}

fn made_of(control: &Control) -> String {
    let lines: Vec<String> = control.directives.iter().map(line).collect();
    lines.join(", ")
}

/// Long values are in the unit for who wants to read them.
fn line(directive: &Directive) -> String {
    match directive.value {
        Some(value) if value.len() < 60 => format!("`{}={value}`", directive.name),
        _ => format!("`{}=`", directive.name),
    }
}

fn change(weaker: &Weaker) -> String {
    match weaker {
        Weaker::Value(name, value) => format!("`{name}={value}`"),
        Weaker::Without(name, value) => format!("no `{name}={value}`"),
        Weaker::Calls(calls) => format!("`SystemCallFilter={calls}` behind the other two"),
        Weaker::Family(family) => format!("`{family}` in `RestrictAddressFamilies=`"),
    }
}
