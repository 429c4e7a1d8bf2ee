//! What the cases are made of.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use instances_core::events::LOST;
use instances_sys::events;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket_with};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const READER: &str = "INSTANCES_EVENTS_READER";
const JOURNAL: &str = "/run/systemd/journal/socket";
const NOTIFY: &str = "/run/notify";
const PROGRAM: &str = "/run/reader";

/// A record: fields with their values.
pub(crate) type Record = HashMap<String, String>;

pub(crate) fn field<'a>(record: &'a Record, name: &str) -> &'a str {
    record.get(name).unwrap_or_else(|| panic!("no {name} in {record:?}"))
}

pub(crate) fn number(record: &Record, name: &str) -> u64 {
    field(record, name).parse().unwrap()
}

/// The packets that records tell, and those that they tell to be lost: in the log, or with a record
/// that the journal did not take.
pub(crate) fn sum(records: &[Record]) -> (u64, u64) {
    let (mut told, mut lost) = (0, 0);
    for record in records {
        if field(record, "MESSAGE_ID") == LOST {
            lost += number(record, "OPENCODE_LOST_PACKETS");
        } else {
            told += number(record, "OPENCODE_COUNT");
        }
    }
    (told, lost)
}

/// What the reader is in these tests: this program again.
pub(crate) fn read_until_stopped() -> ExitCode {
    let options = events::parse_args(env::args_os().skip(1)).unwrap();
    let Err(error) = events::run(&options) else { return ExitCode::SUCCESS };
    println!("{error}");
    ExitCode::FAILURE
}

/// A namespace with a policy that refuses everything, and a journal.
pub(crate) struct Stage {
    journal: Receiver<Vec<u8>>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind(JOURNAL).unwrap();
        fs::set_permissions(JOURNAL, fs::Permissions::from_mode(0o666)).unwrap();
        fs::copy(env::current_exe().unwrap(), PROGRAM).unwrap();
        let link = "ip link set lo up && ip link add d0 type veth peer name d1 && ip link set d1 up && ip link set d0 up && \
            ip addr add 192.0.2.1/24 dev d0 && ip -6 addr add 2001:db8::1/64 dev d0 nodad && \
            ip route add default dev d0 && ip -6 route add default dev d0";
        assert!(Command::new("sh").args(["-c", link]).status().unwrap().success());
        // The kernel keeps ten datagrams: the journal reads them as they come.
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = journal.recv(&mut buffer) {
                let _ = sender.send(buffer.get(..read).unwrap().to_vec());
            }
        });
        let this = Self { journal: receiver };
        Self::nft(&rules("limit rate 50/second burst 100 packets "));
        this
    }

    pub(crate) fn log_everything() {
        Self::nft(&rules(""));
    }

    pub(crate) fn nft(text: &str) {
        fs::write("/run/rules", text).unwrap();
        assert!(nft().args(["-f", "/run/rules"]).status().unwrap().success(), "{text}");
    }

    /// What nft counted.
    pub(crate) fn refused() -> u64 {
        let output = nft().args(["list", "counter", "inet", "opencode", "refused"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }

    /// The next record.
    pub(crate) fn record(&self) -> Record {
        self.record_within(Duration::from_secs(5))
    }

    pub(crate) fn record_within(&self, patience: Duration) -> Record {
        self.next(patience).unwrap_or_else(|| panic!("no record within {patience:?}"))
    }

    /// Every record that is there.
    pub(crate) fn all(&self) -> Vec<Record> {
        std::iter::from_fn(|| self.next(Duration::from_millis(100))).collect()
    }

    pub(crate) fn until(&self, wanted: impl Fn(&Record) -> bool) -> Record {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            let record = self.record_within(Duration::from_secs(20));
            if wanted(&record) {
                return record;
            }
        }
        panic!("not told");
    }

    fn next(&self, patience: Duration) -> Option<Record> {
        let record = self.journal.recv_timeout(patience).ok()?;
        let text = std::str::from_utf8(&record).unwrap();
        let fields = text.lines().map(|line| line.split_once('=').unwrap());
        Some(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub(crate) fn udp(to: IpAddr, port: u16) {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.send_to(b"?", (to, port)).unwrap_err();
    }

    pub(crate) fn ping(to: IpAddr) {
        let (family, protocol, kind) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
        };
        let socket =
            socket_with(family, SocketType::RAW, rustix::net::SocketFlags::empty(), Some(protocol));
        let echo = [kind, 0, 0, 0, 0, 1, 0, 1];
        let to = SocketAddr::new(to, 0);
        sendto(socket.unwrap(), &echo, SendFlags::empty(), &to).unwrap_err();
    }

    /// Sends a whole packet of version 4.
    pub(crate) fn raw(packet: &[u8]) {
        let flags = rustix::net::SocketFlags::empty();
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::RAW));
        let to = SocketAddr::from(([192, 0, 2, 7], 0));
        let _ = sendto(socket.unwrap(), packet, SendFlags::empty(), &to);
    }
}

