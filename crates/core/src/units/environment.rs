//! The variables of the server and of the scripts, and the programs that they find.

use std::borrow::Cow;

use crate::facts::HostFacts;
use crate::spec::{AbsPath, Instance};
use crate::unit::{Entry, Value};

/// What the server should not do on its own; see `docs/reference/units.md` for what each one stops.
const QUIET: &[(&str, &str)] = &[
    ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
    ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
    ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
    ("OPENCODE_DISABLE_SHARE", "1"),
    ("npm_config_fetch_retries", "0"),
];

/// What has the server pass over the project's own configuration, plugins, agents and skills.
const DISTRUST: &[(&str, &str)] = &[
    ("OPENCODE_DISABLE_CLAUDE_CODE", "1"),
    ("OPENCODE_DISABLE_EXTERNAL_SKILLS", "1"),
    ("OPENCODE_DISABLE_PROJECT_CONFIG", "1"),
];

/// Everything in the environment, in the order in which it counts: a later one replaces an earlier
/// one, and systemd lets files replace both.
pub(super) fn variables(instance: &Instance, facts: &HostFacts) -> Vec<Entry> {
    let variable =
        |name: &'static str, value: &str| Entry::new("Environment", Value::variable(name, value));
    let mut entries = vec![
        variable("HOME", instance.state_dir.as_str()),
        variable("SHELL", facts.shell.as_str())
            .because("a service user's own shell is nologin, which the agent's tools would run"),
    ];
    entries.extend(QUIET.iter().map(|(name, value)| variable(name, value)));
    if instance.nix_enable {
        entries.push(variable("NIX_REMOTE", "daemon"));
    }
    let own = |name: &str, value: &str| {
        let value = Value::Variable(Cow::Owned(name.to_owned()), value.to_owned());
        Entry::new("Environment", value)
    };
    if let Some(nixos) = &facts.nixos {
        let loader = instance.nix_ld_enable.then_some(&nixos.nix_ld.environment);
        let of_host = nixos.environment.iter().chain(loader.into_iter().flatten());
        entries.extend(of_host.map(|(name, value)| own(name, value)));
    }
    entries.extend(instance.environment.iter().map(|one| own(&one.name, one.value.as_str())));
    if !instance.trust_project {
        let mut distrust = DISTRUST.iter().map(|(name, value)| variable(name, value));
        entries.extend(distrust.next().map(|first| {
            first.because("trustProject is off: the project's own configuration is passed over")
        }));
        entries.extend(distrust);
    }
    let files = instance.environment_file.iter();
    entries.extend(files.map(|file| Entry::new("EnvironmentFile", Value::Path(file.clone()))));
    entries
}

/// The prefixes that go in front of the inherited `PATH`.
pub(super) fn path(instance: &Instance, facts: &HostFacts) -> String {
    let mut prefixes: Vec<&str> = instance.path.iter().map(AbsPath::as_str).collect();
    if let Some(nixos) = &facts.nixos {
        prefixes.extend(nixos.path.iter().map(AbsPath::as_str));
        prefixes.extend(nixos.nix.iter().filter(|_| instance.nix_enable).map(AbsPath::as_str));
    }
    prefixes.join(":")
}
