//! The only place that prints: results on standard output, narration on standard error. A reader
//! that went away is no error, and never stops an apply halfway.

use std::io::Write as _;

use serde::Serialize;

/// A line of the result.
pub(crate) fn line(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
}

/// A line of a result that may never end; whether anybody still reads it.
pub(crate) fn go_on(text: impl AsRef<str>) -> bool {
    writeln!(std::io::stdout().lock(), "{}", text.as_ref()).is_ok()
}

/// Part of the result, as it is.
pub(crate) fn raw(bytes: &[u8]) {
    let _ = std::io::stdout().lock().write_all(bytes);
}

/// What a terminal shows next, at once; whether it is still there.
pub(crate) fn screen(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// The result as one JSON object.
pub(crate) fn json<T: Serialize>(value: &T) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A line of narration.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// A table with aligned columns.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            rows.iter()
                .filter_map(|row| row.get(at))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(cells.join("  ").trim_end());
    }
}
