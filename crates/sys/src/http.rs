//! A minimal HTTP/1.1 client for one `GET` on a fresh connection, every size bounded.
//!
//! The supervisor keeps it resident for the life of an instance, so it is small: the parser does no
//! input or output, and both the blocking [`get`] and the supervisor's event loop feed it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a server asks for. Never shown by `Debug`.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The user's name, without a colon.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Login(…)")
    }
}

/// The most bytes of a body that are kept; the rest is not read.
pub const MAX_BODY: usize = 1 << 20;
/// The most bytes that a status line and its headers may take.
const MAX_HEAD: usize = 16 << 10;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code, `100..=999`.
    pub status: u16,
    /// The `Content-Type`, lower case, without parameters; empty when there is none.
    pub content_type: String,
    /// At most [`MAX_BODY`] bytes.
    pub body: Vec<u8>,
    /// Whether the body was longer than [`MAX_BODY`].
    pub truncated: bool,
}

impl Response {
    /// Tells whether the answer is a success that carries a JSON document.
    ///
    /// opencode answers an unknown path with 200 and its web page, so the status alone says
    /// nothing. A document longer than [`MAX_BODY`] is judged by its type and its first byte.
    pub fn is_json_success(&self) -> bool {
        let json = self.content_type == "application/json";
        let valid = || serde_json::from_slice::<serde::de::IgnoredAny>(&self.body).is_ok();
        self.status == 200
            && json
            && (valid() || self.truncated && self.body.first() == Some(&b'{'))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path holds a byte that would end the request line.
    #[error("not a request path: {0:?}")]
    Path(String),
    /// Nobody listens, or the connection broke.
    #[error("no connection")]
    Io(#[from] io::Error),
    /// The time was up before the answer was complete.
    #[error("no answer in time")]
    Timeout,
    /// The peer closed the connection before the answer was complete.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// What came back is not HTTP/1, or its head is longer than this client accepts.
    #[error("the answer is not HTTP")]
    NotHttp,
}

/// A text as a part of a URL takes it, whatever is in it.
pub fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Sends `GET path` and waits for the whole answer, at most `timeout` in all.
///
/// # Errors
///
/// See [`Error`]; every status code, 500 included, is an answer and not an error.
pub fn get(
    addr: SocketAddr,
    path: &str,
    login: Option<Login<'_>>,
    timeout: Duration,
) -> Result<Response, Error> {
    let end = Instant::now() + timeout;
    let request = request(addr, path, login)?;
    let mut stream = TcpStream::connect_timeout(&addr, timeout).map_err(timed)?;
    stream.set_write_timeout(Some(left(end)?))?;
    stream.write_all(&request).map_err(timed)?;
    let mut parser = Parser::default();
    let mut chunk = vec![0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(left(end)?))?;
        let read = stream.read(&mut chunk).map_err(timed)?;
        let done = if read == 0 {
            parser.finish()?
        } else {
            parser.push(chunk.get(..read).unwrap_or_default())?
        };
        if let Some(response) = done {
            return Ok(response);
        }
    }
}

fn left(end: Instant) -> Result<Duration, Error> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Error::Timeout) } else { Ok(left) }
}

fn timed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout,
        _ => Error::Io(error),
    }
}

/// Writes the request. The credentials never leave this function but in its result.
pub(crate) fn request(
    addr: SocketAddr,
    path: &str,
    login: Option<Login<'_>>,
) -> Result<Vec<u8>, Error> {
    if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Error::Path(path.to_owned()));
    }
    let auth = login.map_or_else(String::new, |Login { user, password }| {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
    });
    Ok(format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: application/json\r\n{auth}\
         Connection: close\r\n\r\n"
    )
    .into_bytes())
}

/// Puts an answer together from the pieces in which it arrives.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    head: Vec<u8>,
    response: Option<Response>,
    framing: Framing,
}

/// How the end of the body is known, and how far it is.
#[derive(Debug, Default)]
enum Framing {
    #[default]
    UntilClose,
    Length(u64),
    Chunked(Chunk),
}

#[derive(Debug)]
enum Chunk {
    Size(Vec<u8>),
    Data(u64),
    DataEnd,
    Trailer { blank: bool },
}

