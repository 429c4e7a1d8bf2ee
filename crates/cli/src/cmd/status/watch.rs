//! `status --watch`: the table on a screen of its own, drawn anew every two seconds.
//!
//! One thread looks, one hears signals, and this one draws, so that Ctrl-C need not wait for a server.

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use instances_core::terminal::{harmless, wrapped};
use instances_sys::events::recent;
use instances_sys::files::Root;
use instances_sys::terminal::{self, Asked, Size};

use super::super::Outcome;
use super::table::Look;
use super::{Seen, look, names, records};
use crate::exit::Exit;
use crate::out;
use crate::report;

/// How long between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// How old what the journal said may be.
const JOURNAL: Duration = Duration::from_secs(10);

/// Another screen without a cursor; and back.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[H";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

enum Event {
    Seen(Result<Vec<Seen>, String>, Instant),
    Asked(Asked),
}

pub(super) fn run(root: &Root, names: &[String]) -> Outcome {
    if terminal::size().is_none() {
        out::note(
            "--watch needs a terminal; a program asks `opencode-instances status --json` again",
        );
        return Ok(Exit::Usage);
    }
    let (sender, events) = channel();
    let asked = sender.clone();
    terminal::follow(move |what| asked.send(Event::Asked(what)).is_ok())?;
    let (root, names) = (root.clone(), names.to_vec());
    std::thread::Builder::new().spawn(move || observe(&root, &names, &sender))?;
    let screen = Screen::enter();
    let mut shown = Shown::default();
    for event in events {
        match event {
            Event::Asked(Asked::End) => break,
            Event::Asked(Asked::Suspend) => {
                Screen::leave();
                terminal::suspend();
                out::screen(ENTER);
            }
            Event::Asked(Asked::Resize) => {}
            Event::Seen(seen, at) => shown.take(seen, at),
        }
        let Some(size) = terminal::size() else { break };
        if !out::screen(&shown.frame(size)) {
            break;
        }
    }
    drop(screen);
    Ok(Exit::Done)
}

/// Looks for ever, until nobody wants to know.
fn observe(root: &Root, given: &[String], sender: &Sender<Event>) {
    let mut hour = None;
    let mut read: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let seen =
            records(root, given).map_err(|error| report::failure(&error)).and_then(|records| {
                if read.is_none_or(|read| read.elapsed() >= JOURNAL) {
                    hour = recent::read(&names(&records));
                    read = Some(Instant::now());
                }
                look(&records, hour.as_ref()).map_err(|error| report::failure(&error))
            });
        if sender.send(Event::Seen(seen, Instant::now())).is_err() {
            return;
        }
        std::thread::sleep(INTERVAL.saturating_sub(begun.elapsed()).max(INTERVAL / 4));
    }
}

/// The screen, which is as it was when this goes.
struct Screen;

impl Screen {
    fn enter() -> Self {
        out::screen(ENTER);
        Self
    }

    fn leave() {
        out::screen(LEAVE);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Self::leave();
    }
}

/// What was seen last.
#[derive(Default)]
struct Shown {
    all: Vec<Seen>,
    failure: Option<String>,
    rates: BTreeMap<String, f64>,
    at: Option<Instant>,
    used: BTreeMap<String, u64>,
}

impl Shown {
    fn take(&mut self, seen: Result<Vec<Seen>, String>, at: Instant) {
        match seen {
            Ok(all) => {
                self.failure = None;
                self.rate(&all, at);
                self.all = all;
            }
            // What was seen before stays.
            Err(error) => self.failure = Some(error),
        }
    }

    /// How much of a processor each used since the last look.
    fn rate(&mut self, all: &[Seen], at: Instant) {
        let used: BTreeMap<String, u64> = all
            .iter()
            .filter_map(|seen| Some((seen.status.name.clone(), seen.status.usage.cpu_nanoseconds?)))
            .collect();
        let time =
            self.at.map(|then| at.saturating_duration_since(then)).filter(|time| !time.is_zero());
        self.rates = time.map_or_else(BTreeMap::new, |time| {
            let rate = |(name, now): (&String, &u64)| {
                // Less than before: a unit ended or started anew.
                let used = now.checked_sub(*self.used.get(name)?)?;
                let share = Duration::from_nanos(used).as_secs_f64() / time.as_secs_f64();
                Some((name.clone(), share * 100.0))
            };
            used.iter().filter_map(rate).collect()
        });
        (self.used, self.at) = (used, Some(at));
    }

