//! `unitOverrides`: directives that the operator puts in the place of the units' own.
//!
//! The text of a value is systemd's own syntax and reaches the unit as it is; what could leave its
//! line, or be read differently by NixOS's `switch-to-configuration`, is refused here.

use serde::Serialize;

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Origin};
use crate::raw::{Directives, Located};
use crate::text::{DirectiveText, Refusal};
use crate::unit::{Entry, Section, Unit, Value};

/// The directives of one unit, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Overrides(std::collections::BTreeMap<String, Vec<DirectiveText>>);

/// The three units that can be overridden.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnitOverrides {
    /// Of `opencode-NAME.service`.
    pub main: Overrides,
    /// Of `opencode-setup@NAME.service`.
    pub setup: Overrides,
    /// Of `opencode-net@NAME.service`.
    pub net: Overrides,
}

/// What an option says, or what the isolation of every instance rests on; and what to do instead.
const RESERVED: &[(&str, &str)] = &[
    ("After", ADDS),
    ("BindTo", ADDS),
    ("BindsTo", ADDS),
    ("CacheDirectory", OF_HOME),
    ("ConfigurationDirectory", OF_HOME),
    ("DynamicUser", "use `user`"),
    ("Environment", "use `environment`"),
    ("ExecReload", "the engine runs here; it has no other place"),
    ("ExecStart", "use `package` and `extraArgs`"),
    ("ExecStop", "the engine ends the server here; set `TimeoutStopSec` for more time"),
    ("ExecStopPost", "the engine cleans up here; it has no other place"),
    ("Group", "use `group`"),
    ("IPCNamespacePath", NAMESPACES),
    ("ImportCredential", SECRETS),
    ("InaccessibleDirectories", "its name today is `InaccessiblePaths`"),
    ("JoinsNamespaceOf", NAMESPACES),
    ("LoadCredential", SECRETS),
    ("LoadCredentialEncrypted", SECRETS),
    ("LogsDirectory", OF_HOME),
    ("MountAPIVFS", "it would show the host's /run in the sandbox"),
    ("NetworkNamespacePath", NAMESPACES),
    ("NotifyAccess", "the supervisor alone says when the server is ready"),
    ("PAMName", "a session of the user would run outside the sandbox"),
    ("PartOf", ADDS),
    ("PermissionsStartOnly", "nothing of the agent's runs as root"),
    ("PrivateNetwork", NAMESPACES),
    ("ReadOnlyDirectories", "its name today is `ReadOnlyPaths`"),
    ("ReadWriteDirectories", "its name today is `ReadWritePaths`"),
    ("RemainAfterExit", "the units depend on it as it is"),
    ("Requires", ADDS),
    ("RequiresMountsFor", ADDS),
    ("RootDirectory", ROOT),
    ("RootDirectoryStartOnly", ROOT),
    ("RootEphemeral", ROOT),
    ("RootHash", ROOT),
    ("RootImage", ROOT),
    ("RootMStack", ROOT),
    ("RootVerity", ROOT),
    ("RuntimeDirectory", "the sandbox's root lies here"),
    ("RuntimeDirectoryMode", "the sandbox's root lies here"),
    ("RuntimeDirectoryPreserve", "the sandbox's root lies here"),
    ("SetCredential", SECRETS),
    ("SetCredentialEncrypted", SECRETS),
    ("Sockets", "a socket of the host would be a way out of the network namespace"),
    ("StateDirectory", "use `stateDir`"),
    ("StateDirectoryMode", "state and password are nobody else's to read"),
    ("SupplementaryGroups", "use `extraGroups`"),
    ("Type", "the units depend on it as it is"),
    ("User", "use `user`"),
    ("UserNamespacePath", NAMESPACES),
    ("WorkingDirectory", "use `directory`"),
    ("X-BindReadOnlyPaths", "use `sandbox.readOnlyPaths`"),
];

