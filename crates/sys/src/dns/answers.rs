//! Which name gave which address: a file that tells what a refused address was asked for as.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The name of the file in the unit's runtime directory.
pub const FILE: &str = "names";
/// The most pairs that are remembered.
const MAX_PAIRS: usize = 4096;
/// The most addresses of one answer that are.
const MAX_OF_ONE: usize = 64;
/// How often the file is written at most.
const INTERVAL: Duration = Duration::from_secs(1);

type Pair = (IpAddr, Rc<str>);

/// The newest pairs of an address and a name.
#[derive(Debug)]
pub(super) struct Answers {
    directory: Option<PathBuf>,
    /// The newest last. Looked through from end to end, which is quick enough, and half the memory
    /// of what would be quicker.
    pairs: VecDeque<Pair>,
    changed: bool,
    written: Option<Instant>,
}

impl Answers {
    /// Goes on with what a run before this one has left in `directory`; without one nothing is kept.
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        let mut answers = Self { directory, pairs: VecDeque::new(), changed: false, written: None };
        let file = answers.directory.as_ref().map(|directory| directory.join(FILE));
        let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        for line in text.lines().take(MAX_PAIRS) {
            if let Some((address, name)) = line.split_once(' ')
                && let Ok(address) = address.parse()
            {
                answers.remember(name, &[address]);
            }
        }
        answers.changed = false;
        answers
    }

    /// Remembers what `name` gave.
    pub(super) fn remember(&mut self, name: &str, addresses: &[IpAddr]) {
        if self.directory.is_none() {
            return;
        }
        let name: Rc<str> = name.into();
        for address in addresses.iter().take(MAX_OF_ONE) {
            let known = self.pairs.iter().rposition(|pair| pair.0 == *address && pair.1 == name);
            // A pair that only got younger is no change: the file would be written for ever.
            let pair = known.and_then(|place| self.pairs.remove(place));
            self.changed |= pair.is_none();
            if self.pairs.len() >= MAX_PAIRS {
                self.pairs.pop_front();
            }
            self.pairs.push_back(pair.unwrap_or_else(|| (*address, Rc::clone(&name))));
        }
    }

    /// When the file should be written.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        self.changed.then(|| self.written.map_or(now, |written| written + INTERVAL))
    }

    /// Writes the file if it is time, or if `end` says that there will be no other.
    ///
    /// A file that cannot be written costs a name in a table, and no answer.
    pub(super) fn write(&mut self, now: Instant, end: bool) -> io::Result<()> {
        let due = self.wake(now).is_some_and(|wake| wake <= now || end);
        let Some(directory) = self.directory.as_ref().filter(|_| due) else { return Ok(()) };
        self.changed = false;
        self.written = Some(now);
        let new = directory.join(".names.new");
        let mut file = BufWriter::new(File::create(&new)?);
        // The newest last: who reads line by line ends with it.
        for (address, name) in &self.pairs {
            writeln!(file, "{address} {name}")?;
        }
        file.flush()?;
        fs::rename(&new, directory.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_written_when_something_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        let mut answers = Answers::new(Some(directory.path().to_owned()));
        let mut now = Instant::now();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        answers.remember("a.example", &[address(1), address(2)]);
        answers.remember("b.example", &[address(1)]);
        answers.write(now, false).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, "0.0.0.1 a.example\n0.0.0.2 a.example\n0.0.0.1 b.example\n");
        fs::remove_file(&file).unwrap();
        now += INTERVAL * 2;
        answers.remember("a.example", &[address(2)]);
        answers.write(now, false).unwrap();
        assert!(!file.exists(), "nothing is new");
        answers.remember("c.example", &[address(3)]);
        answers.write(now, false).unwrap();
        assert!(fs::read_to_string(&file).unwrap().ends_with("2 a.example\n0.0.0.3 c.example\n"));
        answers.remember("d.example", &[address(3)]);
        answers.write(now, false).unwrap();
        assert!(!fs::read_to_string(&file).unwrap().contains("d.example"), "not yet a second");
        answers.write(now, true).unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("d.example"));
        for number in 0..20_000 {
            answers.remember("e.example", &[address(number)]);
        }
        assert_eq!(answers.pairs.len(), MAX_PAIRS);
        answers.write(now, true).unwrap();
        let again = Answers::new(Some(directory.path().to_owned()));
        assert_eq!(again.pairs.len(), MAX_PAIRS);
        assert_eq!(again.pairs.back(), Some(&(address(19_999), "e.example".into())));
    }
}
