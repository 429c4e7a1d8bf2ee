//! The stub with real sockets, namespaces and a resolver that stands in for the host's.
//!
//! Each case runs isolated, with an empty tmpfs on `/run`; the stub is this very program too, without a
//! single capability.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test without the usual harness, which clippy does not recognise as one"
)]

#[path = "../isolated/mod.rs"]
mod isolated;
mod resolver;
mod stage;

use std::io::{Read as _, Write as _};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use domain::base::Rtype;
use domain::base::iana::Rcode;
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;

use self::isolated::Suite;
use self::resolver::{counted, noise};
use self::stage::{
    Heard, NAMES, SERVE, Stage, client, connect, failed, found, prepare, question, soon, tcp,
    tcp_on, try_udp, udp, write_resolvers, write_rules,
};

const CASE: &str = "INSTANCES_DNS_CASE";

const CASES: [(&str, fn()); 13] = [
    ("answers_over_udp_and_tcp", answers_over_udp_and_tcp),
    ("a_refused_name_reaches_nobody", a_refused_name_reaches_nobody),
    ("names_of_the_local_network_reach_nobody", names_of_the_local_network_reach_nobody),
    ("long_answers_go_over_tcp", long_answers_go_over_tcp),
    ("rebinding_is_refused", rebinding_is_refused),
    ("forged_answers_are_not_heard", forged_answers_are_not_heard),
    ("a_resolver_that_fails_is_passed_over", a_resolver_that_fails_is_passed_over),
    ("without_resolvers_failure_is_fast_and_told", without_resolvers_failure_is_fast_and_told),
    ("new_rules_count_at_once", new_rules_count_at_once),
    ("a_flood_is_bounded", a_flood_is_bounded),
    ("idle_connections_are_bounded_and_end", idle_connections_are_bounded_and_end),
    ("garbage_does_no_harm", garbage_does_no_harm),
    ("nothing_is_served_without_passed_sockets", nothing_is_served_without_passed_sockets),
];

fn main() -> ExitCode {
    if env::var_os(SERVE).is_some() {
        let Err(error) = stage::serve() else { return ExitCode::SUCCESS };
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    if let Ok(case) = env::var(CASE) {
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        prepare();
        CASES.iter().find(|(name, _)| *name == case).unwrap().1();
        return ExitCode::SUCCESS;
    }
    let suite = Suite {
        case: CASE,
        needs: &["setpriv --version"],
        unshare: &["-p", "-f", "--mount-proc", "--kill-child"],
        threads: 2,
    };
    suite.run(CASES.into_iter().map(|(name, _)| name))
}

// The cases.

fn answers_over_udp_and_tcp() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("open");
    for capabilities in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(stage.status(capabilities), "0000000000000000");
    }
    assert_eq!(udp("Good.Example.", Rtype::A, None), found(&["198.51.100.1"]));
    assert_eq!(udp("good.example", Rtype::AAAA, Some(4096)), found(&[]));
    assert_eq!(tcp("good.example", Rtype::A), found(&["198.51.100.1"]));
    assert_eq!(udp("mail.example", Rtype::MX, None), found(&["10 mail.example."]));
    assert_eq!(udp("gone.example", Rtype::A, None), failed(Rcode::NXDOMAIN));
    let alias = udp("alias.example", Rtype::A, None);
    assert_eq!(alias, found(&["elsewhere.example.net.", "198.51.100.7"]), "and no bank");
    assert_eq!(udp("old.example", Rtype::A, Some(1232)), found(&["198.51.100.1"]));
    assert_eq!(udp("localhost", Rtype::A, None), found(&["127.0.0.1"]));
    assert_eq!(tcp("x.localhost", Rtype::AAAA), found(&["::1"]));
    let mut stream = connect();
    for _ in 0..3 {
        assert_eq!(tcp_on(&mut stream, "good.example", Rtype::A).unwrap().records.len(), 1);
    }
    let seen = counted(&log);
    assert_eq!(seen["udp good.example A"], 5, "in lower case: {seen:?}");
    assert!(!seen.keys().any(|line| line.contains("localhost")), "{seen:?}");
    let lines = ["198.51.100.1 good.example\n", "198.51.100.7 alias.example\n"];
    let text = || fs::read_to_string(NAMES).unwrap_or_default();
    assert!(soon(|| lines.iter().all(|line| text().contains(line))), "{}", text());
    assert!(!text().contains("localhost"));
    let before = stage.ticks();
    thread::sleep(Duration::from_secs(2));
    assert!(stage.ticks() - before <= 2, "nothing to do, nothing done");
    assert!(stage.end().success());
}