impl Parser {
    /// Takes the next bytes; gives the answer once it is complete or [`MAX_BODY`] is reached.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<Option<Response>, Error> {
        if self.response.is_none() {
            let known = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = end_of_head(&self.head, known) else {
                return if self.head.len() > MAX_HEAD { Err(Error::NotHttp) } else { Ok(None) };
            };
            bytes = bytes.get(end.saturating_sub(known)..).unwrap_or_default();
            self.head.truncate(end);
            self.read_head()?;
        }
        let complete = self.body(bytes)?;
        let full = self.response.as_ref().is_some_and(|response| response.truncated);
        Ok(if complete || full { self.response.take() } else { None })
    }

    /// Says that the peer closed the connection.
    pub(crate) fn finish(&mut self) -> Result<Option<Response>, Error> {
        match (&self.framing, self.response.take()) {
            (Framing::UntilClose, Some(response)) => Ok(Some(response)),
            _ => Err(Error::Closed),
        }
    }

    fn read_head(&mut self) -> Result<(), Error> {
        let head = String::from_utf8_lossy(&self.head);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(status_code).ok_or(Error::NotHttp)?;
        let mut content_type = String::new();
        let empty = status < 200 || status == 204 || status == 304;
        self.framing = if empty { Framing::Length(0) } else { Framing::UntilClose };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-type") {
                let kind = value.split(';').next().unwrap_or_default();
                content_type = kind.trim().to_ascii_lowercase();
            } else if name.eq_ignore_ascii_case("transfer-encoding") && !empty {
                self.framing = Framing::Chunked(Chunk::Size(Vec::new()));
            } else if name.eq_ignore_ascii_case("content-length")
                && matches!(self.framing, Framing::UntilClose)
            {
                self.framing = Framing::Length(value.parse().map_err(|_| Error::NotHttp)?);
            }
        }
        self.response = Some(Response { status, content_type, body: Vec::new(), truncated: false });
        Ok(())
    }

    /// Takes bytes of the body; tells whether it is complete.
    fn body(&mut self, mut bytes: &[u8]) -> Result<bool, Error> {
        let Some(response) = &mut self.response else { return Err(Error::NotHttp) };
        match &mut self.framing {
            Framing::UntilClose => keep(response, bytes),
            Framing::Length(left) => {
                keep(response, take(&mut bytes, left));
                return Ok(*left == 0);
            }
            Framing::Chunked(chunk) => {
                while !bytes.is_empty() && !response.truncated {
                    if step(chunk, response, &mut bytes)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Takes one step through a chunked body; tells whether it was the last.
fn step(chunk: &mut Chunk, response: &mut Response, bytes: &mut &[u8]) -> Result<bool, Error> {
    if let Chunk::Data(left) = chunk {
        keep(response, take(bytes, left));
        if *left == 0 {
            *chunk = Chunk::DataEnd;
        }
        return Ok(false);
    }
    let Some((&byte, rest)) = bytes.split_first() else { return Ok(false) };
    *bytes = rest;
    match chunk {
        Chunk::Size(line) if byte == b'\n' => {
            let text = String::from_utf8_lossy(line);
            let digits = text.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| Error::NotHttp)?;
            *chunk = if size == 0 { Chunk::Trailer { blank: true } } else { Chunk::Data(size) };
        }
        Chunk::Size(line) if line.len() < 256 => line.push(byte),
        Chunk::Size(_) => return Err(Error::NotHttp),
        Chunk::DataEnd if byte == b'\n' => *chunk = Chunk::Size(Vec::new()),
        Chunk::Trailer { blank: true } if byte == b'\n' => return Ok(true),
        Chunk::Trailer { blank } if byte != b'\r' => *blank = byte == b'\n',
        Chunk::Data(_) | Chunk::DataEnd | Chunk::Trailer { .. } => {}
    }
    Ok(false)
}

/// Splits off at most `left` bytes and counts them.
fn take<'a>(bytes: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    *left -= count as u64;
    taken
}

fn keep(response: &mut Response, bytes: &[u8]) {
    let room = MAX_BODY.saturating_sub(response.body.len());
    response.body.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    response.truncated |= bytes.len() > room;
}

/// Finds the end of the head in `bytes`, of which the first `known` were searched before.
fn end_of_head(bytes: &[u8], known: usize) -> Option<usize> {
    let from = known.saturating_sub(3);
    let blank = bytes.get(from..)?.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(from + blank + 4).filter(|end| *end <= MAX_HEAD)
}

fn status_code(line: &str) -> Option<u16> {
    let code = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    code.parse().ok().filter(|code| (100..=999).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn parse(text: &[u8], piece: usize) -> Result<Option<Response>, Error> {
        let mut parser = Parser::default();
        for bytes in text.chunks(piece) {
            if let Some(response) = parser.push(bytes)? {
                return Ok(Some(response));
            }
        }
        parser.finish()
    }

    #[test]
    fn every_framing_in_every_piece_size() {
        let cases: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n0\r\nT: x\r\n\r\n",
            b"HTTP/1.0 200\r\nContent-Type: application/json\r\n\r\n{\"a\":1}",
        ];
        for case in cases {
            for piece in 1..case.len() {
                let response = parse(case, piece).unwrap().unwrap();
                assert_eq!(response.body, b"{\"a\":1}");
                assert!(response.is_json_success());
            }
        }
    }

    #[test]
    fn a_web_page_is_no_json_success() {
        let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n{}";
        assert!(!parse(page, 9).unwrap().unwrap().is_json_success());
        let broken =
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{";
        assert!(!parse(broken, 9).unwrap().unwrap().is_json_success());
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let mut parser = Parser::default();
        parser.push(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{").unwrap();
        let mut pushed = 0;
        let response = loop {
            pushed += 4096;
            if let Some(response) = parser.push(&[b' '; 4096]).unwrap() {
                break response;
            }
        };
        assert_eq!(response.body.len(), MAX_BODY);
        assert!(pushed <= MAX_BODY + 4096 && response.truncated && response.is_json_success());
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(matches!(parse(b"SSH-2.0-x\r\n\r\n", 3), Err(Error::NotHttp)));
        assert!(matches!(parse(&vec![b'x'; 40_000], 4096), Err(Error::NotHttp)));
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n";
        assert!(matches!(parse(length, 99), Err(Error::NotHttp)));
        let size = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert!(matches!(parse(size, 99), Err(Error::NotHttp)));
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx";
        assert!(matches!(parse(short, 99), Err(Error::Closed)));
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx";
        assert!(matches!(parse(huge, 99), Err(Error::Closed)));
    }

    #[test]
    fn a_path_cannot_smuggle_a_header() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(matches!(request(addr, "/a\r\nX: y", None), Err(Error::Path(_))));
    }

    #[test]
    fn a_silent_peer_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let answer = get(
            addr,
            "/config",
            Some(Login { user: "x", password: "x" }),
            Duration::from_millis(50),
        );
        assert!(matches!(answer, Err(Error::Timeout)), "{answer:?}");
    }
}
