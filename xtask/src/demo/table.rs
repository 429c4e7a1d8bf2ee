//! What was tried, what came back, and whether that is as it should be.

use instances_lab::progress::say;

/// The widest cell; longer ones are cut.
const WIDEST: usize = 64;

/// One row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What was tried.
    pub(super) what: String,
    /// What came back.
    pub(super) came: String,
    /// Whether it is as it should be.
    pub(super) good: bool,
}

/// Prints rows with aligned columns.
pub(super) fn print(title: &str, rows: &[Row]) {
    say(&format!("\n{title}"));
    let cells: Vec<[String; 2]> =
        rows.iter().map(|row| [cell(&row.what), cell(&row.came)]).collect();
    let width = |column: usize| {
        let lengths = cells.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count());
        lengths.max().unwrap_or(0)
    };
    let (first, second) = (width(0), width(1));
    for ([what, came], row) in cells.iter().zip(rows) {
        let verdict = if row.good { "ok" } else { "NOT AS IT SHOULD BE" };
        say(&format!("  {what:first$}  {came:second$}  {verdict}"));
    }
}

/// One line of limited length.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= WIDEST {
        return line;
    }
    line.chars().take(WIDEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_short_line() {
        assert_eq!(cell("a\n  b\tc\n"), "a b c");
        assert_eq!(cell(&"x".repeat(80)).chars().count(), WIDEST);
    }
}
