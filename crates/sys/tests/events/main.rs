//! The reader of refused packets with the real kernel: real namespaces, the real nft, and a journal
//! that stands in for the real one.
//!
//! Each case runs isolated, with an empty tmpfs on `/run`; the reader is this very program too.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a test without the usual harness, which clippy does not recognise as one"
)]

#[path = "../isolated/mod.rs"]
mod isolated;
mod stage;

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use instances_core::events::{LOST, REFUSED};
use instances_sys::events::{BURST, PER_SECOND};
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;

use self::isolated::Suite;
use self::stage::{Flood, READER, Reader, Stage, field, number, read_until_stopped};

const CASE: &str = "INSTANCES_EVENTS_CASE";

const CASES: [(&str, fn()); 11] = [
    ("every_protocol_is_told", every_protocol_is_told),
    ("odd_packets_are_told", odd_packets_are_told),
    ("what_comes_in_is_told_by_its_sender", what_comes_in_is_told_by_its_sender),
    ("a_flow_is_told_at_once_and_then_seldom", a_flow_is_told_at_once_and_then_seldom),
    ("names_are_told", names_are_told),
    ("a_flood_is_counted_and_few_records_are_written", a_flood_is_counted),
    ("a_flood_that_is_logged_whole_is_told_or_lost", a_flood_that_is_logged_whole),
    ("a_stopped_reader_tells_what_it_missed", a_stopped_reader_tells_what_it_missed),
    ("a_killed_reader_changes_no_verdict", a_killed_reader_changes_no_verdict),
    ("nothing_is_read_with_a_capability", nothing_is_read_with_a_capability),
    ("one_reader_and_not_without_its_capability", one_reader),
];

fn main() -> ExitCode {
    if env::var_os(READER).is_some() {
        return read_until_stopped();
    }
    if let Ok(case) = env::var(CASE) {
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        CASES.iter().find(|(name, _)| *name == case).unwrap().1();
        return ExitCode::SUCCESS;
    }
    // One at a time: floods want the processor for themselves.
    let suite = Suite {
        case: CASE,
        needs: &["unshare -n nft list ruleset", "setpriv --version"],
        unshare: &[],
        threads: 1,
    };
    suite.run(CASES.into_iter().map(|(name, _)| name))
}

// The cases.

const SECOND: Duration = Duration::from_secs(1);

fn every_protocol_is_told() {
    let stage = Stage::new();
    let _reader = Reader::start().until_ready();
    for (protocol, icmp, to) in [("tcp", "icmp", "192.0.2.7"), ("tcp", "icmpv6", "2001:db8::7")] {
        let to: IpAddr = to.parse().unwrap();
        let error = TcpStream::connect_timeout(&SocketAddr::new(to, 443), SECOND).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
        let record = stage.record();
        assert_eq!(field(&record, "OPENCODE_PROTOCOL"), protocol);
        assert_eq!(field(&record, "OPENCODE_ADDRESS"), to.to_string());
        assert_eq!(field(&record, "OPENCODE_PORT"), "443");
        assert_eq!(field(&record, "OPENCODE_DIRECTION"), "out");
        assert_eq!(field(&record, "OPENCODE_INSTANCE"), "foo");
        assert_eq!(field(&record, "OPENCODE_POLICY"), "allow-list");
        assert_eq!(field(&record, "OPENCODE_COUNT"), "1");
        assert_eq!(field(&record, "MESSAGE_ID"), REFUSED);
        assert_eq!(field(&record, "SYSLOG_IDENTIFIER"), "opencode-events@foo");
        assert_eq!(field(&record, "PRIORITY"), "5");
        let words = format!("refused tcp to {to} port 443 (policy allow-list)");
        assert_eq!(field(&record, "MESSAGE"), words);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_micros() - u128::from(number(&record, "OPENCODE_FIRST_USEC"));
        assert!(age < 5_000_000, "{age}");
        assert!(!record.contains_key("OPENCODE_NAME"));

        Stage::udp(to, 53);
        let record = stage.record();
        assert_eq!(field(&record, "OPENCODE_PROTOCOL"), "udp");
        assert_eq!(field(&record, "OPENCODE_ADDRESS"), to.to_string());
        assert_eq!(field(&record, "OPENCODE_PORT"), "53");

        Stage::ping(to);
        let record = stage.record();
        assert_eq!(field(&record, "OPENCODE_PROTOCOL"), icmp);
        assert_eq!(field(&record, "OPENCODE_ADDRESS"), to.to_string());
        assert!(!record.contains_key("OPENCODE_PORT"));
        let kind = if to.is_ipv4() { "8" } else { "128" };
        assert_eq!(field(&record, "OPENCODE_ICMP_TYPE"), kind);
    }
}

