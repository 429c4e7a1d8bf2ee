//! opencode's own configuration: the files that are generated for an instance, and the links to
//! them that setup keeps below HOME.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::content::Source;
use crate::guard;
use crate::json::Json;
use crate::spec::{AbsPath, Instance, InstanceName};
use crate::units::Names;

/// Where opencode looks for the schema of its configuration; an editor's business alone.
const SCHEMA: &str = "https://opencode.ai/config.json";

/// The directory below HOME that opencode reads.
pub const CONFIG_HOME: &str = ".config/opencode";

/// Where the server sees a credential; nobody else can.
pub(crate) fn credential_path(instance: &InstanceName, credential: &str) -> String {
    format!("/run/credentials/{}/{credential}", Names(instance).main())
}

/// A generated file: its place below the instance's directory in `/etc`, and its text.
pub(crate) type Generated = (String, String);

/// What is linked from `.config/opencode`: `opencode.json` and the content that is text.
pub(crate) fn files(instance: &Instance) -> Vec<Generated> {
    let mut files = Vec::new();
    if !instance.settings.is_empty() {
        files.push((
            "config/opencode.json".to_owned(),
            text(&substituted(instance, &instance.settings)),
        ));
    }
    for content in &instance.content {
        if let Source::Text(text) = &content.source {
            files.push((format!("config/{}", content.place), text.clone()));
        }
    }
    files
}

/// What is bound at `/etc/opencode` in the sandbox: the settings, and the guard that they name.
pub(crate) fn enforced(instance: &Instance) -> Vec<Generated> {
    if !guard::is_needed(instance) {
        return Vec::new();
    }
    let enforced = substituted(instance, &instance.enforced_settings);
    let guard = guard::text(instance, &enforced);
    let plugin = guard::named(enforced.get("plugin"));
    let mut entries = enforced.entries().to_vec();
    entries.retain(|(key, _)| key != "plugin");
    entries.push(("plugin".to_owned(), plugin));
    vec![
        ("enforced/guard.js".to_owned(), guard),
        ("enforced/opencode.json".to_owned(), text(&Json::Table(entries))),
    ]
}

/// The text of `opencode.json`. Without `$schema` the server would try to rewrite the file.
fn text(settings: &Json) -> String {
    let mut entries = settings.entries().to_vec();
    if settings.get("$schema").is_none() {
        entries.insert(0, ("$schema".to_owned(), Json::Text(SCHEMA.to_owned())));
    }
    // Texts, numbers that are finite and tables with texts as keys always serialise.
    serde_json::to_string_pretty(&Json::Table(entries)).unwrap_or_default() + "\n"
}

/// The settings as opencode understands them.
fn substituted(instance: &Instance, settings: &Json) -> Json {
    settings.map_texts(&|text: &str| with_credentials(text, &instance.name).into_owned())
}

/// `{credential:NAME}` as opencode understands it.
fn with_credentials<'a>(text: &'a str, instance: &InstanceName) -> Cow<'a, str> {
    const MARK: &str = "{credential:";
    if !text.contains(MARK) {
        return text.into();
    }
    let mut parts = text.split(MARK);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}') {
            Some((name, rest)) => {
                let path = credential_path(instance, name.trim());
                whole.extend(["{file:", &path, "}", rest]);
            }
            None => whole.extend([MARK, part]),
        }
    }
    whole.into()
}

/// The operator's own files: where each stands below `.config/opencode`, and where the sandbox shows it.
///
/// Not at its own place: at `/etc/opencode` lies what outranks every other file.
pub(crate) fn shown(instance: &Instance) -> Vec<(&str, &AbsPath, String)> {
    let directory = Names(&instance.name).config_dir();
    let content = instance.content.iter().filter_map(|content| match &content.source {
        Source::File(path) => Some((content.place.as_str(), path)),
        Source::Text(_) => None,
    });
    let configuration = instance.config_file.iter().map(|path| ("opencode.json", path));
    let all = configuration.chain(content);
    all.map(|(place, path)| (place, path, format!("{directory}/files/{place}"))).collect()
}

/// What setup does: written by the engine, read by the engine inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetupPlan {
    /// The format's version.
    pub version: u32,
    /// The links below HOME, sorted by place.
    pub links: Vec<Link>,
}

/// The names of the scripts that run once, before and after the module's own steps: options, and
/// files beside the plan.
pub const SCRIPTS: [&str; 2] = ["preInitScript", "postInitScript"];

/// The version of [`SetupPlan`] that this program writes and reads.
pub const SETUP_VERSION: u32 = 1;

/// A link that setup keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Where it stands, below `.config/opencode`.
    pub place: String,
    /// Where it leads.
    pub target: String,
    /// Whether what stands in its place is moved aside. Otherwise it is left, and an error.
    pub replaces: bool,
}

