//! Clients, servers and supervisors that mean no good, and a host that has nothing left.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::stage::{
    NAME, Port, Stage, Start, Supervisor, a_moment, answered, echo, is_silent, soon, target,
};

pub(crate) fn out_of_descriptors() {
    const ROOM: usize = 11;
    let port = Port::new();
    let start = Start { descriptors: Some(64), ..Start::default() };
    let stage = Stage::start_with(&port, echo(), &start);
    let mut streams: Vec<_> = (0..100).map(|_| port.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
    }
    let late = streams.split_off(ROOM);
    for stream in &mut streams {
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(late.iter().take(3).all(is_silent), "they wait");
    assert!(stage.descriptors() <= 64);
    drop(streams);
    // Whoever leaves makes room, and everybody gets an answer in the end.
    for mut stream in late {
        stream.read_exact(&mut [0]).unwrap();
    }
    let turns = stage.end();
    assert!(turns < 3000, "{turns}");
}

pub(crate) fn at_the_limit_of_units() {
    // What `LimitNOFILE=` of the units is for.
    const LIMIT: u32 = 2210;
    const ROOM: usize = 1024;
    let port = Port::new();
    let start = Start { descriptors: Some(LIMIT), ..Start::default() };
    let stage = Stage::start_with(&port, echo(), &start);
    let mut streams: Vec<_> = (0..ROOM).map(|_| port.connect()).collect();
    for stream in &mut streams {
        answered(stream, b"in");
    }
    let mut late: Vec<_> = (0..50).map(|_| port.connect()).collect();
    for stream in &mut late {
        stream.write_all(b"x").unwrap();
    }
    assert!(late.iter().take(3).all(is_silent), "they wait");
    assert!(stage.descriptors() <= LIMIT as usize);
    // They wait in the backlog, and wake nobody.
    thread::sleep(Duration::from_secs(1));
    answered(&mut streams[0], b"goes on");
    drop(streams);
    for stream in &mut late {
        stream.read_exact(&mut [0]).unwrap();
    }
    let turns = stage.end();
    assert!(turns < 6 * ROOM, "{turns}");
}

pub(crate) fn who_never_reads() {
    const MANY: usize = 40;
    // The server reads nothing of what begins with "s", and echoes the rest.
    let server = target(|mut stream| {
        let mut first = [0; 1];
        while let Ok(1) = stream.read(&mut first) {
            if first[0] == b's' {
                thread::sleep(Duration::from_hours(1));
            } else if first[0] == b'w' {
                while stream.write_all(&vec![7; 65_536]).is_ok() {}
            } else if stream.write_all(&first).is_err() {
                break;
            }
        }
    });
    let port = Port::new();
    let stage = Stage::start(&port, server, &[]);
    let mut good = port.connect();
    answered(&mut good, b"g");
    let memory = stage.memory();
    let stuffed: Vec<TcpStream> = (0..MANY)
        .map(|_| {
            let mut stream = port.connect();
            stream.write_all(b"s").unwrap();
            stream.set_nonblocking(true).unwrap();
            while matches!(stream.write(&vec![1; 65_536]), Ok(count) if count > 0) {}
            stream
        })
        .collect();
    // Clients that let the server write and never read.
    let deaf: Vec<TcpStream> = (0..MANY)
        .map(|_| {
            let mut stream = port.connect();
            stream.write_all(b"w").unwrap();
            stream
        })
        .collect();
    for _ in 0..50 {
        answered(&mut good, b"g");
    }
    assert!(soon(|| {
        stuffed.iter().all(|mut stream| {
        matches!(stream.write(&vec![1; 65_536]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    })
    }));
    answered(&mut good, b"g");
    let more = stage.memory().saturating_sub(memory);
    assert!(more < 2 * MANY * 32, "{more} KiB");
    assert!(stage.descriptors() < 2 * 2 * MANY + 160, "{}", stage.descriptors());
    drop(deaf);
    let left = || stage.descriptors() < 2 * MANY + 160;
    assert!(soon(left), "{}", stage.descriptors());
    answered(&mut good, b"g");
    drop(stuffed);
    stage.end();
}

pub(crate) fn nothing_to_do() {
    let turns = |arguments: &[&str], act: &dyn Fn(&Port, &Stage)| {
        let port = Port::new();
        let server = target(|stream| {
            // Takes until it is full, and nothing more.
            thread::sleep(Duration::from_hours(1));
            drop(stream);
        });
        let stage = Stage::start(&port, server, arguments);
        act(&port, &stage);
        stage.end()
    };
    let rests = || thread::sleep(Duration::from_secs(2));
    // Idle; connected and idle; half closed; stuck.
    assert!(turns(&[], &|_, _| rests()) < 4);
    let idle = turns(&[], &|port, _| {
        let streams: Vec<_> = (0..20).map(|_| port.connect()).collect();
        rests();
        drop(streams);
    });
    assert!(idle < 100, "{idle}");
    let stuck = turns(&["--grace", "0"], &|port, _| {
        let mut stream = port.connect();
        stream.set_nonblocking(true).unwrap();
        while soon_full(&mut stream) {}
        let half = port.connect();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        rests();
    });
    // What it took to fill the buffers, some megabytes, and nothing after that.
    assert!(stuck < 1500, "{stuck}");
    // Held, with bytes that come one by one: none is read, and none wakes.
    let held = turns(&["--supervisor", "nobody-there"], &|port, _| {
        let mut streams: Vec<_> = (0..20).map(|_| port.connect()).collect();
        a_moment();
        for _ in 0..50 {
            for stream in &mut streams {
                stream.write_all(b"drip").unwrap();
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    // Twenty times a second it looks for the supervisor; those were a thousand bytes.
    assert!(held < 400, "{held}");
    // A supervisor that is lost is looked for, twice a second, although nobody waits.
    let supervisor = Supervisor::new();
    let after = turns(&["--supervisor", NAME], &|port, _| {
        let link = supervisor.accept();
        link.say("ready");
        drop(link);
        a_moment();
        rests();
        let link = supervisor.accept();
        link.say("starting");
        let waits = port.connect();
        link.until("connections 1 ");
        drop((waits, link));
    });
    assert!(after < 40, "{after}");
}

pub(crate) fn small() {
    let port = Port::new();
    let stage = Stage::start(&port, echo(), &[]);
    // Both ways of copying, whose code comes back.
    for length in [1, 1 << 20] {
        let mut stream = port.connect();
        let mut reader = stream.try_clone().unwrap();
        let thread = thread::spawn(move || reader.read_exact(&mut vec![0; length]).unwrap());
        stream.write_all(&vec![1; length]).unwrap();
        thread.join().unwrap();
    }
    let (now, most) = (stage.kib("VmRSS:"), stage.kib("VmHWM:"));
    assert!(now + 512 < most, "{now} of {most} KiB");
    stage.end();
}

fn soon_full(stream: &mut TcpStream) -> bool {
    let written = stream.write(&vec![0; 65_536]);
    written.is_ok() || {
        a_moment();
        stream.write(&vec![0; 65_536]).is_ok()
    }
}

pub(crate) fn garbage() {
    let supervisor = Supervisor::new();
    let port = Port::new();
    let mut stage = Stage::start(&port, echo(), &["--supervisor", NAME]);
    let link = supervisor.accept();
    let client = port.connect();
    let mut noise = 1_u64;
    for length in (0..200).chain([65_000, 0, 1]) {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bytes: Vec<u8> =
            (0..length).map(|place| noise.rotate_left(place).to_le_bytes()[0]).collect();
        link.say(&bytes);
    }
    for words in
        ["ready\n", "READY", " ready", "ready ready", "drain active -1", "connections 1 quiet 0"]
    {
        link.say(words);
    }
    link.say([b"ready".as_slice(), &[0; 60]].concat());
    assert!(is_silent(&client), "none of it was an order");
    // A flood does not keep it from its work.
    let mut other = port.connect();
    for _ in 0..100_000 {
        link.try_say(b"starting");
        link.try_say(b"");
    }
    link.say("ready");
    answered(&mut other, b"still here");
    for round in 0..2000 {
        link.try_say(if round % 2 == 0 { b"starting" } else { b"ready" });
    }
    link.say("ready");
    answered(&mut port.connect(), b"and here");
    assert!(stage.count("STATUS=") < 40, "{}", stage.count("STATUS="));
    assert!(stage.runs());
    drop(client);
    drop(other);
    stage.end();
    // A supervisor that does not read keeps nobody waiting, and a name that is something else neither.
    let stage = Stage::start(&port, echo(), &["--supervisor", NAME]);
    let link = supervisor.accept();
    link.say("ready");
    for _ in 0..600 {
        answered(&mut port.connect(), b"x");
    }
    stage.end();
    drop(link);
}
