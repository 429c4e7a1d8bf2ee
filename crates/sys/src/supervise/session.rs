//! The life of one server: readiness, the watchdog, and the end.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use instances_core::attend::{COMES_BACK, Order};
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

use super::attend::Attend;
use super::idle::{self, Found, Idle};
use super::options::Options;
use super::probe::Probe;
use super::processes::{descendants, signal_all, spare};
use super::reason::refusal;
use super::relay::{Relay, Tail};
use super::room::{self, Room};
use super::server::{self, Exit};
use super::signals::Signals;
use super::turn::Turn;
use super::watch::{Bound, Sign, Verdict, Watch};
use crate::http::{self, Error, Login, Response};
use crate::notify::Notifier;

/// How long a server that answers is not asked again.
const REST: Duration = Duration::from_secs(5);
/// After how long without a sign of life a server is given up, once an answer did not come.
const HUNG: Duration = Duration::from_secs(4);
/// How often what costs the server nothing is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A request sent before the server attached its handler is never answered: give up soon.
const TRY: Duration = Duration::from_secs(1);
/// After so many requests without an answer, they may take longer.
const SLOW: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// After that long without `listening on`, a server whose wording changed is asked all the same.
const WORDING_CHANGED: Duration = Duration::from_secs(30);
/// So many refusals in a row are final.
const REFUSALS: u32 = 3;
/// How long the server may take to end before SIGKILL; the real one takes 0.05 s.
const SERVER_GRACE: Duration = Duration::from_millis(600);
/// How long the kernel may take to end a process after SIGKILL.
const KILLED: Duration = Duration::from_millis(100);
/// How long its orphans may take before SIGKILL.
const REST_GRACE: Duration = Duration::from_millis(500);
/// How long the service manager may take to read the last message.
pub(super) const BARRIER: Duration = Duration::from_millis(200);
/// How long the journal may take to read the last lines.
const FLUSH: Duration = Duration::from_millis(100);
/// An end that is asked for takes less than two seconds.
const _: () = {
    let kills = KILLED.as_millis() * 2;
    let graces = SERVER_GRACE.as_millis() + REST_GRACE.as_millis();
    assert!(graces + kills + FLUSH.as_millis() + BARRIER.as_millis() < 2000, "an end takes long");
};
/// How long the guard's line may take after the first answer: it is written before that is.
const GUARD: Duration = Duration::from_secs(10);
/// Why a server without its guard is not let at its project.
const UNGUARDED: &str = "this opencode does not load the plugin on which enforcedSettings and \
                         trustProject rest, or not first; use a version that was tested with it, or remove them";
/// How long proxies may take to say whether they have a client.
const DRAIN: Duration = Duration::from_secs(1);
/// How long systemd may take to hear of the end of a server that nobody uses, and the proxies to end.
const PROXIES: Duration = Duration::from_secs(2);
/// How long a proxy may take to come that systemd started before it knew of the end.
const LATE: Duration = Duration::from_millis(500);
/// How long a server may take to say which sessions work: longer, and systemd would take the supervisor for hung.
const SESSIONS: Duration = Duration::from_secs(5);
/// The most orphans that are reaped at once.
const REAP_PER_TURN: u32 = 1024;

/// Why the session ends.
#[derive(Debug)]
enum End {
    /// A signal asked for it.
    Asked(Signal),
    /// The server ended by itself.
    Ended(Exit),
    /// The server runs but refuses every project request.
    Refused(String),
    /// Nobody uses the server.
    Idle,
}

/// The server's two streams and what it last said.
#[derive(Debug)]
pub(super) struct Streams<'a> {
    output: Relay<'a>,
    log: Relay<'a>,
    tail: Tail,
}

impl<'a> Streams<'a> {
    pub(super) fn new(output: Relay<'a>, log: Relay<'a>) -> Self {
        Self { output, log, tail: Tail::default() }
    }

    /// Goes on with another server, which has said nothing yet.
    fn take_over(&mut self, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) {
        self.output.take_over(stdout);
        self.log.take_over(stderr);
        self.tail = Tail::default();
    }

