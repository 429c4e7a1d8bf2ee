//! The stub's records: what all of them say, and values that are short.

use std::path::Path;

use crate::journal::{self, Patience};
use crate::notify::one_line;

/// The longest value; a name of 255 bytes, each as `\DDD`, is shorter.
const MAX_VALUE: usize = 1100;

/// A sender that waits for nobody. A record that the journal does not take now is lost to it.
#[derive(Debug)]
pub(super) struct Journal {
    sender: Option<journal::Journal>,
    instance: String,
    identifier: String,
}

impl Journal {
    /// A sender to the journal at `path`.
    pub(super) fn new(path: &Path, instance: &str) -> Self {
        Self {
            sender: journal::Journal::at(path.to_owned(), Patience::None).ok(),
            instance: instance.to_owned(),
            identifier: format!("opencode-dns@{instance}"),
        }
    }

    /// Sends a record; says whether the journal has it.
    pub(super) fn send(&self, priority: u8, id: &str, fields: &[(&str, &str)]) -> bool {
        let priority = priority.to_string();
        let common = [
            ("PRIORITY", priority.as_str()),
            ("MESSAGE_ID", id),
            ("SYSLOG_IDENTIFIER", &self.identifier),
            ("OPENCODE_INSTANCE", &self.instance),
            ("OPENCODE_PROTOCOL", "dns"),
        ];
        let values: Vec<String> =
            fields.iter().map(|(_, value)| one_line(value, MAX_VALUE)).collect();
        let own = fields.iter().zip(&values).map(|((field, _), value)| (*field, value.as_str()));
        let record: Vec<_> = common.into_iter().chain(own).collect();
        self.sender.as_ref().is_some_and(|sender| sender.send(&record).is_ok())
    }
}
