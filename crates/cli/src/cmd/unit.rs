//! The commands that units call.

use std::ffi::OsString;
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::Path;
use std::process::ExitCode;

use instances_core::layout::AUTH_ROOT;
use instances_core::network::Network;
use instances_core::spec::InstanceName;
use instances_sys::accounts::Account;
use instances_sys::files::Root;
use instances_sys::installed;
use instances_sys::net::{self, Changed, Up};
use instances_sys::secrets::{self, Memory, Secret};
use instances_sys::setup::{self as state, Event, Request, Scripts};
use instances_sys::sockets as shown;
use instances_sys::systemctl::{self, Wait};
use instances_sys::{
    auth, backup, environment, events, proxy, sandbox_root, supervise as supervisor,
    terminate as ending, trust,
};

use super::Outcome;
use crate::args::{
    Files, Keep, KeepStep, NamedFile, NetChange, Places, Prepare, Renew, Setup, Sockets,
};
use crate::exit::Exit;
use crate::out;

/// Runs before the command line is parsed, and never returns to it.
pub(crate) fn supervise(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match supervisor::parse_args(arguments) {
        Ok(options) => supervisor::run(&options),
        Err(error) => {
            out::note(crate::report::failure(&error));
            Exit::Usage.into()
        }
    }
}

/// Only reached when `supervise` is not the first word.
pub(crate) fn supervise_usage(_: &[OsString]) -> Exit {
    out::note("error: `supervise` takes no options before its name");
    Exit::Usage
}

/// Runs before the command line is parsed, and never returns to it.
pub(crate) fn events(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match events::parse_args(arguments) {
        Ok(options) => options,
        Err(error) => {
            out::note(crate::report::failure(&error));
            return Exit::Usage.into();
        }
    };
    match events::run(&options) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            out::note(crate::report::failure(&error));
            Exit::Failed.into()
        }
    }
}

/// Only reached when `events` is not the first word.
pub(crate) fn events_usage(_: &[OsString]) -> Exit {
    out::note("error: `events` takes no options before its name");
    Exit::Usage
}

/// Runs before the command line is parsed, and never returns to it.
pub(crate) fn proxy(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match proxy::parse_args(arguments) {
        Ok(options) => options,
        Err(error) => {
            out::note(crate::report::failure(&error));
            return Exit::Usage.into();
        }
    };
    match proxy::run(&options) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            out::note(crate::report::failure(&error));
            Exit::Failed.into()
        }
    }
}

/// Only reached when `proxy` is not the first word.
pub(crate) fn proxy_usage(_: &[OsString]) -> Exit {
    out::note("error: `proxy` takes no options before its name");
    Exit::Usage
}

pub(crate) fn setup(args: &Setup) -> Outcome {
    let home = std::env::var_os("HOME").ok_or("HOME is not set; the setup unit sets it")?;
    let request = Request {
        home: Path::new(&home),
        plan: &args.plan,
        scripts: Some(Scripts { shell: &args.shell, prefixes: environment::prefixes(&args.path) }),
    };
    state::run_in_unit(&request, &|event| {
        if let Event::Moved { from, to } = event {
            out::note(format!("{} is now {}", from.display(), to.display()));
        }
    })?;
    Ok(Exit::Done)
}

/// Says why the server of an instance does not come, where its proxy reads it.
pub(crate) fn refusal(name: &InstanceName, program: &Path) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), name.as_str())?;
    instances_sys::refusal::tell(&program.display().to_string(), &record)?;
    Ok(Exit::Done)
}

/// Lets servers start in turn, and idle ones end.
pub(crate) fn turns(max: Option<NonZeroUsize>, pressure: Option<NonZeroU8>) -> Outcome {
    match instances_sys::turns::serve(max, pressure, &|words| out::note(words))? {}
}

/// Takes one step of a backup or restore.
pub(crate) fn keep(args: Keep) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), args.name.as_str())?;
    let kind = match args.step {
        KeepStep::Scan => backup::Kind::Scan,
        KeepStep::Copy => backup::Kind::Copy,
        KeepStep::Again => backup::Kind::Again,
        KeepStep::Pack => backup::Kind::Pack,
        KeepStep::Hold => backup::Kind::Hold,
        KeepStep::Held => backup::Kind::Held,
        KeepStep::Quiet => backup::Kind::Quiet,
        KeepStep::Verify => backup::Kind::Verify,
        KeepStep::Unpack => backup::Kind::Unpack,
        KeepStep::Swap => backup::Kind::Swap,
        KeepStep::Ended => backup::Kind::Ended,
    };
    let told = backup::Told {
        kind,
        identity: backup::Identity { uid: args.uid, gid: args.gid },
        all: args.all,
        frozen: args.frozen,
        opencode: args.opencode,
        time: args.time,
        from: args.from,
        systemctl: args.systemctl,
    };
    backup::take(&record, &told)?;
    Ok(Exit::Done)
}

