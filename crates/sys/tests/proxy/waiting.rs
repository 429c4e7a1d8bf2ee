//! Clients that wait for the server, and what its supervisor says of it.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::Signal;

use super::stage::{
    NAME, Port, Stage, Start, Supervisor, a_moment, answered, echo, finish, has_all, is_reset,
    is_silent, narrow, nobody, refusal, reset, rest, soon, target,
};

const SUPERVISED: &[&str] = &["--supervisor", NAME, "--instance", "web"];

pub(crate) fn held_until_ready() {
    let port = Port::new();
    let mut early = {
        let stage = Stage::start(&port, echo(), SUPERVISED);
        // Before there is a supervisor at all.
        let mut early: Vec<_> = (0..300).map(|_| port.connect()).collect();
        for stream in &mut early {
            stream.write_all(b"early").unwrap();
        }
        assert!(is_silent(&early[0]));
        let supervisor = Supervisor::new();
        let link = supervisor.accept();
        link.say("starting");
        link.until("connections 300 ");
        let late = port.connect();
        assert!(is_silent(&late) && is_silent(&early[299]));
        link.say("ready");
        for stream in &mut early {
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"early");
        }
        answered(&mut port.connect(), b"at once");
        // A server that starts again under the same supervisor.
        link.say("starting");
        a_moment();
        let mut again = port.connect();
        again.write_all(b"x").unwrap();
        assert!(is_silent(&again));
        answered(&mut early[0], b"and those that are there go on");
        link.say("ready");
        assert_eq!(again.read(&mut [0]).unwrap(), 1);
        stage.end();
        early
    };
    assert!(is_reset(&mut early[0]), "it was not the server that ended");
}

pub(crate) fn gone_while_held() {
    let (sender, receiver) = mpsc::channel();
    let server = target(move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(&all);
        let _ = sender.send(all);
    });
    let port = Port::new();
    let stage = Stage::start(&port, server, SUPERVISED);
    let supervisor = Supervisor::new();
    let link = supervisor.accept();
    let streams: Vec<_> = (0..50).map(|_| port.connect()).collect();
    link.until("connections 50 ");
    drop(streams);
    link.until("connections 0 ");
    // With a reset, after it said something.
    let mut one = port.connect();
    one.write_all(b"GET").unwrap();
    link.until("connections 1 ");
    reset(one);
    link.until("connections 0 ");
    // Who ended only its own half gets its answer, and what was said is not lost.
    let mut half = port.connect();
    half.write_all(b"all that I have to say").unwrap();
    finish(&half);
    link.until("connections 1 ");
    a_moment();
    link.say("ready");
    assert_eq!(rest(&mut half), b"all that I have to say");
    let all = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(all, b"all that I have to say", "and nothing of the others");
    link.until("connections 0 ");
    assert!(receiver.try_recv().is_err());
    stage.end();
}

pub(crate) fn crash() {
    let port = Port::new();
    let stage = Stage::start(&port, echo(), SUPERVISED);
    let supervisor = Supervisor::new();
    let mut streams = Vec::new();
    for round in 0..20 {
        let link = supervisor.accept();
        link.say("starting");
        let mut held = port.connect();
        held.write_all(b"h").unwrap();
        link.until("connections ");
        if round == 0 {
            assert!(is_silent(&held));
        }
        link.say("ready");
        held.read_exact(&mut [0]).unwrap();
        answered(&mut held, b"goes on");
        streams.push(held);
        drop(link);
        if round == 0 {
            a_moment();
            for stream in &mut streams {
                answered(stream, b"the server lives on");
            }
        } else {
            // As the supervisor's end is seen after the next client came, or before.
            thread::sleep(Duration::from_millis(round));
        }
        // Held, so that the next supervisor is looked for.
        let waits = port.connect();
        streams.push(waits);
    }
    let link = supervisor.accept();
    link.say("ready");
    for stream in &mut streams {
        answered(stream, b"everybody");
    }
    stage.end();
}

