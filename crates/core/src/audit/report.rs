//! What an audit found: one row for each control.

use serde::Serialize;

use super::catalogue::{Outcome, Tried};

/// Whether a control holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it was declared, and nothing got past it.
    Holds,
    /// The operator gave it up, or a part of it.
    Relaxed,
    /// This host's systemd cannot give all of it.
    Partial,
    /// It is not as it was declared, or something got past it.
    Finding,
}

impl Verdict {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Relaxed => "relaxed",
            Self::Partial => "partial",
            Self::Finding => "FINDING",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, with its place.
    pub what: String,
    /// The smallest change that mends it.
    pub remedy: String,
}

/// One control of one instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The control's name.
    pub control: String,
    /// What was declared.
    pub declared: String,
    /// What is in force.
    pub effective: String,
    /// Whether the operator gave the control up: then what it stopped succeeds.
    #[serde(skip)]
    pub given_up: bool,
    /// Attempts that are known to succeed, because the host cannot give what stops them.
    #[serde(skip)]
    pub expected: Vec<String>,
    /// What was tried against it.
    pub attempts: Vec<Tried>,
    /// Whether it holds.
    pub verdict: Verdict,
    /// What the operator gave up, or what the host cannot give.
    pub notes: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Row {
    /// A row with nothing tried yet.
    pub fn new(control: &str, declared: String, effective: String) -> Self {
        Self {
            control: control.to_owned(),
            declared,
            effective,
            given_up: false,
            expected: Vec::new(),
            attempts: Vec::new(),
            verdict: Verdict::Holds,
            notes: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Adds what is wrong.
    pub fn find(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding { what: what.into(), remedy: remedy.into() });
        self.verdict = Verdict::Finding;
    }

    /// Adds that the operator gave it up, or a part of it.
    pub fn give_up(&mut self, what: impl Into<String>) {
        self.given_up = true;
        self.note(Verdict::Relaxed, what);
    }

    /// Adds what is known to be less.
    pub fn note(&mut self, verdict: Verdict, what: impl Into<String>) {
        self.notes.push(what.into());
        self.verdict = self.verdict.max(verdict);
    }

    /// Adds what was tried. What succeeds is a finding, unless the operator gave the control up or the host
    /// is known to lack what stops it.
    pub fn tried(&mut self, tried: Tried, remedy: &str) {
        let what = &tried.attempt.what;
        match &tried.outcome {
            Outcome::Refused(_) => {}
            Outcome::Succeeded(seen)
                if self.given_up || self.expected.contains(&tried.attempt.id) =>
            {
                self.notes.push(format!("the agent can {what}: {seen}"));
            }
            Outcome::Succeeded(seen) => self.find(format!("the agent can {what}: {seen}"), remedy),
            Outcome::Untried(why) => self.find(
                format!("whether the agent can {what} is not known: {why}"),
                "run the audit again; an agent that ends its attempts shows here",
            ),
        }
        self.attempts.push(tried);
    }

    /// What was tried, in words.
    pub fn attempted(&self) -> String {
        let refused = |tried: &&Tried| matches!(tried.outcome, Outcome::Refused(_));
        let count = self.attempts.len();
        match self.attempts.iter().filter(refused).count() {
            _ if count == 0 => "-".to_owned(),
            refused if refused == count => format!("{count} refused"),
            refused => format!("{} of {count} SUCCEEDED", count - refused),
        }
    }
}

/// One audited instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Every control, in the order of the threat model.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether anything is wrong.
    pub fn has_findings(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Finding)
    }

    /// The row of a control.
    pub fn row(&mut self, control: &str) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.control == control)
    }
}
