//! Settings, content and their links.

use instances_lab::{Agent, Machine, Model, fleet, unavailable};
use serde_json::Value;

use crate::view::{
    SOON, apply, assert_healthy, done, engine, pid, property, sh, status, wait_until_served,
};

const STATE: &str = "/var/lib/opencode/instance-state/website";
const CONFIG: &str = "/var/lib/opencode/instance-state/website/.config/opencode";
/// Of the instance's own loopback.
const PORT: u16 = 8080;

fn spec() -> String {
    format!(
        r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
instructions = "Speak like canary-instructions."

[instances.website.settings]
username = "the operator"
permission = {{ webfetch = "ask", "*" = "allow", bash = {{ "z *" = "allow", "a *" = "deny", "*" = "allow" }} }}
{}

[instances.website.agents]
review = "---\ndescription: canary-agent\nmode: primary\n---\nReview."

[instances.website.commands]
"git/say" = "Say canary-command."

[instances.website.skills]
release = "---\nname: release\ndescription: canary-skill\n---\nRelease."
shared = {{ file = "/etc/opencode/skills/shared" }}

[instances.website.plugins]
"note.js" = "export const Note = async () => {{ await Bun.write('/tmp/plugin-ran', 'yes'); return {{}} }}"
"#,
        Model::settings(PORT)
    )
}

const PREPARE: &str = "
install -d /etc/opencode/skills/shared
printf -- '---\nname: shared\ndescription: canary-shared\n---\nShared.\n' >/etc/opencode/skills/shared/SKILL.md
install -d /srv/website
";

#[test]
fn what_is_declared_reaches_the_server_and_nothing_else_is_touched() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("configuration", &spec(), &["/srv/website"]).unwrap();
    sh(&machine, PREPARE);
    done(&machine, "apply");
    wait_until_served(&machine, "website", SOON);
    settings_and_content(&machine);
    order(&machine);
    a_client_cannot_write_it(&machine);
    a_registry_that_hangs(&machine);
    replaced_by_the_agent(&machine);
    no_longer_declared(&machine);
    a_clash(&machine);
    a_file_of_the_operators(&machine);
}

fn settings_and_content(machine: &Machine) {
    let link = sh(machine, &format!("readlink {CONFIG}/opencode.json"));
    assert_eq!(link, "/etc/opencode-instances/website/config/opencode.json");
    let agent = Agent::connect(machine, "website").unwrap();
    let config = agent.get("config").unwrap();
    assert_eq!(config["username"], "the operator");
    assert_eq!(config["model"], "fake/m");
    let said = |path: &str| agent.get(path).unwrap().to_string();
    assert!(said("agent").contains("canary-agent"));
    assert!(said("command").contains("git/say") && said("command").contains("canary-command"));
    assert!(said("skill").contains("canary-skill") && said("skill").contains("canary-shared"));
    assert_eq!(agent.shell("cat /tmp/plugin-ran").unwrap(), "yes");
    let model = Model::listen(machine, "website", PORT).unwrap();
    assert_eq!(agent.bash(&model, "echo done").unwrap(), "done\n");
    let prompt = model.requests()[0].to_string();
    for canary in ["canary-instructions", "canary-skill", "canary-shared"] {
        assert!(prompt.contains(canary), "{canary} is not in {prompt}");
    }
    // The links lead to what nobody in there can change.
    let write = format!(
        "echo x >{CONFIG}/opencode.json; echo x >/etc/opencode-instances/website/files/skills/shared/SKILL.md"
    );
    let refused = agent.shell(&write).unwrap();
    assert_eq!(refused.matches("Read-only file system").count(), 2, "{refused}");
}

/// The last rule that matches counts, so the order is the meaning.
fn order(machine: &Machine) {
    let agent = Agent::connect(machine, "website").unwrap();
    let agents = agent.get("agent").unwrap();
    let build = agents.as_array().unwrap().iter().find(|one| one["name"] == "build").unwrap();
    let rules: Vec<String> = build["permission"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            let word = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", word("permission"), word("pattern"), word("action"))
        })
        .collect();
    let at = |rule: &str| {
        rules.iter().rposition(|one| one == rule).unwrap_or_else(|| panic!("{rule}: {rules:?}"))
    };
    let order = ["bash z * allow", "bash a * deny", "bash * allow"].map(at);
    assert!(order.is_sorted(), "{rules:?}");
    let order = ["webfetch * ask", "* * allow", "bash z * allow"].map(at);
    assert!(order.is_sorted(), "{rules:?}");
}