/// Restarts the server of an instance, if it runs, whenever its secrets have other content than at its
/// start.
pub(crate) fn renew(args: Renew) -> Outcome {
    let program = args.systemctl.display().to_string();
    let secrets = args.secrets.into_iter();
    let secrets = secrets.map(|NamedFile { option, file }| Secret { option, file }).collect();
    let restart = || {
        systemctl::renew(&program, &args.name, Wait::No)
            .map_err(|error| crate::report::failure(&error))
    };
    let server = systemctl::invocation(&program, &args.name)?;
    let directory = std::env::var_os("RUNTIME_DIRECTORY");
    let memory = Memory { directory: directory.as_ref().map(Path::new), server };
    Err(secrets::watch(secrets, &memory, restart, &|words| out::note(words)).into())
}

/// Shows the sockets of an instance while its server runs, or takes them away.
pub(crate) fn sockets(args: &Sockets) -> Outcome {
    if args.down {
        shown::hide(&args.name)?;
        return Ok(Exit::Done);
    }
    Err(shown::follow(&args.name, &args.listed, &|words| out::note(words)).into())
}

/// Shows places of the host in the sandbox of the server that starts next.
pub(crate) fn places(args: &Places) -> Outcome {
    instances_sys::places::show(&args.name, &args.listed, &args.systemctl.display().to_string())?;
    Ok(Exit::Done)
}

pub(crate) fn net(change: NetChange) -> Outcome {
    match change {
        NetChange::Up { name, rules, nft, network, pool } => {
            net::finish_reload(&name)?;
            let network = network.map(|path| net::read_network(&path)).transpose()?;
            let network = network.filter(|network| network.policy.has_link());
            let destinations = network.as_ref().map(Network::destinations).unwrap_or_default();
            let pool = pool.filter(|_| network.is_some());
            let request =
                Up { name: &name, rules: &rules, nft: &nft, pool, destinations: &destinations };
            for Changed { setting, from, to } in net::up(&request, &|_| {})?.changed {
                out::line(format!("{setting} was {from} and is {to} now: the link needs it"));
            }
        }
        NetChange::Down { name, nft } => net::down(&name, nft.as_deref())?,
        NetChange::Stub { name, nft } => net::confine_stub(&name, &nft)?,
        NetChange::Watch { nft, systemctl } => {
            let program = systemctl.display().to_string();
            let reload = |names: &[String]| {
                systemctl::reload_networks(&program, names)
                    .map_err(|error| crate::report::failure(&error))
            };
            return Err(net::watch(&nft, &reload, &|words| out::note(words)).into());
        }
    }
    Ok(Exit::Done)
}

pub(crate) fn judge(args: &Files) -> Outcome {
    for NamedFile { option, file } in &args.secrets {
        trust::secret(option, file)?;
    }
    for NamedFile { option, file } in &args.shown {
        trust::shown(option, file)?;
    }
    Ok(Exit::Done)
}

pub(crate) fn prepare(args: &Prepare) -> Outcome {
    let groups: Vec<&str> = args.extra_groups.iter().map(String::as_str).collect();
    let account = Account {
        user: &args.user,
        group: &args.group,
        supplementary: &groups,
        home: &args.home,
        shell: &args.shell,
    };
    sandbox_root::make(&args.name, &account, &args.etc, &args.getent, args.merged_usr)?;
    if args.password {
        auth::ensure(Path::new(AUTH_ROOT), &args.name)?;
    }
    Ok(Exit::Done)
}

pub(crate) fn terminate(pid: Option<i32>) -> Outcome {
    // systemd expands `$MAINPID` to nothing when there is no main process.
    let Some(pid) = pid else { return Ok(Exit::Done) };
    match ending::run(pid)? {
        ending::Outcome::AlreadyGone | ending::Outcome::Ended => Ok(Exit::Done),
        ending::Outcome::StillRunning => Ok(Exit::Failed),
    }
}
