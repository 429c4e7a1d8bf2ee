//! `opencode-NAME.service`: the server under its supervisor, in the full sandbox.

use std::borrow::Cow;

use crate::facts::HostFacts;
use crate::layout::{AUTH_ROOT, SERVER_PORT};
use crate::spec::{AbsPath, Instance};
use crate::unit::escape::{Command, Word};
use crate::unit::{Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{NO_GENERATION, Names, SLICE, TARGET, description, switch};

/// What the server should not do on its own; see `docs/units.md` for what each one stops.
const QUIET: &[(&str, &str)] = &[
    ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
    ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
    ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
    ("OPENCODE_DISABLE_SHARE", "1"),
    ("npm_config_fetch_retries", "0"),
    ("npm_config_offline", "true"),
];

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    Unit {
        name: Names(&instance.name).main(),
        sections: vec![unit_section(instance), service(instance, facts)],
    }
}

fn unit_section(instance: &Instance) -> Section {
    let names = Names(&instance.name);
    Section::new("Unit")
        .set("Description", description("opencode server", &instance.name))
        .set("Requires", Value::words([names.net(), names.setup()]))
        .set("After", Value::words([names.net(), names.setup()]))
        .set("PartOf", Value::word(TARGET))
        .set("RequiresMountsFor", Value::ListedPath(instance.directory.clone()))
        .set("RequiresMountsFor", Value::ListedPath(instance.state_dir.clone()))
        .set("AssertPathIsDirectory", Value::Path(instance.directory.clone()))
        .set("StartLimitIntervalSec", Value::Number(60))
        .set("StartLimitBurst", Value::Number(5))
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
        .set("Restart", Value::word("always"))
        .set("RestartSec", Value::word("250ms"))
        .set("TimeoutStartSec", Value::Number(120))
        .set("TimeoutStopSec", Value::Number(10))
        .set("WatchdogSec", Value::Number(4))
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
        .set("Slice", Value::word(SLICE))
        .set("SyslogIdentifier", Value::words([format!("opencode-{}", instance.name)]))
        .extend(sandbox::identity(instance))
        .set("WorkingDirectory", Value::Path(instance.directory.clone()));
    section = environment(section, instance, facts);
    if instance.auth_enable {
        let made = format!("{AUTH_ROOT}/{}/password", instance.name);
        let path = instance.auth_password_file.as_ref().map_or(made, AbsPath::to_string);
        section = section.set("LoadCredential", Value::Credential("password", path));
    }
    section
        .extend(sandbox::namespace(names))
        .set_why(
            "RestrictAddressFamilies",
            Value::word("AF_UNIX AF_INET AF_INET6"),
            "the server and its tools are network programs; the namespace decides how far they reach",
        )
        .extend(sandbox::hardening())
        .extend(sandbox::empty_root(instance, facts, Programs::Agent))
        .extend(sandbox::minimal_etc(instance, facts))
        .extend(sandbox::messages(facts))
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
        .extend(switch::server(instance, facts))
}

/// The supervisor and, after `--`, the server's whole command line.
fn command(instance: &Instance, facts: &HostFacts) -> Value {
    let port = SERVER_PORT.to_string();
    let mut argv: Vec<Word> = vec![
        facts.engine.as_str().into(),
        "supervise".into(),
        "--generation".into(),
        NO_GENERATION.into(),
        "--port".into(),
        port.as_str().into(),
    ];
    let path = path(instance, facts);
    if !path.is_empty() {
        argv.extend(["--path".into(), path.into()]);
    }
    if instance.auth_enable {
        argv.push("--password".into());
    }
    argv.extend(["--".into(), instance.package.as_str().into()]);
    argv.extend(["serve", "--hostname", "127.0.0.1", "--port"].map(Word::from));
    argv.push(port.into());
    argv.extend(["--print-logs", "--log-level", instance.log_level.as_str()].map(Word::from));
    argv.extend(instance.extra_args.iter().map(Word::from));
    Value::command(argv)
}

/// The prefixes that go in front of the inherited `PATH`.
fn path(instance: &Instance, facts: &HostFacts) -> String {
    let mut prefixes: Vec<&str> = instance.path.iter().map(AbsPath::as_str).collect();
    if let Some(nixos) = &facts.nixos {
        prefixes.extend(nixos.path.iter().map(AbsPath::as_str));
        prefixes.extend(nixos.nix.iter().filter(|_| instance.nix_enable).map(AbsPath::as_str));
    }
    prefixes.join(":")
}

fn environment(mut section: Section, instance: &Instance, facts: &HostFacts) -> Section {
    section =
        section.set("Environment", Value::variable("HOME", instance.state_dir.as_str())).set_why(
            "Environment",
            Value::variable("SHELL", facts.shell.as_str()),
            "a service user's own shell is nologin, which the agent's tools would run",
        );
    for (name, value) in QUIET {
        section = section.set("Environment", Value::variable(name, *value));
    }
    if instance.nix_enable {
        section = section.set("Environment", Value::variable("NIX_REMOTE", "daemon"));
    }
    let Some(nixos) = &facts.nixos else { return section };
    let loader = instance.nix_ld_enable.then_some(&nixos.nix_ld.environment);
    for (name, value) in nixos.environment.iter().chain(loader.into_iter().flatten()) {
        let variable = Value::Variable(Cow::Owned(name.clone()), value.clone());
        section = section.set("Environment", variable);
    }
    section
}
