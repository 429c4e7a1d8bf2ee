//! Unix sockets of the host that the operator shows in a sandbox: they are there while their services
//! are, they follow when those restart, and no other one is.

use std::time::{Duration, Instant};

use instances_lab::fleet::{BEGIN, PATIENCE, SPEC};
use instances_lab::{Agent, Image, Machine, Options, Release, fleet, stand_in, unavailable};

use crate::view::{SOON, apply, done, engine, pid, property, sh, status};

/// What a service's socket says to whoever connects.
const SERVICE: &str = r"#!/usr/bin/python3 -SE
import os, socket, sys
path, word = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o777)
listener.listen(64)
while True:
    client, _ = listener.accept()
    client.sendall(word.encode())
    client.close()
";

/// Connects to each path, and prints what it says.
const CONNECT: &str = r"
import errno, socket, sys
for path in sys.argv[1:]:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    try:
        client.connect(path)
        print(client.recv(64).decode() or 'nothing')
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
";

/// Two services, each with a directory that comes and goes with it.
fn services(machine: &Machine) {
    machine.put("/usr/local/bin/service", SERVICE, 0o755).unwrap();
    machine.put("/root/connect.py", CONNECT, 0o644).unwrap();
    for name in ["first", "late"] {
        let unit = format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRuntimeDirectory={name}\nExecStart=/usr/local/bin/service /run/{name}/sock {name}\n"
        );
        machine.put(format!("/etc/systemd/system/{name}.service"), unit, 0o644).unwrap();
    }
    sh(machine, "systemctl daemon-reload; systemctl start first");
}

/// Connects from inside the instance's own namespaces, as its user and without a capability; one word for each path.
fn inside(machine: &Machine, instance: &str, paths: &str) -> String {
    let pid = pid(machine, instance);
    let words = sh(
        machine,
        &format!(
            "nsenter --target {pid} --mount --net setpriv --reuid opencode-{instance} --regid \
             opencode-{instance} --clear-groups --bounding-set=-all python3 -c \"$(cat /root/connect.py)\" {paths}"
        ),
    );
    words.replace('\n', " ")
}