fn a_refused_name_reaches_nobody() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("names\ngood.example\n*.wild.example");
    for name in ["good.example", "GOOD.example", "a.wild.example", "a.b.wild.example"] {
        assert_eq!(udp(name, Rtype::A, None), found(&["198.51.100.1"]), "{name}");
    }
    assert_eq!(tcp("alias.wild.example", Rtype::A).records.len(), 2, "aliases lead anywhere");
    let refused = failed(Rcode::REFUSED);
    let mut names: Vec<String> = ["wild.example", "x.good.example", "good.example.evil", ".", "a"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    names.extend((0..200).map(|part| format!("secret-{part}.evil.example")));
    for name in &names {
        assert_eq!(udp(name, Rtype::A, None), refused, "{name}");
    }
    for rtype in [Rtype::TXT, Rtype::HTTPS, Rtype::NS, Rtype::PTR] {
        assert_eq!(tcp("secret.evil.example", rtype), refused);
    }
    for rtype in [Rtype::ANY, Rtype::AXFR, Rtype::IXFR] {
        assert_eq!(tcp("good.example", rtype), refused);
    }
    assert_eq!(udp("good.example", Rtype::HTTPS, None), found(&[]), "it exists, without hints");
    for _ in 0..50 {
        assert_eq!(udp("again.evil.example", Rtype::A, None), refused);
    }
    let seen = counted(&log);
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(seen["udp good.example A"], 2);
    stage.recorded(&[
        "PRIORITY=5",
        &format!("MESSAGE_ID={}", instances_core::events::REFUSED),
        "SYSLOG_IDENTIFIER=opencode-dns@foo",
        "OPENCODE_INSTANCE=foo",
        "OPENCODE_PROTOCOL=dns",
        "OPENCODE_NAME=x.good.example",
        "OPENCODE_COUNT=1",
        "OPENCODE_POLICY=allow-list",
    ]);
    assert!(stage.records("OPENCODE_NAME=") <= 100, "bounded");
    assert!(stage.end().success());
}

fn names_of_the_local_network_reach_nobody() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("open\nnas.lan");
    let gone = failed(Rcode::NXDOMAIN);
    for name in ["router", "tv.local", "tv.lan", "tv.home.arpa", "vault.internal"] {
        assert_eq!(udp(name, Rtype::A, None), gone, "{name}");
    }
    for name in ["1.0.0.10.in-addr.arpa", "168.192.in-addr.arpa"] {
        assert_eq!(udp(name, Rtype::PTR, None), gone, "{name}");
    }
    assert_eq!(udp("nas.lan", Rtype::A, None), found(&["198.51.100.1"]), "listed");
    assert_eq!(counted(&log).len(), 1, "{:?}", counted(&log));
    stage.recorded(&["OPENCODE_NAME=vault.internal", "OPENCODE_REASON=local"]);
    assert!(stage.end().success());
}

fn long_answers_go_over_tcp() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("open");
    let truncated = Heard { truncated: true, ..found(&[]) };
    for size in [None, Some(100), Some(1232), Some(65535)] {
        assert_eq!(udp("big.example", Rtype::A, size), truncated);
    }
    assert_eq!(udp("text.example", Rtype::TXT, None), truncated, "longer than 512");
    assert_eq!(udp("text.example", Rtype::TXT, Some(1232)).records.len(), 3);
    assert_eq!(tcp("big.example", Rtype::A).records.len(), 100);
    let seen = counted(&log);
    assert_eq!(seen["udp big.example A"], 5);
    assert_eq!(seen["tcp big.example A"], 5);
    assert_eq!(tcp("huge.example", Rtype::TXT), failed(Rcode::SERVFAIL), "longer than is held");
    assert!(stage.end().success());
}

