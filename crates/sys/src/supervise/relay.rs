//! Passes the server's output on to the journal, line by line, with bounded memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use instances_core::guard;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};

use crate::notify::one_line;

/// A longer line is passed on in pieces of this size. With its newline and prefix a piece stays
/// below `PIPE_BUF`, so that one write takes it whole and two streams cannot mix within a line.
const MAX_LINE: usize = 4000;
/// The most bytes that wait for the journal; beyond, the server waits too.
const MAX_WAITING: usize = 16 << 10;
/// How much one turn takes from the server, so that no stream starves the rest.
const PER_TURN: usize = 8 << 10;
/// The most that one write passes on (`PIPE_BUF`).
const PER_WRITE: usize = 4096;

/// One stream: the server's end, the journal's end, and what is under way between them.
#[derive(Debug)]
pub(super) struct Relay<'a> {
    from: Option<OwnedFd>,
    to: Option<BorrowedFd<'a>>,
    partial: Vec<u8>,
    waiting: Vec<u8>,
}

impl<'a> Relay<'a> {
    /// Takes the server's end, which must not block, and the journal's end.
    pub(super) fn new(from: Option<OwnedFd>, to: BorrowedFd<'a>) -> Self {
        Self { from, to: Some(to), partial: Vec::new(), waiting: Vec::new() }
    }

    /// Takes another server's end, after all that the last one sent.
    pub(super) fn take_over(&mut self, from: Option<OwnedFd>) {
        if !self.partial.is_empty() {
            self.end_line(&mut Tail::default());
        }
        self.from = from;
    }

    /// What to wait for before [`Relay::turn`] can do something.
    pub(super) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let from = self.from.as_ref().filter(|_| self.has_room());
        let to = self.to.filter(|_| !self.waiting.is_empty());
        let from = from.map(|fd| PollFd::new(fd, PollFlags::IN));
        from.into_iter().chain(to.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)))
    }

    /// Moves what can be moved without waiting and shows `tail` every line.
    ///
    /// Tells whether anything came from the server.
    pub(super) fn turn(&mut self, tail: &mut Tail) -> bool {
        let came = self.has_room() && self.take(tail);
        self.pass();
        came
    }

    /// Queues a line of the supervisor's own.
    pub(super) fn say(&mut self, level: u8, words: &str) {
        let line = format!("<{level}>{}\n", one_line(words, MAX_LINE / 4));
        self.waiting.extend_from_slice(line.as_bytes());
        self.pass();
    }

    /// Whether everything has been passed on.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    fn take(&mut self, tail: &mut Tail) -> bool {
        let Some(from) = &self.from else { return false };
        let mut chunk = [0; PER_TURN];
        match read(from, &mut chunk) {
            Ok(0) => self.from = None,
            Ok(count) => {
                for byte in chunk.get(..count).unwrap_or_default() {
                    match byte {
                        // journald ends a record at either.
                        b'\n' | 0 => self.end_line(tail),
                        _ => self.partial.push(*byte),
                    }
                    if self.partial.len() >= MAX_LINE {
                        self.end_line(tail);
                    }
                }
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.from = None,
        }
        if self.from.is_none() && !self.partial.is_empty() {
            self.end_line(tail);
        }
        false
    }

    /// Queues the line that is complete.
    ///
    /// journald reads `<0>` at the start of a line as "emergency" and then writes to every terminal
    /// of the host, so a line that begins that way gets an ordinary level in front.
    fn end_line(&mut self, tail: &mut Tail) {
        tail.see(&String::from_utf8_lossy(&self.partial));
        if self.partial.first() == Some(&b'<') {
            self.waiting.extend_from_slice(b"<6>");
        }
        self.waiting.append(&mut self.partial);
        self.waiting.push(b'\n');
    }

    /// Writes whole lines for as long as the journal takes them at once.
    fn pass(&mut self) {
        while let Some(to) = self.to
            && !self.waiting.is_empty()
        {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if !matches!(
                poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], Some(&now)),
                Ok(1..)
            ) {
                return;
            }
            let window = self.waiting.get(..PER_WRITE).unwrap_or(&self.waiting);
            let lines =
                window.iter().rposition(|byte| *byte == b'\n').map_or(window.len(), |at| at + 1);
            match write(to, window.get(..lines).unwrap_or(window)) {
                Ok(count) => drop(self.waiting.drain(..count.min(self.waiting.len()))),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => self.to = None,
            }
        }
        if self.to.is_none() {
            self.waiting.clear();
        }
    }
}

/// The most lines that a reason is made of.
const MAX_LINES: usize = 6;
/// The most characters of one of them.
const MAX_WORDS: usize = 300;

/// Where in the server's output a line stands: a syntax error quotes the configuration twice, whole
/// as its input and line by line below each error.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Section {
    #[default]
    Words,
    Input,
    Errors,
}

/// What the server last said to a human, for the reason why it failed.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    section: Section,
    /// Whether the server said that it listens.
    pub(super) listening: bool,
    /// Whether the guard said that it is read first.
    first: bool,
    /// Whether the guard said, after that, that it is active.
    pub(super) guarded: bool,
}

