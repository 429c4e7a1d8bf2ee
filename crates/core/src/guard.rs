//! A program that makes true what opencode's own settings and variables cannot: see `guard.js`.
//!
//! What was measured on opencode 1.18.33 without it:
//!
//! - With every variable that passes over the project's configuration, the first request to a model
//!   still reads `.opencode`, `opencode.json` and `opencode.jsonc` of the project, of every directory
//!   above it and of every copy, and imports the plugins that they name. Refusing those modules by a
//!   plugin for Bun's loader does not hold: it is not asked about a path with a colon or without an
//!   extension. So the guard is read before the server's own program, and replaces the functions
//!   by which that finds and reads files: such a name leads nowhere.
//! - Rules of `permission` count in their order, the last one that matches. A rule of a higher level
//!   keeps the place that a lower one gave it, and those of an agent come behind all others: so a
//!   project lifts what `/etc/opencode/opencode.json` says. A plugin may change everything once it
//!   is merged. The guard's own hook runs last, and puts what is enforced last.
//!
//! That Bun reads it first rests on a variable that its documents do not name. Where it does not, or
//! where the server reads its own configuration by other functions, the guard does not print its lines,
//! and the supervisor keeps the server down. That a project's is looked for by the same functions is
//! what the tests show of 1.18.33.

use serde::Serialize;

use crate::json::Json;
use crate::spec::Instance;

/// Where the sandbox shows it.
pub const FILE: &str = "/etc/opencode/guard.js";
const URL: &str = "file:///etc/opencode/guard.js";
/// The variable that has Bun read a file before the program.
pub const PRELOAD: &str = "BUN_INSPECT_PRELOAD";
/// The line that it prints when it is read first. It counts before the server listens: until then
/// no code of a project's can have run, which could print it too.
pub const FIRST: &str = "opencode-instances: the guard is first";
/// The line that it prints as a plugin, behind the other.
pub const LINE: &str = "opencode-instances: the guard is active";

const TEXT: &str = include_str!("guard.js");

#[derive(Serialize)]
struct Given<'a> {
    /// Whether the server finds no configuration of a project.
    hides: bool,
    home: &'a str,
    directory: &'a str,
    first: &'a str,
    line: &'a str,
    /// What the configuration ends with.
    enforced: &'a Json,
}

/// Whether an instance needs it.
pub(crate) fn is_needed(instance: &Instance) -> bool {
    !instance.trust_project || !instance.enforced_settings.is_empty()
}

/// Its text for an instance; `enforced` is what the server reads at `/etc/opencode`.
pub(crate) fn text(instance: &Instance, enforced: &Json) -> String {
    let given = Given {
        hides: !instance.trust_project,
        home: instance.state_dir.as_str(),
        directory: instance.directory.as_str(),
        first: FIRST,
        line: LINE,
        enforced,
    };
    // Texts and tables of texts always serialise.
    let given = serde_json::to_string(&given).unwrap_or_default();
    TEXT.replacen("\"@GIVEN@\"", &given, 1)
}

/// What a configuration that names the guard has under `plugin`.
pub(crate) fn named(plugin: Option<&Json>) -> Json {
    let mut items = match plugin {
        Some(Json::List(items)) => items.clone(),
        _ => Vec::new(),
    };
    items.push(Json::Text(URL.to_owned()));
    Json::List(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::read;
    use crate::node::Format;

    fn one(options: &str) -> Instance {
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}");
        read(&text, Format::Toml).unwrap().0.instances.remove(0)
    }

    #[test]
    fn only_who_needs_it_has_it() {
        assert!(!is_needed(&one("settings.model = \"a/b\"")));
        assert!(is_needed(&one("trustProject = false")));
        assert!(is_needed(&one("enforcedSettings.share = \"disabled\"")));
    }

    #[test]
    fn it_is_given_what_it_needs_as_javascript_reads_it() {
        let instance =
            one("trustProject = false\nenforcedSettings.username = \"a\\\"\\u2028</script>\"");
        let text = text(&instance, &instance.enforced_settings);
        let line = text.lines().find(|line| line.starts_with("const GIVEN = ")).unwrap();
        let json = line.strip_prefix("const GIVEN = ").unwrap().strip_suffix(';').unwrap();
        let given: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(given["hides"], true);
        assert_eq!(given["home"], "/var/lib/opencode/instance-state/a");
        assert_eq!(given["directory"], "/srv/a");
        assert_eq!(given["line"], LINE);
        assert_eq!(given["enforced"]["username"], "a\"\u{2028}</script>");
        assert!(!text.contains("@GIVEN@") && text.contains(PRELOAD));
    }
}
