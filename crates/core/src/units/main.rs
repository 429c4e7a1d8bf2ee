//! `opencode-NAME.service`: the server under its supervisor, in the full sandbox.

use crate::attend::{COMES_BACK, NEVER_READY};
use crate::dialect;
use crate::facts::HostFacts;
use crate::guard;
use crate::layout::{AUTH_ROOT, DEFAULT_USERNAME, SERVER_PORT};
use crate::spec::{AbsPath, IdleClients, Instance};
use crate::unit::escape::{Command, Word};
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{
    NO_GENERATION, Names, SLICE, TARGET, description, environment, judge, secrets, setup, sockets,
    switch, turns, weaker,
};

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    Unit {
        name: Names(&instance.name).main(),
        sections: vec![unit_section(instance), service(instance, facts)],
    }
}

fn unit_section(instance: &Instance) -> Section {
    let names = Names(&instance.name);
    let watch = secrets::is_watched(instance).then(|| Value::words([names.secrets()]));
    let before = || std::iter::once(names.net()).chain(setup::unit_of(instance));
    Section::new("Unit")
        .set("Description", description("opencode server", &instance.name))
        .set("Requires", Value::words(before()))
        .set("After", Value::words(before()))
        .extend(
            setup::unit_of(instance)
                .is_none()
                .then(|| judge::required(instance))
                .into_iter()
                .flatten(),
        )
        .set_why(
            "After",
            Value::words([names.dns_socket(), names.events()]),
            "names resolve and refusals are recorded from the start; it goes on without either",
        )
        .extend(turns::before())
        .extend(sockets::kept(instance))
        .extend(instance.is_on_demand().then(|| {
            Entry::new("Wants", Value::words([names.events()]))
                .because("it costs nothing while the server is not there")
        }))
        .set("PartOf", Value::word(TARGET))
        .set("RequiresMountsFor", Value::ListedPath(instance.directory.clone()))
        .set("RequiresMountsFor", Value::ListedPath(instance.state_dir.clone()))
        .extend(sandbox::mounts(instance))
        .set("StartLimitIntervalSec", Value::Number(60))
        .extend([start_limit(instance)])
        .set_why(
            "OnFailure",
            Value::words([names.refusal()]),
            "clients that wait for another start learn that none comes",
        )
        .extend(watch.map(|unit| {
            Entry::new("Wants", unit)
                .because("restartOnSecretChange: it looks while the server runs")
        }))
}

fn service(instance: &Instance, facts: &HostFacts) -> Section {
    let names = Names(&instance.name);
    let mut section = Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", command(instance, facts))
        .set_why(
            "ExecStop",
            Value::Command(Command {
                prefix: "+",
                argv: vec![
                    facts.engine.as_str().into(),
                    "terminate".into(),
                    Word::Variable("MAINPID"),
                ],
            }),
            "systemd loses track of process 1 of a PID namespace and would kill it without grace",
        )
        .extend(restart(instance))
        .set("RestartSec", Value::word("250ms"))
        .set("TimeoutStartSec", Value::Number(120))
        .set("TimeoutStopSec", Value::Number(10))
        .set_why(
            "WatchdogSec",
            Value::Number(20),
            "for the supervisor, which itself gives up a server after 4 s; a host that stands still for a while \
             ends nobody",
        )
        .set_why(
            "WatchdogSignal",
            Value::word("SIGKILL"),
            "process 1 of a PID namespace may ignore any other signal",
        )
        .set_why(
            "OOMPolicy",
            Value::word("continue"),
            "a tool of the agent's that runs out of memory does not end the server",
        )
        .set_why(
            "OOMScoreAdjust",
            Value::Number(200),
            "before the host's own services; no process of the agent's gets below it",
        )
        .set("Slice", Value::word(SLICE))
        .extend(instance.resources.entries())
        .set("SyslogIdentifier", Value::words([format!("opencode-{}", instance.name)]))
        .extend(sandbox::identity(instance))
        .extend([working_directory(instance)]);
    section = section.extend(environment::variables(instance, facts));
    if instance.auth_enable {
        let made = format!("{AUTH_ROOT}/{}/password", instance.name);
        let path = instance.auth_password_file.as_ref().map_or(made, AbsPath::to_string);
        section = section.set("LoadCredential", Value::Credential("password".into(), path));
    }
    let credentials = instance.credentials.iter().map(|one| {
        let value = Value::Credential(one.name.clone().into(), one.file.to_string());
        Entry::new("LoadCredential", value)
    });
    section = section.extend(credentials);
    section = section
        .extend(sandbox::namespace(names))
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_INET AF_INET6"),
            "the server and its tools are network programs; the namespace decides how far they reach",
        )
        .extend(sandbox::hardening())
        .extend(sandbox::empty_root(instance, facts, Programs::Agent))
        .extend(sandbox::minimal_etc(instance, facts))
        .extend(sandbox::configuration(instance))
        .extend(setup::unit_of(instance).is_none().then(|| setup::shown_plan(names)))
        .extend(sandbox::messages(facts))
        .extend([turns::connection()])
        .set_why(
            "TemporaryFileSystem",
            Value::word("/dev/shm:mode=1777,nosuid,nodev,size=25%"),
            "the host's /dev/shm would be shared with every other instance",
        )
        .set_why(
            "BindPaths",
            Value::bind(instance.directory.as_str()),
            "the project; with the state directory the only place that the agent can write to",
        )
        .extend(sandbox::bound(instance))
        .extend(sandbox::devices(instance))
        .extend(sockets::shown(instance))
        .extend(switch::server(instance, facts));
    weaker::apply(section, instance)
}

