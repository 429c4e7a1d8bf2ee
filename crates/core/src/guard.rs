//! A plugin that makes true what opencode's own settings and variables cannot: see `guard.js`.
//!
//! What was measured on opencode 1.18.33 without it:
//!
//! - With every variable that passes over the project's configuration, the first request to a model
//!   still imports the plugins of the project. The guard refuses modules that lie there by their paths.
//!   Bun does not show it every path: a name with a colon or without an extension gets past, and so
//!   does what lies elsewhere, such as a worktree of the project below HOME. That is still open.
//! - Rules of `permission` count in their order, the last one that matches. A rule of a higher level
//!   keeps the place that a lower one gave it, and those of an agent come behind all others: so a
//!   project lifts what `/etc/opencode/opencode.json` says. A plugin may change everything once it
//!   is merged. The guard's own hook runs last, and puts what is enforced last.

use serde::Serialize;

use crate::json::Json;
use crate::spec::Instance;

/// Where the sandbox shows it.
pub(crate) const URL: &str = "file:///etc/opencode/guard.js";
/// The line that it prints; the supervisor waits for it.
pub const LINE: &str = "opencode-instances: the guard is active";

const TEXT: &str = include_str!("guard.js");

#[derive(Serialize)]
struct Given<'a> {
    /// No module is loaded whose path begins so.
    refused: Vec<String>,
    /// Packages of npm that are loaded all the same.
    packages: Vec<String>,
    /// What the configuration ends with.
    enforced: &'a Json,
}

/// Whether an instance needs it.
pub(crate) fn is_needed(instance: &Instance) -> bool {
    !instance.trust_project || !instance.enforced_settings.is_empty()
}

/// Its text for an instance; `enforced` is what the server reads at `/etc/opencode`.
pub(crate) fn text(instance: &Instance, enforced: &Json) -> String {
    let refused = if instance.trust_project {
        Vec::new()
    } else {
        // A project can name a package that is one of its own files, and is unpacked here.
        let packages = format!("{}/.cache/opencode/packages/", instance.state_dir);
        vec![format!("{}/", instance.directory), packages]
    };
    let declared = [&instance.settings, enforced].into_iter().flat_map(packages);
    let mut packages: Vec<String> = declared.collect();
    packages.sort();
    packages.dedup();
    let given = Given { refused, packages, enforced };
    // Texts and tables of texts always serialise.
    let given = serde_json::to_string(&given).unwrap_or_default();
    TEXT.replacen("\"@GIVEN@\"", &given, 1)
}

/// The npm packages that settings name: of providers, and plugins.
fn packages(settings: &Json) -> Vec<String> {
    let name_of = |value: &Json| match value {
        Json::Text(text) => Some(text.clone()),
        Json::List(items) => match items.first() {
            Some(Json::Text(text)) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    };
    let providers = settings.get("provider").map_or(&[][..], Json::entries);
    let providers = providers.iter().filter_map(|(_, provider)| name_of(provider.get("npm")?));
    let plugins = match settings.get("plugin") {
        Some(Json::List(items)) => items.as_slice(),
        _ => &[],
    };
    // Without its version, which an at sign behind the first character begins.
    let bare = |spec: String| {
        let at = spec.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
        at.and_then(|at| spec.get(..at)).map_or_else(|| spec.clone(), str::to_owned)
    };
    providers.chain(plugins.iter().filter_map(name_of)).map(bare).collect()
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
        let instance = one("trustProject = false\nsettings.provider.p.npm = \"@x/y@1.2\"\n\
            settings.plugin = [\"z\"]\nenforcedSettings.username = \"a\\\"\\u2028</script>\"");
        let text = text(&instance, &instance.enforced_settings);
        let line = text.lines().find(|line| line.starts_with("const GIVEN = ")).unwrap();
        let json = line.strip_prefix("const GIVEN = ").unwrap().strip_suffix(';').unwrap();
        let given: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(
            given["refused"],
            serde_json::json!([
                "/srv/a/",
                "/var/lib/opencode/instance-state/a/.cache/opencode/packages/"
            ])
        );
        assert_eq!(given["packages"], serde_json::json!(["@x/y", "z"]));
        assert_eq!(given["enforced"]["username"], "a\"\u{2028}</script>");
        assert!(!text.contains("@GIVEN@") && text.contains(&format!("console.error(\"{LINE}\")")));
    }
}
