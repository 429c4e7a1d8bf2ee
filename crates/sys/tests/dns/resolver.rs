//! A resolver to stand in for the host's: the name that is asked for says how it behaves.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::rdata::{A, Aaaa, Cname, Mx, Txt};

/// Who asked what: `udp a.example A`.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// Serves at `address`, port 53, for as long as the case lasts.
pub(crate) fn serve(address: &str) -> Log {
    let address: SocketAddr = format!("{address}:53").parse().unwrap();
    let log = Log::default();
    let udp = UdpSocket::bind(address).unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    let noted = Arc::clone(&log);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (read, from) = udp.recv_from(&mut buffer).unwrap();
            for reply in replies(&buffer[..read], "udp", &noted, address.ip()) {
                udp.send_to(&reply, from).unwrap();
            }
            forge(&buffer[..read], from);
        }
    });
    let noted = Arc::clone(&log);
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let noted = Arc::clone(&noted);
            thread::spawn(move || connection(stream.unwrap(), &noted, address.ip()));
        }
    });
    log
}

fn connection(mut stream: TcpStream, log: &Log, at: IpAddr) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).unwrap();
        for reply in replies(&question, "tcp", log, at) {
            let mut bytes = u16::try_from(reply.len()).unwrap().to_be_bytes().to_vec();
            bytes.extend(reply);
            // In pieces, as networks bring it.
            for piece in bytes.chunks(1000) {
                if stream.write_all(piece).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// For one name the answer comes from somebody else, who knows everything but cannot be the
/// resolver.
fn forge(question: &[u8], from: SocketAddr) {
    let message = Message::from_slice(question).unwrap();
    let name = message.sole_question().unwrap().qname().to_string();
    if name == "other.example" {
        let other = UdpSocket::bind("192.0.2.99:53").unwrap();
        other.send_to(&addresses(question, &["198.51.100.66"]), from).unwrap();
    }
}

fn replies(question: &[u8], transport: &str, log: &Log, at: IpAddr) -> Vec<Vec<u8>> {
    let message = Message::from_slice(question).unwrap();
    let asked = message.sole_question().unwrap();
    let (name, rtype) = (asked.qname().to_string(), asked.qtype());
    log.lock().unwrap().push(format!("{transport} {name} {rtype}"));
    let good = || addresses(question, &["198.51.100.1"]);
    let udp = transport == "udp";
    let one = |address: &str| vec![addresses(question, &[address])];
    let labels: Vec<&str> = name.split('.').collect();
    match labels[0] {
        "silent" | "other" => vec![],
        "private" => one("10.0.0.1"),
        "loopback" => one("127.0.0.1"),
        "metadata" => one("169.254.169.254"),
        "mapped" => one("::ffff:10.0.0.1"),
        "mixed" => vec![addresses(question, &["10.0.0.1", "198.51.100.1"])],
        "alias" => vec![alias(question)],
        "mail" => vec![mail(question)],
        "text" => vec![texts(question, 3)],
        "gone" => vec![with_rcode(question, Rcode::NXDOMAIN)],
        "broken" if at == "192.0.2.53".parse::<IpAddr>().unwrap() => {
            vec![with_rcode(question, Rcode::SERVFAIL)]
        }
        "old" if message.opt().is_some() => vec![with_rcode(question, Rcode::FORMERR)],
        "big" | "huge" if udp => vec![changed(good(), 2, 0x02)],
        "big" => {
            let all: Vec<String> = (0..100).map(|last| format!("198.51.100.{last}")).collect();
            vec![addresses(question, &all.iter().map(String::as_str).collect::<Vec<_>>())]
        }
        "huge" => vec![texts(question, 200)],
        // Each forged answer comes first, and says another address than the good one.
        "id" => vec![changed(addresses(question, &["198.51.100.66"]), 1, 1), good()],
        "asked" => vec![changed(addresses(question, &["198.51.100.66"]), 2, 0x80), good()],
        "name" => vec![changed(addresses(question, &["198.51.100.66"]), 13, 1), good()],
        "type" => {
            let place = question_end(question) - 3;
            vec![changed(addresses(question, &["198.51.100.66"]), place, 2), good()]
        }
        "garbage" => {
            let mut all: Vec<Vec<u8>> = (0..20).map(|seed| noise(seed, 300)).collect();
            all.push(question[..2].to_vec());
            all.push(vec![]);
            if udp {
                all.push(good());
            }
            all
        }
        "many" => {
            let number: u32 = labels[1].parse().unwrap();
            let all: Vec<String> = (0..16)
                .map(|last| IpAddr::from((0xc633_0000 + number * 16 + last).to_be_bytes()))
                .map(|address| address.to_string())
                .collect();
            vec![addresses(question, &all.iter().map(String::as_str).collect::<Vec<_>>())]
        }
        _ => vec![good()],
    }
}

fn question_end(question: &[u8]) -> usize {
    let name = Message::from_slice(question).unwrap().sole_question().unwrap();
    12 + domain::base::name::ToLabelIter::compose_len(name.qname()) as usize + 4
}

/// Bytes without meaning, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    let length = if length == 0 { 0 } else { usize::from(next()) * length / 255 };
    (0..length).map(|_| next()).collect()
}

fn changed(mut bytes: Vec<u8>, place: usize, value: u8) -> Vec<u8> {
    bytes[place] ^= value;
    bytes
}

fn with_rcode(question: &[u8], rcode: Rcode) -> Vec<u8> {
    let message = Message::from_slice(question).unwrap();
    MessageBuilder::new_vec().start_answer(message, rcode).unwrap().finish()
}

/// Those of the family that is asked for.
fn addresses(question: &[u8], addresses: &[&str]) -> Vec<u8> {
    let message = Message::from_slice(question).unwrap();
    let mut answer = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR).unwrap();
    let asked = message.sole_question().unwrap();
    for address in addresses {
        match (address.parse().unwrap(), asked.qtype()) {
            (IpAddr::V4(v4), Rtype::A) => answer.push((asked.qname(), 60, A::new(v4))).unwrap(),
            (IpAddr::V6(v6), Rtype::AAAA) => {
                answer.push((asked.qname(), 60, Aaaa::new(v6))).unwrap();
            }
            _ => {}
        }
    }
    answer.finish()
}

