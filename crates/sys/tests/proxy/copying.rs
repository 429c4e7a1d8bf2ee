//! Bytes from here to there, and how connections end.

use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::stage::{
    Port, Stage, answered, echo, finish, has_all, is_reset, narrow, reset, rest, soon, target,
};

/// Bytes in which no piece looks like another.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

pub(crate) fn bytes_of_any_number() {
    let port = Port::new();
    let stage = Stage::start(&port, echo(), &[]);
    for length in [0, 1, 100, 16_383, 16_384, 16_385, 65_536, 300_000, 20_000_000] {
        let mut stream = port.connect();
        let mut writer = stream.try_clone().unwrap();
        let bytes = pattern(length);
        let sent = bytes.clone();
        let thread = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            finish(&writer);
        });
        assert!(rest(&mut stream) == bytes, "{length}");
        thread.join().unwrap();
    }
    stage.end();

    // The other half first: the server ends its own, and still gets everything.
    let (sender, receiver) = mpsc::channel();
    let server = target(move |mut stream| {
        stream.write_all(b"mine").unwrap();
        finish(&stream);
        sender.send(rest(&mut stream)).unwrap();
    });
    let port = Port::new();
    let stage = Stage::start(&port, server, &[]);
    let mut stream = port.connect();
    assert_eq!(rest(&mut stream), b"mine");
    for piece in [pattern(10), pattern(1_000_000)] {
        stream.write_all(&piece).unwrap();
    }
    finish(&stream);
    let got = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(got == [pattern(10), pattern(1_000_000)].concat());
    assert!(stage.end() < 2000);
}

/// What one end does: writes so much, or waits so many milliseconds before it goes on.
#[derive(Clone, Debug)]
struct Schedule {
    steps: Vec<(usize, u8)>,
    /// How much it reads at once, and after how many reads it stops for a moment.
    bite: usize,
    rests: usize,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let size = prop_oneof![
        4 => 0..2000_usize,
        2 => 16_000..17_000_usize,
        1 => 0..1_500_000_usize,
    ];
    let steps = prop::collection::vec((size, prop_oneof![8 => Just(0_u8), 1 => 1..4_u8]), 0..8);
    (steps, 1..100_000_usize, 1..400_usize).prop_map(|(steps, bite, rests)| Schedule {
        steps,
        bite,
        rests,
    })
}

/// Plays a schedule at one end; what was sent and what came.
fn play(stream: std::net::TcpStream, schedule: Schedule) -> (Vec<u8>, Vec<u8>) {
    let mut writer = stream.try_clone().unwrap();
    let steps = schedule.steps;
    let thread = thread::spawn(move || {
        let mut sent = Vec::new();
        for (number, (length, pause)) in steps.into_iter().enumerate() {
            thread::sleep(Duration::from_millis(pause.into()));
            let mut bytes = pattern(length);
            bytes.rotate_left(number.min(length));
            writer.write_all(&bytes).unwrap();
            sent.extend(bytes);
        }
        finish(&writer);
        sent
    });
    let (mut stream, mut came) = (stream, Vec::new());
    let mut buffer = vec![0; schedule.bite];
    for number in 1_usize.. {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            count => came.extend_from_slice(&buffer[..count]),
        }
        if number.is_multiple_of(schedule.rests) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    (thread.join().unwrap(), came)
}

pub(crate) fn whatever_the_schedule() {
    // With the host's buffers, which mostly hold everything, and with such that hold next to nothing.
    for buffers in [None, Some("4096 4096 4096")] {
        for file in ["tcp_rmem", "tcp_wmem"] {
            if let Some(sizes) = buffers {
                fs::write(format!("/proc/sys/net/ipv4/{file}"), sizes).unwrap();
            }
        }
        let server = Port::new();
        let port = Port::new();
        let stage = Stage::start(&port, server.address, &[]);
        let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
        runner
            .run(&(schedule(), schedule()), |(mine, theirs)| {
                let client = port.connect();
                let (behind, _) = server.listener.accept().unwrap();
                let other = thread::spawn(move || play(behind, theirs));
                let (sent, came) = play(client, mine);
                let (answer, asked) = other.join().unwrap();
                prop_assert!(sent == asked, "{} of {} bytes", asked.len(), sent.len());
                prop_assert!(answer == came, "{} of {} bytes", came.len(), answer.len());
                Ok(())
            })
            .unwrap();
        assert!(soon(|| stage.descriptors() < 24), "{}", stage.descriptors());
        stage.end();
    }
}