const ADDS: &str = "a drop-in adds to what the unit says of it, and this would replace that";
const NAMESPACES: &str = "each instance has namespaces of its own";
const OF_HOME: &str =
    "systemd would give the directory away; everything of the instance's is in `stateDir`";
const ROOT: &str = "the sandbox begins with an empty root";
const SECRETS: &str = "use `credentials`, or `auth.passwordFile` for the password";

/// What changes no isolation: resources, times, restarts, logs, order. Everything else is said
/// aloud, what a newer systemd brings and what is mistyped among it.
const HARMLESS: &[&str] = &[
    "Before",
    "Conflicts",
    "CoredumpFilter",
    "DefaultMemoryLow",
    "DefaultMemoryMin",
    "Description",
    "Documentation",
    "IgnoreSIGPIPE",
    "LogExtraFields",
    "LogFilterPatterns",
    "LogLevelMax",
    "LogRateLimitBurst",
    "LogRateLimitIntervalSec",
    "ManagedOOMMemoryPressure",
    "ManagedOOMMemoryPressureLimit",
    "ManagedOOMPreference",
    "ManagedOOMSwap",
    "MemoryHigh",
    "MemoryLow",
    "MemoryMax",
    "MemoryMin",
    "MemorySwapMax",
    "MemoryZSwapMax",
    "Nice",
    "OOMPolicy",
    "OOMScoreAdjust",
    "OnFailure",
    "OnSuccess",
    "RuntimeMaxSec",
    "RuntimeRandomizedExtraSec",
    "SuccessExitStatus",
    "SyslogIdentifier",
    "TasksMax",
    "Upholds",
    "WantsMountsFor",
    "WatchdogSec",
];

/// The same by how they begin.
const HARMLESS_PREFIXES: &[&str] = &[
    "Allowed",
    "Assert",
    "CPU",
    "Condition",
    "IO",
    "JobTimeout",
    "Limit",
    "Restart",
    "StartLimit",
    "Startup",
    "Timeout",
    "X-",
];

/// Whether the directive is harmless in whatever unit it stands.
pub(crate) fn is_harmless(name: &str) -> bool {
    // Core dumps would leave the sandbox.
    if name == "LimitCORE" {
        return false;
    }
    HARMLESS.contains(&name) || HARMLESS_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `[Unit]`'s directives that do not begin with one of [`OF_UNIT_PREFIXES`].
const OF_UNIT: &[&str] = &[
    "After",
    "AllowIsolate",
    "Before",
    "BindsTo",
    "CollectMode",
    "Conflicts",
    "DefaultDependencies",
    "Description",
    "Documentation",
    "FailureAction",
    "IgnoreOnIsolate",
    "JobRunningTimeoutSec",
    "OnFailure",
    "OnFailureJobMode",
    "OnSuccess",
    "PartOf",
    "PropagatesReloadTo",
    "PropagatesStopTo",
    "RebootArgument",
    "RefuseManualStart",
    "RefuseManualStop",
    "ReloadPropagatedFrom",
    "Requires",
    "RequiresMountsFor",
    "Requisite",
    "SourcePath",
    "StopPropagatedFrom",
    "StopWhenUnneeded",
    "SuccessAction",
    "SurviveFinalKillSignal",
    "Upholds",
    "Wants",
    "WantsMountsFor",
];

const OF_UNIT_PREFIXES: &[&str] = &["Assert", "Condition", "JobTimeout", "StartLimit", "X-"];

impl Overrides {
    /// The directives, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Puts the operator's lines in the place of the unit's.
    #[must_use]
    pub(crate) fn apply(&self, mut unit: Unit) -> Unit {
        for (name, values) in &self.0 {
            let named = |entry: &Entry| entry.directive == name.as_str();
            let has = |section: &Section| section.entries.iter().any(named);
            let home = unit.sections.iter().position(has).or_else(|| {
                unit.sections.iter().position(|section| section.name == section_of(name))
            });
            let Some(section) = home.and_then(|home| unit.sections.get_mut(home)) else { continue };
            // Every one of these is started, so that ours is no less true.
            if name != "OnFailure" {
                section.entries.retain(|entry| !named(entry));
            }
            section.entries.extend(values.iter().enumerate().map(|(index, value)| Entry {
                directive: name.clone().into(),
                value: Value::Text(value.clone()),
                since: 0,
                why: (index == 0).then_some("from unitOverrides"),
            }));
        }
        unit
    }
}

/// What NixOS's `switch-to-configuration` reads in `[Service]`, and in no other section.
const OF_SERVICE: &[&str] =
    &["X-NotSocketActivated", "X-ReloadIfChanged", "X-RestartIfChanged", "X-StopIfChanged"];

/// The section that a directive belongs to.
fn section_of(name: &str) -> &'static str {
    let of_unit =
        OF_UNIT.contains(&name) || OF_UNIT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if of_unit && !OF_SERVICE.contains(&name) { "Unit" } else { "Service" }
}

