//! A light stand-in for `opencode serve`: `stand-in PORT [MODE…]`.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = arguments.map(|word| word.into_string().unwrap()).collect();
    let has = |mode: &str| words.iter().any(|word| word == mode);
    if has("fail") {
        println!("Warning: nothing");
        println!("Error: the stand-in cannot go on");
        return ExitCode::from(3);
    }
    if has("succeed") {
        return ExitCode::SUCCESS;
    }
    let (once, always) = (has("killed-once"), has("killed-always"));
    if always || (once && !std::fs::exists("killed").unwrap()) {
        std::fs::write("killed", "").unwrap();
        println!("it begins");
        shell("(sleep 1000 &) ; kill -KILL $PPID");
    }
    let listener = TcpListener::bind(format!("127.0.0.1:{}", words[0])).unwrap();
    if has("orphans") {
        shell("for i in 1 2 3 4 5; do (sleep 0.2 &) ; done; (sleep 1000 &)");
    }
    if has("stubborn") {
        shell("(trap '' TERM HUP INT; while :; do sleep 1; done) &");
    }
    if has("crowd") {
        shell("for i in $(seq 450); do (trap '' TERM HUP; sleep 1000) & done");
    }
    if has("peek") {
        shell(PEEK);
    }
    println!("stand-in listening on http://127.0.0.1:{}", words[0]);
    if has("endless") {
        std::thread::spawn(endless_line);
    }
    for stream in listener.incoming() {
        let _ = answer(&mut stream.unwrap(), has("refuse"));
    }
    ExitCode::SUCCESS
}

/// What an agent would try on its supervisor.
const PEEK: &str = "
    for file in environ mem maps; do
        if head -c1 /proc/1/$file >/dev/null 2>/dev/null
        then echo $file: read; else echo $file: refused; fi
    done
    if readlink /proc/1/fd/1 >/dev/null; then echo fd/1: read; else echo fd/1: refused; fi
    cat /proc/self/environ >/dev/null; echo own environment: $?
    echo peeked";

fn shell(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
}

fn endless_line() {
    let mut output = std::io::stdout().lock();
    let piece = vec![b'x'; 100_000];
    for _ in 0..200 {
        output.write_all(&piece).unwrap();
    }
    output.write_all(b"\n<0>after the endless line\n").unwrap();
}

/// Answers one request; `/spin` first keeps the only thread busy, `/hang` blocks it for ever,
/// `/exit` ends the process with status 0.
fn answer(stream: &mut TcpStream, refuse: bool) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let locked = std::env::var_os("OPENCODE_SERVER_PASSWORD").is_some();
    match path {
        "/spin" => {
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end {}
        }
        "/hang" => loop {
            std::thread::park();
        },
        "/exit" => std::process::exit(0),
        _ => {}
    }
    let (status, body) = if locked && !request.contains("Authorization: Basic") {
        ("401 Unauthorized", "")
    } else if refuse && path == "/config" {
        (
            "400 Bad Request",
            r#"{"name":"ConfigInvalidError","data":{"path":"/p/opencode.json","issues":[{"path":["model"],"message":"Expected string"}]}}"#,
        )
    } else {
        ("200 OK", r#"{"healthy":true}"#)
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
