//! `attach`: opencode's own interface, as who called `sudo` and not as who wrote the project; and
//! `schema`.

use instances_lab::{Agent, Machine, fleet, unavailable};
use serde_json::json;

use crate::view::{SOON, done, engine, sh, url, wait_until_served};

const SPEC: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
settings.model = "fake/m"
auth.username = "team"

[instances.wary]
directory = "/srv/wary"
listen.port = 4102
settings.model = "fake/m"
trustProject = false
"#;

/// A user who may call `sudo`, and can enter the projects.
const PREPARE: &str = "
useradd --create-home --shell /bin/bash alice
echo 'alice ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/alice
install -d -o alice -g alice /home/alice/work
";

/// Code in every place that a client looks at in its working directory; it leaves a mark.
const TRAP: &str = r#"
mark() {
    echo "require('fs').appendFileSync('/home/alice/ran', '$1 ' + process.argv.join(' ') + ';'); module.exports = {}"
}
trap_in() {
    mkdir -p $1/.opencode/plugin $1/node_modules/esprima
    mark $1/esprima >$1/node_modules/esprima/index.js
    mark $1/plugin.js | tee $1/plugin.js >$1/.opencode/plugin.js
    mark $1/auto.js >$1/.opencode/plugin/auto.js
    echo '{"plugin": ["./plugin.js"]}' | tee $1/tui.json >$1/.opencode/tui.json
}
"#;

#[test]
fn attach_shows_the_interface_and_runs_nobody_elses_code() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("attach", SPEC, &["/srv/website", "/srv/wary"]).unwrap();
    sh(&machine, PREPARE);
    done(&machine, "apply");
    for instance in ["website", "wary"] {
        wait_until_served(&machine, instance, SOON);
    }
    let places = "for place in /srv/website /srv/wary /home/alice/work; do trap_in $place; done";
    sh(&machine, &format!("{TRAP}{places}; touch /home/alice/ran; chown alice /home/alice/ran"));
    by_hand(&machine);
    for instance in ["website", "wary"] {
        attached(&machine, instance);
    }
    schema(&machine);
}

/// Starts a program of alice's on a terminal, in a directory of hers.
fn on_a_terminal(machine: &Machine, directory: &str, command: &str) {
    let script = format!(
        "rm -f /home/alice/shown
        systemd-run --quiet --unit=terminal --collect --uid=alice --setenv=HOME=/home/alice \
            --setenv=TERM=xterm-256color --working-directory={directory} \
            sh -c 'tail -f /dev/null | script -qfc \"stty rows 40 cols 120; {command}\" \
            /home/alice/shown >/dev/null'"
    );
    sh(machine, &script);
}

/// What is shown, without the terminal's commands.
fn shown(machine: &Machine) -> String {
    let strip =
        r"sed -E 's/\x1b\[[0-9;?<>=$]*[ -/]*[@-~]//g; s/\x1b[^[]//g' /home/alice/shown || true";
    sh(machine, strip)
}

fn wait_for_the_interface(machine: &Machine) -> u64 {
    let is_there = |machine: &Machine| Ok(shown(machine).contains("Ask anything"));
    let waited = machine.wait_until("the interface is shown", SOON, is_there);
    assert!(waited.is_ok(), "{}", shown(machine));
    sh(machine, "pgrep -xo opencode -u alice").parse().unwrap()
}

fn end(machine: &Machine, client: u64) {
    sh(machine, &format!("kill {client}; systemctl stop terminal 2>/dev/null || true"));
    machine
        .wait_until("it ends", SOON, |machine| {
            Ok(!machine.sh(&format!("test -e /proc/{client}"))?.success())
        })
        .unwrap();
}

/// Without this program's care the traps close.
fn by_hand(machine: &Machine) {
    // As alice would call it, in her directory or in the project.
    let address = url(machine, "website");
    let (login, address) = address.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let command = format!(
        "OPENCODE_SERVER_USERNAME={user} OPENCODE_SERVER_PASSWORD={password} \
         opencode attach http://{address} --dir /srv/website"
    );
    on_a_terminal(machine, "/home/alice/work", &command);
    let client = wait_for_the_interface(machine);
    let ran = sh(machine, "cat /home/alice/ran");
    assert!(ran.contains("/home/alice/work/esprima"), "{ran}");
    assert_eq!(sh(machine, &format!("readlink /proc/{client}/cwd")), "/srv/website");
    end(machine, client);
}