/// Judges what was typed at `key`; refusals name the directive or the value.
pub(crate) fn judge(
    key: &str,
    typed: Option<&Located<Directives>>,
    mut refuse: impl FnMut(&Origin, &str, Refusal),
) -> Overrides {
    let mut overrides = Overrides::default();
    for (name, values) in typed.map_or(&[][..], |typed| &typed.value) {
        if let Err(refusal) = legal_name(key, &name.value) {
            refuse(&name.at, &format!("the directive {:?}", name.value), refusal);
            continue;
        }
        let mut lines = Vec::new();
        for value in values {
            let text = inside(&name.value, &value.value);
            match text.and_then(|()| DirectiveText::new(&value.value)) {
                Ok(text) => lines.push(text),
                Err(refusal) => refuse(&value.at, &format!("`{}`", name.value), refusal),
            }
        }
        overrides.0.insert(name.value.clone(), lines);
    }
    overrides
}

fn legal_name(key: &str, name: &str) -> Result<(), Refusal> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
    if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Refusal {
            code: Code::BadDirective,
            reason: "a directive is a capital letter followed by letters, digits and hyphens"
                .into(),
            help: "write it as systemd.exec(5) does, as in `MemoryMax`".into(),
        });
    }
    let prepares = ("ExecStartPre", "the engine makes accounts and password here");
    let of_net = std::iter::once(&prepares).filter(|_| key == "unitOverrides.net");
    let mut reserved = RESERVED.iter().chain(of_net);
    if let Some((_, instead)) = reserved.find(|(reserved, _)| *reserved == name) {
        return Err(Refusal {
            code: Code::ReservedDirective,
            reason: "the isolation or another option rests on it".into(),
            help: format!("remove it: {instead}"),
        });
    }
    Ok(())
}

/// A command of the operator's runs where the agent does: as the agent's user, in its sandbox.
fn inside(name: &str, value: &str) -> Result<(), Refusal> {
    let mut marks = value.chars().take_while(|c| "@-:+!|".contains(*c));
    if !name.starts_with("Exec") || !marks.any(|c| matches!(c, '+' | '!')) {
        return Ok(());
    }
    Err(Refusal {
        code: Code::ReservedDirective,
        reason: "`+` and `!` run a command as root, outside the sandbox".into(),
        help: "remove the mark, or use a drop-in".into(),
    })
}