fn rebinding_is_refused() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("open");
    for name in ["private.example", "loopback.example", "metadata.example"] {
        assert_eq!(udp(name, Rtype::A, None), found(&[]), "{name}");
        assert_eq!(tcp(name, Rtype::A), found(&[]), "{name}");
        let name = format!("OPENCODE_NAME={name}");
        stage.recorded(&[&name, "OPENCODE_REASON=address", "OPENCODE_COUNT=1"]);
    }
    assert_eq!(udp("mapped.example", Rtype::AAAA, None), found(&[]));
    stage.recorded(&["OPENCODE_NAME=mapped.example", "OPENCODE_ADDRESS=::ffff:10.0.0.1"]);
    assert_eq!(udp("mixed.example", Rtype::A, None), found(&["198.51.100.1"]));
    assert_eq!(stage.records("OPENCODE_NAME=mixed.example"), 0);
    assert_eq!(counted(&log)["udp private.example A"], 2, "it was asked, and answered");
    assert!(soon(
        || fs::read_to_string(NAMES).is_ok_and(|text| text == "198.51.100.1 mixed.example\n")
    ));
    assert!(stage.end().success());
}

fn forged_answers_are_not_heard() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("open");
    for name in ["id.example", "asked.example", "name.example", "type.example", "garbage.example"] {
        assert_eq!(udp(name, Rtype::A, None), found(&["198.51.100.1"]), "{name}");
    }
    assert_eq!(udp("other.example", Rtype::A, None), failed(Rcode::SERVFAIL), "another sender");
    assert!(counted(&log)["udp other.example A"] >= 2, "{:?}", counted(&log));
    assert!(stage.end().success());
}

fn a_resolver_that_fails_is_passed_over() {
    let first = resolver::serve("192.0.2.53");
    let second = resolver::serve("192.0.2.54");
    // Nobody is at the first address, and the second says that it cannot.
    write_resolvers(&["192.0.2.99", "192.0.2.53", "192.0.2.54"]);
    let stage = Stage::start("open");
    let start = Instant::now();
    assert_eq!(udp("broken.example", Rtype::A, None), found(&["198.51.100.1"]));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(counted(&first).len(), 1);
    assert_eq!(udp("good.example", Rtype::A, None), found(&["198.51.100.1"]));
    assert_eq!(counted(&second)["udp good.example A"], 1, "the one that answered last");
    // A new list counts as soon as it is there.
    write_resolvers(&["192.0.2.53"]);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(udp("good.example", Rtype::A, None), found(&["198.51.100.1"]));
    assert_eq!(counted(&first)["udp good.example A"], 1);
    assert_eq!(stage.records("MESSAGE=Cannot"), 0);
    assert!(stage.end().success());
}

fn without_resolvers_failure_is_fast_and_told() {
    let broken = failed(Rcode::SERVFAIL);
    let stage = Stage::start("open");
    // One that refuses is not waited for, as one that says nothing is, for 1.4 s: at least one of three shows it on a busy host.
    let times = ["a.example", "b.example", "c.example"].map(|name| {
        let start = Instant::now();
        assert_eq!(udp(name, Rtype::A, None), broken);
        start.elapsed()
    });
    assert!(times.iter().any(|time| *time < Duration::from_millis(500)), "{times:?}");
    assert_eq!(tcp("a.example", Rtype::A), broken);
    let id = format!("MESSAGE_ID={}", instances_sys::dns::TROUBLE_ID);
    assert!(soon(|| stage.records("192.0.2.53: Connection refused") == 1));
    stage.recorded(&[&id, "PRIORITY=4"]);
    stage.notified("STATUS=Cannot resolve names");
    let log = resolver::serve("192.0.2.53");
    assert_eq!(udp("good.example", Rtype::A, None), found(&["198.51.100.1"]));
    stage.recorded(&[&id, "PRIORITY=6", "MESSAGE=Names can be resolved again"]);
    // One that says nothing: before the client gives up.
    let start = Instant::now();
    assert_eq!(udp("silent.example", Rtype::A, None), broken);
    assert!(start.elapsed() < Duration::from_millis(4900), "{:?}", start.elapsed());
    assert_eq!(counted(&log)["udp silent.example A"], 2);
    write_resolvers(&[]);
    // The host's own list, which is no part of this case, leads nowhere from this namespace.
    assert!(soon(|| stage.records("MESSAGE=Cannot") >= 2));
    assert_eq!(stage.records("MESSAGE=Cannot"), 2);
    assert!(stage.end().success());
}

