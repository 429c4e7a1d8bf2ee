//! Whether the host's resolvers answer.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::dns::resolvers;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// One question: the name servers of the root, and please ask others.
const QUESTION: [u8; 15] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// All of them, each with whether it answered; asked at once.
pub(super) fn ask() -> Vec<(IpAddr, bool)> {
    let all = resolvers::all();
    std::thread::scope(|scope| {
        let ask = |ip: &IpAddr| {
            let ip = *ip;
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || answers(ip, 53));
            (ip, thread)
        };
        let asked: Vec<_> = all.iter().map(ask).collect();
        let answer =
            |(ip, thread): (IpAddr, io::Result<std::thread::ScopedJoinHandle<'_, bool>>)| {
                (ip, thread.is_ok_and(|thread| thread.join().unwrap_or(false)))
            };
        asked.into_iter().map(answer).collect::<Vec<_>>()
    })
}

/// Whether anything comes back that belongs to the question, an error too: it is alive then.
fn answers(ip: IpAddr, port: u16) -> bool {
    let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let ask = || -> io::Result<bool> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(SocketAddr::new(ip, port))?;
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty())?;
        socket.send(&[&id[..], &QUESTION[..]].concat())?;
        let end = Instant::now() + PATIENCE;
        let mut answer = [0; 512];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            socket.set_read_timeout(Some(left))?;
            let length = socket.recv(&mut answer)?;
            let of_it =
                answer.starts_with(&id) && answer.get(2).is_some_and(|bits| bits & 0x80 != 0);
            if length >= 12 && of_it {
                return Ok(true);
            }
        }
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let mut bytes = [0; 512];
            for good in [true, false] {
                let (length, client) = socket.recv_from(&mut bytes).unwrap();
                assert_eq!(length, 17);
                let mut answer = bytes[..length].to_vec();
                answer[2] |= 0x80;
                if !good {
                    answer[0] ^= 1;
                }
                socket.send_to(&answer, client).unwrap();
            }
        });
        let ip = "127.0.0.1".parse().unwrap();
        assert!(answers(ip, port));
        assert!(!answers(ip, port));
        server.join().unwrap();
        // Nobody listens there.
        assert!(!answers(ip, 1));
    }
}
