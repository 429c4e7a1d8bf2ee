//! A language model that does as it is told: the real agent loop of an instance, without a network.
//!
//! It speaks as much of the API of `OpenAI` as opencode asks for, and HTTP/1.1 with one request for
//! each connection.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine::Machine;

/// The only path that answers.
const PATH: &str = "/v1/chat/completions";

/// A model inside an instance's network namespace, or the host's, for as long as this value lives.
///
/// To a request that offers tools it answers with the next call of its queue. To any other, and
/// when the queue is empty, it answers `done.`, which ends the agent's turn.
///
/// A restart of the instance makes another namespace, in which another model has to listen.
#[derive(Debug)]
pub struct Model {
    listener: Arc<TcpListener>,
    mind: Arc<Mutex<Mind>>,
    thread: Option<JoinHandle<()>>,
}

/// What a model is to do, and what it has been asked.
#[derive(Debug, Default)]
struct Mind {
    calls: VecDeque<(String, Value)>,
    requests: Vec<Value>,
}

impl Model {
    /// Listens on a port of an instance's loopback.
    pub fn listen(machine: &Machine, instance: &str, port: u16) -> Result<Self> {
        let namespace = format!("opencode-{instance}");
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = machine.in_named_netns(&namespace, bind)?;
        let listener =
            listener.with_context(|| format!("cannot listen on port {port} of {namespace}"))?;
        Ok(Self::serve(listener))
    }

