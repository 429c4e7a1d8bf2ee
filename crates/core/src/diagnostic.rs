//! What is wrong with a specification: collected, never printed here.
//!
//! Invariant: a [`Diagnostic`] always names the place, the reason and, in `help`, the smallest
//! change that would be accepted.

use std::collections::HashSet;

use serde::Serialize;

pub use crate::code::Code;

/// A byte range in the operator's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Where in the operator's text something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// Byte range in the text; `None` for JSON, whose errors are placed by `path` alone.
    pub span: Option<Span>,
    /// The option's path, as in `instances.web.listen.port`. Empty for the whole document.
    pub path: String,
}

/// Whether a diagnostic refuses the specification or only remarks on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The specification is refused.
    Error,
    /// The specification is accepted; the operator should know.
    Warning,
}

/// One finding about the operator's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code; `explain CODE` tells more.
    pub code: Code,
    /// What is wrong, in one line, without a trailing period.
    pub message: String,
    /// Where.
    pub at: Origin,
    /// The words beside the caret.
    pub label: String,
    /// Other places that take part, each with its words.
    pub also: Vec<(Origin, String)>,
    /// The smallest change that would be accepted.
    pub help: String,
}

impl Diagnostic {
    /// A finding at `at`; `help` is the smallest change that would be accepted.
    pub fn new(
        code: Code,
        at: &Origin,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            at: at.clone(),
            label: label.into(),
            also: Vec::new(),
            help: help.into(),
        }
    }

    /// Adds another place that takes part in the finding.
    #[must_use]
    pub fn also(mut self, at: &Origin, label: impl Into<String>) -> Self {
        self.also.push((at.clone(), label.into()));
        self
    }

    /// Whether this refuses the specification.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

/// Every finding so far, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    known: HashSet<(Code, Origin)>,
}

impl Diagnostics {
    /// No finding yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a finding, unless the same code already stands at the same place: a value in
    /// `[defaults]` is judged once for each instance but reported once.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.known.insert((diagnostic.code, diagnostic.at.clone())) {
            self.found.push(diagnostic);
        }
    }

    /// Whether any finding refuses the specification.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|one| one.severity() == Severity::Error)
    }

    /// The findings, sorted by their place in the text.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| (&a.at, a.code).cmp(&(&b.at, b.code)));
        self.found
    }

    /// The findings in the order they were made.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    /// `value` when nothing refuses it, with the warnings; otherwise all findings.
    pub fn conclude<T>(self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        match value {
            Some(value) if !self.has_errors() => Ok((value, self.into_sorted())),
            _ => Err(self.into_sorted()),
        }
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
