//! The format versions of what is written to be read later, perhaps by an older or a newer program.
//!
//! One that is newer than the program is refused and never guessed at. One without a version is from before there were
//! any, and has the first.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why a text is not understood.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Continuing could forget what a newer program meant.
    #[error(
        "it has format version {found}, this program knows {known}; use the program that wrote it, or a newer one"
    )]
    Newer {
        /// Its version.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// It is no JSON of that kind.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Version {
    #[serde(default = "first")]
    version: u32,
}

/// What a text without a version has.
pub fn first() -> u32 {
    1
}

/// Reads JSON of at most this version.
///
/// # Errors
///
/// See [`Unreadable`].
pub fn parse<T: DeserializeOwned>(text: &[u8], known: u32) -> Result<T, Unreadable> {
    let Version { version: found } = serde_json::from_slice(text)?;
    if found > known {
        return Err(Unreadable::Newer { found, known });
    }
    Ok(serde_json::from_slice(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Text {
        words: String,
    }

    #[test]
    fn a_newer_version_is_refused_and_an_older_one_read() {
        let read = |text: &str| parse::<Text>(text.as_bytes(), 2);
        let text = Text { words: "x".to_owned() };
        for older in
            [r#"{"words":"x"}"#, r#"{"version":1,"words":"x"}"#, r#"{"version":2,"words":"x"}"#]
        {
            assert_eq!(read(older).unwrap(), text);
        }
        // Whatever else is in it.
        for newer in
            [r#"{"version":3,"words":"x"}"#, r#"{"version":3,"words":[1]}"#, r#"{"version":3}"#]
        {
            let said = read(newer).unwrap_err().to_string();
            assert!(
                said.contains("format version 3, this program knows 2; use the program"),
                "{said}"
            );
        }
        for odd in ["", "[]", r#"{"version":"3","words":"x"}"#, r#"{"version":-1,"words":"x"}"#] {
            assert!(matches!(read(odd), Err(Unreadable::Json(_))), "{odd}");
        }
    }
}
