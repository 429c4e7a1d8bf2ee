//! The terminal that a command runs on: how large it is, and what its user asks for.

use std::io::{self, IsTerminal as _};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// The size of the terminal that standard output is; `None` where it is none, or does not say.
pub fn size() -> Option<Size> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some(Size { columns, rows })
}

/// Whether standard output is a terminal on which colours are wanted: see <https://no-color.org>.
pub fn has_colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// What a user does to a command that draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It should end.
    End,
    /// It should stand still until it is continued.
    Suspend,
    /// The terminal has another size.
    Resize,
}

/// Calls `each` from a thread of its own with all that is asked from now on; until it says no.
///
/// # Errors
///
/// When there can be no handlers, or no thread.
pub fn follow(mut each: impl FnMut(Asked) -> bool + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH])?;
    let thread = move || {
        for signal in signals.forever() {
            let asked = match signal {
                SIGTSTP => Asked::Suspend,
                SIGWINCH => Asked::Resize,
                _ => Asked::End,
            };
            if !each(asked) {
                return;
            }
        }
    };
    std::thread::Builder::new().spawn(thread).map(drop)
}

/// Stands still until the shell continues the command.
pub fn suspend() {
    let _ = emulate_default_handler(SIGTSTP);
}