    /// What to write for it to be on the screen: no line longer and no more lines than there is room, and each
    /// over what was there.
    fn frame(&self, size: Size) -> String {
        // What clears the rest of a line would take the last character of a full one.
        let size = Size { columns: size.columns.saturating_sub(1), ..size };
        let mut frame = "\u{1b}[H".to_owned();
        let lines = self.lines(size);
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                frame.push_str("\r\n");
            }
            frame.push_str(line);
            frame.push_str("\u{1b}[K");
        }
        frame.push_str("\u{1b}[J");
        frame
    }

    fn lines(&self, size: Size) -> Vec<String> {
        let mut lines = wrapped(&self.summary(), size.columns);
        for line in self.failure.iter().flat_map(|failure| failure.lines()) {
            lines.extend(wrapped(&harmless(line), size.columns));
        }
        let look = Look {
            columns: Some(size.columns),
            colours: terminal::has_colours(),
            rates: &self.rates,
        };
        let needed = look.needed(&self.all);
        if needed > size.columns {
            let words = format!("the table needs {needed} columns, the terminal has too few");
            lines.extend(wrapped(&words, size.columns));
        } else if !self.all.is_empty() {
            let room = size.rows.saturating_sub(lines.len());
            lines.extend(self.table(&look, room));
        }
        lines.truncate(size.rows);
        lines
    }

    /// The table in so many lines. Where not all instances fit, those come first that want to be looked at, and
    /// the last line says how many are not shown.
    fn table(&self, look: &Look<'_>, room: usize) -> Vec<String> {
        let whole = look.lines(&self.all);
        if whole.len() <= room {
            return whole;
        }
        let mut sorted = self.all.clone();
        sorted.sort_by_key(|seen| !seen.is_wrong());
        let mut rows = look.rows(&sorted).into_iter();
        let mut lines = rows.next().unwrap_or_default();
        let mut shown = 0;
        for row in rows {
            if lines.len() + row.len() >= room {
                break;
            }
            lines.extend(row);
            shown += 1;
        }
        lines.push(format!("and {} more", sorted.len() - shown));
        lines
    }

    fn summary(&self) -> String {
        if self.at.is_none() && self.failure.is_none() {
            return "looking …".to_owned();
        }
        let wrong = self.all.iter().filter(|seen| seen.is_wrong()).count();
        let of = match self.all.len() {
            0 => "no instance is installed".to_owned(),
            1 => "1 instance".to_owned(),
            count => format!("{count} instances"),
        };
        let wrong = if wrong == 0 { String::new() } else { format!(", {wrong} not well") };
        format!("{of}{wrong}; every 2 s, Ctrl-C ends")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{failed, seen};
    use super::*;
    use instances_core::terminal::width;

    fn shown(all: Vec<Seen>) -> Shown {
        let mut shown = Shown::default();
        shown.take(Ok(all), Instant::now());
        shown
    }

    #[test]
    fn a_screen_is_never_left_by_what_is_drawn() {
        let mut all: Vec<Seen> = (0..30).map(|at| seen(&format!("web-{at}"))).collect();
        all.push(failed("zeta", &"long words ".repeat(20)));
        let shown = shown(all);
        for rows in 1..40 {
            for columns in [10, 34, 35, 40, 80, 250] {
                let lines = shown.lines(Size { columns, rows });
                assert!(lines.len() <= rows, "{rows}");
                assert!(lines.iter().all(|line| width(line) <= columns), "{columns}: {lines:?}");
            }
        }
        let lines = shown.lines(Size { columns: 120, rows: 12 });
        assert!(lines[0].starts_with("31 instances, 1 not well"), "{lines:?}");
        assert!(lines[2].starts_with("zeta"), "{lines:?}");
        assert!(lines.last().unwrap().ends_with(" more"), "{lines:?}");
    }

    #[test]
    fn a_failure_stands_above_what_was_seen_before() {
        let mut shown = shown(vec![seen("web")]);
        shown.take(Err("error: x\u{1b}[2J\ncaused by: y".to_owned()), Instant::now());
        let lines = shown.lines(Size { columns: 120, rows: 12 });
        assert_eq!(lines[1..3], ["error: x\\u{1b}[2J", "caused by: y"]);
        assert!(lines.iter().any(|line| line.starts_with("web")));
    }

    #[test]
    fn the_rate_is_of_the_time_between_two_looks() {
        let begun = Instant::now();
        let mut one = seen("web");
        let mut shown = Shown::default();
        shown.take(Ok(vec![one.clone()]), begun);
        assert!(shown.rates.is_empty());
        *one.status.usage.cpu_nanoseconds.as_mut().unwrap() += 500_000_000;
        shown.take(Ok(vec![one.clone()]), begun + Duration::from_secs(2));
        assert_eq!(shown.rates.get("web").map(|rate| format!("{rate:.0}")).as_deref(), Some("25"));
        one.status.usage.cpu_nanoseconds = Some(1);
        shown.take(Ok(vec![one]), begun + Duration::from_secs(4));
        assert!(shown.rates.is_empty());
    }
}