/// Waits until a connection from inside ends so.
#[track_caller]
fn becomes(machine: &Machine, instance: &str, path: &str, word: &str) {
    let begin = Instant::now();
    loop {
        let said = inside(machine, instance, path);
        if said == word {
            return;
        }
        assert!(begin.elapsed() < SOON, "{path} says {said}, not {word}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the status says so, which is a moment after the socket came or went.
#[track_caller]
fn says(machine: &Machine, instance: &str, words: &str) {
    let reason = |machine: &Machine| status(machine, instance)["reason"].to_string();
    let waited = machine.wait_until(words, SOON, |machine| Ok(reason(machine).contains(words)));
    assert!(waited.is_ok(), "{}", reason(machine));
}

fn mounts(machine: &Machine) -> usize {
    sh(machine, "wc -l </proc/self/mountinfo").parse().unwrap()
}

/// The stand-in, which answers as a server without a password does.
fn spec(options: &str) -> String {
    let defaults = stand_in::DEFAULTS;
    format!(
        "{defaults}[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n\
         network.outbound.policy = \"none\"\n{options}\n"
    )
}

/// One is there from the start, under its own name; the other comes later, under another one.
const BOTH: &str =
    "sandbox.unixSockets = [\"/run/first/sock\", \"-/run/late/sock:/run/other/name\"]";

fn live_and_follow(machine: &Machine) {
    services(machine);
    apply(machine, &spec(BOTH));
    let all = "/run/first/sock /run/other/name";
    assert_eq!(inside(machine, "website", all), "first ENOENT");
    let server = pid(machine, "website");

    // What is not listed is not there: neither this nor any other socket of the host.
    let others = "/run/late/sock /run/dbus/system_bus_socket /run/systemd/private \
                  /run/systemd/journal/stdout /run/systemd/journal/socket /run/systemd/userdb/io.systemd.DynamicUser";
    let said = inside(machine, "website", others);
    assert!(said.split(' ').all(|word| word == "ENOENT"), "{said}");
    let beside = "ls -A /run/first /run/other";
    let seen = sh(machine, &format!("nsenter --target {server} --mount {beside}"));
    assert_eq!(seen, "/run/first:\nsock\n\n/run/other:");

    // A service that comes later, and goes.
    sh(machine, "systemctl start late");
    becomes(machine, "website", "/run/other/name", "late");
    sh(machine, "systemctl stop late");
    becomes(machine, "website", "/run/other/name", "ENOENT");
    assert_eq!(property(machine, "opencode-sockets@website.service", "ActiveState"), "active");

    // One that restarts, with another directory and another socket.
    let before = mounts(machine);
    let directory = || sh(machine, "stat -c %i /run/first");
    let first = directory();
    for _ in 0..50 {
        sh(machine, "systemctl restart first");
    }
    becomes(machine, "website", "/run/first/sock", "first");
    assert_ne!(first, directory());
    assert_eq!(mounts(machine), before, "a mount for each restart stays");
    let of_server = sh(machine, &format!("grep -c ' /run/first/sock ' /proc/{server}/mountinfo"));
    assert_eq!(of_server, "1");
    let flags = sh(machine, &format!("grep ' /run/first/sock ' /proc/{server}/mountinfo"));
    assert!(flags.contains(" ro,nosuid,nodev,noexec"), "{flags}");

    // A socket that may not be missing, and is while the server runs.
    sh(machine, "systemctl stop first");
    becomes(machine, "website", "/run/first/sock", "ENOENT");
    says(machine, "website", "sandbox.unixSockets /run/first/sock: /run/first does not exist");
    sh(machine, "systemctl start first");
    becomes(machine, "website", "/run/first/sock", "first");
    says(machine, "website", "serving on port 4096");
    assert_eq!(status(machine, "website")["reason"], "serving on port 4096");

    // What follows them is killed, and comes back; the server goes on.
    sh(machine, "systemctl kill --signal=KILL opencode-sockets@website");
    crate::view::wait_for(machine, "opencode-sockets@website.service", "active");
    becomes(machine, "website", "/run/first/sock", "first");
    sh(machine, "systemctl restart opencode-sockets@website");
    becomes(machine, "website", "/run/first/sock", "first");
    assert_eq!(pid(machine, "website"), server);
    assert_eq!(mounts(machine), before);

    // The server restarts; the other one need not.
    let follower = property(machine, "opencode-sockets@website.service", "MainPID");
    sh(machine, &format!("{BEGIN} begin opencode-website"));
    assert_eq!(inside(machine, "website", all), "first ENOENT");
    assert_eq!(property(machine, "opencode-sockets@website.service", "MainPID"), follower);
    assert_eq!(mounts(machine), before);

    // What is no longer listed goes at once, with every connection.
    let put_off = "restartOnSwitch = false\n";
    apply(machine, &spec(&format!("{put_off}{BOTH}")));
    crate::view::wait_for(machine, "opencode-website.service", "active");
    let server = pid(machine, "website");
    apply(
        machine,
        &spec(&format!("{put_off}sandbox.unixSockets = [\"-/run/late/sock:/run/other/name\"]")),
    );
    crate::view::wait_for(machine, "opencode-website.service", "active");
    assert_ne!(pid(machine, "website"), server, "a server outlived a socket");
    assert_eq!(inside(machine, "website", all), "ENOENT ENOENT");
    sh(machine, "systemctl start late");
    becomes(machine, "website", "/run/other/name", "late");

    // A server that is stopped has nothing mounted.
    done(machine, "stop website");
    crate::view::wait_for(machine, "opencode-sockets@website.service", "inactive");
    assert_eq!(sh(machine, "grep -c opencode-instances/website /proc/self/mountinfo || true"), "0");
    done(machine, "start website");
    becomes(machine, "website", "/run/other/name", "late");
    done(machine, "remove");
    assert_eq!(sh(machine, "grep -c /run/opencode-instances /proc/self/mountinfo || true"), "0");
    assert_eq!(sh(machine, "ls -A /run/opencode-instances | grep -v lock || true"), "");
    assert_eq!(sh(machine, "systemctl is-active first late"), "active\nactive");
}

#[test]
fn sockets_follow_their_services() {
    if unavailable() {
        return;
    }
    let machine = stand_in::boot("sockets", "", &["/srv/website"]).unwrap();
    live_and_follow(&machine);
}

#[test]
fn sockets_follow_their_services_on_systemd_252() {
    if unavailable() {
        return;
    }
    let image = Image::ensure(Release::Bookworm).unwrap();
    let machine = Machine::boot(&image, &Options::new().name("sockets-252").engine()).unwrap();
    sh(&machine, "mkdir -p /srv/website");
    stand_in::put(&machine).unwrap();
    live_and_follow(&machine);
}

#[test]
fn a_missing_socket_keeps_the_server_down_and_says_why() {
    if unavailable() {
        return;
    }
    let machine = stand_in::boot("sockets-missing", "", &["/srv/website"]).unwrap();
    services(&machine);
    machine.put(SPEC, spec("sandbox.unixSockets = [\"/run/late/sock\"]"), 0o644).unwrap();
    let begin = Instant::now();
    let refused = engine(&machine, "apply");
    assert!(!refused.success(), "{refused}");
    assert!(begin.elapsed() > Duration::from_secs(25), "it does not wait: {refused}");
    let words = "sandbox.unixSockets /run/late/sock: /run/late does not exist; start its service, or write \
                 \"-/run/late/sock\" in sandbox.unixSockets";
    assert!(refused.stderr.contains(&format!("website: {words}")), "{refused}");
    let says = status(&machine, "website");
    assert_eq!(says["reason"], words, "{says}");
    assert_eq!(
        sh(&machine, "grep -c opencode-instances/website /proc/self/mountinfo || true"),
        "0"
    );
    // It comes within the time that a start waits.
    machine
        .run(["systemd-run", "--on-active=3", "systemctl", "start", "late"])
        .unwrap()
        .ok()
        .unwrap();
    done(&machine, "start website");
    assert_eq!(inside(&machine, "website", "/run/late/sock"), "late");
}

/// What an agent plants, and an operator opens by mistake.
#[test]
fn no_agent_decides_which_socket_it_gets() {
    if unavailable() {
        return;
    }
    let machine =
        stand_in::boot("sockets-attack", "", &["/srv/website", "/srv/svc", "/srv/hole"]).unwrap();
    services(&machine);
    let listed = |path: &str| spec(&format!("sandbox.unixSockets = [\"{path}\"]"));
    let refused = |path: &str, words: &str| {
        machine.put(SPEC, listed(path), 0o644).unwrap();
        let refused = engine(&machine, "apply");
        assert!(!refused.success() && refused.stderr.contains(words), "{path}: {refused}");
    };
    apply(&machine, &spec(""));
    sh(
        &machine,
        "chown opencode-website /srv/hole /srv/website
         cd /srv/hole
         runuser -u opencode-website -- ln -s /run/dbus/system_bus_socket sock
         runuser -u opencode-website -- ln -s /run/dbus dir
         runuser -u opencode-website -- ln -s /run/first first
         ln -s /srv/hole/first /srv/through
         ln -s /run/first /srv/agents; chown -h opencode-website /srv/agents
         ln -s /srv/website /srv/project
         ln -s /run/first/sock /srv/svc/last",
    );
    refused("/srv/website/sock", "inside the project");
    refused("/srv/hole/sock:/run/x/sock", "it is a symbolic link to");
    refused("/srv/hole/dir/system_bus_socket:/run/x/sock", "belongs to user");
    refused("/srv/hole/first/sock:/run/x/sock", "an instance's");
    refused("/srv/through/sock:/run/x/sock", "an instance's");
    refused("/srv/agents/sock:/run/x/sock", "/srv/agents belongs to user");
    refused("/srv/project/sock:/run/x/sock", "the project of `website`");
    refused("/srv/svc/last:/run/x/sock", "it is a symbolic link to /run/first/sock");
    refused("/etc/passwd:/run/x/sock", "it is no socket");

    // Shown first, and then handed to the agent: whatever it puts there, nothing is shown.
    sh(&machine, "systemd-run --unit=svc service /srv/svc/sock svc; sleep 0.5");
    apply(&machine, &listed("/srv/svc/sock:/run/x/sock"));
    becomes(&machine, "website", "/run/x/sock", "svc");
    sh(&machine, "chown opencode-website /srv/svc");
    becomes(&machine, "website", "/run/x/sock", "ENOENT");
    says(&machine, "website", "/srv/svc belongs to user");
    for plant in [
        "rm sock; ln -s /run/dbus/system_bus_socket sock",
        "rm sock; ln -s /run/first/sock sock",
        "rm sock; cd ..; rm -rf svc/* ; ln -sfn /run/first svc/in; ln -s in/sock svc/sock",
        "rm -f sock in; touch sock",
    ] {
        sh(
            &machine,
            &format!("cd /srv/svc; runuser -u opencode-website -- sh -c '{plant}'; sleep 0.3"),
        );
        assert_eq!(inside(&machine, "website", "/run/x/sock"), "ENOENT", "{plant}");
    }
    // The operator takes it back, with what the agent has left in it.
    sh(&machine, "cd /srv/svc; rm -f sock; ln -s /run/first/sock sock; chown root .; sleep 0.3");
    assert_eq!(inside(&machine, "website", "/run/x/sock"), "ENOENT");
    let pid = pid(&machine, "website");
    sh(
        &machine,
        "rm /srv/svc/sock; systemctl restart svc || systemd-run --unit=svc2 service /srv/svc/sock svc",
    );
    becomes(&machine, "website", "/run/x/sock", "svc");
    assert_eq!(crate::view::pid(&machine, "website"), pid);
}

const REAL: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
sandbox.unixSockets = ["/run/postgresql/.s.PGSQL.5432", "-/nix/var/nix/daemon-socket/socket"]
"#;

/// As upstream's and NixOS's units do, and unlike Debian's, its directory goes with it.
const POSTGRES: &str = "[Service]
Type=notify
User=postgres
RuntimeDirectory=postgresql
RuntimeDirectoryMode=0755
ExecStart=/usr/lib/postgresql/17/bin/postgres -D /var/lib/postgresql/data -k /run/postgresql -c listen_addresses=
";

const PREPARE: &str = "
install -d -o postgres /var/lib/postgresql/data
runuser -u postgres -- /usr/lib/postgresql/17/bin/initdb -A peer -D /var/lib/postgresql/data >/dev/null
systemctl daemon-reload
systemctl start postgresql
cd /
runuser -u postgres -- createuser opencode-website
runuser -u postgres -- createdb -O opencode-website website
";

/// What the agent tries.
const TRY: &str = "
psql website -Atc 'select current_user' 2>&1
psql -U postgres website -Atc 'select 1' >/dev/null 2>&1 && echo another user
find / -path /proc -prune -o -type s -print 2>/dev/null
busctl list >/dev/null 2>&1 && echo bus
systemctl is-system-running >/dev/null 2>&1 && echo systemd
(echo x >/run/postgresql/x) 2>/dev/null && echo written
chmod 777 /run/postgresql/.s.PGSQL.5432 2>/dev/null && echo changed
rm -f /run/postgresql/.s.PGSQL.5432 2>/dev/null && echo removed
true
";

#[test]
fn an_agent_uses_a_database_and_the_nix_daemon() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("sockets-real", REAL, &["/srv/website"]).unwrap();
    machine.put("/etc/systemd/system/postgresql.service", POSTGRES, 0o644).unwrap();
    let prepared = machine.run_for(PATIENCE, ["sh", "-euc", PREPARE]).unwrap();
    assert!(prepared.success(), "{prepared}");
    machine.put("/srv/website/try.sh", TRY, 0o644).unwrap();
    let applied = done(&machine, "apply");
    assert!(applied.contains("W0417"), "{applied}");
    let agent = Agent::connect(&machine, "website").unwrap();
    let said = || agent.shell("sh try.sh").unwrap();
    assert_eq!(
        said().trim_end(),
        "opencode-website\n/run/postgresql/.s.PGSQL.5432\n/var/run/postgresql/.s.PGSQL.5432"
    );

    // It restarts, with another directory.
    let server = pid(&machine, "website");
    sh(&machine, "systemctl restart postgresql");
    machine
        .wait_until("the database is back", SOON, |_| {
            Ok(agent.shell("psql website -Atc 'select 1' 2>&1")?.trim_end() == "1")
        })
        .unwrap();
    assert_eq!(pid(&machine, "website"), server);

    // A daemon that starts later.
    let ask =
        "HOME=/tmp NIX_REMOTE=daemon nix --extra-experimental-features nix-command store ping 2>&1";
    assert!(!agent.shell(ask).unwrap().contains("Version"), "there is no daemon yet");
    sh(&machine, "systemd-run --unit=nix-daemon-of-test nix-daemon");
    machine
        .wait_until("the Nix daemon answers", SOON, |_| Ok(agent.shell(ask)?.contains("Version: ")))
        .unwrap();
}
