//! What is refused, by the engine or by systemd, and that nothing is lost by it. The server is a
//! light stand-in.

use instances_lab::{Machine, Output, fleet, stand_in, unavailable};

use crate::view::{
    FILES, SOON, apply, assert_healthy, done, engine, pid, property, sh, status, url,
    wait_until_served,
};

const WEBSITE: &str = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n";
/// Its directory in `/run/opencode-instances` lies beside the file that `apply` locks.
const LOCK: &str = "[instances.lock]\ndirectory = \"/srv/lock\"\nlisten.port = 4102\n";
const MAIN: &str = "opencode-website.service";
const NET: &str = "opencode-net@website.service";

fn spec(instances: &[&str]) -> String {
    format!("{}{}", stand_in::DEFAULTS, instances.concat())
}

#[test]
fn what_is_refused_changes_nothing() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/website", "/srv/lock", "/srv/third", "/srv/remote"];
    let machine = stand_in::boot("refusing", &spec(&[WEBSITE, LOCK]), &projects).unwrap();
    an_instance_named_lock(&machine);
    no_instance_at_all(&machine);
    a_state_directory_of_others(&machine);
    a_link_of_an_agent(&machine);
    a_password_file_that_changes(&machine);
    an_address_of_another_host(&machine);
    a_stop(&machine);
}

fn an_instance_named_lock(machine: &Machine) {
    done(machine, "apply");
    sh(machine, "test -d /run/opencode-instances/lock");
    for instance in ["website", "lock"] {
        wait_until_served(machine, instance, SOON);
        assert_healthy(machine, instance);
    }
    assert!(done(machine, "apply").ends_with("nothing to do\n"));
}

/// Applies a specification that is refused, and returns why.
fn refused(machine: &Machine, spec: &str) -> String {
    let look = |machine: &Machine| {
        let data = "find /data -printf '%p %i %T@ %C@ %m %u\\n' | sort";
        (sh(machine, FILES), sh(machine, data), pid(machine, "website"), pid(machine, "lock"))
    };
    // Not in place of the old one, whose time would change.
    machine.put("/root/refused.toml", spec, 0o644).unwrap();
    sh(machine, "mkdir -p /data");
    let before = look(machine);
    let output = engine(machine, "apply /root/refused.toml");
    assert_eq!(output.code(), 1, "{output}");
    assert_eq!(look(machine), before, "{output}");
    output.stderr
}

fn no_instance_at_all(machine: &Machine) {
    let disabled = [WEBSITE, "enable = false\n", LOCK, "enable = false\n"];
    for spec in [spec(&[]), spec(&disabled)] {
        let said = refused(machine, &spec);
        assert!(said.contains("`opencode-instances remove` removes them all"), "{said}");
    }
}

fn third(state: &str) -> String {
    let third = format!(
        "[instances.third]\ndirectory = \"/srv/third\"\nlisten.port = 4103\nstateDir = \"{state}\"\n"
    );
    spec(&[WEBSITE, LOCK, &third])
}

fn a_state_directory_of_others(machine: &Machine) {
    let prepare = "
mkdir -p /data/alice /data/empty /data/root /data/free
touch /data/alice/letter /data/root/file /data/file
chown -R 1234 /data/alice /data/empty
ln -s /data/alice /data/link
";
    sh(machine, prepare);
    for (path, what) in [
        ("/data/alice", "belongs to user 1234 and is not empty"),
        ("/data/empty", "belongs to user 1234;"),
        ("/data/root", "belongs to user 0 and is not empty"),
        ("/data/file", "it is no directory"),
        ("/data/link", "it is no directory"),
    ] {
        let said = refused(machine, &third(path));
        let reason = format!("stateDir {path} of `third` exists, and {what}");
        assert!(said.contains(&reason), "{said}");
    }
    // One that nobody uses is taken, and stays the instance's.
    apply(machine, &third("/data/free"));
    wait_until_served(machine, "third", SOON);
    assert_eq!(sh(machine, "stat -c '%U %a' /data/free"), "opencode-third 700");
    sh(machine, "test -n \"$(ls -A /data/free)\"");
    apply(machine, &format!("{}logLevel = \"WARN\"\n", third("/data/free")));
    apply(machine, &spec(&[WEBSITE, LOCK]));
}

