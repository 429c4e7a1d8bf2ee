//! What the cases are made of: two namespaces, the stub in the first with its sockets in the
//! second, and clients in the second.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use domain::base::iana::Rcode;
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::rdata::AllRecordData;
use instances_core::spec::InstanceName;
use instances_sys::dns::{self, Pattern, Rules};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const SERVE: &str = "INSTANCES_DNS_SERVE";
pub(crate) const NAMES: &str = "/run/dns/names";
const RULES: &str = "/run/rules";
const RESOLVERS: &str = "/run/systemd/resolve/resolv.conf";
const STUB: &str = "127.0.0.53:53";

/// The process under test.
pub(crate) fn serve() -> Result<(), dns::Error> {
    dns::run(&InstanceName::new("foo").unwrap(), &|| rules().ok_or("no rules".to_owned()))
}

/// The first line is `open` or `names`, the others are names.
fn rules() -> Option<Rules> {
    let text = fs::read_to_string(RULES).ok()?;
    let mut lines = text.lines();
    Some(Rules {
        policy: "allow-list".to_owned(),
        open: lines.next()? == "open",
        local: false,
        names: lines.map(|line| Pattern::new(line).unwrap()).collect(),
        permits: Box::new(|address| match address {
            IpAddr::V4(v4) => v4.octets()[0] == 198 && v4.octets()[1] == 51,
            IpAddr::V6(v6) => v6.segments()[0] == 0x2001,
        }),
    })
}

pub(crate) fn write_rules(text: &str) {
    fs::write(RULES, text).unwrap();
}

/// As an editor or a network manager would: another file by the same name.
pub(crate) fn write_resolvers(addresses: &[&str]) {
    let lines: String = addresses.iter().map(|one| format!("nameserver {one}\n")).collect();
    let new = format!("{RESOLVERS}.new");
    fs::write(&new, lines).unwrap();
    fs::rename(new, RESOLVERS).unwrap();
}

pub(crate) fn must(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&text));
}

type Lines = Arc<Mutex<Vec<String>>>;

/// The stub, with everything around it.
pub(crate) struct Stage {
    child: Child,
    records: Lines,
    notified: Lines,
}

fn collect(path: &str) -> Lines {
    let socket = UnixDatagram::bind(path).unwrap();
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            let read = socket.recv(&mut buffer).unwrap();
            kept.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
        }
    });
    lines
}

/// Makes the namespaces, once in a case.
pub(crate) fn prepare() {
    must("ip link set lo up && ip netns add inner && ip -n inner link set lo up");
    for last in [53, 54, 99] {
        must(&format!("ip addr add 192.0.2.{last}/32 dev lo"));
    }
    for directory in ["/run/systemd/resolve", "/run/systemd/journal", "/run/dns"] {
        fs::create_dir_all(directory).unwrap();
    }
    write_resolvers(&["192.0.2.53"]);
}

impl Stage {
    /// Starts the stub with these rules, and waits until it says that it is ready.
    pub(crate) fn start(rules: &str) -> Self {
        write_rules(rules);
        let records = collect("/run/systemd/journal/socket");
        let notified = collect("/run/notify");
        let (udp, tcp) =
            inside(|| (UdpSocket::bind(STUB).unwrap(), TcpListener::bind(STUB).unwrap()));
        // The shell stands in for systemd: it passes the sockets as descriptors 3 and 4, and takes
        // every capability.
        let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec setpriv --bounding-set=-all --inh-caps=-all \
                      --no-new-privs \"$0\" 3<&0 4<&1 </dev/null >/dev/null";
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(env::current_exe().unwrap())
            .env(SERVE, "1")
            .env("NOTIFY_SOCKET", "/run/notify")
            .env("RUNTIME_DIRECTORY", "/run/dns")
            .stdin(Stdio::from(OwnedFd::from(udp)))
            .stdout(Stdio::from(OwnedFd::from(tcp)))
            .spawn()
            .unwrap();
        let stage = Self { child, records, notified };
        stage.notified("READY=1");
        stage
    }

