//! `opencode-setup@NAME.service`: what the operator wants to happen before the server starts, as the
//! instance's user, in the instance's sandbox. The project is not mounted.
//!
//! Where there is nothing of that kind the supervisor looks after HOME itself, before its server:
//! another sandbox would cost every start and every wake its time.

use crate::config;
use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::escape::Word;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{HELPER_START, Names, SLICE, description, environment, judge, sockets, weaker};

/// The unit's name, where the instance has it: with scripts, with lines of the operator's own, and with
/// sockets of the host, without which no server starts but which one that runs goes on without.
pub(super) fn unit_of(instance: &Instance) -> Option<String> {
    let needed = has_scripts(instance)
        || instance.unit_overrides.setup.names().next().is_some()
        || sockets::is_needed(instance);
    needed.then(|| Names(&instance.name).setup())
}

fn has_scripts(instance: &Instance) -> bool {
    instance.pre_init_script.is_some() || instance.post_init_script.is_some()
}

/// The plan, at a path that never changes.
pub(super) fn plan(names: Names<'_>) -> String {
    format!("{}/{}", names.config_dir(), config::PLAN)
}

/// The line by which the server's sandbox shows it. Not its directory: scripts of the next declaration may be there
/// while the agent of this one runs.
pub(super) fn shown_plan(names: Names<'_>) -> Entry {
    let why = "what the supervisor does in HOME: the links";
    Entry::new("BindReadOnlyPaths", Value::bind(&plan(names))).because(why)
}

/// The unit, where the instance has one.
pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Option<Unit> {
    let name = unit_of(instance)?;
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Setup", &instance.name))
        .set("Requires", Value::words([names.net()]))
        .set("After", Value::words([names.net()]))
        .extend(judge::required(instance))
        .extend(sockets::awaited(instance))
        .set("RequiresMountsFor", Value::ListedPath(instance.state_dir.clone()))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it runs before each start of the server, whose own limit is the one to tell of",
        );
    let scripts = has_scripts(instance);
    let service = Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", Value::command(command(instance, facts)))
        .set("TimeoutStartSec", Value::Number(if scripts { 600 } else { HELPER_START }))
        .set_why(
            "TimeoutStopSec",
            Value::Number(10),
            "process 1 of a PID namespace takes no signal, and ends with its script",
        )
        .set("Slice", Value::word(SLICE))
        .extend(instance.resources.entries())
        .set("SyslogIdentifier", Value::words([format!("opencode-setup@{}", instance.name)]))
        .extend(sandbox::identity(instance))
        .extend(environment::variables(instance, facts))
        .extend(sandbox::namespace(names))
        .extend([families(scripts)])
        .extend(sandbox::hardening())
        .extend(sandbox::empty_root(instance, facts, Programs::Agent))
        .extend(sandbox::minimal_etc(instance, facts))
        .extend(sandbox::configuration(instance))
        .extend(sandbox::messages(facts))
        .set_why(
            "BindReadOnlyPaths",
            Value::bind(&format!("{}/setup", names.config_dir())),
            "what to do: the links, and the operator's scripts",
        );
    // Without them nothing of the operator's or the agent's runs here.
    let service = if scripts { weaker::apply(service, instance) } else { service };
    Some(Unit { name, sections: vec![unit, service] })
}

/// A script may use the network as far as the namespace lets it.
fn families(scripts: bool) -> Entry {
    if scripts {
        Entry::new("RestrictAddressFamilies", Value::word("AF_UNIX AF_INET AF_INET6")).because(
            "the scripts may be network programs; the namespace decides how far they reach",
        )
    } else {
        Entry::new("RestrictAddressFamilies", Value::word("AF_UNIX"))
    }
}

fn command(instance: &Instance, facts: &HostFacts) -> Vec<Word> {
    let plan = plan(Names(&instance.name));
    let mut argv: Vec<Word> =
        ["setup", "--plan", &plan, "--shell", facts.shell.as_str()].map(Word::from).to_vec();
    argv.insert(0, facts.engine.as_str().into());
    let path = environment::path(instance, facts);
    if !path.is_empty() {
        argv.extend(["--path".into(), path.into()]);
    }
    argv
}
