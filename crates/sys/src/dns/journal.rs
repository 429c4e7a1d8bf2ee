//! Records for the journal in its native protocol: one datagram, one field a line.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::notify::one_line;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest value; a name of 255 bytes, each as `\DDD`, is shorter.
const MAX_VALUE: usize = 1100;

/// A sender that waits for nobody. A record that the journal does not take now is lost to it.
#[derive(Debug)]
pub(super) struct Journal {
    socket: Option<UnixDatagram>,
    path: PathBuf,
    /// What every record says.
    common: String,
}

impl Journal {
    /// A sender to the journal at `path`.
    pub(super) fn new(path: &Path, instance: &str) -> Self {
        let socket = UnixDatagram::unbound().ok();
        let socket = socket.filter(|socket| socket.set_nonblocking(true).is_ok());
        let common = format!(
            "SYSLOG_IDENTIFIER=opencode-dns@{instance}\nOPENCODE_INSTANCE={instance}\n\
             OPENCODE_PROTOCOL=dns\n"
        );
        Self { socket, path: path.to_owned(), common }
    }

    /// Sends a record; says whether the journal has it.
    pub(super) fn send(&self, priority: u8, id: &str, fields: &[(&str, &str)]) -> bool {
        let mut record = format!("PRIORITY={priority}\nMESSAGE_ID={id}\n{}", self.common);
        for (field, value) in fields {
            // One line: a line feed in a value would begin another field.
            record.push_str(&format!("{field}={}\n", one_line(value, MAX_VALUE)));
        }
        let Some(socket) = &self.socket else { return false };
        // By its name each time: the journal may have been started anew.
        socket.send_to(record.as_bytes(), &self.path).is_ok()
    }
}