fn attached(machine: &Machine, instance: &str) {
    sh(machine, ": >/home/alice/ran");
    on_a_terminal(
        machine,
        "/home/alice/work",
        &format!("sudo opencode-instances attach {instance}"),
    );
    let client = wait_for_the_interface(machine);
    let of = |file: &str| sh(machine, &format!("tr '\\0' '\\n' </proc/{client}/{file}"));
    assert_eq!(sh(machine, &format!("readlink /proc/{client}/cwd")), "/");
    let ids = "awk '/^(Uid|Gid|Groups)/ { $1 = \"\"; print }'";
    let ids = sh(machine, &format!("{ids} /proc/{client}/status; id -u alice; id -g alice"));
    let lines: Vec<&str> = ids.lines().map(str::trim).collect();
    let [uids, gids, groups, uid, gid] = lines.as_slice() else { panic!("{ids}") };
    assert_eq!(*uids, [*uid; 4].join(" "));
    assert_eq!(*gids, [*gid; 4].join(" "));
    assert!(groups.is_empty() || groups == gid, "{ids}");
    let password = sh(machine, &format!("cat /var/lib/opencode/instance-auth/{instance}/password"));
    let environ = of("environ");
    assert!(environ.contains(&password) && environ.contains("HOME=/home/alice"), "{environ}");
    let command_lines = sh(machine, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(command_lines.contains("opencode attach http://127.0.0.1:"), "{command_lines}");
    assert!(!command_lines.contains(&password), "{command_lines}");
    // It is the project's, whatever the client's own directory is.
    let project = format!("/srv/{instance}");
    let names = |machine: &Machine| Ok(shown(machine).contains(&project));
    let waited = machine.wait_until("the project is shown", SOON, names);
    assert!(waited.is_ok(), "{}", shown(machine));
    assert_eq!(sh(machine, "cat /home/alice/ran"), "");
    end(machine, client);
    live(machine, instance);
}

/// What happens in a session is shown at once, so the client and the server mean the same project.
fn live(machine: &Machine, instance: &str) {
    let project = format!("/srv/{instance}");
    let agent = Agent::in_directory(machine, instance, &project).unwrap();
    let session = agent.post("session", &json!({ "title": "canary-title" })).unwrap();
    let session = session["id"].as_str().unwrap();
    on_a_terminal(
        machine,
        "/home/alice/work",
        &format!("sudo opencode-instances attach {instance} -- --session {session}"),
    );
    let shows = |what: &'static str| {
        let is_there = move |machine: &Machine| Ok(shown(machine).contains(what));
        let waited = machine.wait_until(what, SOON, is_there);
        assert!(waited.is_ok(), "{what}: {}", shown(machine));
    };
    shows("canary-title");
    let command = json!({ "agent": "build", "command": "pwd; echo canary-$((6 * 7))" });
    agent.post(&format!("session/{session}/shell"), &command).unwrap();
    shows("canary-42");
    assert_eq!(sh(machine, "cat /home/alice/ran"), "");
    sh(machine, "systemctl stop terminal 2>/dev/null || true");
}

fn schema(machine: &Machine) {
    let shipped = engine(machine, "schema");
    assert!(shipped.success() && shipped.stdout.len() > 10_000, "{shipped}");
    let before = sh(machine, "ls -A /tmp /root /var/tmp | sort");
    let package = engine(machine, "schema --package /usr/bin/opencode");
    assert!(package.success(), "{package}");
    assert!(package.stdout == shipped.stdout, "not the same");
    assert_eq!(sh(machine, "ls -A /tmp /root /var/tmp | sort"), before);
    // Who asks it is nobody.
    let spy = "#!/bin/sh\nid -u >&2; pwd >&2; echo \"$HOME\" >&2; echo \"$(id -u) $PWD\" >\"$HOME/x\" && \
               exec /usr/bin/opencode \"$@\"\n";
    machine.put("/usr/local/bin/spy", spy, 0o755).unwrap();
    let traced = sh(
        machine,
        "strace -f -qq -e trace=execve,setuid,chdir -o /root/trace opencode-instances schema --package /usr/local/bin/spy | wc -c
         grep -E 'setuid\\(65534\\)|chdir\\(\"/\"\\)' /root/trace | sed 's/^[0-9]* *//' | sort -u; rm /root/trace",
    );
    assert!(traced.contains("setuid(65534)") && traced.contains("chdir(\"/\")"), "{traced}");
    assert_eq!(sh(machine, "ls -A /tmp /root /var/tmp | sort"), before);
    let stranger = "install -o nobody -m 755 /usr/bin/env /usr/local/bin/stranger";
    sh(machine, stranger);
    let refused = engine(machine, "schema --package /usr/local/bin/stranger");
    assert!(refused.code() == 1 && refused.stderr.contains("belongs to user 65534"), "{refused}");
}