/// As secrets are laid out on NixOS: behind a link of root's, and each of root's alone.
const SECRETS: &str = "
groupadd --system keys
install -d -m 0751 -g keys /run/secrets.d /run/secrets.d/1
ln -sfn secrets.d/1 /run/secrets
printf 'of third' >/run/secrets.d/1/third
printf 'of another' >/run/secrets.d/1/other
chmod 0400 /run/secrets.d/1/*
";

/// What an agent makes of its own project, and a link of the operator's that leads there.
const TRAP: &str = "
mkdir -p /srv/website/bin
ln -s /run/secrets.d/1/other /srv/website/third
chown -R -h opencode-website /srv/website
ln -s website /srv/way
";

fn with_secret(file: &str) -> String {
    format!("{}auth.passwordFile = \"{file}\"\n", third("/data/free"))
}

fn a_link_of_an_agent(machine: &Machine) {
    sh(machine, SECRETS);
    sh(machine, TRAP);
    let said = refused(machine, &with_secret("/srv/way/third"));
    let reason = "/srv/way/third, which auth.passwordFile names, cannot be trusted: /srv/website \
                  belongs to user";
    assert!(said.contains(reason) && said.contains("move the file where only root"), "{said}");
    sh(machine, "printf 'of third' >/srv/readable");
    let said = refused(machine, &with_secret("/srv/readable"));
    assert!(said.contains("mode 0644); chmod o= /srv/readable"), "{said}");
    let said = refused(machine, &with_secret("/run/secrets/forgotten"));
    assert!(said.contains("/run/secrets.d/1/forgotten does not exist"), "{said}");
    let said = refused(machine, &format!("{}path = [\"/srv/way/bin\"]\n", third("/data/free")));
    assert!(said.contains("leads into /srv/website, the project of `website`"), "{said}");
}

fn a_password_file_that_changes(machine: &Machine) {
    let file = "/run/secrets.d/1/third";
    apply(machine, &with_secret("/run/secrets/third"));
    wait_until_served(machine, "third", SOON);
    assert!(url(machine, "third").contains("of%20third"));

    // Nobody writes to it: whoever only reads would wait for ever.
    sh(machine, &format!("mv {file} {file}.away; mkfifo -m 0400 {file}"));
    let all = engine_within(machine, 20, "status --json");
    let all: serde_json::Value = serde_json::from_str(&all.stdout).unwrap();
    for one in all["instances"].as_array().unwrap() {
        let reason = one["reason"].as_str().unwrap();
        let third = one["name"] == "third";
        assert_eq!(reason.contains("third is not a regular file"), third, "{one}");
        assert_eq!(one["healthy"] == true, !third, "{one}");
    }
    let output = engine_within(machine, 20, "url third");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("is not a regular file"), "{output}");
    sh(machine, &format!("rm {file}; mv {file}.away {file}"));

    // Changed behind the back of `apply`: the server stays down, and says why.
    done(machine, "stop third");
    sh(machine, "ln -sfn /srv/way /run/secrets");
    let output = engine(machine, "start third");
    assert_eq!(output.code(), 1, "{output}");
    let reason = "cannot be trusted: /srv/website belongs to user";
    assert!(output.stderr.contains(reason), "{output}");
    let found = status(machine, "third");
    assert!(found["reason"].as_str().unwrap().contains(reason), "{found}");
    assert_ne!(found["state"], "running", "{found}");
    let log = sh(machine, "journalctl --boot --unit=opencode-judge@third.service");
    assert!(log.contains(reason), "{log}");
    let output = engine(machine, "url third");
    assert!(output.stderr.contains(reason) && output.stdout.is_empty(), "{output}");

    sh(machine, "ln -sfn secrets.d/1 /run/secrets");
    done(machine, "start third");
    wait_until_served(machine, "third", SOON);
    however_it_starts(machine, file);
    apply(machine, &spec(&[WEBSITE, LOCK]));
    sh(machine, "rm -r /run/secrets /run/secrets.d /srv/way /srv/website/third");
}

/// A start that systemd alone is asked for, and one that nobody asks for, hand over nothing either.
fn however_it_starts(machine: &Machine, file: &str) {
    let main = "opencode-third.service";
    let reason = "can be read by everybody (mode 0444); chmod o= /run/secrets.d/1/third";
    let restart = format!("! systemctl restart {main}");
    let kill = format!("systemctl kill -s KILL {main}");
    for again in [&restart, &kill, &restart, &kill] {
        sh(machine, &format!("chmod 444 {file}; {again}"));
        let says_why = |machine: &Machine| {
            let found = status(machine, "third");
            Ok(found["state"] != "running" && found["reason"].as_str().unwrap().contains(reason))
        };
        machine.wait_until("it stays down, and says why", SOON, says_why).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(pid(machine, "third"), 0);
        sh(machine, &format!("chmod 400 {file}"));
        done(machine, "start third");
        wait_until_served(machine, "third", SOON);
    }
}

/// Runs the engine's command, which must not wait for anybody.
fn engine_within(machine: &Machine, seconds: u32, arguments: &str) -> Output {
    let limit = seconds.to_string();
    let argv = ["timeout", &limit, "opencode-instances"];
    let output = machine.run(argv.into_iter().chain(arguments.split_whitespace())).unwrap();
    assert_ne!(output.code(), 124, "`{arguments}` hangs");
    output
}

/// Another host that has the address: it answers as a server would, and writes down what it hears.
const OTHER_HOST: &str = r#"
import socket
listener = socket.create_server(('192.0.2.7', 4104))
body = '{"healthy":true,"version":"0"}'
head = f'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n'
answer = f'{head}connection: close\r\n\r\n{body}'.encode()
while True:
    client, _ = listener.accept()
    with open('/root/heard', 'ab') as heard:
        heard.write(client.recv(65536))
    client.sendall(answer)
    client.close()
"#;

fn an_address_of_another_host(machine: &Machine) {
    machine.put("/root/other.py", OTHER_HOST, 0o644).unwrap();
    let network = "
ip netns add other
ip link add lan type veth peer name lan netns other
ip address add 192.0.2.1/24 dev lan
ip link set lan up
ip -n other address add 192.0.2.7/24 dev lan
ip -n other link set lan up
systemd-run --unit=other --collect ip netns exec other python3 /root/other.py
";
    sh(machine, network);
    let knock = "curl --silent --max-time 5 http://192.0.2.7:4104/knock";
    machine
        .wait_until("the other host answers", SOON, |machine| Ok(machine.sh(knock)?.success()))
        .unwrap();
    let remote = "[instances.remote]\ndirectory = \"/srv/remote\"\n\
                  listen = { address = \"192.0.2.7\", port = 4104 }\n";
    apply(machine, &spec(&[WEBSITE, LOCK, remote]));
    let status_of_other = |machine: &Machine| {
        let found = status(machine, "remote");
        let heard = sh(machine, "cat /root/heard");
        assert!(heard.contains("/knock"), "the other host can be reached: {heard}");
        assert!(!heard.to_lowercase().contains("authorization"), "{heard}");
        assert!(!heard.contains("/global/health"), "{heard}");
        assert_eq!(found["listening"], true, "{found}");
        assert_eq!(found["healthy"], serde_json::Value::Null, "{found}");
        let reason = found["reason"].as_str().unwrap();
        assert!(reason.contains("the host has no address 192.0.2.7"), "{found}");
    };
    status_of_other(machine);
    // Hosts that take over addresses from each other can bind all of them at any time.
    sh(machine, "sysctl -q net.ipv4.ip_nonlocal_bind=1");
    status_of_other(machine);
    // Once the address is this host's, the instance is asked.
    let take_over = "
sysctl -q net.ipv4.ip_nonlocal_bind=0
ip -n other address flush dev lan
ip address add 192.0.2.7/24 dev lan
ip neighbour flush dev lan
";
    sh(machine, take_over);
    wait_until_served(machine, "remote", SOON);
    assert_healthy(machine, "remote");
    sh(machine, "systemctl stop other; ip link delete lan; ip netns delete other");
    apply(machine, &spec(&[WEBSITE, LOCK]));
}

/// Without their files, the units could not be stopped any more.
fn a_stop(machine: &Machine) {
    let website = pid(machine, "website");
    // One that could be stopped would take the server with it.
    for unit in [MAIN, NET] {
        let drop_in = format!("/etc/systemd/system/{unit}.d/stay.conf");
        machine.put(drop_in, "[Unit]\nRefuseManualStop=yes\n", 0o644).unwrap();
    }
    sh(machine, "systemctl daemon-reload");
    let files =
        "find /etc -path '*opencode*' -name '*website*' ! -name '*.d' -printf '%p %i\\n' | sort";
    let before = sh(machine, files);
    assert!(before.contains(MAIN) && before.contains(NET), "{before}");
    machine.put(fleet::SPEC, spec(&[LOCK]), 0o644).unwrap();
    let refused = |command: &str| {
        let output = engine(machine, command);
        assert_eq!(output.code(), 1, "{output}");
        assert!(output.stderr.contains(&format!("stop {MAIN}: Operation refused")), "{output}");
        assert_eq!(sh(machine, files), before, "{output}");
    };
    for _ in 0..2 {
        refused("apply");
        for unit in [MAIN, NET] {
            assert_eq!(property(machine, unit, "ActiveState"), "active", "{unit}");
            assert_eq!(property(machine, unit, "LoadState"), "loaded", "{unit}");
        }
        assert_eq!(pid(machine, "website"), website);
    }
    refused("remove");
    sh(machine, "rm -r /etc/systemd/system/opencode*website.service.d; systemctl daemon-reload");
    done(machine, "apply");
    assert_eq!(sh(machine, files), "");
    for unit in [MAIN, NET] {
        assert_eq!(property(machine, unit, "ActiveState"), "inactive", "{unit}");
        assert_eq!(property(machine, unit, "LoadState"), "not-found", "{unit}");
    }
    sh(machine, "test ! -e /run/netns/opencode-website");
    wait_until_served(machine, "lock", SOON);
    assert_healthy(machine, "lock");
}
