//! Findings and failures in words.

use std::error::Error;
use std::ops::{Range, RangeInclusive};

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use instances_core::diagnostic::{Diagnostic, Severity, Span};
use serde_json::{Value, json};

/// The specification's name and text, for the carets.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl Source {
    pub(crate) fn new(name: String, text: String) -> Self {
        let lines = [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1));
        Self { name, lines: lines.collect(), text }
    }

    /// The line that holds a byte, from 0.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The bytes of some lines.
    fn bytes(&self, lines: &RangeInclusive<usize>) -> Range<usize> {
        let start = |line: usize| self.lines.get(line).copied().unwrap_or(self.text.len());
        start(*lines.start())..start(lines.end() + 1)
    }
}

/// Places that far apart, in lines, are shown in excerpts of their own: what is shown of a long text
/// then costs no more than what is shown of a short one.
const APART: usize = 200;

/// One finding as text: in TOML with line and caret, in JSON with the option's path.
pub(crate) fn diagnostic(source: &Source, finding: &Diagnostic) -> String {
    let level = match finding.severity() {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&finding.message).id(finding.code.as_str());
    let mut group = Group::with_title(title);
    if let Some(span) = finding.at.span {
        let primary = (span, AnnotationKind::Primary, &finding.label);
        let also = finding.also.iter().filter_map(|(origin, label)| {
            origin.span.map(|span| (span, AnnotationKind::Context, label))
        });
        for excerpt in excerpts(source, [primary].into_iter().chain(also)) {
            group = group.element(excerpt);
        }
    } else {
        let place = match finding.at.path.as_str() {
            "" => source.name.clone(),
            path => format!("{}: {path}", source.name),
        };
        group = group.element(Origin::path(place)).element(Level::NOTE.message(&finding.label));
        for (origin, label) in &finding.also {
            group = group.element(Level::NOTE.message(format!("{}: {label}", origin.path)));
        }
    }
    group = group.element(Level::HELP.message(&finding.help));
    Renderer::plain().render(&[group])
}

/// The marked lines, the primary ones first.
fn excerpts<'a>(
    source: &'a Source,
    marks: impl Iterator<Item = (Span, AnnotationKind, &'a String)>,
) -> Vec<Snippet<'a, Annotation<'a>>> {
    let mut excerpts: Vec<(RangeInclusive<usize>, Vec<_>)> = Vec::new();
    for (span, kind, label) in marks {
        let span = within(&source.text, span.start, span.end);
        let (first, last) = (source.line(span.start), source.line(span.end));
        let near = excerpts
            .iter_mut()
            .find(|(lines, _)| first + APART >= *lines.start() && last <= lines.end() + APART);
        let mark = (span, kind, label);
        if let Some((lines, marks)) = near {
            *lines = first.min(*lines.start())..=last.max(*lines.end());
            marks.push(mark);
        } else {
            excerpts.push((first..=last, vec![mark]));
        }
    }
    let excerpts = excerpts.into_iter().map(|(lines, marks)| {
        let bytes = source.bytes(&lines);
        let text = source.text.get(bytes.clone()).unwrap_or_default();
        let marks = marks.into_iter().map(|(span, kind, label)| {
            let span = span.start - bytes.start..span.end - bytes.start;
            kind.span(span).label(label.as_str())
        });
        Snippet::source(text).path(&source.name).line_start(lines.start() + 1).annotations(marks)
    });
    excerpts.collect()
}

/// A span that lies within the text and on characters' boundaries, whatever a parser says.
fn within(text: &str, start: usize, end: usize) -> std::ops::Range<usize> {
    let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let start = boundary(start).unwrap_or(0);
    start..boundary(end).unwrap_or(start).max(start)
}

/// One finding as JSON.
pub(crate) fn json_diagnostic(source: &Source, finding: &Diagnostic) -> Value {
    let place = |at: &instances_core::diagnostic::Origin| {
        let position = at.span.map(|span| line_column(source, span.start));
        json!({
            "path": at.path,
            "line": position.map(|(line, _)| line),
            "column": position.map(|(_, column)| column),
        })
    };
    json!({
        "code": finding.code,
        "severity": finding.severity(),
        "message": finding.message,
        "at": place(&finding.at),
        "label": finding.label,
        "also": finding.also.iter().map(|(at, label)| json!({"at": place(at), "label": label})).collect::<Vec<_>>(),
        "help": finding.help,
    })
}

/// Line and column of a byte, both from 1.
fn line_column(source: &Source, at: usize) -> (usize, usize) {
    let line = source.line(at);
    let start = source.lines.get(line).copied().unwrap_or_default();
    let before = source.text.get(start..at).unwrap_or_default();
    (line + 1, before.chars().count() + 1)
}

/// A failure with its causes, one a line.
pub(crate) fn failure(error: &dyn Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\ncaused by: {error}"));
        cause = error.source();
    }
    text
}
