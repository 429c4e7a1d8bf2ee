//! The commands of blocks marked `sh run` do what the documents say, in a machine.

use std::cell::Cell;
use std::time::Duration;

use instances_lab::{
    Agent, Image, Machine, Options, Release, fleet, openmetrics, place, stand_in, unavailable,
};

use crate::blocks::document;

/// Runs all blocks of a document, one after the other, and `look`s at the machine after each; the
/// first command that fails ends it.
fn run(machine: &Machine, path: &str, look: impl Fn(&str)) {
    let blocks = document(path).blocks();
    let run: Vec<_> = blocks.iter().filter(|block| block.info == "sh run").collect();
    assert!(!run.is_empty(), "{path} has no block that runs");
    for block in run {
        let script = format!("cd /root\nset -eux\n{}", block.text);
        machine.put("/root/block.sh", script, 0o644).unwrap();
        let output = machine.run_for(Duration::from_mins(3), ["sh", "/root/block.sh"]).unwrap();
        assert!(output.success(), "{}: {output}", block.place);
        look(&block.text);
    }
}

/// A machine that has what `cargo build` and `npm install` bring, where the tutorial has it.
fn with_programs(name: &str, engine: &str) -> Machine {
    let options = Options::new()
        .name(name)
        .bind_ro(place::engine(), engine)
        .bind_ro(place::opencode(), "/usr/local/lib/node_modules/opencode-ai/bin/opencode.exe");
    let machine = Machine::boot(&Image::ensure(Release::Trixie).unwrap(), &options).unwrap();
    let link = "ln -s ../lib/node_modules/opencode-ai/bin/opencode.exe /usr/local/bin/opencode";
    machine.sh(link).unwrap().ok().unwrap();
    machine
}

/// From a fresh machine to two healthy servers, and back.
#[test]
fn the_tutorial_from_its_first_line_to_its_last() {
    if unavailable() {
        return;
    }
    let built = "/root/target/release/opencode-instances";
    let machine = with_programs("getting-started", built);
    let looked = Cell::new(0);
    run(&machine, "docs/getting-started.md", |block| {
        if !block.contains("opencode-instances apply") {
            return;
        }
        let both = block.contains("opencode-billing");
        for name in ["website", "billing"].into_iter().take(1 + usize::from(both)) {
            let status = machine.run(["opencode-instances", "status", name]).unwrap().ok().unwrap();
            assert!(status.contains("running") && status.contains(" healthy"), "{status}");
            let agent = Agent::connect(&machine, name).unwrap();
            let answer = agent.shell("touch made-here && stat -c %U made-here").unwrap();
            assert_eq!(answer.trim(), format!("opencode-{name}"));
            let config = agent.get("config").unwrap();
            assert_eq!(config["model"], "anthropic/claude-sonnet-4-5");
            let home = format!("cd /var/lib/opencode/instance-state/{name}");
            let there = "test -f .local/share/opencode/opencode.db \
                         && test -L .config/opencode/opencode.json && ls -A /srv/$NAME";
            let there = format!("NAME={name}; {home} && {there}");
            assert_eq!(machine.sh(&there).unwrap().ok().unwrap(), ".git\nmade-here\n");
            looked.set(looked.get() + 1);
        }
    });
    assert_eq!(looked.get(), 3);
    let left =
        machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "opencode*"]);
    assert_eq!(left.unwrap().ok().unwrap(), "");
}

#[test]
fn the_readme_installs_two_instances_and_leaves_their_projects_alone() {
    if unavailable() {
        return;
    }
    let machine = with_programs("readme", "/usr/local/bin/opencode-instances");
    let spec = document("README.md").blocks().into_iter().find(|one| one.info == "toml").unwrap();
    machine.put(fleet::SPEC, &spec.text, 0o644).unwrap();
    let make = "mkdir -p /srv/website/src /srv/billing; echo text >/srv/website/src/file";
    machine.sh(make).unwrap().ok().unwrap();
    let projects = || {
        let list = "find /srv/website /srv/billing -printf '%p %y %m %U %G %T@ %C@ %s\\n' | sort";
        machine.sh(list).unwrap().ok().unwrap()
    };
    let before = projects();
    run(&machine, "README.md", |_| {});
    let again = machine.run(["opencode-instances", "apply"]).unwrap();
    assert!(again.success() && again.stderr.trim() == "nothing to do", "{again}");
    assert_eq!(projects(), before);
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "remove"]).unwrap().ok().unwrap();
    assert_eq!(projects(), before);
}

#[test]
fn the_operators_manual() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("operating").unwrap();
    run(&machine, "docs/how-to/operating.md", |block| {
        if block.contains("setfacl") {
            a_human_and_an_agent_share_a_project(&machine);
        } else if block.contains("prometheus-node-exporter") {
            a_collector_shows_the_metrics(&machine);
            a_collector_has_nothing_written_elsewhere(&machine);
        }
    });
}

