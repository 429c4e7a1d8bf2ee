//! `opencode-instances`: many isolated opencode servers on one Linux machine.
//!
//! The program is [`main`]. The rest is what the generated documents need to know of it.

mod args;
mod cmd;
mod exit;
#[cfg(test)]
mod malformed;
mod out;
mod report;
mod spec;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};
use exit::Exit;

/// The description that help texts, completions, the man page and `docs/reference/commands.md` come from.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Each exit status with its meaning.
pub fn exit_statuses() -> impl Iterator<Item = (u8, &'static str)> {
    Exit::ALL.into_iter().map(|exit| (exit.code(), exit.meaning()))
}

/// Runs the program.
pub fn main() -> ExitCode {
    // These stay resident for an instance's whole life: they start before anything else is set up.
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == "supervise" => return cmd::unit::supervise(words),
        Some(word) if word == "events" => return cmd::unit::events(words),
        Some(word) if word == "proxy" => return cmd::unit::proxy(words),
        _ => {}
    }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(exit) = cmd::dns::at_once(&words) {
        return exit;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            out::note(report::failure(error.as_ref()));
            Exit::Failed.into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Box<dyn std::error::Error>> {
    match command {
        Command::Check(args) => cmd::check::run(&args),
        Command::Render(args) => cmd::render::run(&args),
        Command::Plan(args) => cmd::apply::plan(&args),
        Command::Apply(args) => cmd::apply::apply(&args),
        Command::Remove(args) => cmd::apply::remove(&args),
        Command::Status(args) => cmd::status::run(&args),
        Command::Start(names) => cmd::control::start(&names),
        Command::Stop(names) => cmd::control::stop(&names),
        Command::Restart(names) => cmd::control::restart(&names),
        Command::Logs(args) => cmd::control::logs(&args),
        Command::Blocked(args) => cmd::blocked::run(&args),
        Command::Audit(args) => cmd::audit::run(&args),
        Command::Doctor(json) => cmd::doctor::run(&json),
        Command::Probe => cmd::audit::probe(),
        Command::Url(args) => cmd::url::run(&args),
        Command::Attach(args) => cmd::attach::run(&args),
        Command::Rotate(args) => cmd::rotate::run(&args),
        Command::Backup(args) => cmd::backup::run(&args),
        Command::Restore(args) => cmd::restore::run(&args),
        Command::Schema(args) => cmd::schema::run(&args),
        Command::Explain(args) => Ok(cmd::explain::run(&args)),
        Command::Options(json) => Ok(cmd::options::run(&json)),
        Command::Completions(args) => Ok(cmd::generate::completions(&args)),
        Command::Man => cmd::generate::man(),
        Command::Supervise { rest } => Ok(cmd::unit::supervise_usage(&rest)),
        Command::Events { rest } => Ok(cmd::unit::events_usage(&rest)),
        Command::Proxy { rest } => Ok(cmd::unit::proxy_usage(&rest)),
        Command::Setup(args) => cmd::unit::setup(&args),
        Command::Judge(args) => cmd::unit::judge(&args),
        Command::Refusal { name, systemctl } => cmd::unit::refusal(&name, &systemctl),
        Command::Turns { max, pressure } => cmd::unit::turns(max, pressure),
        Command::Keep(args) => cmd::unit::keep(args),
        Command::Renew(args) => cmd::unit::renew(args),
        Command::Sockets(args) => cmd::unit::sockets(&args),
        Command::Places(args) => cmd::unit::places(&args),
        Command::Net(args) => cmd::net::run(args),
        Command::Dns { name, network } => cmd::dns::run(&name, &network),
        Command::Prepare(args) => cmd::unit::prepare(&args),
        Command::Nixos => cmd::nixos::run(),
        Command::Terminate { pid } => cmd::unit::terminate(pid),
    }
}
