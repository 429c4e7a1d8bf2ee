//! The table, as wide as there is room.
//!
//! Where there is too little, in this order: REASON goes below its instance, URL becomes PORT, and VERSION,
//! CPU, MEMORY, UPTIME, SESSIONS and REFUSED are left out. Nothing is cut.

use std::collections::BTreeMap;

use instances_core::terminal::{harmless, width, wrapped};
use instances_sys::status::State;

use super::Seen;

/// How the table is drawn.
#[derive(Debug)]
pub(super) struct Look<'a> {
    /// How much room there is; without a terminal as much as it takes.
    pub(super) columns: Option<usize>,
    /// Whether there are colours.
    pub(super) colours: bool,
    /// Percents of a processor by instance, where they are known.
    pub(super) rates: &'a BTreeMap<String, f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Instance,
    State,
    Health,
    Uptime,
    Memory,
    Cpu,
    Sessions,
    Refused,
    Version,
    Url,
    Port,
    Reason,
}

use Column::{
    Cpu, Health, Instance, Memory, Port, Reason, Refused, Sessions, State as StateOf, Uptime, Url,
    Version,
};

/// All of them, as they stand.
const ALL: [Column; 11] =
    [Instance, StateOf, Health, Uptime, Memory, Cpu, Sessions, Refused, Version, Url, Reason];
/// What is left out where there is no room, the first one first.
const LEFT_OUT: [Column; 6] = [Version, Cpu, Memory, Uptime, Sessions, Refused];
/// How far a reason below its instance is moved in.
const INDENT: usize = 2;
/// What stands between columns.
const GAP: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Plain,
    Good,
    Late,
    Bad,
    Faint,
}

impl Colour {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Late => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
        }
    }
}

/// What stands in a column of a row.
struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Colour::Plain }
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Instance => "INSTANCE",
            StateOf => "STATE",
            Health => "HEALTH",
            Uptime => "UPTIME",
            Memory => "MEMORY",
            Cpu => "CPU",
            Sessions => "SESSIONS",
            Refused => "REFUSED",
            Version => "VERSION",
            Url => "URL",
            Port => "PORT",
            Reason => "REASON",
        }
    }

    fn cell(self, seen: &Seen, look: &Look<'_>) -> Cell {
        let status = &seen.status;
        let known = |text: Option<String>| Cell::plain(text.unwrap_or_else(|| "-".to_owned()));
        // In parentheses where nobody is let in.
        let place =
            |text: String| Cell::plain(if status.listening { text } else { format!("({text})") });
        match self {
            Instance => Cell::plain(harmless(&status.name)),
            StateOf => state(status.state),
            Health => health(status.healthy),
            Uptime => known(status.uptime.map(time)),
            Memory => known(status.usage.memory.map(bytes)),
            Cpu => match look.rates.get(&status.name) {
                Some(rate) => Cell::plain(format!("{rate:.0}%")),
                None => {
                    known(status.usage.cpu_nanoseconds.map(|time| self::time(time / 1_000_000_000)))
                }
            },
            Sessions => {
                known(status.sessions.map(|all| format!("{} of {}", all.busy, all.busy + all.idle)))
            }
            Refused => known(seen.refused_last_hour.map(|refused| {
                let more = if refused.complete { "" } else { "+" };
                format!("{}{more}", refused.destinations)
            })),
            Version => known(status.version.as_deref().map(harmless)),
            Url => place(status.url.clone()),
            Port => place(format!(":{}", status.listen.port())),
            Reason => {
                let colour = if seen.is_wrong() { Colour::Bad } else { Colour::Plain };
                Cell { text: harmless(&reason(seen)), colour }
            }
        }
    }
}

fn state(state: State) -> Cell {
    let (text, colour) = match state {
        State::Running => ("running", Colour::Good),
        State::Starting => ("starting", Colour::Late),
        State::Stopping => ("stopping", Colour::Late),
        State::Restarting => ("restarting", Colour::Late),
        State::Failed => ("failed", Colour::Bad),
        State::Stopped => ("stopped", Colour::Faint),
        State::Idle => ("idle (on demand)", Colour::Plain),
    };
    Cell { text: text.to_owned(), colour }
}

fn health(healthy: Option<bool>) -> Cell {
    let (text, colour) = match healthy {
        Some(true) => ("healthy", Colour::Good),
        Some(false) => ("unhealthy", Colour::Bad),
        None => ("-", Colour::Plain),
    };
    Cell { text: text.to_owned(), colour }
}

/// Why it is as it is, and how it failed last.
fn reason(seen: &Seen) -> String {
    match &seen.last_error {
        // It says so itself.
        Some(error) if seen.status.state != State::Failed => {
            let words = format!("failed at {}: {}", error.at, error.words);
            match seen.status.reason.as_str() {
                "" => words,
                reason => format!("{reason}; {words}"),
            }
        }
        _ => seen.status.reason.clone(),
    }
}

