//! Starts a supervisor with a service manager of the test's own, and watches it.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use instances_sys::http::Login;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::server::{port, real_server};

/// The bound of every wait.
const BOUND: Duration = Duration::from_mins(1);

/// What to run, and how.
pub(crate) struct Setup {
    home: TempDir,
    pub(crate) port: u16,
    server: Vec<OsString>,
    password: bool,
    watchdog: Duration,
    process_1: bool,
    nobody: bool,
}

/// The user of [`Setup::run_by_nobody`].
pub(crate) const NOBODY: u32 = 65534;

/// The password of every rig that has one.
pub(crate) const PASSWORD: &str = "pass-3f7a-word";
/// With the name that a server asks for.
pub(crate) const LOGIN: Login<'static> = Login { user: "opencode", password: PASSWORD };

impl Setup {
    pub(crate) fn stand_in(modes: &[&str]) -> Self {
        let mut setup = Self::new(std::env::current_exe().unwrap().into());
        setup.server.extend(["stand-in".into(), setup.port.to_string().into()]);
        setup.server.extend(modes.iter().map(OsString::from));
        setup
    }

    pub(crate) fn real() -> Self {
        let mut setup = Self::new(real_server().into());
        let port = setup.port.to_string();
        let words = ["serve", "--hostname", "127.0.0.1", "--port", &port, "--print-logs"];
        setup.server.extend(words.map(OsString::from));
        setup
    }

    fn new(program: OsString) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("project")).unwrap();
        fs::create_dir_all(home.path().join("credentials")).unwrap();
        let port = port();
        let watchdog = Duration::from_secs(4);
        let server = vec![program];
        Self { home, port, server, password: false, watchdog, process_1: true, nobody: false }
    }

    pub(crate) fn with_password(mut self) -> Self {
        fs::write(self.home.path().join("credentials/password"), format!("{PASSWORD}\n")).unwrap();
        self.password = true;
        self
    }

    pub(crate) fn with_watchdog(mut self, watchdog: Duration) -> Self {
        self.watchdog = watchdog;
        self
    }

    pub(crate) fn not_process_1(mut self) -> Self {
        self.process_1 = false;
        self
    }

    /// Makes the server ignore SIGTERM.
    pub(crate) fn deaf(mut self) -> Self {
        let script = r#"trap '' TERM; exec "$0" "$@""#;
        self.server.splice(0..0, ["sh".into(), "-c".into(), script.into()]);
        self
    }

    /// Runs everything as another user, as a unit does.
    pub(crate) fn run_by_nobody(mut self) -> Self {
        // The user may not be able to reach the place where cargo builds.
        let copy = self.home.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        self.server[0] = copy.into();
        for path in [".", "project", "credentials", "credentials/password"] {
            let path = self.home.path().join(path);
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.nobody = true;
        self
    }

    pub(crate) fn with_program(mut self, program: &str) -> Self {
        self.server[0] = program.into();
        self
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn start(self) -> Rig {
        let socket = self.home.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&messages);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = manager.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                seen.lock().unwrap().push((Instant::now(), text));
            }
        });
        let mut child = self.command(&socket).spawn().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut stream in streams {
            let output = Arc::clone(&output);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    output.lock().unwrap().extend_from_slice(&buffer[..read]);
                }
            });
        }
        let own = i32::try_from(child.id()).unwrap();
        let pid = if self.process_1 { only_child(own) } else { own };
        Rig { setup: self, child, pid, messages, output }
    }

    fn command(&self, socket: &Path) -> Command {
        let own = std::env::current_exe().unwrap();
        let mut command = if self.process_1 {
            let mut command = Command::new("unshare");
            if !rustix::process::geteuid().is_root() {
                command.args(["--user", "--map-root-user"]);
            }
            command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
            if self.nobody {
                let user = NOBODY.to_string();
                command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
                command.arg(&self.server[0]);
            } else {
                command.arg(own);
            }
            command
        } else {
            Command::new(own)
        };
        command.args(["supervise", "--port", &self.port.to_string(), "--"]).args(&self.server);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home.path()).env("NOTIFY_SOCKET", socket);
        command.env("TMPDIR", self.home.path());
        command.env("WATCHDOG_USEC", self.watchdog.as_micros().to_string());
        command.env("WATCHDOG_PID", "424242").env("LISTEN_FDS", "1");
        command.env("OPENCODE_DISABLE_MODELS_FETCH", "1").env("npm_config_offline", "true");
        if self.password {
            command.env("CREDENTIALS_DIRECTORY", self.home.path().join("credentials"));
        }
        command.current_dir(self.home.path().join("project"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// One supervisor that runs.
pub(crate) struct Rig {
    pub(crate) setup: Setup,
    child: Child,
    /// The supervisor, as this process sees it.
    pub(crate) pid: i32,
    messages: Arc<Mutex<Vec<(Instant, String)>>>,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Rig {
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.setup.port))
    }

    /// Every message so far.
    pub(crate) fn messages(&self) -> Vec<(Instant, String)> {
        self.messages.lock().unwrap().clone()
    }

    /// The last status.
    pub(crate) fn status(&self) -> String {
        let messages = self.messages();
        let lines = messages.iter().flat_map(|(_, text)| text.lines());
        lines
            .filter_map(|line| line.strip_prefix("STATUS="))
            .next_back()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// How many signs of life were sent.
    pub(crate) fn beats(&self) -> usize {
        self.messages().iter().filter(|(_, text)| text == "WATCHDOG=1").count()
    }

    pub(crate) fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + BOUND;
        while !condition(self) {
            let (status, output) = (self.status(), self.output());
            assert!(Instant::now() < end, "never: {what}; status: {status}\n{output}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn until_ready(self) -> Self {
        self.until("ready", |rig| rig.messages().iter().any(|(_, text)| text.contains("READY=1")));
        self
    }

    /// The server, as this process sees it.
    pub(crate) fn server(&self) -> i32 {
        let name = self.setup.server[0].clone();
        let is_server = |pid: &i32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe == fs::canonicalize(&name).unwrap()
        };
        children(self.pid).into_iter().find(is_server).unwrap()
    }

    /// Waits for the end; gives the exit status and how long it took.
    pub(crate) fn wait(&mut self) -> (i32, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code().unwrap_or(-1), start.elapsed());
            }
            assert!(start.elapsed() < BOUND, "never ended; status: {}", self.status());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks for the end and checks that it comes, cleanly and soon.
    pub(crate) fn stop(&mut self, signal: Signal) {
        send(self.pid, signal);
        let (code, time) = self.wait();
        println!("port {}: stopped in {time:?}", self.setup.port);
        assert_eq!(code, 0, "{}", self.output());
        assert!(time < instances_sys::terminate::PATIENCE, "{time:?}");
        self.until("it says that it has stopped", |rig| rig.status() == "stopped");
    }

    /// The supervisor's resident memory in KiB, shared pages included.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in [self.pid, i32::try_from(self.child.id()).unwrap()] {
            // The child is not waited for yet, so its number is still its own.
            if matches!(self.child.try_wait(), Ok(None)) {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// Sends a signal.
pub(crate) fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn only_child(pid: i32) -> i32 {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(child) = children(pid).first() {
            return *child;
        }
        // A supervisor that ends at once may be gone before it was seen.
        if fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")) {
            return pid;
        }
        assert!(Instant::now() < end, "unshare started nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
}