fn rules(limit: &str) -> String {
    format!(
        "table inet opencode\ndelete table inet opencode\ntable inet opencode {{
            counter refused {{ }}
            chain output {{
                type filter hook output priority filter; policy drop;
                oif lo accept
                icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
                icmpv6 type mld2-listener-report drop
                {limit}log prefix \"opencode\" group 1
                meta l4proto tcp counter name refused reject with tcp reset
                counter name refused reject with icmpx admin-prohibited
            }}
        }}"
    )
}

fn nft() -> Command {
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut nft = Command::new("nft");
    nft.env("PATH", path);
    nft
}

/// A running reader.
pub(crate) struct Reader {
    child: Child,
    notify: UnixDatagram,
}

impl Reader {
    pub(crate) fn start() -> Self {
        Self::spawn(&mut Command::new(PROGRAM))
    }

    /// Starts it as a user with these capabilities only.
    pub(crate) fn start_as(capabilities: &str) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}={capabilities}"));
        }
        Self::spawn(command.arg(PROGRAM))
    }

    fn spawn(command: &mut Command) -> Self {
        let _ = fs::remove_file(NOTIFY);
        let notify = UnixDatagram::bind(NOTIFY).unwrap();
        fs::set_permissions(NOTIFY, fs::Permissions::from_mode(0o666)).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let command = command.args(["foo", "--policy", "allow-list"]).env(READER, "");
        let child = command.env("NOTIFY_SOCKET", NOTIFY).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, notify }
    }

    pub(crate) fn until_ready(self) -> Self {
        let mut buffer = [0; 256];
        let read = self.notify.recv(&mut buffer).unwrap();
        assert!(buffer.get(..read).unwrap().starts_with(b"READY=1"));
        self
    }

    /// Why it does not start.
    pub(crate) fn refusal(mut self) -> String {
        assert!(!self.child.wait().unwrap().success());
        let mut words = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut words).unwrap();
        words
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn end(mut self, signal: Signal) {
        self.signal(signal);
        assert!(self.child.wait().unwrap().success());
    }

    /// A line of `/proc/PID/status`.
    pub(crate) fn status(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    pub(crate) fn resident(&mut self) -> u64 {
        self.status("VmRSS").trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Packets as fast as they can be sent.
pub(crate) struct Flood {
    pub(crate) sent: u64,
    pub(crate) took: Duration,
}

impl Flood {
    /// To so many ports of one address, from two sockets.
    pub(crate) fn of(duration: Duration, ports: u16) -> Self {
        let start = Instant::now();
        let work = move || {
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            let mut sent = 0_u64;
            while start.elapsed() < duration {
                for _ in 0..100 {
                    let port = 1 + u16::try_from(sent % u64::from(ports)).unwrap();
                    // Not connected: an earlier refusal is no error of this one.
                    let error = socket
                        .send_to(b"?", ("192.0.2.7".parse::<IpAddr>().unwrap(), port))
                        .unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
                    sent += 1;
                }
            }
            sent
        };
        let sent = thread::scope(|scope| {
            let threads = [scope.spawn(work), scope.spawn(work)];
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        Self { sent, took: start.elapsed() }
    }
}

impl Display for Flood {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { sent, took } = self;
        let rate = u128::from(*sent) * 1000 / took.as_millis().max(1);
        write!(f, "{sent} packets in {took:?}: {rate} a second")
    }
}