fn odd_packets_are_told() {
    let stage = Stage::new();
    let _reader = Reader::start().until_ready();
    let header = |protocol: u8, fragment: u16| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 7];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7]);
        packet
    };
    let ports = [0x12, 0x34, 0x01, 0xbb];
    for (packet, protocol, port) in [
        ([&header(17, 0x2000)[..], &ports].concat(), "udp", Some("443")),
        // Another flow: it has no port, whatever its bytes say.
        ([&header(17, 0x0004)[..], &ports].concat(), "udp", None),
        (header(6, 0), "tcp", None),
        ([&header(89, 0)[..], &ports].concat(), "protocol-89", None),
        ([&header(47, 0)[..], &ports].concat(), "gre", None),
    ] {
        Stage::raw(&packet);
        let record = stage.record();
        assert_eq!(field(&record, "OPENCODE_PROTOCOL"), protocol, "{packet:?}");
        assert_eq!(field(&record, "OPENCODE_ADDRESS"), "192.0.2.7");
        assert_eq!(record.get("OPENCODE_PORT").map(String::as_str), port, "{packet:?}");
    }
    Stage::log_everything();
    // Ten thousand that make no sense, which the kernel sends as they are: none stops the reader.
    let mut seed = 0x2545_f491_u32;
    for _ in 0..10_000 {
        let mut packet = header(0, 0);
        for byte in packet.iter_mut().skip(6).take(4) {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = u8::try_from(seed >> 24).unwrap();
        }
        packet.extend(seed.to_be_bytes().iter().take(usize::try_from(seed % 4).unwrap()));
        Stage::raw(&packet);
    }
    Stage::udp("192.0.2.8".parse().unwrap(), 9);
    stage.until(|record| record.get("OPENCODE_PROTOCOL").is_some_and(|word| word == "other"));
}

fn what_comes_in_is_told_by_its_sender() {
    let stage = Stage::new();
    let _reader = Reader::start().until_ready();
    Stage::nft(
        "add chain inet opencode input { type filter hook input priority 0; policy accept; }
        add rule inet opencode input udp dport 4097 log prefix \"opencode\" group 1 drop",
    );
    let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
    socket.send_to(b"?", "127.0.0.1:4097").unwrap();
    let record = stage.record();
    assert_eq!(field(&record, "OPENCODE_DIRECTION"), "in");
    assert_eq!(field(&record, "OPENCODE_ADDRESS"), "127.0.0.9");
    assert_eq!(field(&record, "OPENCODE_PORT"), "4097");
    assert!(field(&record, "MESSAGE").starts_with("refused udp from 127.0.0.9 port 4097"));
}

fn a_flow_is_told_at_once_and_then_seldom() {
    let stage = Stage::new();
    let reader = Reader::start().until_ready();
    let start = Instant::now();
    let to = "192.0.2.7".parse().unwrap();
    Stage::udp(to, 53);
    assert_eq!(field(&stage.record(), "OPENCODE_COUNT"), "1");
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    for _ in 0..40 {
        Stage::udp(to, 53);
    }
    let record = stage.record_within(SECOND * 20);
    assert!(start.elapsed() > SECOND * 9, "{:?}", start.elapsed());
    assert_eq!(field(&record, "OPENCODE_COUNT"), "40");
    assert!(field(&record, "MESSAGE").contains("port 53, 40 times"));
    assert!(number(&record, "OPENCODE_FIRST_USEC") <= number(&record, "OPENCODE_LAST_USEC"));
    // What is not told yet is told at the end.
    Stage::udp(to, 53);
    std::thread::sleep(SECOND / 2);
    reader.end(Signal::TERM);
    assert_eq!(field(&stage.record(), "OPENCODE_COUNT"), "1");
}

fn names_are_told() {
    let stage = Stage::new();
    let directory = "/run/opencode-instances/foo/dns";
    fs::create_dir_all(directory).unwrap();
    fs::write(format!("{directory}/names"), "192.0.2.7 example.org\n").unwrap();
    let _reader = Reader::start().until_ready();
    Stage::udp("192.0.2.7".parse().unwrap(), 53);
    let record = stage.record();
    assert_eq!(field(&record, "OPENCODE_NAME"), "example.org");
    assert!(field(&record, "MESSAGE").contains("192.0.2.7 port 53 (example.org)"));
    fs::write(format!("{directory}/names"), "192.0.2.8 evil\u{1b}[2J\n").unwrap();
    Stage::udp("192.0.2.8".parse().unwrap(), 53);
    assert!(!stage.record().contains_key("OPENCODE_NAME"));
}

