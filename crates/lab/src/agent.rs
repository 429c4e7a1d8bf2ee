//! The agent of an instance: commands run where its tools run, through the real server's own API.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::model::Model;
use crate::{fleet, guest};

/// How long a request may take that calls no model.
const PATIENCE: Duration = Duration::from_secs(50);
/// How much longer the command may take that sends a request.
const MARGIN: Duration = Duration::from_secs(10);

/// A session with an instance's server.
#[derive(Debug)]
pub struct Agent<'a> {
    machine: &'a Machine,
    url: String,
    directory: Option<String>,
    session: String,
}

impl<'a> Agent<'a> {
    /// Opens a session with `instance`, through its listener and with its password.
    pub fn connect(machine: &'a Machine, instance: &str) -> Result<Self> {
        Self::at(machine, &address(machine, instance)?)
    }

    /// Opens a session in a directory of the instance's, which need not be its project's.
    pub fn in_directory(machine: &'a Machine, instance: &str, directory: &str) -> Result<Self> {
        Self::open(machine, &address(machine, instance)?, Some(directory.to_owned()))
    }

    /// Opens a session with the server at an address of the machine.
    pub fn at(machine: &'a Machine, url: &str) -> Result<Self> {
        Self::open(machine, url, None)
    }

    fn open(machine: &'a Machine, url: &str, directory: Option<String>) -> Result<Self> {
        let mut agent = Self { machine, url: url.to_owned(), directory, session: String::new() };
        let session = agent.post("session", &json!({ "title": "probe" }))?;
        agent.session = text(&session, "/id").context("the session has no id")?;
        Ok(agent)
    }

    /// The server's address with its password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request with a JSON body and returns the JSON answer.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request(PATIENCE, &["--data-binary", &body.to_string()], path)
    }

    /// Returns a JSON answer.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request(PATIENCE, &[], path)
    }

    /// Runs a shell command as the agent's tools do; returns what it printed, both streams.
    pub fn shell(&self, command: &str) -> Result<String> {
        let path = format!("session/{}/shell", self.session);
        let answer = self.post(&path, &json!({ "agent": "build", "command": command }))?;
        let part = answer.pointer("/parts/0");
        part.and_then(output)
            .with_context(|| format!("the shell endpoint gave no output: {answer}"))
    }

    /// Gives the model a prompt and waits until the agent's turn is over. Returns what its tools
    /// answered, whether they succeeded or not, in the order of their calls.
    ///
    /// A turn does not end while a tool waits for a permission, or while no model answers; it goes
    /// on when this has given up, and takes what is left in the model's queue.
    pub fn prompt(&self, prompt: &str) -> Result<Vec<String>> {
        let path = format!("session/{}/message", self.session);
        let body = json!({ "parts": [{ "type": "text", "text": prompt }] }).to_string();
        let last = self
            .request(fleet::PATIENCE, &["--data-binary", &body], &path)
            .with_context(|| self.holdup())?;
        // The last message of several that answer the prompt.
        let asked = text(&last, "/info/parentID")
            .with_context(|| format!("the prompt has no answer: {last}"))?;
        let messages = self.get(&path)?;
        let mut outputs = Vec::new();
        for message in messages.as_array().into_iter().flatten() {
            if text(message, "/info/parentID").as_ref() != Some(&asked) {
                continue;
            }
            if let Some(error) = message.pointer("/info/error") {
                bail!("the agent's turn failed: {error}");
            }
            let parts = message.pointer("/parts").and_then(Value::as_array);
            outputs.extend(parts.into_iter().flatten().filter_map(output));
        }
        Ok(outputs)
    }

    /// Runs a command with the agent's `bash` tool, called by the model; returns what it printed.
    ///
    /// Unlike the one of [`Self::shell`] it is no login shell, and its command is expanded once.
    /// Unless the configuration allows `external_directory`, a command such as `cat` with a path
    /// outside the project waits for a permission.
    pub fn bash(&self, model: &Model, command: &str) -> Result<String> {
        model.will_run(command);
        let mut outputs = self.prompt("Go on.")?;
        match (outputs.pop(), outputs.as_slice()) {
            (Some(output), []) => Ok(output),
            (last, others) => bail!("not the one call that was to be: {others:?} {last:?}"),
        }
    }

    /// Why a turn may not have ended: what sessions are at, and which permissions are asked for.
    fn holdup(&self) -> String {
        let state = ["session/status", "permission"].map(|path| match self.get(path) {
            Ok(value) => format!("{path}: {value}"),
            Err(error) => format!("{path}: {error:#}"),
        });
        state.join("; ")
    }

    fn request(&self, patience: Duration, options: &[&str], path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let limit = guest::patience(patience).as_secs().to_string();
        let mut argv = vec!["curl", "--silent", "--show-error", "--max-time", &limit];
        argv.extend(["--header", "content-type: application/json"]);
        let directory = self.directory.as_ref().map(|path| format!("x-opencode-directory: {path}"));
        argv.extend(directory.iter().flat_map(|header| ["--header", header]));
        argv.extend(options);
        argv.push(&url);
        let answer = self.machine.run_for(patience + MARGIN, argv)?.ok()?;
        match serde_json::from_str(&answer) {
            Ok(value) => Ok(value),
            Err(error) => bail!("{path} answers no JSON ({error}): {answer}"),
        }
    }
}

/// What a tool answered, if a part of a message is a call of one.
fn output(part: &Value) -> Option<String> {
    text(part, "/state/output").or_else(|| text(part, "/state/error"))
}

/// The server's address with its password, and without the page that a browser is sent to.
fn address(machine: &Machine, instance: &str) -> Result<String> {
    let url = machine.run(["opencode-instances", "url", instance])?.ok()?;
    let parts: Vec<&str> = url.trim().splitn(4, '/').collect();
    let [scheme, _, authority, _] = parts.as_slice() else { bail!("no address: {url}") };
    Ok(format!("{scheme}//{authority}/"))
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(str::to_owned)
}