    /// Listens on a port of the host's loopback, as a model server of the operator's does.
    pub fn listen_on_host(machine: &Machine, port: u16) -> Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = machine.in_netns(bind)?;
        let listener = listener.with_context(|| format!("cannot listen on port {port}"))?;
        Ok(Self::serve(listener))
    }

    /// The settings with which an instance uses the model on a port of its loopback: lines of TOML
    /// that may follow any table's header.
    pub fn settings(port: u16) -> String {
        format!(
            r#"model = "fake/m"
provider.fake = {{ npm = "@ai-sdk/openai-compatible", options = {{ baseURL = "http://127.0.0.1:{port}/v1", apiKey = "x" }}, models = {{ m = {{}} }} }}
"#
        )
    }

    /// Puts a command for the agent's `bash` tool at the end of the queue.
    pub fn will_run(&self, command: &str) {
        self.will_call("bash", json!({ "command": command, "description": "probe" }));
    }

    /// Puts a call of any tool at the end of the queue.
    pub fn will_call(&self, tool: &str, arguments: Value) {
        lock(&self.mind).calls.push_back((tool.to_owned(), arguments));
    }

    /// The body of every request so far: system prompt, tools, and all that was said and called.
    pub fn requests(&self) -> Vec<Value> {
        lock(&self.mind).requests.clone()
    }

    fn serve(listener: TcpListener) -> Self {
        let listener = Arc::new(listener);
        let mind = Arc::new(Mutex::default());
        let thread = thread::spawn({
            let (listener, mind) = (Arc::clone(&listener), Arc::clone(&mind));
            move || accept(&listener, &mind)
        });
        Self { listener, mind, thread: Some(thread) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // Ends the wait for connections. A connection of our own could not: we are outside.
        let _closed = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Serves each connection on a thread of its own until the listener is shut down.
fn accept(listener: &TcpListener, mind: &Mutex<Mind>) {
    thread::scope(|scope| {
        let mut served = Vec::new();
        for stream in listener.incoming().map_while(io::Result::ok) {
            let stream = Arc::new(stream);
            served.push(Arc::downgrade(&stream));
            scope.spawn(move || {
                // A client that leaves early has nobody to be told to.
                let _broken = converse(&stream, mind);
            });
        }
        for stream in served.iter().filter_map(Weak::upgrade) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    });
}

/// Answers the one request of a connection.
fn converse(mut stream: &TcpStream, mind: &Mutex<Mind>) -> io::Result<()> {
    let (start, body) = read_request(BufReader::new(stream))?;
    let (status, content) = if start != format!("POST {PATH} HTTP/1.1") {
        ("404 Not Found", format!("only POST {PATH}, not {start}"))
    } else if let Ok(request) = serde_json::from_slice(&body) {
        ("200 OK", lock(mind).answer(request))
    } else {
        ("400 Bad Request", "no JSON".to_owned())
    };
    let kind = if status == "200 OK" { "text/event-stream" } else { "text/plain" };
    let length = content.len();
    let headers = format!("content-type: {kind}\r\ncontent-length: {length}\r\n");
    let answer = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n{content}");
    stream.write_all(answer.as_bytes())
}

impl Mind {
    /// Records a request, and returns the events of the answer.
    fn answer(&mut self, request: Value) -> String {
        let tools = request.get("tools").and_then(Value::as_array);
        let offered = tools.is_some_and(|tools| !tools.is_empty());
        self.requests.push(request);
        let call = if offered { self.calls.pop_front() } else { None };
        let (delta, reason) = match call {
            Some((tool, arguments)) => {
                let id = format!("call-{}", self.requests.len());
                let function = json!({ "name": tool, "arguments": arguments.to_string() });
                let call =
                    json!({ "index": 0, "id": id, "type": "function", "function": function });
                (json!({ "role": "assistant", "tool_calls": [call] }), "tool_calls")
            }
            None => (json!({ "role": "assistant", "content": "done." }), "stop"),
        };
        let said = chunk(&delta, None);
        let end = chunk(&json!({}), Some(reason));
        format!("data: {said}\n\ndata: {end}\n\ndata: [DONE]\n\n")
    }
}

fn chunk(delta: &Value, reason: Option<&str>) -> Value {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
    json!({
        "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [choice],
    })
}

/// Reads the first line of a request and its body.
fn read_request(mut reader: impl BufRead) -> io::Result<(String, Vec<u8>)> {
    let start = read_line(&mut reader)?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let line = read_line(&mut reader)?.to_ascii_lowercase();
        match line.split_once(':').map(|(name, value)| (name, value.trim())) {
            Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = Vec::new();
    if !chunked {
        read_part(&mut reader, length, &mut body)?;
        return Ok((start, body));
    }
    loop {
        let line = read_line(&mut reader)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        read_part(&mut reader, size, &mut body)?;
        // The end of the chunk; after the last one, of the whole, for nobody sends trailers.
        read_line(&mut reader)?;
        if size == 0 {
            return Ok((start, body));
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_part(reader: &mut impl BufRead, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    let count = reader.take(length).read_to_end(body)?;
    if count as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn lock(mind: &Mutex<Mind>) -> MutexGuard<'_, Mind> {
    mind.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = r#"{"tools":[{"type":"function"}],"messages":[]}"#;

    fn model() -> (Model, std::net::SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (Model::serve(listener), address)
    }

    fn say(address: std::net::SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(body: &str) -> String {
        format!("POST {PATH} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn calls_are_made_in_their_order_while_tools_are_offered() {
        let (model, address) = model();
        model.will_run("id");
        model.will_call("read", json!({ "filePath": "/x" }));
        assert!(say(address, &post(r#"{"messages":[]}"#)).contains("done."));
        let first = say(address, &post(REQUEST));
        assert!(first.contains(r#""name":"bash""#) && first.contains("call-2"), "{first}");
        assert!(first.contains(r#"\"command\":\"id\""#), "{first}");
        assert!(say(address, &post(REQUEST)).contains(r#""name":"read""#));
        assert!(say(address, &post(REQUEST)).contains("done."));
        assert_eq!(model.requests().len(), 4);
    }

    #[test]
    fn a_body_may_come_in_chunks() {
        let (model, address) = model();
        let (one, two) = REQUEST.split_at(20);
        let text = format!(
            "POST {PATH} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n14\r\n{one}\r\n{:x};x=y\r\n{two}\r\n0\r\n\r\n",
            two.len()
        );
        assert!(say(address, &text).starts_with("HTTP/1.1 200 "));
        assert_eq!(model.requests(), [serde_json::from_str::<Value>(REQUEST).unwrap()]);
    }

    #[test]
    fn what_it_does_not_understand_is_no_request() {
        let (model, address) = model();
        assert!(say(address, "GET /v1/models HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(say(address, &post("{")).starts_with("HTTP/1.1 400 "));
        assert_eq!(model.requests(), [Value::Null; 0]);
    }

    #[test]
    fn it_ends_with_its_value_whoever_is_connected() {
        let (model, address) = model();
        assert!(say(address, &post(REQUEST)).contains("done."));
        let mut idle = TcpStream::connect(address).unwrap();
        assert!(say(address, &post(REQUEST)).contains("done."), "the idle one is accepted, too");
        drop(model);
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        assert!(TcpStream::connect(address).is_err());
    }
}