fn failure_file() -> (PathBuf, String) {
    let directory = env::temp_dir().join(format!("proxy-failure-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("failure");
    let text = file.display().to_string();
    (file, text)
}

fn write(file: &PathBuf, text: &[u8]) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

pub(crate) fn failure() {
    let (file, path) = failure_file();
    let arguments = [SUPERVISED, &["--failure", &path]].concat();
    let port = Port::new();
    // Not there; there from the last time; replaced.
    for round in 0..3 {
        let stage = Stage::start(&port, echo(), &arguments);
        let link = Supervisor::new().accept();
        let mut held: Vec<_> = (0..20).map(|_| port.connect()).collect();
        for stream in &mut held {
            // More than a proxy would keep, so that it must be read before the answer is safe.
            stream.write_all(&vec![b'x'; 60_000]).unwrap();
        }
        link.until("connections ");
        assert!(is_silent(&held[0]), "{round}: an old failure is no failure");
        drop(link);
        write(&file, b"the port\x1b[2J is\ttaken\r\nsecond line\n");
        for stream in &mut held {
            let body = refusal(stream);
            assert_eq!(
                body,
                "the instance web cannot be started: the port [2J is taken\n\
                 see `opencode-instances status web`\n"
            );
        }
        if round == 0 {
            // Who stays when he is told keeps the proxy for a while, and not the processor.
            held.truncate(1);
            thread::sleep(Duration::from_millis(600));
            let before = stage.processor();
            thread::sleep(Duration::from_millis(1500));
            let ticks = stage.processor() - before;
            assert!(ticks < 75, "{ticks} ticks");
        }
        drop(held);
        stage.ended();
        // The next client is in the socket's backlog, and the proxy that it starts serves it.
        let mut next = port.connect();
        next.write_all(b"n").unwrap();
        let stage = Stage::start(&port, echo(), &arguments);
        let link = Supervisor::new().accept();
        link.say("ready");
        next.read_exact(&mut [0]).unwrap();
        // While the server is there, the file is about another start.
        write(&file, b"x");
        answered(&mut next, b"goes on");
        answered(&mut port.connect(), b"goes on");
        // It ended, and could not start again: the order in which this is seen does not matter.
        drop(link);
        let mut waits = port.connect();
        write(&file, &vec![b'y'; 100_000]);
        assert!(refusal(&mut waits).contains("yyy"));
        drop((waits, next));
        stage.ended();
    }
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

pub(crate) fn too_long() {
    let port = Port::new();
    let arguments = [SUPERVISED, &["--wait", "1"]].concat();
    let mut stage = Stage::start(&port, echo(), &arguments);
    let mut stream = port.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let body = refusal(&mut stream);
    assert_eq!(body, "the instance web is still starting\nsee `opencode-instances status web`\n");
    // Who comes and goes leaves nothing to wait for.
    for _ in 0..2000 {
        drop(port.connect());
    }
    // One that takes no answer and does not go is let go.
    let stubborn = port.connect();
    assert!(soon(|| stage.descriptors() < 24), "{}", stage.descriptors());
    assert!(stage.runs(), "others may be luckier");
    drop(stubborn);
    stage.end();
}

pub(crate) fn refused() {
    let port = Port::new();
    let stage = Stage::start(&port, nobody(), &[]);
    assert!(is_reset(&mut port.connect()));
    stage.end();
    let server = Port::new();
    let address = server.address;
    drop(server);
    let stage = Stage::start(&port, address, SUPERVISED);
    let supervisor = Supervisor::new();
    let link = supervisor.accept();
    link.say("ready");
    a_moment();
    let mut stream = port.connect();
    stream.write_all(&vec![0; 30_000]).unwrap();
    assert!(refusal(&mut stream).starts_with("the instance web takes no connection\n"));
    drop(stream);
    link.until("connections 0 ");
    stage.end();
}

pub(crate) fn drain() {
    let server = echo();
    let port = Port::new();
    let supervisor = Supervisor::new();
    let mut stage = Stage::start(&port, server, SUPERVISED);
    let mut link = supervisor.accept();
    link.say("ready");
    let (mut drained, mut busy) = (0, 0);
    for round in 0..1000_u64 {
        let address = port.address;
        let client = thread::spawn(move || {
            // Around the moment of the order, a little before or after.
            for _ in 0..(round * 7919) % 4000 {
                std::hint::spin_loop();
            }
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
            answered(&mut stream, b"who came");
        });
        link.say("drain");
        if link.drained() {
            drained += 1;
            // The server ends, and with it the proxy. Who came is in the backlog and starts them again.
            drop(link);
            stage.ended();
            stage = Stage::start(&port, server, SUPERVISED);
            link = supervisor.accept();
            link.say("ready");
        } else {
            busy += 1;
        }
        client.join().unwrap();
        link.until("connections 0 ");
    }
    println!("{drained} drained, {busy} busy");
    assert!(drained > 20 && busy > 20, "{drained} and {busy}: a race that one side always wins");
    // The mind is changed.
    link.say("drain");
    assert!(link.drained());
    let mut waits = port.connect();
    waits.write_all(b"w").unwrap();
    assert!(is_silent(&waits));
    link.say("ready");
    waits.read_exact(&mut [0]).unwrap();
    stage.end();
}

pub(crate) fn drain_active() {
    let port = Port::new();
    let stage = Stage::start(&port, echo(), SUPERVISED);
    let supervisor = Supervisor::new();
    let link = supervisor.accept();
    // Who is held counts.
    let mut stream = port.connect();
    link.until("connections 1 ");
    link.say("drain");
    assert!(!link.drained());
    link.say("ready");
    answered(&mut stream, b"here");
    for (order, expected) in
        [("drain", false), ("drain active 3600", false), ("drain active 4294967295", false)]
    {
        link.say(order);
        assert_eq!(link.drained(), expected, "{order}");
        answered(&mut stream, b"still here");
    }
    thread::sleep(Duration::from_millis(1100));
    link.say("drain active 1");
    assert!(link.drained());
    // It is still there until the supervisor ends, and closed then.
    answered(&mut stream, b"last");
    drop(link);
    stage.ended();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

pub(crate) fn ends() {
    let port = Port::new();
    let server = echo();
    // Those that are there go on; the last one that goes is the end.
    for stopping in [false, true] {
        let stage = Stage::start(&port, server, &[SUPERVISED, &["--grace", "3600"]].concat());
        let supervisor = Supervisor::new();
        let link = supervisor.accept();
        link.say("ready");
        let mut stream = port.connect();
        answered(&mut stream, b"before");
        if stopping {
            link.say("stopping");
            a_moment();
            answered(&mut stream, b"until the supervisor goes");
            drop(link);
        } else {
            stage.signal(Signal::TERM);
        }
        a_moment();
        answered(&mut stream, b"after");
        let mut next = port.connect();
        next.write_all(b"n").unwrap();
        assert!(is_silent(&next), "nothing is accepted");
        drop(stream);
        stage.ended();
        drop(supervisor);
        // It was not lost.
        let stage = Stage::start(&port, server, &[]);
        next.read_exact(&mut [0]).unwrap();
        stage.end();
    }
    // Those that wait are told.
    let supervisor = Supervisor::new();
    for stopping in [false, true] {
        let stage = Stage::start(&port, server, SUPERVISED);
        let link = supervisor.accept();
        let mut held = port.connect();
        held.write_all(&vec![b'x'; 40_000]).unwrap();
        link.until("connections 1 ");
        if stopping {
            link.say("stopping");
        } else {
            stage.signal(Signal::TERM);
        }
        assert!(refusal(&mut held).starts_with("the instance web is being stopped\n"));
        drop(held);
        drop(link);
        stage.ended();
    }
    // Those that do not go are cut.
    let stage = Stage::start(&port, server, &["--grace", "1"]);
    let mut stream = port.connect();
    answered(&mut stream, b"x");
    stage.end();
    assert!(is_reset(&mut stream));
}

pub(crate) fn ends_at_once() {
    // Neither a stream that never ends nor another signal that comes at once keeps it.
    let port = Port::new();
    let stage = Stage::start(&port, echo(), &[]);
    let mut stream = port.connect();
    answered(&mut stream, b"x");
    stage.signal(Signal::STOP);
    for signal in [Signal::HUP, Signal::TERM, Signal::HUP, Signal::CONT] {
        stage.signal(signal);
    }
    stage.ended();
    assert!(is_reset(&mut stream));

    // A server that has ended: what it said is the client's.
    let server = Port::new();
    let stage = Stage::start(&port, server.address, &[]);
    let mut client = narrow(port.address);
    let (mut behind, _) = server.listener.accept().unwrap();
    behind.write_all(&vec![b'x'; 200_000]).unwrap();
    assert!(soon(|| has_all(&behind)));
    drop(behind);
    a_moment();
    stage.signal(Signal::TERM);
    assert_eq!(rest(&mut client).len(), 200_000);
    stage.ended();
}

pub(crate) fn reports() {
    let port = Port::new();
    let start = Start { arguments: SUPERVISED, watchdog: Some(600_000), ..Start::default() };
    let stage = Stage::start_with(&port, echo(), &start);
    let supervisor = Supervisor::new();
    let link = supervisor.accept();
    assert!(link.hear().starts_with("connections 0 quiet "), "on connecting");
    link.say("ready");
    let mut stream = port.connect();
    assert!(link.hear().starts_with("connections 1 quiet "), "at once");
    let begin = std::time::Instant::now();
    let mut sent = 0;
    while begin.elapsed() < Duration::from_millis(2500) {
        answered(&mut stream, b"busy");
        sent += 1;
    }
    // What is said of two and a half seconds in which something changed all the time, before the last client goes.
    drop(stream);
    let mut heard = 0;
    while !link.hear().starts_with("connections 0 ") {
        heard += 1;
    }
    assert!(sent > 100 && (1..=3).contains(&heard), "{heard} of {sent}");
    // With somebody who says nothing every ten seconds, with growing numbers.
    let quiet = port.connect();
    link.until("connections 1 ");
    let last = link.until("connections 1 ");
    let seconds: u64 = last.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seconds >= 9, "{last}");
    assert!(stage.count("WATCHDOG=1") > 5);
    drop(quiet);
    stage.end();
}
