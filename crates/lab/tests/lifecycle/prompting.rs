//! The real agent loop, from a prompt through the model's calls and the tools to the answer.

use instances_lab::{Agent, Machine, Model, fleet, unavailable};
use serde_json::{Value, json};

use crate::view::{SOON, done, sh, wait_until_served};

const SPEC: &str = "
[instances.website]
directory = \"/srv/website\"
listen.port = 4101
";
/// Of the instance's own loopback.
const PORT: u16 = 8080;
const STATE: &str = "/var/lib/opencode/instance-state/website";

#[test]
fn a_model_calls_tools_inside_the_sandbox() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("prompting", SPEC, &["/srv/website", "/srv/other"]).unwrap();
    done(&machine, "apply");
    configure(&machine);
    let model = restart(&machine);
    let agent = Agent::connect(&machine, "website").unwrap();
    let said = agent.bash(&model, "id -un; pwd; ls /srv; echo $HOME '$HOME'").unwrap();
    assert_eq!(said, format!("opencode-website\n/srv/website\nwebsite\n{STATE} $HOME\n"));
    what_the_model_was_told(&model.requests(), &said);
    several_calls(&agent, &model);
    // The restart has taken the namespace away in which this one listens.
    let model = restart(&machine);
    assert_eq!(agent.bash(&model, "echo again").unwrap(), "again\n");
}

/// As the instance's user, who owns the configuration.
fn configure(machine: &Machine) {
    let settings: Value = toml::from_str(&Model::settings(PORT)).unwrap();
    machine.put("/root/opencode.json", settings.to_string(), 0o644).unwrap();
    let script = format!(
        "setpriv --reuid=opencode-website --regid=opencode-website --clear-groups \
         install -D -m 600 /dev/stdin {STATE}/.config/opencode/opencode.json </root/opencode.json"
    );
    sh(machine, &script);
}

fn restart(machine: &Machine) -> Model {
    done(machine, "restart website");
    wait_until_served(machine, "website", SOON);
    Model::listen(machine, "website", PORT).unwrap()
}

/// A session that has a title makes no request but those of its turn.
fn what_the_model_was_told(requests: &[Value], said: &str) {
    let [first, second] = requests else { panic!("{requests:?}") };
    let system = &first["messages"][0];
    assert_eq!(system["role"], "system");
    let text = system["content"].as_str().unwrap();
    assert!(text.contains("Working directory: /srv/website\n"), "{text}");
    let tools = first["tools"].as_array().unwrap();
    assert!(tools.iter().any(|tool| tool["function"]["name"] == "bash"), "{tools:?}");
    let result = second["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(result["role"], "tool");
    assert_eq!(result["content"], said);
}

fn several_calls(agent: &Agent<'_>, model: &Model) {
    model.will_run("echo one");
    model.will_call("read", json!({ "filePath": "/srv/website/absent" }));
    model.will_run("echo two");
    let said = agent.prompt("Do three things.").unwrap();
    assert_eq!(said, ["one\n", "File not found: /srv/website/absent", "two\n"]);
    assert_eq!(agent.prompt("Do nothing.").unwrap(), [""; 0]);
    let last = model.requests().pop().unwrap();
    assert!(last["messages"].to_string().contains("Do nothing."), "{last}");
}
