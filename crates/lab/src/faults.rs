//! What is done to commands while they run, and what comes of it: the one table, read by the tests and by
//! `docs/reference/reliability.md`.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The table's text.
const TEXT: &str = include_str!("faults.toml");

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fault {
    /// What ran, or was about to.
    pub command: String,
    /// What was done to it.
    pub fault: String,
    /// What came of it.
    pub outcome: String,
    /// Words that the command says then, where a test looks for them.
    #[serde(default)]
    pub says: Vec<String>,
    /// The test that does it: a file below `crates` and a function in it.
    pub test: String,
}

impl Fault {
    /// The file and the function of the test.
    pub fn place(&self) -> Result<(&str, &str)> {
        self.test.rsplit_once("::").with_context(|| format!("no function in {}", self.test))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    fault: Vec<Fault>,
}

/// Every row, in the order of the document.
pub fn all() -> Result<Vec<Fault>> {
    let table: Table = toml::from_str(TEXT).context("crates/lab/src/faults.toml")?;
    Ok(table.fault)
}