/// A time in its two largest units.
fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

fn bytes(bytes: u64) -> String {
    let mut unit = 1_u64 << 10;
    for name in ["KiB", "MiB", "GiB"] {
        if bytes < unit << 10 {
            let tenths = bytes / (unit / 10).max(1);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if whole < 10 {
                format!("{whole}.{tenth} {name}")
            } else {
                format!("{whole} {name}")
            };
        }
        unit <<= 10;
    }
    format!("{} TiB", bytes / unit)
}

impl Look<'_> {
    /// The lines of the table, its head first.
    pub(super) fn lines(&self, all: &[Seen]) -> Vec<String> {
        self.rows(all).concat()
    }

    /// The same by row.
    pub(super) fn rows(&self, all: &[Seen]) -> Vec<Vec<String>> {
        let (columns, below) = self.columns(all);
        let head = columns.iter().map(|column| Cell::plain(column.title())).collect();
        let rows = all.iter().map(|seen| columns.iter().map(|one| one.cell(seen, self)).collect());
        let rows: Vec<Vec<Cell>> = [head].into_iter().chain(rows).collect();
        let widths = widths(&rows);
        let mut lines: Vec<Vec<String>> =
            rows.iter().map(|row| vec![self.line(row, &widths)]).collect();
        if below {
            for (lines, seen) in lines.iter_mut().skip(1).zip(all) {
                lines.extend(self.below(seen));
            }
        }
        lines
    }

    /// Which columns there is room for, and whether the reason stands below them.
    fn columns(&self, all: &[Seen]) -> (Vec<Column>, bool) {
        let mut columns = ALL.to_vec();
        if self.fits(all, &columns) {
            return (columns, false);
        }
        columns.retain(|column| *column != Reason);
        let shorter = |columns: &mut Vec<Column>| {
            for column in columns.iter_mut().filter(|column| **column == Url) {
                *column = Port;
            }
        };
        if !self.fits(all, &columns) {
            shorter(&mut columns);
        }
        for left_out in LEFT_OUT {
            if self.fits(all, &columns) {
                break;
            }
            columns.retain(|column| *column != left_out);
        }
        (columns, true)
    }

    /// How much room the table takes where everything is left out that may be.
    pub(super) fn needed(&self, all: &[Seen]) -> usize {
        self.width(all, &[Instance, StateOf, Health, Port])
    }

    fn fits(&self, all: &[Seen], columns: &[Column]) -> bool {
        self.columns.is_none_or(|room| self.width(all, columns) <= room)
    }

    fn width(&self, all: &[Seen], columns: &[Column]) -> usize {
        let width = |column: &Column| {
            let cells = all.iter().map(|seen| width(&column.cell(seen, self).text));
            cells.max().unwrap_or(0).max(column.title().len())
        };
        let all: usize = columns.iter().map(width).sum();
        all + GAP * columns.len().saturating_sub(1)
    }

    /// The reason of an instance, as wide as there is room.
    fn below(&self, seen: &Seen) -> Vec<String> {
        let cell = Reason.cell(seen, self);
        let room = self.columns.unwrap_or(usize::MAX).saturating_sub(INDENT);
        let line =
            |text: String| " ".repeat(INDENT) + &self.coloured(&Cell { text, colour: cell.colour });
        wrapped(&cell.text, room).into_iter().map(line).collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        for (at, (cell, column)) in row.iter().zip(widths).enumerate() {
            line.push_str(&self.coloured(cell));
            if at + 1 < row.len() {
                line.push_str(&" ".repeat(column.saturating_sub(width(&cell.text)) + GAP));
            }
        }
        line.trim_end().to_owned()
    }

    fn coloured(&self, cell: &Cell) -> String {
        match cell.colour.code().filter(|_| self.colours && !cell.text.is_empty()) {
            Some(code) => format!("\u{1b}[{code}m{}\u{1b}[0m", cell.text),
            None => cell.text.clone(),
        }
    }
}