    fn turn(&mut self) -> bool {
        let output = self.output.turn(&mut self.tail);
        let log = self.log.turn(&mut self.tail);
        output || log
    }
}

/// Who is told of the server besides systemd.
#[derive(Debug)]
pub(super) struct Others {
    pub(super) attend: Option<Attend>,
    pub(super) turn: Turn,
}

/// One server under supervision. Not `Debug`: it knows the password.
pub(super) struct Session<'a> {
    options: &'a Options,
    address: SocketAddr,
    password: Option<String>,
    /// The user's name and the password.
    login: Option<(String, String)>,
    server: Pid,
    /// The signal that asked for the end.
    asked: Option<Signal>,
    ended: Option<Exit>,
    has_children: bool,
    ready: bool,
    probe: Option<Probe>,
    signals: Signals,
    streams: Streams<'a>,
    notifier: Notifier,
    room: Room,
    attend: Option<Attend>,
    idle: Option<Idle>,
    turn: Turn,
    early: Early,
}

/// What is known of an end before the whole time is over.
#[derive(Debug)]
struct Early {
    /// Whether the server should end, if nobody uses it.
    asked: bool,
    /// Whether a session worked, or may have, when that was last looked at.
    works: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        options: &'a Options,
        server: Pid,
        password: Option<String>,
        Others { attend, turn }: Others,
        signals: Signals,
        streams: Streams<'a>,
        notifier: Notifier,
    ) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let login = match &password {
            Some(password) => Some((options.username.clone(), password.clone())),
            None => server::inherited_login(options.dialect),
        };
        Self {
            options,
            address,
            password,
            login,
            server,
            asked: None,
            ended: None,
            has_children: true,
            ready: false,
            probe: None,
            signals,
            streams,
            notifier,
            room: Room::below(options.home.as_deref()),
            attend,
            idle: options.idle.map(|idle| Idle::new(idle, Instant::now())),
            turn,
            early: Early { asked: false, works: true },
        }
    }

    /// Runs to the end and returns the exit status. Its turn is over when the server is ready, or not.
    pub(super) fn run(mut self) -> u8 {
        let ready = match self.become_ready() {
            Err(End::Ended(exit @ Exit::Signal(_))) => {
                self.begin_again(exit).and_then(|()| self.become_ready())
            }
            ready => ready,
        };
        self.turn.done(ready.is_ok() && self.idle.is_some());
        let end = match ready {
            Ok(()) => self.serve(),
            Err(end) => end,
        };
        self.probe = None;
        self.finish(end)
    }

    /// Starts the server once more that was killed before it was ready, as one is when memory is short: those who wait
    /// for it wait on. The service manager would restart their proxy too.
    fn begin_again(&mut self, exit: Exit) -> Result<(), End> {
        self.probe = None;
        self.drain();
        let reason = self.reason(exit);
        self.streams.log.say(4, &format!("{reason}; it is started once more"));
        self.end_rest();
        if let Some(signal) = self.asked {
            return Err(End::Asked(signal));
        }
        // What would not end could keep the port.
        if self.has_children {
            return Err(End::Ended(exit));
        }
        let password = self.password.as_deref();
        let server =
            super::launch(self.options, password, &mut self.notifier, &mut self.streams.log)
                .map_err(End::Refused)?;
        (self.server, self.ended, self.has_children) = (server.pid, None, true);
        self.streams.take_over(server.stdout, server.stderr);
        Ok(())
    }

    fn become_ready(&mut self) -> Result<(), End> {
        self.notifier.status("the server is starting; waiting until it listens");
        let ask_anyway = Instant::now() + WORDING_CHANGED;
        while !self.streams.tail.listening && Instant::now() < ask_anyway {
            self.turn(ask_anyway)?;
        }
        self.notifier.status("the server listens; waiting for the project's configuration");
        let path = self.options.ready_path();
        let (mut refusals, mut tries) = (0, 0);
        loop {
            tries += 1;
            match self.ask(&path, patience(tries))? {
                Ok(response) if response.is_json_success() => {
                    if !self.options.guarded || self.is_guarded()? {
                        break;
                    }
                    return Err(End::Refused(UNGUARDED.to_owned()));
                }
                Ok(response) => {
                    refusals += 1;
                    if refusals >= REFUSALS {
                        return Err(End::Refused(refusal(&response)));
                    }
                }
                Err(_) => {
                    refusals = 0;
                    if tries == SLOW {
                        self.notifier.status(
                            "the server listens; waiting for the project's configuration, it may \
                             be fetching plugins",
                        );
                    }
                }
            }
            self.pause(BETWEEN_TRIES)?;
        }
        self.ready = true;
        self.streams.tail = Tail::default();
        let words = self.serving();
        self.notifier.ready(&words);
        self.tell(Order::Ready);
        if let Some(idle) = &mut self.idle {
            idle.used(Instant::now());
        }
        Ok(())
    }

    /// Waits a moment for the guard's line: it comes on another way than the answer.
    fn is_guarded(&mut self) -> Result<bool, End> {
        let end = Instant::now() + GUARD;
        while !self.streams.tail.guarded && Instant::now() < end {
            self.turn(end)?;
        }
        Ok(self.streams.tail.guarded)
    }

    /// What it does, and what will soon keep it from doing it.
    fn serving(&mut self) -> String {
        let port = self.options.port;
        match self.room.look() {
            None => format!("serving on port {port}"),
            Some(words) => format!("serving on port {port}; {words}"),
        }
    }

    /// Serves until the end.
    ///
    /// The service manager's limit is for this process alone; a server that hangs is given up here, after
    /// [`HUNG`], or a fifth of a longer limit. A host that stands still for a while would pass either limit
    /// while nothing was wrong. So the former is long, and what this process was itself too late for is not
    /// held against the server.
    ///
    /// A request costs the server some 15 ms of a processor: one in 2 s 0.7 % of a core, on top of 0.8 % when idle. So there is
    /// one in [`REST`], or in half of a shorter limit.
    fn serve(&mut self) -> End {
        match self.serve_on() {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    fn serve_on(&mut self) -> Result<Infallible, End> {
        let Some(limit) = self.options.watchdog else { return self.serve_unwatched() };
        let interval = limit.min(HUNG.max(limit / 5));
        let mut watch = Watch::new(self.server);
        self.rest(REST.min(limit / 2))?;
        let mut bound = Bound::new(interval, Instant::now());
        let (mut rest, mut patience) = (Duration::ZERO, interval / 8);
        loop {
            let begun = Instant::now();
            self.pause(rest)?;
            let answer = self.ask(self.options.dialect.alive_path, patience)?;
            let verdict = if answer.is_ok() { watch.answered() } else { watch.missed() };
            let sign = bound.look(verdict, rest + patience, begun, Instant::now());
            spare(self.server);
            match verdict.words() {
                None => {
                    let words = self.serving();
                    self.notifier.status(&words);
                }
                // One late answer is not worth a word, nor is what this process was too late for.
                Some(_) if verdict != Verdict::Busy && sign == Sign::Alive => {}
                Some(_) if watch.misses() == 1 && verdict == Verdict::Busy => {}
                Some(words) => self.notifier.status(words),
            }
            match sign {
                Sign::Alive => self.notifier.alive(),
                Sign::Nothing => {}
                Sign::Hung => self.notifier.hung(),
            }
            if verdict == Verdict::Answered {
                self.rest(REST.min(limit / 2))?;
                bound.asks(Instant::now());
            }
            let left = bound.left(Instant::now());
            (rest, patience) = match verdict {
                Verdict::Answered => (Duration::ZERO, interval / 8),
                _ => (left.min(interval / 8), left.saturating_sub(interval / 8).min(interval / 4)),
            };
        }
    }

    /// Lets the server be for that long, and looks at what it has become and who uses it.
    fn rest(&mut self, time: Duration) -> Result<(), End> {
        // One look may take long, and the watchdog is not fed meanwhile.
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.pause(left.min(LOOK))?;
            spare(self.server);
            if self.is_idle()? {
                return Err(End::Idle);
            }
        }
    }

    fn serve_unwatched(&mut self) -> Result<Infallible, End> {
        loop {
            self.pause(room::INTERVAL)?;
            spare(self.server);
            let words = self.serving();
            self.notifier.status(&words);
            if self.is_idle()? {
                return Err(End::Idle);
            }
        }
    }

    /// Tells the proxies how the server is.
    fn tell(&mut self, order: Order) {
        if let Some(attend) = &mut self.attend {
            attend.say(order);
        }
    }

    /// Whether nobody has used the server for so long that it should end. Then no proxy takes a client any
    /// more.
    fn is_idle(&mut self) -> Result<bool, End> {
        let (Some(mut idle), Some(attend)) = (self.idle.take(), &self.attend) else {
            return Ok(false);
        };
        let now = Instant::now();
        let clients = attend.clients();
        let found = idle.look(clients, attend.heard(), self.server, now);
        // Of clients that do not count while they are quiet, nobody says how long these here have been.
        let may = found != Found::Use && clients == 0 && !idle.would_take_some(self.server);
        let early = std::mem::take(&mut self.early.asked) && may;
        let due = early || found == Found::Due;
        if due {
            let sessions = self.sessions(&idle);
            self.early.works = !matches!(sessions, Ok(Some((false, _))));
            match sessions {
                Ok(Some((false, None))) => {}
                Ok(Some((false, Some(ago)))) => idle.used_before(ago, now),
                // What is not understood may work.
                Ok(Some((true, _)) | None) => idle.used(Instant::now()),
                Err(end) => {
                    self.idle = Some(idle);
                    return Err(end);
                }
            }
        }
        let now = Instant::now();
        let over = |idle: &Idle, now| idle.is_over(now) || (early && idle.is_early(now));
        let ends = due && over(&idle, now);
        let quiet = if early { None } else { idle.quiet() };
        self.turn.say(may && !self.early.works && idle.is_early(now));
        self.idle = Some(idle);
        if !ends {
            return Ok(false);
        }
        if !self.drain_proxies(quiet)? {
            if let Some(idle) = &mut self.idle {
                idle.used(Instant::now());
            }
            return Ok(false);
        }
        // A client that came and went while the sessions were asked for may have left one that works.
        let heard = self.attend.as_ref().and_then(Attend::heard);
        let Some(idle) = &mut self.idle else { return Ok(false) };
        if let Some(heard) = heard {
            idle.used(heard);
        }
        let ends = over(idle, Instant::now());
        if !ends {
            self.tell(Order::Ready);
        } else if early {
            self.streams
                .log
                .say(6, "memory is short (fleet.memoryPressure), and nobody uses the server");
        }
        Ok(ends)
    }

    /// Whether a session works, and how long ago one was last touched; `None` where the server does not say.
    fn sessions(&mut self, idle: &Idle) -> Result<Option<(bool, Option<Duration>)>, End> {
        let Some(paths) = &self.options.dialect.sessions else { return Ok(None) };
        let Some(answer) = self.json(&idle::list(paths))? else { return Ok(None) };
        let Some((ago, directories)) = idle.recent(&answer) else { return Ok(None) };
        let end = Instant::now() + SESSIONS;
        for directory in directories {
            if Instant::now() > end {
                return Ok(None);
            }
            let path = format!("{}?directory={}", paths.status, http::percent(&directory));
            let Some(answer) = self.json(&path)? else { return Ok(None) };
            match idle::works(&answer) {
                Some(false) => {}
                works => return Ok(works.map(|works| (works, ago))),
            }
        }
        Ok(Some((false, ago)))
    }

    fn json(&mut self, path: &str) -> Result<Option<Vec<u8>>, End> {
        let answer = self.ask(path, TRY)?;
        let good = answer.ok().filter(|answer| answer.is_json_success() && !answer.truncated);
        Ok(good.map(|answer| answer.body))
    }

    /// Has all proxies take nobody more, unless one has a client.
    fn drain_proxies(&mut self, quiet: Option<u32>) -> Result<bool, End> {
        let end = Instant::now() + DRAIN;
        if let Some(attend) = &mut self.attend {
            attend.drain(quiet.map_or(Order::Drain, Order::DrainActive));
        }
        loop {
            let Some(attend) = &self.attend else { return Ok(false) };
            match attend.drained() {
                Some(true) => return Ok(true),
                None if Instant::now() < end => drop(self.turn(end)?),
                _ => break,
            }
        }
        self.tell(Order::Ready);
        Ok(false)
    }

    /// Has systemd know that the server ends, and then the proxies: a client that comes from then on is a new
    /// proxy's, for which systemd starts the server anew.
    ///
    /// True if there was no proxy. One that comes now may have been started when systemd took this server for one
    /// that stays.
    fn leave(&mut self) -> bool {
        let alone = self.attend.as_ref().is_none_or(Attend::is_alone);
        self.notifier.stopping("nobody uses the server");
        self.notifier.barrier(PROXIES);
        let Some(attend) = &mut self.attend else { return alone };
        attend.leave();
        let end = Instant::now() + if alone { LATE } else { PROXIES };
        while Instant::now() < end && (alone || !self.is_left()) {
            let _ = self.turn(end);
        }
        alone
    }

    /// Whether the proxies that take nobody more are gone.
    fn is_left(&self) -> bool {
        self.attend.as_ref().is_none_or(|attend| !attend.has_drained())
    }

    /// Sends one request and waits for its result, while everything else goes on.
    fn ask(&mut self, path: &str, patience: Duration) -> Result<Result<Response, Error>, End> {
        let end = Instant::now() + patience;
        let login = self.login.as_ref().map(|(user, password)| Login { user, password });
        match Probe::start(self.address, path, login, end) {
            Ok(probe) => self.probe = Some(probe),
            Err(error) => return Ok(Err(error)),
        }
        loop {
            if let Some(result) = self.turn(end)? {
                return Ok(result);
            }
        }
    }

    fn pause(&mut self, time: Duration) -> Result<(), End> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    /// Waits until something happens, at most until `end`, and deals with it.
    fn turn(&mut self, end: Instant) -> Result<Option<Result<Response, Error>>, End> {
        let streams = [&self.streams.output, &self.streams.log];
        let mut interests: Vec<PollFd<'_>> = vec![self.signals.interest()];
        interests.extend(streams.into_iter().flat_map(Relay::interests));
        interests.extend(self.probe.as_ref().map(Probe::interest));
        interests.extend(self.attend.iter().flat_map(Attend::interests));
        interests.extend(self.turn.interest());
        wait_for(&mut interests, end);
        drop(interests);
        let asked = self.signals.take();
        self.asked = asked.or(self.asked);
        self.streams.turn();
        if let Some(attend) = &mut self.attend {
            attend.turn();
        }
        self.early.asked |= self.turn.is_to_end();
        let answer = self.probe.as_mut().and_then(|probe| probe.turn(Instant::now()));
        if answer.is_some() {
            self.probe = None;
        }
        let running = self.ended.is_none();
        self.reap();
        match (asked, self.ended.filter(|_| running)) {
            (Some(signal), _) => Err(End::Asked(signal)),
            (None, Some(exit)) => Err(End::Ended(exit)),
            (None, None) => Ok(answer),
        }
    }

    fn reap(&mut self) {
        for _ in 0..REAP_PER_TURN {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.server => {
                    self.ended = Some(Exit::of(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return self.has_children = true,
                Err(_) => return self.has_children = false,
            }
        }
    }

    fn finish(&mut self, end: End) -> u8 {
        let (last, code) = match end {
            End::Asked(signal) => {
                self.tell(Order::Stopping);
                self.notifier.stopping("stopping the server");
                self.end_server(signal);
                ("stopped".to_owned(), 0)
            }
            End::Idle => {
                let alone = self.leave();
                self.end_server(Signal::TERM);
                let came = self.attend.as_ref().is_some_and(|attend| !attend.is_alone());
                let code = if alone && came { COMES_BACK } else { 0 };
                ("idle: the next client starts the server".to_owned(), code)
            }
            End::Ended(exit) => {
                // Who comes now waits for the next start.
                self.tell(Order::Starting);
                self.drain();
                let reason = self.reason(exit);
                self.streams.log.say(3, &reason);
                let code = exit.code();
                (reason, if self.ready { code } else { self.options.never_ready(code) })
            }
            End::Refused(reason) => {
                self.streams.log.say(3, &reason);
                self.notifier.status(&reason);
                self.end_server(Signal::TERM);
                (reason, self.options.never_ready(1))
            }
        };
        self.notifier.status(&last);
        self.end_rest();
        self.flush();
        self.notifier.barrier(BARRIER);
        code
    }

    /// Ends the server; a stopped one is continued, so that it can take the signal.
    fn end_server(&mut self, signal: Signal) {
        for (signal, grace) in [(signal, SERVER_GRACE), (Signal::KILL, KILLED)] {
            if self.ended.is_some() {
                return;
            }
            let _ = kill_process(self.server, signal);
            let _ = kill_process(self.server, Signal::CONT);
            let end = Instant::now() + grace;
            while self.ended.is_none() && Instant::now() < end {
                let _ = self.turn(end);
            }
        }
    }

    /// Asks what is left to end, and kills what does not.
    ///
    /// SIGHUP goes with SIGTERM as in systemd's `SendSIGHUP=`: an interactive shell ignores
    /// SIGTERM. Every orphan becomes a child of this process, so without children nothing is left.
    fn end_rest(&mut self) {
        let polite = [Signal::TERM, Signal::HUP, Signal::CONT];
        let rounds: [(&[Signal], Duration); 3] =
            [(&polite, REST_GRACE), (&[Signal::KILL], KILLED / 2), (&[Signal::KILL], KILLED / 2)];
        for (signals, grace) in rounds {
            let _ = self.turn(Instant::now());
            if !self.has_children {
                return;
            }
            signal_all(&descendants(getpid()), signals);
            let end = Instant::now() + grace;
            while self.has_children && Instant::now() < end {
                let _ = self.turn(end);
            }
        }
    }

    /// Takes what the dead server left in its pipes. Its orphans may write on, so this is bounded.
    fn drain(&mut self) {
        for _ in 0..64 {
            if !self.streams.turn() {
                break;
            }
        }
    }

    fn flush(&mut self) {
        let end = Instant::now() + FLUSH;
        self.drain();
        while !(self.streams.output.is_idle() && self.streams.log.is_idle()) && Instant::now() < end
        {
            let streams = [&self.streams.output, &self.streams.log];
            let mut interests: Vec<_> = streams.into_iter().flat_map(Relay::interests).collect();
            wait_for(&mut interests, end);
            drop(interests);
            self.streams.turn();
        }
    }

    /// Says why the server ended.
    ///
    /// For a port that is taken opencode says only "Unexpected error, `ServeError`".
    fn reason(&self, exit: Exit) -> String {
        let words = self.streams.tail.words();
        let unclear = words.is_empty() || words.contains("ServeError");
        if !self.ready && unclear && TcpStream::connect_timeout(&self.address, TRY / 4).is_ok() {
            return format!("port {} is already taken by another program", self.options.port);
        }
        if words.is_empty() { exit.to_string() } else { format!("{exit}: {words}") }
    }
}

/// How long the Nth request for readiness may take.
///
/// The window in which requests are lost is short. A server that is still slow after it is starved
/// of the processor, and would never become ready if each of its answers came a little too late.
fn patience(tries: u32) -> Duration {
    if tries <= SLOW { TRY } else { TRY * 5 }
}

fn wait_for(interests: &mut [PollFd<'_>], end: Instant) {
    let left = end.saturating_duration_since(Instant::now());
    // A millisecond more, so that the wait does not end just before its time and start again.
    let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
    let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let _ = poll(interests, Some(&left));
}