pub(crate) fn resets() {
    let server = Port::new();
    let port = Port::new();
    let stage = Stage::start(&port, server.address, &[]);
    let pair = || {
        let mut client = port.connect();
        let (mut behind, _) = server.listener.accept().unwrap();
        client.write_all(b"a").unwrap();
        behind.read_exact(&mut [0]).unwrap();
        behind.write_all(b"b").unwrap();
        client.read_exact(&mut [0]).unwrap();
        (client, behind)
    };
    let (client, mut behind) = pair();
    reset(client);
    assert!(is_reset(&mut behind));
    let (mut client, behind) = pair();
    reset(behind);
    assert!(is_reset(&mut client));
    // After a half was closed in good order.
    let (client, mut behind) = pair();
    finish(&client);
    assert_eq!(behind.read(&mut [0]).unwrap(), 0);
    reset(client);
    assert!(is_reset(&mut behind) || soon(|| behind.write_all(b"x").is_err()));
    // A server that ends without reading what it was sent resets too; its answer must arrive first.
    for length in [100, 100_000, 3_000_000] {
        let (mut client, mut behind) = pair();
        let answer = pattern(length);
        let expected = answer.clone();
        client.write_all(&pattern(5000)).unwrap();
        let thread = thread::spawn(move || {
            behind.write_all(&answer).unwrap();
            // What has not left its host is lost with the reset, whoever is in between.
            assert!(soon(|| has_all(&behind)));
            drop(behind);
        });
        let mut came = vec![0; length];
        client.read_exact(&mut came).unwrap();
        assert!(came == expected, "{length}");
        thread.join().unwrap();
        drop(client);
    }
    // A client that sends, ends and is gone: the server gets everything.
    for length in [1, 100_000, 3_000_000] {
        let mut client = port.connect();
        let (mut behind, _) = server.listener.accept().unwrap();
        let bytes = pattern(length);
        let expected = bytes.clone();
        let thread = thread::spawn(move || {
            client.write_all(&bytes).unwrap();
            drop(client);
        });
        assert!(rest(&mut behind) == expected, "{length}");
        thread.join().unwrap();
    }
    assert!(soon(|| stage.descriptors() < 24), "{}", stage.descriptors());
    stage.end();
}

pub(crate) fn slow_after_a_reset() {
    const LENGTH: usize = 200_000;
    let server = Port::new();
    let port = Port::new();
    let stage = Stage::start(&port, server.address, &[]);
    // Both ways: who sent it is gone, and all of it is the proxy's.
    let ways = [(false, "from the server"), (true, "from the client")];
    let slow: Vec<_> = ways
        .into_iter()
        .map(|(up, words)| {
            let client = narrow(port.address);
            let (behind, _) = server.listener.accept().unwrap();
            let (mut sender, receiver) = if up { (client, behind) } else { (behind, client) };
            sender.write_all(&pattern(LENGTH)).unwrap();
            assert!(soon(|| has_all(&sender)), "{words}");
            reset(sender);
            thread::spawn(move || {
                let mut receiver = receiver;
                let mut came = Vec::new();
                // For longer than a while in which nothing moves.
                let end = loop {
                    let mut bite = [0; 4000];
                    match receiver.read(&mut bite) {
                        Ok(0) => break None,
                        Ok(count) => came.extend_from_slice(&bite[..count]),
                        Err(error) => break Some(error.kind()),
                    }
                    thread::sleep(Duration::from_millis(250));
                };
                assert!(came == pattern(LENGTH), "{words}: {} bytes", came.len());
                assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "{words}");
            })
        })
        .collect();
    // One that never reads is let go.
    let deaf = narrow(port.address);
    let (mut behind, _) = server.listener.accept().unwrap();
    behind.write_all(&pattern(LENGTH)).unwrap();
    assert!(soon(|| has_all(&behind)));
    reset(behind);
    for thread in slow {
        thread.join().unwrap();
    }
    assert!(soon(|| stage.descriptors() < 24), "{}", stage.descriptors());
    drop(deaf);
    let turns = stage.end();
    assert!(turns < 1000, "{turns}");
}

pub(crate) fn several_listeners() {
    let (one, two) = (Port::new(), Port::at("[::1]:0"));
    let start = super::stage::Start { more: Some(&two), ..Default::default() };
    let stage = Stage::start_with(&one, echo(), &start);
    for port in [&one, &two, &one] {
        answered(&mut port.connect(), b"both");
    }
    stage.end();
    let behind = Port::at("[::1]:0");
    let stage = Stage::start(&one, behind.address, &[]);
    let mut client = one.connect();
    let (mut server, _) = behind.listener.accept().unwrap();
    server.write_all(b"six").unwrap();
    drop(server);
    assert_eq!(rest(&mut client), b"six");
    stage.end();
}

pub(crate) fn three_thousand() {
    const MANY: usize = 3000;
    let port = Port::new();
    let stage = Stage::start(&port, echo(), &[]);
    answered(&mut port.connect(), b"first");
    let (descriptors, memory) = (stage.descriptors(), stage.memory());
    let mut streams: Vec<_> = (0..MANY).map(|_| port.connect()).collect();
    for _ in 0..2 {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&number.to_le_bytes()).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut back = [0; 8];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, number.to_le_bytes());
        }
    }
    assert!(stage.descriptors() <= descriptors + 2 * MANY + 2, "two for each");
    let more = stage.memory().saturating_sub(memory);
    assert!(more < MANY, "{more} KiB for {MANY} connections");
    drop(streams);
    assert!(soon(|| stage.descriptors() <= descriptors), "{}", stage.descriptors());
    assert!(stage.end() < 10 * MANY);
}