/// As the rules have it: the log is limited, the refusal is not.
fn a_flood_is_counted() {
    let stage = Stage::new();
    let reader = Reader::start().until_ready();
    let flood = Flood::of(SECOND * 4, 1);
    println!("{flood}");
    reader.end(Signal::TERM);
    assert_eq!(Stage::refused(), flood.sent);
    let records = stage.all();
    let (told, lost) = stage::sum(&records);
    assert!(told <= 100 + 50 * 5, "{told}");
    assert_eq!(lost, 0);
    assert!(records.len() <= 3, "{} records of one flow", records.len());
}

/// Without a limit on the log, to many destinations: every packet is in a record or in a loss.
fn a_flood_that_is_logged_whole() {
    let stage = Stage::new();
    Stage::log_everything();
    let mut reader = Reader::start().until_ready();
    let flood = Flood::of(SECOND * 4, 60_000);
    println!("{flood}");
    // The last packet tells whether those before it were lost.
    std::thread::sleep(SECOND);
    Stage::udp("192.0.2.200".parse().unwrap(), 9);
    std::thread::sleep(SECOND / 2);
    println!("resident: {} KiB", reader.resident());
    assert!(cfg!(debug_assertions) || reader.resident() < 7 << 9, "{} KiB", reader.resident());
    let took = flood.took + SECOND * 2;
    reader.end(Signal::TERM);
    assert_eq!(Stage::refused(), flood.sent + 1);
    let records = stage.all();
    let (told, lost) = stage::sum(&records);
    println!("{} records tell {told} packets, {lost} are lost", records.len());
    assert_eq!(told + lost, flood.sent + 1);
    // At the end each flow may have a last one.
    let seconds = u32::try_from(took.as_secs()).unwrap() + 1;
    let allowed = usize::try_from(BURST + PER_SECOND * seconds).unwrap() + 256 + 5;
    assert!(records.len() <= allowed, "{} records, {allowed} allowed", records.len());
}

fn a_stopped_reader_tells_what_it_missed() {
    let stage = Stage::new();
    Stage::log_everything();
    let reader = Reader::start().until_ready();
    Stage::udp("192.0.2.7".parse().unwrap(), 53);
    stage.record();
    reader.signal(Signal::STOP);
    let flood = Flood::of(SECOND, 1);
    reader.signal(Signal::CONT);
    std::thread::sleep(SECOND / 2);
    Stage::udp("192.0.2.7".parse().unwrap(), 53);
    let record = stage.until(|record| field(record, "MESSAGE_ID") == LOST);
    assert_ne!(number(&record, "OPENCODE_OVERRUNS"), 0);
    let mut records = vec![record];
    std::thread::sleep(SECOND / 2);
    reader.end(Signal::TERM);
    records.extend(stage.all());
    let (told, lost) = stage::sum(&records);
    println!("{flood}: {told} told, {lost} lost");
    assert!(lost > 1000, "{lost}");
    // The first record was read above, and others may have been on the way to the loss.
    assert!(told + lost < flood.sent + 2 && told + lost + 3 >= flood.sent, "{told} {lost} {flood}");
    assert_eq!(Stage::refused(), flood.sent + 2);
}

fn a_killed_reader_changes_no_verdict() {
    let _stage = Stage::new();
    let to = SocketAddr::from(([192, 0, 2, 7], 443));
    let mut tries = 0;
    let mut refused = || {
        tries += 1;
        let error = TcpStream::connect_timeout(&to, SECOND * 10).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    };
    refused();
    for _ in 0..5 {
        let reader = Reader::start().until_ready();
        refused();
        reader.signal(Signal::KILL);
        for _ in 0..10 {
            refused();
        }
        // The group is free at once for the next one.
        drop(reader);
    }
    assert_eq!(Stage::refused(), tries);
}

fn nothing_is_read_with_a_capability() {
    let _stage = Stage::new();
    let zero = "0000000000000000";
    let all = Reader::start().until_ready();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(all.status(set), zero, "{set}");
    }
    assert_eq!(all.status("NoNewPrivs"), "1");
    drop(all);
    // As units may start it: an ordinary user with one capability. What stays in the bounding set
    // grants nothing.
    let one = Reader::start_as("-all,+net_admin").until_ready();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(one.status(set), zero, "{set}");
    }
    assert_eq!(
        (one.status("NoNewPrivs"), one.status("CapBnd")),
        ("1".into(), "0000000000001000".into())
    );
    drop(one);
    // With a second one it can empty that too.
    let two = Reader::start_as("-all,+net_admin,+setpcap").until_ready();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(two.status(set), zero, "{set}");
    }
    drop(two);
}

fn one_reader() {
    let stage = Stage::new();
    let first = Reader::start().until_ready();
    let words = Reader::start().refusal();
    assert!(words.contains("is read by another program"), "{words}");
    Stage::udp("192.0.2.7".parse().unwrap(), 53);
    stage.record();
    drop(first);
    let words = Reader::start_as("-all").refusal();
    assert!(words.contains("needs CAP_NET_ADMIN"), "{words}");
}