fn new_rules_count_at_once() {
    let log = resolver::serve("192.0.2.53");
    let stage = Stage::start("names\na.example");
    assert_eq!(udp("b.example", Rtype::A, None), failed(Rcode::REFUSED));
    write_rules("names\nb.example");
    stage.signal(Signal::HUP);
    assert!(soon(|| udp("b.example", Rtype::A, None) == found(&["198.51.100.1"])));
    assert_eq!(udp("a.example", Rtype::A, None), failed(Rcode::REFUSED));
    // Rules that cannot be read open nothing.
    fs::remove_file("/run/rules").unwrap();
    stage.signal(Signal::HUP);
    stage.notified("keeps the rules it had");
    assert_eq!(udp("a.example", Rtype::A, None), failed(Rcode::REFUSED));
    assert_eq!(udp("b.example", Rtype::A, None), found(&["198.51.100.1"]));
    assert!(!counted(&log).contains_key("udp a.example A"));
    assert!(stage.end().success());
}

fn a_flood_is_bounded() {
    let log = resolver::serve("192.0.2.53");
    let mut stage = Stage::start("open");
    udp("good.example", Rtype::A, None);
    let before = stage.memory();
    let answered =
        || try_udp("good.example", Rtype::A, None).ok() == Some(found(&["198.51.100.1"]));
    let client = client();
    // Refused, answered, remembered, and never answered: as fast as they can be sent.
    let mut most = 0;
    for number in 0..10_000_u32 {
        let name = match number % 4 {
            0 => format!("{number}.{}.local", "x".repeat(60)),
            1 => format!("many.{}.{}.example", number / 4, "y".repeat(60)),
            2 => format!("good.{number}.example"),
            _ => format!("silent.{number}.example"),
        };
        client.send(&question(1, &name, Rtype::A, Some(1232))).unwrap();
        if number % 100 == 0 {
            most = most.max(stage.memory());
            assert!(stage.descriptors() < 128 + 32 + 16);
        }
    }
    thread::sleep(Duration::from_secs(1));
    most = most.max(stage.memory());
    // What is remembered, at its fullest: 256 answers with 16 addresses each, and more.
    let mut buffer = [0; 4096];
    // A name that somebody answers for is not held up for long by those that nobody does.
    let start = Instant::now();
    assert!(soon(answered), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
    for number in 0..600 {
        let name = format!("many.{number}.{}.example", "z".repeat(60));
        let sender = &client;
        sender.set_nonblocking(true).unwrap();
        while sender.recv(&mut buffer).is_ok() {}
        sender.send(&question(1, &name, Rtype::A, Some(1232))).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert!(soon(answered));
    most = most.max(stage.memory());
    assert!(soon(|| fs::read_to_string(NAMES).is_ok_and(|text| text.lines().count() == 4096)));
    assert!(most < 3000, "{before} kB before, {most} kB at most");
    println!("{before} kB before, {most} kB at most, all {}", stage.status("VmRSS"));
    assert!(stage.runs());
    // A hundred, thrice: over, at the first flush and at the end.
    assert!(stage.records("OPENCODE_NAME=") <= 300, "{}", stage.records("OPENCODE_NAME="));
    let silent = log.lock().unwrap().iter().filter(|line| line.contains("silent")).count();
    assert!(silent > 0, "some were on their way");
    assert!(stage.end().success());
}

fn idle_connections_are_bounded_and_end() {
    resolver::serve("192.0.2.53");
    let stage = Stage::start("open");
    let mut idle: Vec<_> = (0..100).map(|_| connect()).collect();
    for stream in idle.iter_mut().take(50) {
        stream.write_all(&[0]).unwrap();
    }
    thread::sleep(Duration::from_millis(300));
    assert!(stage.descriptors() < 32 + 16, "{}", stage.descriptors());
    assert_eq!(udp("good.example", Rtype::A, None), found(&["198.51.100.1"]), "others go on");
    let before = stage.ticks();
    let start = Instant::now();
    let mut rest = Vec::new();
    assert_eq!(idle[0].read_to_end(&mut rest).unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(stage.ticks() - before < 50, "and not by asking all the time");
    drop(idle);
    assert!(soon(|| stage.descriptors() < 16));
    assert_eq!(tcp("good.example", Rtype::A), found(&["198.51.100.1"]));
    // Several questions at a time are answered in their order; who takes no answer is let go.
    let mut stream = connect();
    let one = question(5, "good.example", Rtype::A, None);
    let mut bytes = u16::try_from(one.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(&one);
    stream.write_all(&bytes.repeat(30)).unwrap();
    for _ in 0..30 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..2], [0, 5]);
    }
    // A client that goes while its question is on its way costs no time.
    let mut gone = connect();
    let slow = question(5, "silent.example", Rtype::A, None);
    gone.write_all(&u16::try_from(slow.len()).unwrap().to_be_bytes()).unwrap();
    gone.write_all(&slow).unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(gone);
    let before = stage.ticks();
    thread::sleep(Duration::from_secs(2));
    assert!(stage.ticks() - before < 20, "{}", stage.ticks() - before);
    assert!(stage.end().success());
}

fn garbage_does_no_harm() {
    resolver::serve("192.0.2.53");
    let mut stage = Stage::start("names\n*.example");
    let client = client();
    client.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let model = question(1, "good.example", Rtype::A, Some(1232));
    for seed in 0..20_000 {
        let mut bytes = noise(seed, 1400);
        if seed % 2 == 0 {
            // Mostly a question.
            let place = usize::try_from(seed).unwrap() / 2 % model.len();
            let change = *bytes.first().unwrap_or(&1);
            bytes.clone_from(&model);
            bytes[place] ^= change;
        }
        let _ = client.send(&bytes);
        while client.recv(&mut buffer).is_ok() {}
    }
    for seed in 0..200 {
        let mut stream = connect();
        let _ = stream.write_all(&noise(seed, 3000));
    }
    let good = || try_udp("good.example", Rtype::A, None).ok();
    assert!(soon(|| good() == Some(found(&["198.51.100.1"]))));
    let mut long = connect();
    long.write_all(&[0xff, 0xff, 0, 0]).unwrap();
    let start = Instant::now();
    assert_eq!(long.read(&mut buffer).unwrap_or(0), 0);
    assert!(start.elapsed() < Duration::from_secs(4), "not after its time: {:?}", start.elapsed());
    assert_eq!(tcp("garbage.example", Rtype::A), found(&["198.51.100.1"]));
    assert!(stage.runs());
    assert!(stage.memory() < 3000, "{}", stage.memory());
    assert!(stage.end().success());
}

fn nothing_is_served_without_passed_sockets() {
    write_rules("open");
    let refusal = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(env::current_exe().unwrap()).env(SERVE, "1");
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refusal("exec \"$0\"").contains("start this through a socket unit"));
    let others = refusal("LISTEN_PID=1 LISTEN_FDS=2 exec \"$0\"");
    assert!(others.contains("start this through a socket unit"), "{others}");
    let one = refusal("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\"");
    assert!(one.contains("1 sockets were passed"), "{one}");
    let file = refusal("LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" 3</dev/null 4</dev/null");
    assert!(file.contains("cannot use a passed socket"), "{file}");
}