/// The links of an instance.
fn links(instance: &Instance) -> Vec<Link> {
    let generated = format!("{}/config", Names(&instance.name).config_dir());
    let files = files(instance);
    let own = files.iter().filter_map(|(name, _)| {
        let place = name.strip_prefix("config/")?;
        Some((place, format!("{generated}/{place}")))
    });
    let shown = shown(instance).into_iter().map(|(place, _, target)| (place, target));
    let link = |(place, target): (&str, String)| Link {
        place: place.to_owned(),
        target,
        replaces: place == "opencode.json",
    };
    let mut links: Vec<Link> = own.chain(shown).map(link).collect();
    links.sort_by(|a, b| a.place.cmp(&b.place));
    links
}

/// The plan, which the setup's sandbox alone shows.
pub(crate) fn plan(instance: &Instance) -> Generated {
    let plan = SetupPlan { version: SETUP_VERSION, links: links(instance) };
    (PLAN.to_owned(), serde_json::to_string_pretty(&plan).unwrap_or_default() + "\n")
}

/// The scripts, beside the plan.
pub(crate) fn scripts(instance: &Instance) -> Vec<Generated> {
    let texts = [&instance.pre_init_script, &instance.post_init_script];
    let named = SCRIPTS.iter().zip(texts).filter_map(|(name, text)| Some((name, text.as_ref()?)));
    named
        .map(|(name, text)| (format!("setup/{name}"), format!("{}\n", text.trim_end_matches('\n'))))
        .collect()
}

/// The place of the plan below the instance's directory in `/etc`.
pub(crate) const PLAN: &str = "setup/plan.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::read;
    use crate::node::Format;

    fn generated(options: &str) -> Vec<Generated> {
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}");
        let (spec, _) = read(&text, Format::Toml).unwrap();
        let one = &spec.instances[0];
        files(one).into_iter().chain(enforced(one)).chain([plan(one)]).collect()
    }

    fn file(options: &str, name: &str) -> String {
        generated(options).into_iter().find(|(place, _)| place == name).unwrap().1
    }

    #[test]
    fn order_is_kept_and_the_schema_is_named() {
        let text = file(
            "settings = { model = \"x/y\", permission = [\n\
             { \"*\" = \"ask\" }, { bash = [{ \"*\" = \"ask\" }, { \"git *\" = \"allow\" }] }, { edit = \"deny\" } ] }",
            "config/opencode.json",
        );
        let tight: String = text.split_whitespace().collect();
        assert_eq!(
            tight,
            "{\"$schema\":\"https://opencode.ai/config.json\",\"model\":\"x/y\",\"permission\":\
             {\"*\":\"ask\",\"bash\":{\"*\":\"ask\",\"git*\":\"allow\"},\"edit\":\"deny\"}}"
        );
        // TOML's own order, which is not that of the alphabet.
        let text = file(
            "[instances.a.settings.permission]\nz = \"ask\"\na = \"deny\"",
            "config/opencode.json",
        );
        assert!(text.find("\"z\"") < text.find("\"a\""), "{text}");
    }

    #[test]
    fn credentials_become_files_that_the_server_sees() {
        let text = file(
            "credentials.key = \"/run/secrets/k\"\nsettings.provider.p.options.apiKey = \"{credential:key}\"",
            "config/opencode.json",
        );
        assert!(text.contains("\"{file:/run/credentials/opencode-a.service/key}\""), "{text}");
        assert_eq!(with_credentials("a{credential:", &"a".parse().unwrap()), "a{credential:");
    }

    #[test]
    fn nothing_is_linked_that_nobody_declared() {
        let files = generated("");
        assert_eq!(files.len(), 1);
        let plan: SetupPlan = serde_json::from_str(&files[0].1).unwrap();
        assert_eq!((plan.version, plan.links), (SETUP_VERSION, vec![]));
    }

    #[test]
    fn links_lead_to_what_was_declared() {
        let options = "configFile = \"/etc/opencode/a.json\"\nagents.review = \"text\"\n\
                       skills.release = { file = \"/etc/opencode/skills/release\" }\ninstructions = \"x\"";
        let plan: SetupPlan = serde_json::from_str(&file(options, PLAN)).unwrap();
        let links: Vec<_> =
            plan.links.iter().map(|link| (link.place.as_str(), link.target.as_str())).collect();
        let generated = "/etc/opencode-instances/a/config";
        assert_eq!(
            links,
            [
                ("AGENTS.md", format!("{generated}/AGENTS.md").as_str()),
                ("agents/review.md", &format!("{generated}/agents/review.md")),
                ("opencode.json", "/etc/opencode-instances/a/files/opencode.json"),
                ("skills/release", "/etc/opencode-instances/a/files/skills/release"),
            ]
        );
    }
}