/// Says aloud which directives may be another isolation than the documents promise.
pub(crate) fn weaker(key: &str, typed: Option<&Located<Directives>>) -> Vec<Diagnostic> {
    let typed = typed.map_or(&[][..], |typed| &typed.value);
    let told = typed.iter().filter(|(name, _)| !is_harmless(&name.value));
    told.filter(|(name, _)| legal_name(key, &name.value).is_ok())
        .map(|(name, _)| {
            Diagnostic::new(
                Code::WeakerSandbox,
                &name.at,
                format!("`{key}.{}` may weaken the sandbox", name.value),
                "not one of the directives that are known to be harmless",
                format!("remove `{}` unless that is meant", name.value),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::HostFacts;
    use crate::lower::read;
    use crate::node::Format;
    use crate::units::of_instance;

    fn main_unit(overrides: &str) -> String {
        let text =
            format!("[instances.a]\ndirectory = \"/srv/a\"\nunitOverrides.main = {overrides}\n");
        let (spec, _) = read(&text, Format::Toml).unwrap();
        let units = of_instance(&spec.instances[0], &HostFacts::default(), "", "");
        units.iter().find(|unit| unit.name == "opencode-a.service").unwrap().render(257).0
    }

    fn codes(overrides: &str) -> Vec<&'static str> {
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\nunitOverrides.{overrides}\n");
        let found = match read(&text, Format::Toml) {
            Ok((_, warnings)) => warnings,
            Err(found) => found,
        };
        found.iter().map(|one| one.code.as_str()).collect()
    }

    #[test]
    fn every_line_of_the_unit_is_replaced() {
        let text =
            main_unit("{ SystemCallFilter = [\"@basic-io\", \"@file-system\"], Restart = \"no\" }");
        let lines = |prefix: &str| {
            text.lines()
                .filter(|line| line.starts_with(prefix))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let filters = ["SystemCallFilter=@basic-io", "SystemCallFilter=@file-system"];
        assert_eq!(lines("SystemCallFilter="), filters);
        assert_eq!(lines("Restart="), ["Restart=no"]);
        // An empty list takes the directive out.
        assert!(!main_unit("{ WatchdogSec = [] }").contains("WatchdogSec"));
    }

    #[test]
    fn a_directive_stands_in_its_section() {
        let section_of = |text: &str, line: &str| {
            let before = text.split(line).next().unwrap();
            before.lines().rfind(|line| line.starts_with('[')).unwrap().to_owned()
        };
        let text =
            main_unit("{ StartLimitBurst = 9, OnFailure = \"x.service\", MemoryMax = \"1G\" }");
        assert_eq!(section_of(&text, "StartLimitBurst=9"), "[Unit]");
        assert_eq!(section_of(&text, "OnFailure=x.service"), "[Unit]");
        assert_eq!(section_of(&text, "MemoryMax=1G"), "[Service]");
        let text = main_unit("{ X-StopIfChanged = false, X-StopOnRemoval = false }");
        assert_eq!(section_of(&text, "X-StopIfChanged=false"), "[Service]");
        assert_eq!(section_of(&text, "X-StopOnRemoval=false"), "[Unit]");
    }

    #[test]
    fn what_carries_the_isolation_is_refused_and_what_weakens_it_is_said() {
        for (name, _) in RESERVED {
            for unit in ["main", "setup", "net"] {
                assert_eq!(codes(&format!("{unit}.{name} = \"x\"")), ["E0216"], "{unit} {name}");
            }
        }
        assert_eq!(codes("net.ExecStartPre = \"x\""), ["E0216"]);
        for said in [
            "NoNewPrivileges",
            "BindPaths",
            "DeviceAllow",
            "LimitCORE",
            "MemoryMaxx",
            "MountImages",
        ] {
            assert_eq!(codes(&format!("main.{said} = \"x\"")), ["W0405"], "{said}");
        }
        // All that the sandbox is made of.
        for entry in crate::units::sandbox::hardening() {
            let name = entry.directive;
            assert_eq!(codes(&format!("main.{name} = \"x\"")), ["W0405"], "{name}");
        }
        for harmless in HARMLESS {
            assert_eq!(codes(&format!("main.{harmless} = 1")), [""; 0], "{harmless}");
        }
        for mark in ["+", "!", "-+", "@!!"] {
            let command = format!("main.ExecStartPost = \"{mark}/bin/true\"");
            assert_eq!(codes(&command), ["W0405", "E0216"], "{mark}");
        }
        assert_eq!(codes("main.\"[Service]\" = 1"), ["E0215"]);
        assert_eq!(codes("main.MemoryMax = \"1G\\nUser=root\""), ["E0206"]);
        assert_eq!(codes("main.MemoryMax = {}"), ["E0103"]);
    }
}
