//! `attach`: opencode's own terminal interface, with the password.
//!
//! What it shows comes from a server that an agent may have taken over, and opencode runs modules
//! that it finds in its working directory. So it runs as who called `sudo`, from `/`, and without
//! plugins.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use instances_core::dialect::Dialect;
use instances_sys::caller::{self, Caller};
use instances_sys::environment::program_of;
use instances_sys::files::Root;
use instances_sys::{installed, status, trust};

use super::Outcome;
use crate::args::Attach;
use crate::out;

/// In front of a directory, another name of it for the server alone.
///
/// `opencode attach` first tries to make `--dir` its own working directory. The kernel goes no way
/// through a file; the server resolves `..` without looking.
const NOT_HERE: &str = "/dev/null/../..";

pub(crate) fn run(args: &Attach) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), &args.name)?;
    let package = record.package()?;
    let password = status::password(&record)?;
    let dialect = Dialect::of_major(record.opencode);
    let program = program_of(package);
    // It runs outside every sandbox, as who asks for it.
    trust::program_of_root(&program)?;
    let mut command = Command::new(program);
    command.arg("attach").arg(format!("http://{}", status::reachable(record.listen)));
    command.arg("--dir").arg(format!("{NOT_HERE}{}", record.directory));
    command.args(&args.rest).current_dir("/").env("PWD", "/");
    command.env("OPENCODE_PURE", "1").env("OPENCODE_DISABLE_PROJECT_CONFIG", "1");
    for name in dialect.password {
        match &password {
            Some(password) => command.env(name, password.expose()),
            None => command.env_remove(name),
        };
    }
    command.env(dialect.username, &record.auth_username);
    if caller::lend(&mut command)? == Caller::Root {
        out::note("this shows as root what a server says; use sudo from an account of your own");
    }
    let error = command.exec();
    Err(format!("cannot run {}: {error}", package.display()).into())
}
