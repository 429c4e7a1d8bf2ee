//! `{env:NAME}` and `{file:PATH}`, which opencode replaces in the text before it parses it.

/// How a string takes part in the replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placeholders {
    /// It is what it says.
    None,
    /// What it will be is known only where opencode runs.
    Some,
    /// One has no end: opencode would read on to the next `}`, wherever that is.
    Open(&'static str),
}

/// Looks for placeholders. As for opencode, `{env:}` is none: a name has at least one character.
pub(super) fn placeholders(text: &str) -> Placeholders {
    let mut found = Placeholders::None;
    for start in ["{env:", "{file:"] {
        for (_, rest) in text
            .match_indices(start)
            .filter_map(|(at, _)| text.get(at + start.len()..).map(|rest| (at, rest)))
        {
            match rest.find('}') {
                Some(0) => {}
                Some(_) => found = Placeholders::Some,
                None => return Placeholders::Open(start),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_told_from_what_looks_like_them() {
        for (text, expected) in [
            ("", Placeholders::None),
            ("{env:}", Placeholders::None),
            ("{ENV:A}", Placeholders::None),
            ("{environment:A}", Placeholders::None),
            ("{env:A}", Placeholders::Some),
            ("Bearer {file:/run/key}!", Placeholders::Some),
            ("{env:} {env:A}", Placeholders::Some),
            ("{env:A", Placeholders::Open("{env:")),
            ("{env:A} {file:", Placeholders::Open("{file:")),
        ] {
            assert_eq!(placeholders(text), expected, "{text}");
        }
    }
}
