//! A real opencode with a home of its own, which judges the configurations of many projects.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use instances_sys::http;
use serde_json::Value;
use tempfile::TempDir;

use crate::server::{port, real_server};

/// The bound of every wait.
const BOUND: Duration = Duration::from_mins(1);

/// The environment, and by their names in lower case the files beside every configuration.
pub(crate) const WORDS: &[(&str, &str)] = &[
    ("WORD", "word"),
    ("ACTION", "allow"),
    ("COLOR", "primary"),
    ("KEY", "secret"),
    ("UPDATE", "notify"),
    ("NUMBER", "5"),
    ("FLAG", "true"),
    ("KEY_NAME", "model"),
];

/// opencode in a home, with no network of its own accord.
fn opencode(home: &Path) -> Command {
    let mut command = Command::new(real_server());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home).env("TMPDIR", home).current_dir(home);
    for switch in ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD"] {
        command.env(format!("OPENCODE_DISABLE_{switch}"), "1");
    }
    command.env("npm_config_offline", "true").env("npm_config_fetch_retries", "0");
    command.envs(WORDS.iter().copied());
    command.stdin(Stdio::null());
    command
}

/// What opencode prints.
pub(crate) fn run(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = opencode(home.path()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) struct Server {
    home: TempDir,
    child: Child,
    address: SocketAddr,
    projects: Cell<u32>,
}

impl Server {
    /// Starts a server with configurations by their places; gives what it printed if it ends.
    pub(crate) fn start(configurations: &[(&str, &str)]) -> Result<Self, String> {
        let home = tempfile::tempdir().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port()));
        let mut command = opencode(home.path());
        for (place, text) in configurations {
            let path = home.path().join(match *place {
                "global" => ".config/opencode/opencode.json",
                _ => "place/opencode.json",
            });
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            match *place {
                "global" => &mut command,
                "named" => command.env("OPENCODE_CONFIG", &path),
                "inline" => command.env("OPENCODE_CONFIG_CONTENT", text),
                "enforced" => {
                    command.env("OPENCODE_TEST_MANAGED_CONFIG_DIR", path.parent().unwrap())
                }
                other => panic!("no place is called {other}"),
            };
        }
        command.args(["serve", "--hostname", "127.0.0.1", "--port", &address.port().to_string()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        drop(sender);
        let server = Self { home, child, address, projects: Cell::new(0) };
        let mut output = String::new();
        // Before this line, it takes connections and never answers them.
        while !output.contains("listening on") {
            match lines.recv_timeout(BOUND) {
                Ok(line) => output.push_str(&format!("{line}\n")),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(output),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("never ready:\n{output}"),
            }
        }
        Ok(server)
    }

    /// What the server makes of a configuration: the status, and the whole configuration or the
    /// error.
    pub(crate) fn judge(&self, configuration: &str) -> (u16, Value) {
        let number = self.projects.get();
        self.projects.set(number + 1);
        let project = self.home.path().join(format!("project-{number}"));
        fs::create_dir(&project).unwrap();
        fs::write(project.join("opencode.json"), configuration).unwrap();
        for (name, word) in WORDS {
            fs::write(project.join(name.to_lowercase()), format!("{word}\n")).unwrap();
        }
        let path = format!("/config?directory={}", project.display());
        let answer = http::get(self.address, &path, None, BOUND).unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