impl Tail {
    /// Looks at one line of output.
    ///
    /// Log lines are no explanation. Neither is the configuration that a syntax error quotes: it
    /// may hold keys.
    pub(super) fn see(&mut self, line: &str) {
        let line = one_line(&without_escapes(line), MAX_WORDS);
        self.listening |= line.contains("listening on http");
        self.first |= line == guard::FIRST && !self.listening;
        self.guarded |= line == guard::LINE && self.first;
        match line.as_str() {
            "--- JSONC Input ---" => self.section = Section::Input,
            "--- Errors ---" => self.section = Section::Errors,
            "--- End ---" => self.section = Section::Words,
            _ if self.section == Section::Input || line.is_empty() => {}
            _ if self.section == Section::Errors && !line.contains(" at line ") => {}
            _ if line.starts_with("timestamp=") || line.starts_with("Warning:") => {}
            _ => {
                if line.starts_with("Error:") || self.lines.len() >= MAX_LINES {
                    self.forget(line.starts_with("Error:"));
                }
                self.lines.push_back(line);
            }
        }
    }

    fn forget(&mut self, all: bool) {
        if all {
            self.lines.clear();
        } else if self.lines.front().is_some_and(|line| line.starts_with("Error:")) {
            self.lines.remove(1);
        } else {
            self.lines.pop_front();
        }
    }

    /// The last words, from the last error on; empty when there are none.
    pub(super) fn words(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join(" · ").trim_start_matches("Error: ").to_owned()
    }
}

/// Removes the quoted text between opencode's markers, and the markers.
pub(super) fn without_quotes(message: &str) -> String {
    let mut tail = Tail::default();
    message.lines().for_each(|line| tail.see(line));
    tail.words()
}

/// Removes terminal colours: `ESC [ … letter`.
fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            let _ = characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Makes reads from `fd` return at once when there is nothing.
pub(super) fn unblock(fd: impl AsFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    fn passed(bytes: &[u8]) -> (Vec<u8>, Tail) {
        let (from, input) = pipe().unwrap();
        let (output, to) = pipe().unwrap();
        unblock(&from).unwrap();
        unblock(&output).unwrap();
        unblock(&input).unwrap();
        let mut tail = Tail::default();
        let mut relay = Relay::new(Some(from), to.as_fd());
        let (mut seen, mut written, mut input) = (Vec::new(), 0, Some(input));
        let mut chunk = vec![0; 65536];
        for _ in 0..bytes.len() / 4096 + 20 {
            if let Some(fd) = &input {
                match bytes.get(written..) {
                    Some([]) | None => input = None,
                    Some(rest) => written += write(fd, rest).unwrap_or(0),
                }
            }
            relay.turn(&mut tail);
            assert!(relay.waiting.len() <= MAX_WAITING + 2 * PER_TURN);
            let count = read(&output, &mut chunk).unwrap_or(0);
            seen.extend_from_slice(&chunk[..count]);
        }
        (seen, tail)
    }

    #[test]
    fn lines_pass_and_the_last_words_stay() {
        let text = "Warning: x\ntimestamp=1 level=INFO\n\u{1b}[91m\u{1b}[1mError: \u{1b}[0mConfiguration \
                    is invalid at /h/opencode.json\n↳ Expected string, got 5 model\nno newline";
        let (seen, tail) = passed(text.as_bytes());
        assert_eq!(seen, [text.as_bytes(), b"\n"].concat());
        let words = "Configuration is invalid at /h/opencode.json · ↳ Expected string, got 5 model · no newline";
        assert_eq!(tail.words(), words);
    }

    #[test]
    fn an_endless_line_is_cut_and_no_line_sets_its_level() {
        let (seen, tail) = passed(&vec![b'x'; 200_000]);
        assert_eq!(seen.iter().filter(|byte| **byte != b'\n').count(), 200_000);
        assert!(seen.split(|byte| *byte == b'\n').all(|line| line.len() <= MAX_LINE));
        assert!(tail.words().chars().count() <= MAX_LINES * (MAX_WORDS + 3));
        assert_eq!(passed(b"<0>fire\n").0, b"<6><0>fire\n");
        assert_eq!(passed(b"a\0<0>fire\n").0, b"a\n<6><0>fire\n");
        assert_eq!(passed(&[b"\n".repeat(9000)].concat()).0.len(), 9000);
    }

    #[test]
    fn a_quoted_configuration_is_no_reason() {
        let mut lines =
            String::from("Error: Config file at /c is not valid JSON(C):\n--- JSONC Input ---\n");
        lines.push_str(&"\"key\": \"sk-secret\",\n".repeat(50));
        lines.push_str("--- Errors ---\nValueExpected at line 2, column 1\n   Line 2: \"sk-secret\n   ^\n--- End ---\n");
        let words = without_quotes(&lines);
        assert_eq!(
            words,
            "Config file at /c is not valid JSON(C): · ValueExpected at line 2, column 1"
        );
    }

    #[test]
    fn the_error_stays_in_front_of_a_long_explanation() {
        let mut tail = Tail::default();
        tail.see("Error: first");
        (0..50).for_each(|line| tail.see(&format!("detail {line}")));
        assert!(tail.words().starts_with("first · "));
        assert!(tail.words().ends_with("detail 49"));
    }

    #[test]
    fn a_journal_that_is_gone_loses_output_and_nothing_else() {
        let (output, to) = pipe().unwrap();
        drop(output);
        let mut relay = Relay::new(None, to.as_fd());
        relay.say(3, "words");
        assert!(relay.is_idle());
    }
}
