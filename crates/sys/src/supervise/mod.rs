//! The process that stands between systemd and one `opencode serve`.
//!
//! With `PrivatePIDs=` it is process 1 of the unit's PID namespace, elsewhere a child subreaper.
//! It starts the server, says `READY=1` once the server answers a project request, feeds the
//! watchdog from real requests, reaps what the agent's shells leave, and ends everything in less
//! than two seconds. It is one thread around one `poll(2)`; whatever the agent can send it is
//! bounded, because the agent runs as the same user next to it.

mod attend;
mod idle;
mod locks;
mod options;
mod probe;
mod processes;
mod reason;
mod relay;
mod room;
mod server;
mod session;
pub(crate) mod signals;
mod turn;
mod watch;

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};

pub use options::{Options, UsageError, parse_args};

use attend::Attend;
use instances_core::attend::socket_name;
use relay::Relay;
use server::Server;
use session::Session;

use crate::notify::Notifier;
use crate::passed;
use crate::places;
use crate::setup::{self, Event};
use crate::shell;

/// Runs the server until it ends or a signal asks for the end.
///
/// Returns 0 after SIGTERM, SIGINT or SIGHUP; 1 when the server could not be started or refuses
/// every project request; otherwise the server's own status, 128 + N for signal N. A server that
/// ends with status 0 unasked counts as failed, so that systemd tells of it.
pub fn run(options: &Options) -> ExitCode {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let mut notifier = Notifier::new(options.notify_socket.as_deref(), passed::number("notify"));
    let mut log = Relay::new(None, stderr.as_fd());
    let code = match start(options, &mut notifier, &mut log) {
        // Asked to end before anything began.
        Ok(None) => 0,
        Ok(Some(Started { server, password, signals, others })) => {
            let output = Relay::new(server.stdout, stdout.as_fd());
            let log = Relay::new(server.stderr, stderr.as_fd());
            let streams = session::Streams::new(output, log);
            Session::new(options, server.pid, password, others, signals, streams, notifier).run()
        }
        Err(reason) => {
            log.say(3, &reason);
            notifier.status(&reason);
            notifier.barrier(session::BARRIER);
            options.never_ready(1)
        }
    };
    ExitCode::from(code)
}

/// A server, and what is there for it.
struct Started {
    server: Server,
    password: Option<String>,
    signals: signals::Signals,
    others: session::Others,
}

fn start(
    options: &Options,
    notifier: &mut Notifier,
    log: &mut Relay<'_>,
) -> Result<Option<Started>, String> {
    // The agent runs as the same user: without this it could read our memory and environment.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("cannot hide from the agent: {error}"))?;
    if getpid().as_raw_nonzero().get() != 1 {
        set_child_subreaper(Some(getpid()))
            .map_err(|error| format!("cannot become the reaper of orphans: {error}"))?;
    }
    let mut signals = signals::Signals::install()
        .map_err(|error| format!("cannot install signal handlers: {error}"))?;
    // Before anything of the agent's could take the name.
    let attend = options.attend.as_ref().map(|name| Attend::listen(&socket_name(name)));
    let attend =
        attend.transpose().map_err(|error| format!("cannot listen to the proxies: {error}"))?;
    if let Some(list) = &options.places {
        notifier.status("waiting for the places of the host");
        if !places::wait(list, || signals.take().is_some())? {
            return Ok(None);
        }
    }
    if let Some(plan) = &options.setup {
        notifier.status("setting up HOME");
        set_up(options.home.as_deref(), plan, log)?;
    }
    let Some(turn) = turn::wait(&mut signals, notifier) else { return Ok(None) };
    let password = server::password(options.credentials.as_deref(), options.password)?;
    if let Some(directory) = &options.directory {
        enter(directory)?;
    }
    let server = launch(options, password.as_deref(), notifier, log)?;
    Ok(Some(Started { server, password, signals, others: session::Others { attend, turn } }))
}

/// Starts the server, which finds no locks of one that was killed.
fn launch(
    options: &Options,
    password: Option<&str>,
    notifier: &mut Notifier,
    log: &mut Relay<'_>,
) -> Result<Server, String> {
    notifier.status("clearing stale locks");
    let left = options.home.as_deref().map_or(0, |home| locks::clear(home).left);
    if left > 0 {
        log.say(4, "some stale locks could not be removed; the first session may wait for them");
    }
    notifier.status("starting the server");
    server::spawn(options, password)
}

/// Brings HOME to where the server can start.
fn set_up(home: Option<&Path>, plan: &Path, log: &mut Relay<'_>) -> Result<(), String> {
    let home = home.ok_or("HOME is not set; the unit sets it")?;
    let moved = RefCell::new(Vec::new());
    let done = setup::run(&setup::Request { home, plan, scripts: None }, &|event| {
        if let Event::Moved { from, to } = event {
            moved.borrow_mut().push(format!("{} is now {}", from.display(), to.display()));
        }
    });
    for words in moved.into_inner() {
        log.say(5, &words);
    }
    done.map_err(|error| error.to_string())
}

/// Makes sure that the user can enter the project, which systemd does where the server starts in it.
fn enter(directory: &str) -> Result<(), String> {
    use rustix::fs::{Access, access};
    access(directory, Access::READ_OK | Access::EXEC_OK).map_err(|error| {
        // systemd says it to every service that has a user.
        let user = std::env::var("USER").unwrap_or_else(|_| "USER".to_owned());
        format!(
            "the user {user} cannot enter the project directory {directory} ({error}); run: \
             setfacl -m u:{user}:rwX {}",
            shell::word(directory)
        )
    })
}
