//! `opencode-setup@NAME.service`: initialises an empty HOME and keeps the links in it, as the
//! instance's user, in the instance's sandbox. The project is not mounted.

use crate::config;
use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::escape::Word;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{Names, SLICE, description, environment, judge, sockets, weaker};

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    let names = Names(&instance.name);
    let judge = judge::is_needed(instance).then(|| {
        let line = |directive| Entry::new(directive, Value::words([names.judge()]));
        let why = "before this unit reads the variables of one, and the server all the others";
        [line("Requires").because(why), line("After")]
    });
    let unit = Section::new("Unit")
        .set("Description", description("Setup", &instance.name))
        .set("Requires", Value::words([names.net()]))
        .set("After", Value::words([names.net()]))
        .extend(judge.into_iter().flatten())
        .extend(sockets::awaited(instance))
        .set("RequiresMountsFor", Value::ListedPath(instance.state_dir.clone()))
        .set("RequiresMountsFor", Value::ListedPath(instance.directory.clone()))
        .set_why(
            "AssertPathIsDirectory",
            Value::Path(instance.directory.clone()),
            "here, and not in the server's unit: a dependency that fails is told to clients that wait",
        )
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it runs before each start of the server, whose own limit is the one to tell of",
        );
    let scripts = instance.pre_init_script.is_some() || instance.post_init_script.is_some();
    let service = Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", Value::command(command(instance, facts)))
        .set("TimeoutStartSec", Value::Number(if scripts { 600 } else { 60 }))
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
        .extend(shown(instance, facts, scripts))
        .extend(sandbox::messages(facts))
        .set_why(
            "BindReadOnlyPaths",
            Value::bind(&format!("{}/setup", names.config_dir())),
            "what to do: the links, and the operator's scripts",
        );
    // Without them nothing of the operator's or the agent's runs here.
    let service = if scripts { weaker::apply(service, instance) } else { service };
    Unit { name: names.setup(), sections: vec![unit, service] }
}

/// Scripts, and commands of the operator's, see what the agent sees, but not the project. Without them this program does everything, before
/// each start, where a client may wait: systemd reads all mounts again for each of them.
fn shown(instance: &Instance, facts: &HostFacts, scripts: bool) -> Vec<Entry> {
    let further = instance.unit_overrides.setup.names().any(|name| name.starts_with("Exec"));
    if !scripts && !further && facts.knows_engine() {
        return sandbox::root(instance, facts, Programs::Own);
    }
    let mut entries = sandbox::empty_root(instance, facts, Programs::Agent);
    entries.extend(sandbox::minimal_etc(instance, facts));
    entries.extend(sandbox::configuration(instance));
    entries
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
    let plan = format!("{}/{}", Names(&instance.name).config_dir(), config::PLAN);
    let mut argv: Vec<Word> =
        ["setup", "--plan", &plan, "--shell", facts.shell.as_str()].map(Word::from).to_vec();
    argv.insert(0, facts.engine.as_str().into());
    let path = environment::path(instance, facts);
    if !path.is_empty() {
        argv.extend(["--path".into(), path.into()]);
    }
    argv
}