fn a_client_cannot_write_it(machine: &Machine) {
    let url = crate::view::url(machine, "website");
    let patch = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' -X PATCH -H 'content-type: application/json' \
         -d '{{\"username\":\"x\"}}' '{url}/global/config'"
    );
    let server = pid(machine, "website");
    assert_eq!(sh(machine, &patch), "500");
    assert_eq!(sh(machine, &format!("readlink {CONFIG}/opencode.json | wc -l")), "1");
    assert_healthy(machine, "website");
    assert_eq!(pid(machine, "website"), server);
}

/// The server installs packages for plugins and custom tools, and waits for a registry.
fn a_registry_that_hangs(machine: &Machine) {
    let registry =
        "[instances.website.environment]\nnpm_config_registry = \"http://127.0.0.1:8099/\"\n";
    apply(machine, &format!("{}{registry}", spec()));
    wait_until_served(machine, "website", SOON);
    let listener = machine
        .in_named_netns("opencode-website", || std::net::TcpListener::bind("127.0.0.1:8099"))
        .unwrap()
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    let model = Model::listen(machine, "website", PORT).unwrap();
    let agent = Agent::connect(machine, "website").unwrap();
    assert_eq!(agent.bash(&model, "echo quick").unwrap(), "quick\n");
    assert!(listener.accept().is_err(), "the registry was asked");
    let left = sh(machine, &format!("ls -A {CONFIG}"));
    assert!(left.contains(".gitignore") && left.contains("opencode.json"), "{left}");
}

fn replaced_by_the_agent(machine: &Machine) {
    let agent = Agent::connect(machine, "website").unwrap();
    agent.shell("cd ~/.config/opencode && rm opencode.json && echo '{\"username\":\"agent\"}' >opencode.json").unwrap();
    done(machine, "restart website");
    wait_until_served(machine, "website", SOON);
    let agent = Agent::connect(machine, "website").unwrap();
    assert_eq!(agent.get("config").unwrap()["username"], "the operator");
    assert_eq!(
        sh(machine, &format!("cat {CONFIG}/opencode.json.replaced")),
        "{\"username\":\"agent\"}"
    );
    let said = sh(machine, "journalctl -u opencode-website.service -o cat");
    assert!(said.contains("opencode.json is now"), "{said}");
}

fn no_longer_declared(machine: &Machine) {
    let agent = Agent::connect(machine, "website").unwrap();
    agent.shell("echo mine >~/.config/opencode/agents/own.md").unwrap();
    let whole = spec();
    let without = whole.split("[instances.website.agents]").next().unwrap();
    apply(machine, without);
    wait_until_served(machine, "website", SOON);
    let left =
        sh(machine, &format!("cd {CONFIG} && find agents commands skills plugins -not -type d"));
    assert_eq!(left, "agents/own.md");
    assert!(sh(machine, &format!("cat {CONFIG}/AGENTS.md")).contains("canary-instructions"));
}

/// What the agent put there is never touched.
fn a_clash(machine: &Machine) {
    let clash = "[instances.website.agents]\nown = \"theirs\"\n";
    let whole = spec();
    let base = whole.split("[instances.website.agents]").next().unwrap();
    machine.put(fleet::SPEC, format!("{base}{clash}"), 0o644).unwrap();
    let applied = engine(machine, "apply");
    assert_eq!(applied.code(), 1, "{applied}");
    let reason = status(machine, "website")["reason"].as_str().unwrap().to_owned();
    let wanted =
        format!("{CONFIG}/agents/own.md is a file where a link to what is declared must be");
    assert!(reason.starts_with(&wanted), "{reason}");
    assert_ne!(property(machine, "opencode-website.service", "ActiveState"), "active");
    assert_eq!(sh(machine, &format!("cat {CONFIG}/agents/own.md")), "mine");
    sh(machine, reason.rsplit_once(": ").unwrap().1);
    done(machine, "start website");
    wait_until_served(machine, "website", SOON);
    assert_eq!(sh(machine, &format!("cat {CONFIG}/agents/own.md.old")), "mine");
}

fn a_file_of_the_operators(machine: &Machine) {
    sh(machine, "echo '{\"username\":\"from a file\"}' >/etc/opencode/website.json");
    let with = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\nconfigFile = \"/etc/opencode/website.json\"\n";
    apply(machine, with);
    wait_until_served(machine, "website", SOON);
    let config: Value = Agent::connect(machine, "website").unwrap().get("config").unwrap();
    assert_eq!(config["username"], "from a file");
    // Root binds it into the sandbox, so nobody else may choose what it is.
    sh(machine, "chown nobody /etc/opencode/website.json");
    let refused = engine(machine, "apply");
    let words = "/etc/opencode/website.json, which configFile names, cannot be trusted";
    assert!(refused.code() == 1 && refused.stderr.contains(words), "{refused}");
    sh(machine, &format!("chown root /etc/opencode/website.json; test -d {STATE}"));
}