    pub(crate) fn notified(&self, words: &str) {
        let there = || self.notified.lock().unwrap().iter().any(|line| line.contains(words));
        assert!(soon(there), "{words}: {:?}", self.notified.lock().unwrap());
    }

    /// Whether a record of the journal has all these lines, before long.
    pub(crate) fn recorded(&self, lines: &[&str]) {
        let has = |record: &String| lines.iter().all(|line| record.lines().any(|it| it == *line));
        let there = || self.records.lock().unwrap().iter().any(has);
        assert!(soon(there), "{lines:?}: {:#?}", self.records.lock().unwrap());
    }

    pub(crate) fn records(&self, with: &str) -> usize {
        self.records.lock().unwrap().iter().filter(|record| record.contains(with)).count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn end(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// A line of `/proc/PID/status`.
    pub(crate) fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    /// Memory of its own, in kilobytes: without the program's text, which a test is full of.
    pub(crate) fn memory(&self) -> u64 {
        self.status("RssAnon").trim_end_matches(" kB").parse().unwrap()
    }

    /// Time on a processor, in ticks.
    pub(crate) fn ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

pub(crate) fn soon(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > Duration::from_secs(15) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Does something in the instance's namespace.
pub(crate) fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(Path::new("/run/netns/inner")).unwrap();
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

// Clients.

pub(crate) fn question(id: u16, name: &str, rtype: Rtype, size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((name.parse::<Name<Vec<u8>>>().unwrap(), rtype)).unwrap();
    let mut additional = question.additional();
    if let Some(size) = size {
        let fill = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(size);
            Ok(())
        };
        additional.opt(fill).unwrap();
    }
    additional.finish()
}

/// What a client hears: the response code, `TC`, and the records without names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) rcode: Rcode,
    pub(crate) truncated: bool,
    pub(crate) records: Vec<String>,
}

fn heard(question: &[u8], reply: &[u8]) -> Heard {
    let asked = Message::from_slice(question).unwrap();
    let reply = Message::from_slice(reply).unwrap();
    assert!(reply.is_answer(asked), "the question is echoed as it was typed");
    let record = |record: Result<domain::base::ParsedRecord<'_, [u8]>, _>| {
        let record = record.unwrap().into_any_record::<AllRecordData<_, _>>().unwrap();
        record.data().to_string()
    };
    Heard {
        rcode: reply.header().rcode(),
        truncated: reply.header().tc(),
        records: reply.answer().unwrap().map(record).collect(),
    }
}

pub(crate) fn client() -> UdpSocket {
    inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(STUB).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        socket
    })
}

pub(crate) fn connect() -> TcpStream {
    let stream = inside(|| TcpStream::connect(STUB)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    stream
}

pub(crate) fn udp(name: &str, rtype: Rtype, size: Option<u16>) -> Heard {
    try_udp(name, rtype, size).unwrap()
}

pub(crate) fn try_udp(name: &str, rtype: Rtype, size: Option<u16>) -> io::Result<Heard> {
    let client = client();
    let question = question(4711, name, rtype, size);
    client.send(&question)?;
    let mut buffer = [0; 4096];
    let read = client.recv(&mut buffer)?;
    assert!(read <= usize::from(size.unwrap_or(512).clamp(512, 1232)), "{read}");
    Ok(heard(&question, &buffer[..read]))
}

pub(crate) fn tcp_on(stream: &mut TcpStream, name: &str, rtype: Rtype) -> io::Result<Heard> {
    let question = question(815, name, rtype, Some(1232));
    let mut bytes = u16::try_from(question.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(&question);
    stream.write_all(&bytes)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Ok(heard(&question, &reply))
}

pub(crate) fn tcp(name: &str, rtype: Rtype) -> Heard {
    tcp_on(&mut connect(), name, rtype).unwrap()
}

pub(crate) fn found(records: &[&str]) -> Heard {
    let records = records.iter().map(ToString::to_string).collect();
    Heard { rcode: Rcode::NOERROR, truncated: false, records }
}

pub(crate) fn failed(rcode: Rcode) -> Heard {
    Heard { rcode, truncated: false, records: Vec::new() }
}
