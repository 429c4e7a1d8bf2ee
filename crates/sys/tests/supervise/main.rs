//! Runs the supervisor as systemd would: this binary starts itself again as the supervisor, as
//! process 1 of a PID namespace where that matters, and as a light stand-in for the server. The
//! real opencode is used when it is there.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a test")]

mod real;
mod rig;
mod server;
mod stand_in;
mod with_stand_in;

use std::process::ExitCode;

use instances_sys::supervise;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|word| word.to_str()) {
        Some("supervise") => match supervise::parse_args(arguments) {
            Ok(options) => return supervise::run(&options),
            Err(_) => return ExitCode::from(2),
        },
        Some("stand-in") => return stand_in::main(arguments),
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let mut trials = Vec::new();
    for (name, test) in with_stand_in::CASES {
        trials.push(Trial::test(*name, move || {
            test();
            Ok(())
        }));
    }
    let skip = !server::has_real_server();
    for (name, test) in real::CASES {
        let trial = Trial::test(*name, move || {
            test();
            Ok(())
        });
        trials.push(trial.with_ignored_flag(skip));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