fn widths(rows: &[Vec<Cell>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().filter_map(|row| Some(width(&row.get(at)?.text))).max();
    (0..columns).map(|at| width(at).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::LastError;
    use super::super::tests::{failed, seen};
    use super::*;

    const WORDS: &str = "the project directory /srv/billing does not exist; run: install -d -o \
                         opencode-billing /srv/billing";

    fn drawn(all: &[Seen], columns: Option<usize>) -> String {
        let look = Look { columns, colours: false, rates: &BTreeMap::new() };
        look.lines(all).join("\n")
    }

    fn fleet() -> [Seen; 2] {
        [failed("billing", WORDS), seen("web")]
    }

    #[test]
    fn a_wide_table_has_everything_in_a_line() {
        let expected = "\
INSTANCE  STATE    HEALTH   UPTIME  MEMORY   CPU     SESSIONS  REFUSED  VERSION  URL                       REASON
billing   failed   -        -       -        -       -         -        -        (http://127.0.0.1:4101/)  the project directory /srv/billing does not exist; run: install -d -o opencode-billing /srv/billing
web       running  healthy  1d 1h   412 MiB  1m 15s  1 of 13   3        1.18.33  http://127.0.0.1:4101/    serving on port 4096";
        assert_eq!(drawn(&fleet(), None), expected);
        assert_eq!(drawn(&fleet(), Some(400)), expected);
    }

    #[test]
    fn a_narrow_table_leaves_out_columns_in_order_and_cuts_nothing() {
        let expected = "\
INSTANCE  STATE    HEALTH   UPTIME  SESSIONS  REFUSED  PORT
billing   failed   -        -       -         -        (:4101)
  the project directory /srv/billing does not exist; run:
  install -d -o opencode-billing /srv/billing
web       running  healthy  1d 1h   1 of 13   3        :4101
  serving on port 4096";
        assert_eq!(drawn(&fleet(), Some(62)), expected);
        let expected = "\
INSTANCE  STATE    HEALTH   PORT
billing   failed   -        (:4101)
  the project directory
  /srv/billing does not exist; run:
  install -d -o opencode-billing
  /srv/billing
web       running  healthy  :4101
  serving on port 4096";
        assert_eq!(drawn(&fleet(), Some(35)), expected);
        let heads: Vec<String> = (35..=160)
            .rev()
            .map(|columns| drawn(&fleet(), Some(columns)).lines().next().unwrap().to_owned())
            .collect();
        let mut heads: Vec<String> = heads
            .iter()
            .map(|head| head.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        heads.dedup();
        assert_eq!(
            heads,
            [
                "INSTANCE STATE HEALTH UPTIME MEMORY CPU SESSIONS REFUSED VERSION URL",
                "INSTANCE STATE HEALTH UPTIME MEMORY CPU SESSIONS REFUSED VERSION PORT",
                "INSTANCE STATE HEALTH UPTIME MEMORY CPU SESSIONS REFUSED PORT",
                "INSTANCE STATE HEALTH UPTIME MEMORY SESSIONS REFUSED PORT",
                "INSTANCE STATE HEALTH UPTIME SESSIONS REFUSED PORT",
                "INSTANCE STATE HEALTH SESSIONS REFUSED PORT",
                "INSTANCE STATE HEALTH REFUSED PORT",
                "INSTANCE STATE HEALTH PORT",
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in 35..200 {
            for line in drawn(&fleet(), Some(columns)).lines() {
                assert!(width(line) <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn what_a_server_or_the_journal_says_is_no_command_of_the_terminal() {
        let mut one = failed("web", "a\u{1b}[2J\u{9b}1A\nfake  running  healthy \u{202e}x");
        one.status.version = Some("1\u{1b}]0;t\u{7}".to_owned());
        one.last_error = Some(LastError {
            at: String::new(),
            result: String::new(),
            words: "\u{1b}c".to_owned(),
        });
        one.status.state = State::Restarting;
        for columns in [None, Some(40)] {
            let look = Look { columns, colours: false, rates: &BTreeMap::new() };
            let rows = look.rows(std::slice::from_ref(&one));
            assert_eq!(rows.len(), 2);
            let text = rows.concat();
            assert!(!text.concat().contains(char::is_control), "{text:?}");
            let text = text.concat();
            assert!(text.contains("\\u{1b}") && !text.contains('\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn colours_change_no_width_and_are_off_by_default() {
        let look = Look { columns: None, colours: true, rates: &BTreeMap::new() };
        let coloured = look.lines(&fleet()).join("\n");
        assert!(coloured.contains("\u{1b}[32mrunning\u{1b}[0m"), "{coloured}");
        let mut plain = coloured;
        for code in ["0", "2", "31", "32", "33"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, drawn(&fleet(), None));
    }

    #[test]
    fn the_last_error_is_told_of_a_server_that_came_back() {
        let mut one = seen("web");
        one.last_error = Some(LastError {
            at: "2026-01-31T12:00:00Z".to_owned(),
            result: "oom-kill".to_owned(),
            words: "out of memory".to_owned(),
        });
        let text = drawn(&[one], None);
        assert!(
            text.ends_with("serving on port 4096; failed at 2026-01-31T12:00:00Z: out of memory"),
            "{text}"
        );
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (61, "1m 1s"),
            (3599, "59m 59s"),
            (7260, "2h 1m"),
            (u64::MAX, "213503982334601d 7h"),
        ] {
            assert_eq!(time(seconds), text);
        }
        for (count, text) in [
            (0, "0.0 KiB"),
            (1536, "1.5 KiB"),
            (412 << 20, "412 MiB"),
            ((1 << 30) + (1 << 29), "1.5 GiB"),
            (5 << 40, "5 TiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
