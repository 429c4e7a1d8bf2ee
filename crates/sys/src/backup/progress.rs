//! How far a long run is, on a terminal alone.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often it is said.
const EVERY: Duration = Duration::from_millis(200);

/// What was done so far.
#[derive(Debug)]
pub(super) struct Progress {
    doing: &'static str,
    files: u64,
    bytes: u64,
    of: Option<u64>,
    said: Option<Instant>,
    begun: bool,
}

impl Progress {
    /// Says what is done where standard error is a terminal.
    pub(super) fn new(doing: &'static str) -> Self {
        let said = std::io::stderr().is_terminal().then(Instant::now);
        Self { doing, files: 0, bytes: 0, of: None, said, begun: false }
    }

    /// How many bytes there will be.
    pub(super) fn of(mut self, bytes: u64) -> Self {
        self.of = Some(bytes);
        self
    }

    /// Counts a file; its bytes are counted by themselves.
    pub(super) fn file(&mut self) {
        self.files += 1;
        self.more(0);
    }

    /// Counts bytes.
    pub(super) fn more(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let Some(said) = self.said else { return };
        if said.elapsed() < EVERY {
            return;
        }
        let mib = self.bytes >> 20;
        let of = self.of.map(|of| format!(" of {}", of >> 20)).unwrap_or_default();
        // The line is written over by the next one.
        let _ = write!(
            std::io::stderr(),
            "\r{}: {} files, {mib}{of} MiB\x1b[K",
            self.doing,
            self.files
        );
        self.said = Some(Instant::now());
        self.begun = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.begun {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