/// What `node_exporter` read, it read without an error.
fn a_collector_shows_the_metrics(machine: &Machine) {
    let fetch = "curl --silent --fail http://127.0.0.1:9100/metrics";
    let metrics = machine.sh(fetch).unwrap().ok().unwrap();
    let has = |line: &str| metrics.lines().any(|one| one == line);
    assert!(has("node_textfile_scrape_error 0"), "{metrics}");
    let file = machine.get("/var/lib/prometheus/node-exporter/opencode.prom").unwrap();
    let written = openmetrics::read(&file).unwrap();
    for name in ["website", "billing"] {
        assert_eq!(written.value("opencode_instance_healthy", &[("instance", name)]), Some(1.0));
        assert!(has(&format!("opencode_instance_healthy{{instance=\"{name}\"}} 1")), "{metrics}");
        // A counter, whose family has another name.
        let counted = format!("opencode_instance_cpu_seconds_total{{instance=\"{name}\"}} ");
        assert!(metrics.lines().any(|line| line.starts_with(&counted)), "{metrics}");
    }
}

/// The directory above is its user's, who puts a link where root is about to write.
fn a_collector_has_nothing_written_elsewhere(machine: &Machine) {
    let place = "cd /var/lib/prometheus; mv node-exporter other; mkdir node-exporter; \
                 ln -s /etc/precious node-exporter/opencode.prom.new";
    // A directory of the image's, below the machine's layer, could not be renamed.
    let plant = format!(
        "systemctl stop instances-metrics.timer; echo precious >/etc/precious; chmod 600 /etc/precious; \
         cd /var/lib/prometheus; cp -a node-exporter new; rm -r node-exporter; mv new node-exporter; \
         runuser -u prometheus -- sh -euc '{place}'"
    );
    machine.sh(&plant).unwrap().ok().unwrap();
    assert!(!machine.run(["systemctl", "start", "instances-metrics.service"]).unwrap().success());
    let after = machine.sh("stat -c %a /etc/precious; cat /etc/precious").unwrap().ok().unwrap();
    assert_eq!(after, "600\nprecious\n");
}

#[test]
fn the_pages_about_networks_threats_and_secrets() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("secrets-page").unwrap();
    run(&machine, "docs/explanation/network.md", |_| {});
    run(&machine, "docs/explanation/threat-model.md", |_| {});
    run(&machine, "docs/how-to/secrets.md", |block| {
        if block.contains("credentials") {
            let config = Agent::connect(&machine, "website").unwrap().get("config").unwrap();
            let key = config.pointer("/provider/anthropic/options/apiKey").unwrap();
            assert_eq!(key, "not-a-real-key");
        }
    });
}

/// Files of an agent's, and what they are like.
const PLANT: &str = "mkdir -p planted/deep; head -c 3000000 /dev/urandom >planted/large; \
                     echo text >planted/deep/run; chmod 750 planted/deep/run; ln -s deep/run planted/link";
const PLANTED: &str = "find planted -exec stat --format \"%N %A %U %Y\" {} + | sort; \
                       find planted -type f -exec sha256sum {} + | sort";

/// Has the user of `website` run a script in its state.
fn as_website(script: &str) -> String {
    format!(
        "cd /var/lib/opencode/instance-state/website; runuser -u opencode-website -- sh -euc '{script}'"
    )
}

#[test]
fn the_page_about_backups() {
    if unavailable() {
        return;
    }
    let machine = fleet::two_projects("backup-page").unwrap();
    machine.sh(&as_website(PLANT)).unwrap().ok().unwrap();
    let planted = || machine.sh(&as_website(PLANTED)).unwrap().ok().unwrap();
    let (before, restored) = (planted(), Cell::new(0));
    run(&machine, "docs/how-to/backup.md", |block| {
        if !["restic", "borg"].iter().any(|program| block.contains(program)) {
            return;
        }
        if block.contains(" init ") {
            machine.sh(&as_website("rm -r planted; echo later >later")).unwrap().ok().unwrap();
            return;
        }
        assert_eq!(planted(), before);
        machine.sh(&as_website("test ! -e later")).unwrap().ok().unwrap();
        restored.set(restored.get() + 1);
    });
    assert_eq!(restored.get(), 2);
    let list = document("docs/how-to/backup.md");
    for (directory, what) in instances_core::backup::selection::LEFT_OUT {
        let row = format!("| `{directory}` | {what} |");
        assert!(list.text.contains(&row), "{row}");
    }
}

/// With the program that lies in the directory where the reader is.
#[test]
fn the_page_about_upgrades() {
    if unavailable() {
        return;
    }
    let spec = format!(
        "{}[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\n",
        stand_in::DEFAULTS
    );
    let machine = stand_in::boot("upgrading-page", &spec, &["/srv/web"]).unwrap();
    let sh = |script: &str| machine.sh(script).unwrap().ok().unwrap();
    let (old, new) = ("/usr/local/bin/opencode-instances", "/root/opencode-instances");
    sh(&format!("cp /usr/bin/opencode-instances {old}; {old} apply"));
    // Another program, if only by a byte that nobody reads.
    sh(&format!("cp {old} {new}; printf x >>{new}"));
    let runs = format!("cmp /proc/$(systemctl show --value -p MainPID opencode-web)/exe {new}");
    assert!(!machine.sh(&runs).unwrap().success());
    run(&machine, "docs/how-to/upgrading.md", |_| {});
    sh(&runs);
    let status = sh(&format!("{old} status web"));
    assert!(status.contains("running") && status.contains(" healthy"), "{status}");
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
