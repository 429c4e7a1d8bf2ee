//! What the cases are made of: the proxy as a process with passed sockets, a target, a supervisor that stands in,
//! and clients.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use instances_sys::proxy;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

pub(crate) const SERVE: &str = "INSTANCES_PROXY_SERVE";
pub(crate) const NAME: &str = "opencode-instances/supervisor/web";
/// Longer than anything takes; nothing is timed by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The process under test.
pub(crate) fn serve() -> ExitCode {
    let options = proxy::parse_args(env::args_os().skip(1)).unwrap();
    match proxy::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn prepare() {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(status.success());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Whether it becomes true before long.
pub(crate) fn soon(mut what: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if what() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// A moment in which what must not happen would happen.
pub(crate) fn a_moment() {
    thread::sleep(Duration::from_millis(150));
}

/// The sockets that systemd keeps, whether a proxy runs or not.
pub(crate) struct Port {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Port {
    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    pub(crate) fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        // As the socket unit has it; Rust's own is 128.
        listen(&listener, 4096).unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// A client whose host takes little before it reads.
pub(crate) fn narrow(address: SocketAddr) -> TcpStream {
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &address).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the peer has everything that was written.
pub(crate) fn has_all(stream: &TcpStream) -> bool {
    let mut left = 0;
    #[expect(unsafe_code, reason = "there is no other way to ask")]
    // SAFETY: the kernel writes one int.
    let done = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    done == 0 && left == 0
}

/// The proxy.
pub(crate) struct Stage {
    child: Child,
    notified: Arc<Mutex<Vec<String>>>,
}

/// How it is started.
#[derive(Default)]
pub(crate) struct Start<'a> {
    pub(crate) arguments: &'a [&'a str],
    pub(crate) more: Option<&'a Port>,
    pub(crate) descriptors: Option<u32>,
    pub(crate) watchdog: Option<u32>,
}

impl Stage {
    pub(crate) fn start(port: &Port, target: SocketAddr, arguments: &[&str]) -> Self {
        Self::start_with(port, target, &Start { arguments, ..Start::default() })
    }

    pub(crate) fn start_with(port: &Port, target: SocketAddr, start: &Start<'_>) -> Self {
        let directory = env::temp_dir();
        let path = directory.join(format!("proxy-{}-{:?}", std::process::id(), Instant::now()));
        let path = format!("{}", path.display()).replace(['{', '}', ' ', ':'], "");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notified = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&notified);
        socket.set_read_timeout(Some(PATIENCE * 4)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(read) = socket.recv(&mut buffer) {
                kept.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            }
        });
        // The shell stands in for systemd: it passes the sockets as descriptors 3 and 4, and takes every capability.
        let limit = start.descriptors.map(|most| format!("ulimit -n {most};"));
        let script = format!(
            "{} LISTEN_PID=$$ exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \
             \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null",
            limit.unwrap_or_default()
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .arg(env::current_exe().unwrap())
            .args(start.arguments)
            .arg(target.to_string())
            .env(SERVE, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("LISTEN_FDS", if start.more.is_some() { "2" } else { "1" })
            .stdin(Stdio::from(OwnedFd::from(port.listener.try_clone().unwrap())))
            .stdout(start.more.map_or_else(Stdio::null, |more| {
                Stdio::from(OwnedFd::from(more.listener.try_clone().unwrap()))
            }));
        if let Some(usec) = start.watchdog {
            command.env("WATCHDOG_USEC", usec.to_string());
        }
        let stage = Self { child: command.spawn().unwrap(), notified };
        stage.notified("READY=1");
        stage
    }

    /// The processor time that it has used, in ticks of a hundredth of a second.
    pub(crate) fn processor(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    pub(crate) fn notified(&self, words: &str) {
        let there = || self.notified.lock().unwrap().iter().any(|line| line.contains(words));
        assert!(soon(there), "{words}: {:?}", self.notified.lock().unwrap());
    }

    pub(crate) fn count(&self, words: &str) -> usize {
        self.notified.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Memory of its own, in KiB.
    pub(crate) fn memory(&self) -> usize {
        self.kib("RssAnon:")
    }

    /// A figure of its memory, in KiB.
    pub(crate) fn kib(&self, what: &str) -> usize {
        let text = fs::read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end; how often it was awake.
    pub(crate) fn ended(mut self) -> usize {
        assert!(soon(|| !self.runs()), "it goes on: {:?}", self.notified.lock().unwrap());
        assert!(self.child.wait().unwrap().success());
        self.notified("ended: ");
        let lines = self.notified.lock().unwrap();
        let last = lines.iter().rev().find_map(|line| line.split_once("ended: ")).unwrap().1;
        last.split(' ').nth(3).unwrap().parse().unwrap()
    }

    /// Has it end; how often it was awake.
    pub(crate) fn end(self) -> usize {
        self.signal(Signal::TERM);
        self.ended()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server whose connections are each handled by a thread.
pub(crate) fn target(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let port = Port::new();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in port.listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            let thread = thread::Builder::new().stack_size(64 << 10);
            thread.spawn(move || handle(stream)).unwrap();
        }
    });
    port.address
}

/// Sends back what it reads, then ends.
pub(crate) fn echo() -> SocketAddr {
    target(|mut stream| {
        let mut buffer = vec![0; 8 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) if stream.write_all(&buffer[..count]).is_err() => break,
                Ok(_) => {}
            }
        }
    })
}

/// Nobody listens there.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Sends a word and waits until it is back.
pub(crate) fn answered(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, word);
}

/// Whether nothing comes for a moment.
pub(crate) fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    a_moment();
    let read = (&*stream).read(&mut [0; 1]);
    stream.set_nonblocking(false).unwrap();
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Everything until the end.
pub(crate) fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// The head and the body of an answer that ends the connection.
pub(crate) fn refusal(stream: &mut TcpStream) -> String {
    let text = String::from_utf8(rest(stream)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    for line in [
        "Content-Type: text/plain; charset=utf-8",
        "Retry-After: 5",
        "Connection: close",
        &format!("Content-Length: {}", body.len()),
    ] {
        assert!(head.lines().any(|one| one == line), "{line}: {head}");
    }
    body.to_owned()
}

pub(crate) fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

pub(crate) fn is_reset(stream: &mut TcpStream) -> bool {
    let error = stream.read_to_end(&mut Vec::new()).err().map(|error| error.kind());
    error == Some(io::ErrorKind::ConnectionReset)
}

pub(crate) fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// The supervisor's name, taken.
pub(crate) struct Supervisor(OwnedFd);

/// A supervisor with a proxy.
pub(crate) struct Link(OwnedFd);

impl Supervisor {
    pub(crate) fn new() -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        bind(&socket, &SocketAddrUnix::new_abstract_name(NAME.as_bytes()).unwrap()).unwrap();
        listen(&socket, 8).unwrap();
        Self(socket)
    }

    pub(crate) fn accept(&self) -> Link {
        assert!(readable(&self.0, PATIENCE), "no proxy connects");
        Link(accept_with(&self.0, SocketFlags::CLOEXEC).unwrap())
    }
}

fn readable(fd: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

impl Link {
    pub(crate) fn say(&self, words: impl AsRef<[u8]>) {
        send(&self.0, words.as_ref(), SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn try_say(&self, words: &[u8]) -> bool {
        send(&self.0, words, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    /// The next report.
    pub(crate) fn hear(&self) -> String {
        assert!(readable(&self.0, PATIENCE), "no report");
        let mut buffer = [0; 128];
        let (_, length) = recv(&self.0, &mut buffer, RecvFlags::empty()).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Reads reports until one begins so.
    pub(crate) fn until(&self, start: &str) -> String {
        loop {
            let report = self.hear();
            assert!(!report.is_empty(), "it is gone");
            if report.starts_with(start) {
                return report;
            }
        }
    }

    /// The next answer to an order to drain.
    pub(crate) fn drained(&self) -> bool {
        loop {
            match self.hear().as_str() {
                "drained" => return true,
                "busy" => return false,
                "" => panic!("it is gone"),
                _ => {}
            }
        }
    }
}
