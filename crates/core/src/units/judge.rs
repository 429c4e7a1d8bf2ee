//! `opencode-judge@NAME.service`: judges the operator's own files before each start of the server.
//!
//! Not a command of the setup's or the server's unit: systemd gives each command of a unit the
//! variables of its `environmentFile`, which is one of the files that are to be judged first.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::escape::Word;
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::{HELPER_START, Names, description, sandbox};

/// Whether there is something to judge.
pub(super) fn is_needed(instance: &Instance) -> bool {
    !instance.secrets().is_empty() || !instance.shown_files().is_empty()
}

/// The lines by which what reads the files first waits for the judgement.
pub(super) fn required(instance: &Instance) -> impl Iterator<Item = Entry> {
    let lines = is_needed(instance).then(|| {
        let line = |directive| Entry::new(directive, Value::words([Names(&instance.name).judge()]));
        let why = "before systemd reads the variables of one, and the server all the others";
        [line("Requires").because(why), line("After")]
    });
    lines.into_iter().flatten()
}

/// The unit, where there is something to judge.
pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Option<Unit> {
    if !is_needed(instance) {
        return None;
    }
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Files", &instance.name))
        .set_why(
            "After",
            Value::words([names.net()]),
            "what decrypts secrets late may be ordered before that one, which is always there",
        )
        .set_why(
            "Before",
            Value::words([names.main()]),
            "a restart of the server is to be past its stop: before that, systemd lets no failure end it",
        )
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it runs before each start of the server, whose own limit is the one to tell of",
        );
    let service = Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("ExecStart", Value::command(command(instance, facts)))
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set("SyslogIdentifier", Value::words([format!("opencode-judge@{}", instance.name)]))
        .set("PrivateNetwork", Value::Yes)
        .set("RestrictAddressFamilies", Value::word("none"))
        .extend(sandbox::no_network())
        .set("ProtectHome", Value::word("read-only"))
        .extend(sandbox::reading_root());
    Some(Unit { name: names.judge(), sections: vec![unit, service] })
}

fn command(instance: &Instance, facts: &HostFacts) -> Vec<Word> {
    let mut argv: Vec<Word> = vec![facts.engine.as_str().into(), "judge".into()];
    for (option, path) in instance.secrets() {
        argv.extend(["--secret".into(), format!("{option}:{path}").into()]);
    }
    for (option, path) in instance.shown_files() {
        argv.extend(["--shown".into(), format!("{option}:{path}").into()]);
    }
    argv
}
