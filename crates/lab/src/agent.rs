//! The agent of an instance: commands run where its tools run, through the real server's own API.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::machine::Machine;

/// A session with an instance's server.
#[derive(Debug)]
pub struct Agent<'a> {
    machine: &'a Machine,
    url: String,
    session: String,
}

impl<'a> Agent<'a> {
    /// Opens a session with `instance`, through its listener and with its password.
    pub fn connect(machine: &'a Machine, instance: &str) -> Result<Self> {
        let url = machine.run(["opencode-instances", "url", instance])?.ok()?;
        Self::at(machine, url.trim())
    }

    /// Opens a session with the server at an address of the machine.
    pub fn at(machine: &'a Machine, url: &str) -> Result<Self> {
        let mut agent = Self { machine, url: url.to_owned(), session: String::new() };
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
        self.request(&["--data-binary", &body.to_string()], path)
    }

    /// Returns a JSON answer.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request(&[], path)
    }

    /// Runs a shell command as the agent's tools do; returns what it printed, both streams.
    pub fn shell(&self, command: &str) -> Result<String> {
        let path = format!("session/{}/shell", self.session);
        let answer = self.post(&path, &json!({ "agent": "build", "command": command }))?;
        text(&answer, "/parts/0/state/output")
            .or_else(|| text(&answer, "/parts/0/state/error"))
            .with_context(|| format!("the shell endpoint gave no output: {answer}"))
    }

    fn request(&self, options: &[&str], path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let mut argv = vec!["curl", "--silent", "--show-error", "--max-time", "50"];
        argv.extend(["--header", "content-type: application/json"]);
        argv.extend(options);
        argv.push(&url);
        let answer = self.machine.run(argv)?.ok()?;
        match serde_json::from_str(&answer) {
            Ok(value) => Ok(value),
            Err(error) => bail!("{path} answers no JSON ({error}): {answer}"),
        }
    }
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(str::to_owned)
}