fn alias(question: &[u8]) -> Vec<u8> {
    let message = Message::from_slice(question).unwrap();
    let mut answer = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR).unwrap();
    let asked = message.sole_question().unwrap();
    let target: Name<Vec<u8>> = "elsewhere.example.net".parse().unwrap();
    answer.push((asked.qname(), 60, Cname::new(&target))).unwrap();
    answer.push((&target, 60, A::from_octets(198, 51, 100, 7))).unwrap();
    let bank: Name<Vec<u8>> = "bank.example".parse().unwrap();
    answer.push((&bank, 60, A::from_octets(198, 51, 100, 66))).unwrap();
    answer.finish()
}

fn mail(question: &[u8]) -> Vec<u8> {
    let message = Message::from_slice(question).unwrap();
    let mut answer = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR).unwrap();
    let asked = message.sole_question().unwrap();
    answer.push((asked.qname(), 60, Mx::new(10, asked.qname()))).unwrap();
    answer.finish()
}

fn texts(question: &[u8], number: u8) -> Vec<u8> {
    let message = Message::from_slice(question).unwrap();
    let mut answer = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR).unwrap();
    let asked = message.sole_question().unwrap();
    for part in 0..number {
        let txt = Txt::<Vec<u8>>::build_from_slice(&[part; 200]).unwrap();
        answer.push((asked.qname(), 60, txt)).unwrap();
    }
    answer.finish()
}

/// What was asked for how often.
pub(crate) fn counted(log: &Log) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in log.lock().unwrap().iter() {
        *counts.entry(line.clone()).or_default() += 1;
    }
    counts
}
