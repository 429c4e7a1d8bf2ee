//! What opencode itself takes: its configuration, judged before it is installed.
//!
//! opencode drops a key that it does not know without a word, and ends, or answers every request
//! with an error, when a value has the wrong type. Its own schema says so earlier.

mod expectation;
pub mod extract;
mod judge;
mod placeholder;
mod rules;
pub mod schema;
pub mod settings;

use std::sync::OnceLock;

use schema::{Error, Schema};

/// A version whose schema is part of this program.
struct Shipped {
    version: &'static str,
    text: &'static str,
    compiled: OnceLock<Result<Schema, Error>>,
}

/// In order; the last one is the newest. Each is what `extract` makes of `opencode generate`.
static SHIPPED: [Shipped; 1] = [Shipped {
    version: "1.18.33",
    text: include_str!("../../../../schema/opencode/1.18.33.json"),
    compiled: OnceLock::new(),
}];

/// The schema that a version is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Whether the schema is the one of the version that was asked for.
    pub exact: bool,
    /// The version that the schema is of.
    pub version: &'static str,
    /// The schema as JSON.
    pub text: &'static str,
    compiled: &'static OnceLock<Result<Schema, Error>>,
}

impl Known {
    /// The schema, compiled when it is first asked for. An error is a mistake in this program.
    pub fn schema(&self) -> Result<&'static Schema, &'static Error> {
        self.compiled.get_or_init(|| Schema::compile(self.text)).as_ref()
    }
}

/// The schema of a version of opencode (`1.18.33`), or else of the newest one that is known.
pub fn known(version: &str) -> Known {
    let [.., newest] = &SHIPPED;
    let found = SHIPPED.iter().find(|one| one.version == version);
    let Shipped { version, text, compiled } = found.unwrap_or(newest);
    Known { exact: found.is_some(), version, text, compiled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_gets_the_newest_schema() {
        for (version, exact) in [("1.18.33", true), ("1.18.3", false), ("2.0.0", false)] {
            let known = known(version);
            assert_eq!((known.exact, known.version), (exact, "1.18.33"));
        }
    }

    #[test]
    fn every_schema_compiles() {
        for shipped in &SHIPPED {
            known(shipped.version).schema().unwrap();
        }
    }
}