/// The exit statuses of systemd where the sandbox cannot be made: the project cannot be entered or is missing, and
/// so for a program, the group, the user, a filter or a secret. No server ends with one of them (`Exit::code`).
const SANDBOX: &str = "200 203 216 217 226 228 243";

/// A server that ends because nobody uses it is started by the next client.
fn restart(instance: &Instance) -> Vec<Entry> {
    let prevent = |statuses: &str, why| {
        Entry::new("RestartPreventExitStatus", Value::words([statuses])).because(why)
    };
    if !instance.is_on_demand() {
        let why = "what is missing is still missing after 250 ms; clients learn at once what it is";
        return vec![Entry::new("Restart", Value::word("always")), prevent(SANDBOX, why)];
    }
    let again = || Value::Number(COMES_BACK.into());
    vec![
        Entry::new("Restart", Value::word("on-failure"))
            .because("one that nobody uses ends with status 0, and the next client starts it"),
        Entry::new("RestartForceExitStatus", again())
            .because("with the next line: one to which a client came while it ended"),
        Entry::new("SuccessExitStatus", again()),
        prevent(
            &format!("{NEVER_READY} {SANDBOX}"),
            "clients learn that the start failed, and the next one tries again; a restart would take the proxy along, \
             and whoever it holds",
        ),
    ]
}

/// How many starts in a minute are too many: clients that come and go must not use them up.
fn start_limit(instance: &Instance) -> Entry {
    let entry = |starts| Entry::new("StartLimitBurst", Value::Number(starts));
    if instance.is_on_demand() && instance.idle_timeout < 60 {
        let why = "a server that ends whenever nobody uses it may start more often";
        return entry(5 + u64::from(60 / instance.idle_timeout.max(1))).because(why);
    }
    entry(5)
}

/// Where the server starts. Bun, which opencode is built with, resolves optional modules from there
/// before it does anything else: a `tsconfig.json` or `node_modules` of the project can put code of
/// its own in their place.
fn working_directory(instance: &Instance) -> Entry {
    if instance.trust_project {
        return Entry::new("WorkingDirectory", Value::Path(instance.directory.clone()));
    }
    let why = "trustProject is off: from the project, its own modules would be loaded at the start";
    Entry::new("WorkingDirectory", Value::word("/")).because(why)
}

/// The supervisor and, after `--`, the server's whole command line.
fn command(instance: &Instance, facts: &HostFacts) -> Value {
    let port = SERVER_PORT.to_string();
    let dialect = facts.dialect(instance);
    let mut argv: Vec<Word> = vec![
        facts.engine.as_str().into(),
        "supervise".into(),
        "--generation".into(),
        NO_GENERATION.into(),
        "--port".into(),
        port.as_str().into(),
    ];
    argv.extend(["--attend".into(), instance.name.as_str().into()]);
    if setup::unit_of(instance).is_none() {
        argv.extend(["--setup".into(), setup::plan(Names(&instance.name)).into()]);
    }
    if instance.is_on_demand() {
        argv.extend(["--idle".into(), instance.idle_timeout.to_string().into()]);
        argv.extend((instance.idle_clients == IdleClients::Active).then(|| "--idle-active".into()));
        argv.extend((!instance.idle_children).then(|| "--idle-alone".into()));
    }
    if dialect.major != dialect::ONE.major {
        argv.extend(["--opencode".into(), dialect.major.to_string().into()]);
    }
    if guard::is_needed(instance) {
        argv.push("--guarded".into());
    }
    if !instance.trust_project {
        argv.extend(["--directory".into(), instance.directory.as_str().into()]);
    }
    let path = environment::path(instance, facts);
    if !path.is_empty() {
        argv.extend(["--path".into(), path.into()]);
    }
    if instance.auth_enable {
        argv.push("--password".into());
        if instance.auth_username.as_str() != DEFAULT_USERNAME {
            argv.extend(["--username".into(), Word::from(&instance.auth_username)]);
        }
    }
    argv.extend(["--".into(), instance.package.as_str().into()]);
    argv.extend(["serve", "--hostname", "127.0.0.1", "--port"].map(Word::from));
    argv.push(port.into());
    let level = instance.log_level.as_str();
    let level = if dialect.lower_case_levels { level.to_lowercase() } else { level.to_owned() };
    argv.extend(["--print-logs".into(), "--log-level".into(), Word::from(level)]);
    argv.extend(instance.extra_args.iter().map(Word::from));
    Value::command(argv)
}
