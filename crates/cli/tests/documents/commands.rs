//! The commands of blocks marked `sh run` do what the documents say, in a machine.

use std::time::Duration;

use instances_lab::{Agent, Image, Machine, Options, Release, fleet, place, unavailable};

use crate::blocks::document;

/// Runs all blocks of a document, one after the other, and `look`s at the machine after each; the
/// first command that fails ends it.
fn run(machine: &Machine, path: &str, look: impl Fn(&str)) {
    let blocks = document(path).blocks();
    let run: Vec<_> = blocks.iter().filter(|block| block.info == "sh run").collect();
    assert!(!run.is_empty(), "{path} has no block that runs");
    for block in run {
        let script = format!("set -eux\n{}", block.text);
        machine.put("/root/block.sh", script, 0o644).unwrap();
        let output = machine.run_for(Duration::from_mins(3), ["sh", "/root/block.sh"]).unwrap();
        assert!(output.success(), "{}: {output}", block.place);
        look(&block.text);
    }
}

/// As after `install` and `npm install`, which need the network.
#[test]
fn the_readme_installs_two_instances() {
    if unavailable() {
        return;
    }
    let options = Options::new()
        .name("readme")
        .bind_ro(place::engine(), "/usr/local/bin/opencode-instances")
        .bind_ro(place::opencode(), "/usr/local/lib/node_modules/opencode-ai/bin/opencode.exe");
    let machine = Machine::boot(&Image::ensure(Release::Trixie).unwrap(), &options).unwrap();
    let link = "ln -s ../lib/node_modules/opencode-ai/bin/opencode.exe /usr/local/bin/opencode";
    machine.sh(link).unwrap().ok().unwrap();
    let spec = document("README.md").blocks().into_iter().find(|one| one.info == "toml").unwrap();
    machine.put(fleet::SPEC, spec.text.replace("# package", "package"), 0o644).unwrap();
    run(&machine, "README.md", |_| {});
    let agent = Agent::connect(&machine, "website").unwrap();
    let answer = agent.shell("touch made-here && stat -c %U made-here").unwrap();
    assert_eq!(answer.trim(), "opencode-website");
    let again = machine.run(["opencode-instances", "apply"]).unwrap();
    assert!(again.success() && again.stderr.trim() == "nothing to do", "{again}");
}

#[test]
fn the_operators_manual() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("operating").unwrap();
    run(&machine, "docs/operating.md", |block| {
        if block.contains("setfacl") {
            a_human_and_an_agent_share_a_project(&machine);
        }
    });
}

#[test]
fn the_page_about_secrets() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("secrets-page").unwrap();
    run(&machine, "docs/secrets.md", |block| {
        if block.contains("credentials") {
            let config = Agent::connect(&machine, "website").unwrap().get("config").unwrap();
            let key = config.pointer("/provider/anthropic/options/apiKey").unwrap();
            assert_eq!(key, "not-a-real-key");
        }
    });
}

#[test]
fn the_page_about_backups() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("backup-page").unwrap();
    run(&machine, "docs/backup.md", |_| {});
    let list = document("docs/backup.md");
    for (directory, what) in instances_core::backup::selection::LEFT_OUT {
        let row = format!("| `{directory}` | {what} |");
        assert!(list.text.contains(&row), "{row}");
    }
}

/// What one makes, the other can change; git accepts the repository; the home around it is hidden.
fn a_human_and_an_agent_share_a_project(machine: &Machine) {
    machine
        .sh("sudo -u alice sh -c 'cd; echo private >diary; echo one >site/humans'")
        .unwrap()
        .ok()
        .unwrap();
    let agent = Agent::connect(machine, "site").unwrap();
    let shell = |command: &str| agent.shell(command).unwrap();
    assert_eq!(shell("echo two >>humans && cat humans && stat -c %U humans"), "one\ntwo\nnobody\n");
    assert_eq!(
        shell("mkdir new && echo three >new/agents && git status --short | wc -l").trim(),
        "2"
    );
    assert!(shell("cat ../diary").contains("No such file or directory"));
    let humans = "cd /home/alice/site && echo four >>new/agents && cat new/agents";
    let answer = machine.run(["sudo", "-u", "alice", "sh", "-c", humans]).unwrap().ok().unwrap();
    assert_eq!(answer, "three\nfour\n");
}

/// The engine may lie anywhere but below `/root`, and so may opencode.
#[test]
fn any_place_will_do_for_the_programs() {
    if unavailable() {
        return;
    }
    let options = Options::new()
        .name("places")
        .bind_ro(place::engine(), "/opt/our tools/opencode-instances")
        .bind_ro(place::opencode(), "/opt/opencode-1.18.33/bin/opencode");
    let machine = Machine::boot(&Image::ensure(Release::Trixie).unwrap(), &options).unwrap();
    let spec = "[instances.web]\ndirectory = \"/srv/web\"\npackage = \"/opt/opencode-1.18.33\"\n";
    machine.put(fleet::SPEC, spec, 0o644).unwrap();
    machine.run(["mkdir", "/srv/web"]).unwrap().ok().unwrap();
    let engine = "/opt/our tools/opencode-instances";
    machine.run_for(fleet::PATIENCE, [engine, "apply"]).unwrap().ok().unwrap();
    let status = machine.run([engine, "status", "web"]).unwrap().ok().unwrap();
    assert!(status.contains("running") && status.contains(" healthy"), "{status}");
    machine.run_for(fleet::PATIENCE, [engine, "remove"]).unwrap().ok().unwrap();
}
