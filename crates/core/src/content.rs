//! What an operator puts beside `opencode.json`: agents, commands, skills, plugins, instructions.

use serde::Serialize;

use crate::text::AbsPath;

/// Something at a place below `.config/opencode`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// The place, `agents/review.md`: names without `.`, `..` and leading dots, joined by slashes.
    pub place: String,
    /// What is there.
    #[serde(flatten)]
    pub source: Source,
}

impl Content {
    /// The option that declares it.
    pub fn option(&self) -> &'static str {
        let kinds = [Kind::Agents, Kind::Commands, Kind::Skills, Kind::Plugins].map(Kind::key);
        let top = self.place.split('/').next();
        kinds.into_iter().find(|key| Some(*key) == top).unwrap_or("instructions")
    }
}

/// Where a content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The text itself.
    Text(String),
    /// A file of the host, or for a skill a directory, which the sandbox shows read-only.
    File(AbsPath),
}

/// The kinds of content that have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `agents/NAME.md`.
    Agents,
    /// `commands/NAME.md`.
    Commands,
    /// `skills/NAME/SKILL.md`.
    Skills,
    /// `plugins/NAME`.
    Plugins,
}

/// How deep names nest.
const DEPTH: usize = 4;

impl Kind {
    /// The option's key, and the directory below `.config/opencode`.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Commands => "commands",
            Self::Skills => "skills",
            Self::Plugins => "plugins",
        }
    }

    /// The place of a content with this name and source, or what its name must be.
    pub(crate) fn place(self, name: &str, source: &Source) -> Result<String, &'static str> {
        let parts: Vec<&str> = name.split('/').collect();
        let nests = matches!(self, Self::Agents | Self::Commands);
        if !parts.iter().all(|part| is_plain(part)) || parts.len() > if nests { DEPTH } else { 1 } {
            return Err(if nests {
                "letters, digits, `_`, `-` and `.`, not at the start, and `/` between such names"
            } else {
                "letters, digits, `_`, `-` and `.`, not at the start"
            });
        }
        let key = self.key();
        match self {
            Self::Agents | Self::Commands => Ok(format!("{key}/{name}.md")),
            Self::Skills => Ok(match source {
                Source::Text(_) => format!("{key}/{name}/SKILL.md"),
                Source::File(_) => format!("{key}/{name}"),
            }),
            // opencode looks for these endings as they stand here.
            Self::Plugins => match name.rsplit_once('.') {
                Some((_, "js" | "ts")) => Ok(format!("{key}/{name}")),
                _ => Err("a name that ends in `.js` or `.ts`"),
            },
        }
    }
}

/// A part of a place: a file name that is hidden nowhere and means nothing to anybody.
fn is_plain(part: &str) -> bool {
    let first = part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first
        && part.len() <= 128
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_places_and_no_name_leaves_them() {
        let text = Source::Text(String::new());
        let file = Source::File(AbsPath::literal("/srv/x"));
        assert_eq!(Kind::Agents.place("a/b-1", &text), Ok("agents/a/b-1.md".to_owned()));
        assert_eq!(Kind::Skills.place("x", &text), Ok("skills/x/SKILL.md".to_owned()));
        assert_eq!(Kind::Skills.place("x", &file), Ok("skills/x".to_owned()));
        assert_eq!(Kind::Plugins.place("n.ts", &file), Ok("plugins/n.ts".to_owned()));
        for name in
            ["", ".", "..", "../x", "a/../b", "/a", "a/", "a//b", ".git", "a\nb", "ä", "a b"]
        {
            for kind in [Kind::Agents, Kind::Commands, Kind::Skills, Kind::Plugins] {
                assert!(kind.place(name, &text).is_err(), "{name:?}");
            }
        }
        assert!(Kind::Skills.place("a/b", &text).is_err());
        assert!(Kind::Plugins.place("notify", &text).is_err());
        assert!(Kind::Agents.place(&"a/".repeat(9), &text).is_err());
    }
}
