//! The journal's native protocol, as in <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>: one datagram
//! for each record.
//!
//! Records are small, so the protocol's second half, for records larger than a datagram, is not
//! needed; the crates that speak all of it bring a logging framework or threads along.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// Where the journal listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a sender waits while the queue is full.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// Not at all: others wait for the sender.
    None,
    /// A moment, in which a journal that is busy gets room.
    Moment,
}

const MOMENT: Duration = Duration::from_millis(20);

/// A way to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Prepares to send; nobody need be there yet.
    pub(crate) fn at(path: PathBuf, patience: Patience) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        match patience {
            Patience::None => socket.set_nonblocking(true)?,
            Patience::Moment => socket.set_write_timeout(Some(MOMENT))?,
        }
        Ok(Self { socket, path })
    }

    /// Sends a record. By its path each time, since a new journal has a new socket.
    ///
    /// # Errors
    ///
    /// When nobody is there, or the journal takes nothing more for now.
    pub(crate) fn send(&self, fields: &[(&str, &str)]) -> io::Result<()> {
        self.socket.send_to(&encode(fields), &self.path).map(drop)
    }
}

fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut record = Vec::new();
    for (name, value) in fields {
        record.extend(name.as_bytes());
        if value.contains('\n') {
            record.push(b'\n');
            record.extend((value.len() as u64).to_le_bytes());
        } else {
            record.push(b'=');
        }
        record.extend(value.as_bytes());
        record.push(b'\n');
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_become_another_field() {
        let fields = [("MESSAGE", "a=b"), ("OPENCODE_NAME", "x\nPRIORITY=0"), ("EMPTY", "")];
        let expected = b"MESSAGE=a=b\nOPENCODE_NAME\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\nEMPTY=\n";
        assert_eq!(encode(&fields), expected);
    }

    #[test]
    fn a_journal_that_takes_nothing_is_an_error_and_no_long_wait() {
        for patience in [Patience::None, Patience::Moment] {
            takes_nothing(patience);
        }
    }

    fn takes_nothing(patience: Patience) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = Journal::at(path.clone(), patience).unwrap();
        assert!(journal.send(&[("A", "b")]).is_err());
        let socket = UnixDatagram::bind(&path).unwrap();
        journal.send(&[("A", "b")]).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
        let full = (0..100_000).find_map(|_| journal.send(&[("A", "b")]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        // A new journal at the same path is found.
        std::fs::remove_file(&path).unwrap();
        let _socket = UnixDatagram::bind(&path).unwrap();
        journal.send(&[("A", "b")]).unwrap();
    }
}
