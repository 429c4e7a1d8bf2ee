//! A running fleet gets another engine, another package, and its earlier ones again. The server is a light stand-in.
//!
//! The engine lies where units find it and can be replaced: what a machine has by itself is read-only.

use instances_lab::{Machine, Output, fleet, stand_in, unavailable};

use crate::view::{
    SOON, assert_healthy, cursor, number, one_at_a_time, pid, property, sh, status, wait_for,
    wait_until_served,
};

const ENGINE: &str = "/usr/local/bin/opencode-instances";
/// A package that starts nothing.
const BROKEN: &str = "/usr/local/bin/broken";
/// Those whose servers run.
const UP: [&str; 3] = ["a", "b", "c"];

fn spec(package: &str) -> String {
    let instance = |name: &str, port: u16, options: &str| {
        format!("[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\n{options}")
    };
    let more = "activation = \"on-demand\"\n";
    [
        format!("[defaults]\npackage = \"{package}\"\n"),
        instance("a", 4101, ""),
        instance("b", 4102, ""),
        instance("c", 4103, ""),
        instance("lazy", 4104, more),
        instance("off", 4105, "autoStart = false\n"),
    ]
    .concat()
}

/// Runs the engine that can be replaced.
fn own(machine: &Machine, arguments: &str) -> Output {
    let argv = [ENGINE].into_iter().chain(arguments.split_whitespace());
    machine.run_for(fleet::PATIENCE, argv).unwrap()
}

/// The same where it must succeed; its narration.
fn done(machine: &Machine, arguments: &str) -> String {
    let output = own(machine, arguments);
    assert!(output.success(), "{output}");
    output.stderr
}

/// Requires that nothing is to be done.
fn settled(machine: &Machine, arguments: &str) {
    let said = done(machine, arguments);
    assert!(said.ends_with("\nnothing to do\n"), "{said}");
}

fn pids(machine: &Machine) -> [u64; 3] {
    UP.map(|name| pid(machine, name))
}

/// Puts another engine in the place: the same program, and as many further bytes, which nothing reads.
fn replace_engine(machine: &Machine, bytes: &str) {
    sh(
        machine,
        &format!(
            "cp /usr/bin/opencode-instances {ENGINE}.new; printf '{bytes}' >>{ENGINE}.new; \
             chmod 755 {ENGINE}.new; mv {ENGINE}.new {ENGINE}"
        ),
    );
}

/// How many of our processes execute the engine that lies there, and how many another file.
fn executed(machine: &Machine) -> (usize, usize) {
    let script = format!(
        "for pid in $(pgrep -f '^{ENGINE} ' || true); do \
           if cmp -s /proc/$pid/exe {ENGINE}; then echo same; \
           elif test -e /proc/$pid/exe; then echo other; fi; done"
    );
    let lines = sh(machine, &script);
    let count = |word| lines.lines().filter(|line| *line == word).count();
    (count("same"), count("other"))
}

#[test]
fn a_fleet_is_upgraded_one_server_at_a_time_and_goes_back() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/a", "/srv/b", "/srv/c", "/srv/lazy", "/srv/off"];
    let machine = stand_in::boot("upgrading", &spec(stand_in::SERVER), &projects).unwrap();
    replace_engine(&machine, "");
    done(&machine, "apply");
    the_same_engine_once_more(&machine);
    another_engine(&machine);
    a_package_that_is_broken(&machine);
    it_is_mended(&machine);
    an_engine_and_a_package_go_back(&machine);
    one_that_is_stopped_meanwhile_stays_so(&machine);
    listeners_that_move_are_told_apart(&machine);
    what_all_need_comes_before_the_first_server(&machine);
    the_way_back_stays_when_an_idle_one_fails(&machine);
}

fn the_same_engine_once_more(machine: &Machine) {
    let before = pids(machine);
    replace_engine(machine, "");
    settled(machine, "apply");
    assert_eq!(pids(machine), before);
    assert_eq!(status(machine, "a")["pendingRestart"], false);
}

/// Connects to each listener, again and again, and says who was refused.
const KNOCK: &str = r"
import os, socket
tried = refused = 0
while not os.path.exists('/root/enough'):
    for port in (4101, 4102, 4103):
        tried += 1
        try:
            socket.create_connection(('127.0.0.1', port), 20).close()
        except ConnectionRefusedError:
            refused += 1
        except ConnectionResetError:
            pass  # by a proxy that ends with its server
print('tried' if tried else 'idle', refused, file=open('/root/knocked', 'w'))
";

fn another_engine(machine: &Machine) {
    let before = pids(machine);
    replace_engine(machine, "x");
    // What `status` has woken looks once whether a server failed, and is over.
    let none = |machine: &Machine| Ok(executed(machine).0 == 0);
    machine.wait_until("who runs goes on with the earlier one", SOON, none).unwrap();
    let found = status(machine, "a");
    assert_eq!(found["pendingRestart"], true, "{found}");
    // Who starts meanwhile has the new one, with the unit that the earlier one wrote.
    sh(machine, &format!("kill -KILL {}", before[1]));
    machine
        .wait_until("b is served by another process", SOON, |machine| {
            Ok(status(machine, "b")["healthy"] == true && pid(machine, "b") != before[1])
        })
        .unwrap();
    assert_eq!(status(machine, "b")["pendingRestart"], false);
    let sockets = UP.map(|name| format!("opencode-listen@{name}.socket"));
    let opened = |machine: &Machine| {
        sockets.clone().map(|unit| number(machine, &unit, "ActiveEnterTimestampMonotonic"))
    };
    let since = opened(machine);
    machine.put("/root/knock.py", KNOCK, 0o644).unwrap();
    sh(machine, "systemd-run --unit=knock --property=RemainAfterExit=yes python3 /root/knock.py");
    let cursor = cursor(machine);
    done(machine, "apply");
    sh(machine, "touch /root/enough");
    machine
        .wait_until("nobody knocks any more", SOON, |machine| {
            Ok(property(machine, "knock", "SubState") == "exited")
        })
        .unwrap();
    assert_eq!(sh(machine, "cat /root/knocked"), "tried 0");
    assert_eq!(opened(machine), since, "a listener was closed");
    assert_eq!(one_at_a_time(machine, &cursor), ["a".to_owned(), "c".to_owned()].into());
    assert!(pids(machine).iter().all(|pid| !before.contains(pid)), "one was not restarted");
    for name in UP {
        assert_healthy(machine, name);
    }
    let (same, other) = executed(machine);
    // At least the servers, their resolvers, the readers of what was refused, and what is there for all.
    assert!(same >= 11 && other == 0, "{same} run the new one, {other} do not");
    for (name, state) in [("off", "stopped"), ("lazy", "idle")] {
        assert_eq!(status(machine, name)["state"], state);
    }
    settled(machine, "apply");
}

/// The commands that a message names below a line.
fn commands(said: &str, title: &str) -> Vec<String> {
    let below = said.lines().skip_while(|line| *line != title).skip(1);
    let commands: Vec<String> =
        below.map_while(|line| Some(line.strip_prefix("  ")?.to_owned())).collect();
    assert!(!commands.is_empty(), "{said}");
    commands
}

/// Applies what cannot work: the first server does not come back, and no other one is touched.
fn stops_at_the_first(machine: &Machine, package: &str) -> Vec<String> {
    let before = pids(machine);
    let output = own(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    for words in ["stopped at `a`, which did not come back\n", "not touched, and as before: b, c\n"]
    {
        assert!(output.stderr.contains(words), "{output}");
    }
    assert_eq!(pids(machine)[1..], before[1..], "{output}");
    for name in ["b", "c"] {
        wait_until_served(machine, name, SOON);
        let unit = format!("/etc/systemd/system/opencode-{name}.service");
        assert_eq!(sh(machine, &format!("grep -c {package} {unit} || true")), "0");
    }
    wait_for(machine, "opencode-a.service", "failed");
    commands(&output.stderr, "to go back:")
}

fn a_package_that_is_broken(machine: &Machine) {
    machine.put(BROKEN, "#!/bin/sh\nexit 1\n", 0o755).unwrap();
    machine.put(fleet::SPEC, spec(BROKEN), 0o644).unwrap();
    let before = pids(machine);
    let back = stops_at_the_first(machine, BROKEN);
    assert_eq!(back, [format!("{ENGINE} apply /var/lib/opencode/applied/instances.toml")]);
    // It crashes, and comes back as it was.
    sh(machine, &format!("kill -KILL {}", pid(machine, "b")));
    machine
        .wait_until("b is another process", SOON, |machine| {
            Ok(![0, before[1]].contains(&pid(machine, "b")))
        })
        .unwrap();
    wait_until_served(machine, "b", SOON);
    let before = pids(machine);
    // Nothing is mended, and the next apply begins where this one ended.
    assert_eq!(stops_at_the_first(machine, BROKEN), back);
    sh(machine, &back.join("\n"));
    wait_until_served(machine, "a", SOON);
    for name in UP {
        assert_healthy(machine, name);
    }
    assert_eq!(pids(machine)[1..], before[1..]);
    settled(machine, "apply /var/lib/opencode/applied/instances.toml");
}

fn it_is_mended(machine: &Machine) {
    stops_at_the_first(machine, BROKEN);
    sh(machine, &format!("cp {} {BROKEN}", stand_in::SERVER));
    let cursor = cursor(machine);
    done(machine, "apply");
    // The one that failed was down before.
    one_at_a_time(machine, &cursor);
    for name in UP {
        assert_healthy(machine, name);
        let line = sh(machine, &format!("tr '\\0' ' ' </proc/{}/cmdline", pid(machine, name)));
        assert!(line.contains(BROKEN), "{line}");
    }
    settled(machine, "apply");
}

fn an_engine_and_a_package_go_back(machine: &Machine) {
    let notes = "/var/lib/opencode/instance-state/a/note";
    sh(machine, &format!("echo kept >{notes}"));
    sh(machine, &format!("cp {ENGINE} /root/earlier"));
    replace_engine(machine, "xy");
    let worse = "/usr/local/bin/worse";
    machine.put(worse, "#!/bin/sh\nexit 1\n", 0o755).unwrap();
    machine.put(fleet::SPEC, spec(worse), 0o644).unwrap();
    let back = stops_at_the_first(machine, worse);
    let kept = "/var/lib/opencode/applied";
    let install = format!(
        "install --mode=755 {kept}/opencode-instances {ENGINE}.new && mv {ENGINE}.new {ENGINE}"
    );
    assert_eq!(back, [install, format!("{ENGINE} apply {kept}/instances.toml")]);
    sh(machine, &back.join("\n"));
    sh(machine, &format!("cmp /root/earlier {ENGINE}"));
    for name in UP {
        wait_until_served(machine, name, SOON);
        assert_healthy(machine, name);
    }
    let (same, other) = executed(machine);
    assert!(same >= 11 && other == 0, "{same} run the earlier one, {other} do not");
    assert_eq!(sh(machine, &format!("cat {notes}")), "kept");
    settled(machine, &format!("apply {kept}/instances.toml"));
}

fn one_that_is_stopped_meanwhile_stays_so(machine: &Machine) {
    let slow = "/usr/local/bin/slow";
    let program = format!("#!/bin/sh\nsleep 4\nexec {} \"$@\"\n", stand_in::SERVER);
    machine.put(slow, &program, 0o755).unwrap();
    machine.put(fleet::SPEC, spec(slow), 0o644).unwrap();
    let before = pids(machine);
    sh(machine, &format!("systemd-run --unit=turns --property=RemainAfterExit=yes {ENGINE} apply"));
    let is_down = |machine: &Machine| Ok(pid(machine, "a") != before[0]);
    machine.wait_until("a has its turn", SOON, is_down).unwrap();
    done(machine, "stop b");
    wait_for(machine, "opencode-b.service", "inactive");
    let is_over = |machine: &Machine| Ok(property(machine, "turns", "SubState") == "exited");
    machine.wait_until("all turns are over", SOON, is_over).unwrap();
    assert_eq!(status(machine, "b")["state"], "stopped");
    for (name, earlier) in [("a", before[0]), ("c", before[2])] {
        assert_healthy(machine, name);
        assert_ne!(pid(machine, name), earlier, "{name} had no turn");
    }
    done(machine, "apply");
    wait_until_served(machine, "b", SOON);
    settled(machine, "apply");
}

fn listeners_that_move_are_told_apart(machine: &Machine) {
    let moved = spec(BROKEN).replace("listen.port = 4102", "listen.port = 4112");
    machine.put(BROKEN, "#!/bin/sh\nexit 1\n", 0o755).unwrap();
    machine.put(fleet::SPEC, &moved, 0o644).unwrap();
    let before = pids(machine);
    let output = own(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    for words in [
        "stopped at `a`, which did not come back\n",
        "not touched, and as before: c\n",
        "had no turn, and not as before: b\n",
    ] {
        assert!(output.stderr.contains(words), "{output}");
    }
    assert_eq!(pids(machine)[1..], before[1..], "{output}");
    // Its earlier server has its clients at the new place.
    sh(
        machine,
        "curl --silent --retry 20 --retry-connrefused --output /dev/null http://127.0.0.1:4112/",
    );
    sh(machine, &commands(&output.stderr, "to go back:").join("\n"));
    for name in UP {
        wait_until_served(machine, name, SOON);
        assert_healthy(machine, name);
    }
    // The restart of the one that moved was due.
    assert_eq!(pids(machine)[2], before[2]);
}

fn what_all_need_comes_before_the_first_server(machine: &Machine) {
    machine
        .run(["cp", "/var/lib/opencode/applied/instances.toml", fleet::SPEC])
        .unwrap()
        .ok()
        .unwrap();
    settled(machine, "apply");
    replace_engine(machine, "xyz");
    let directory = "/run/systemd/system/opencode-host@addresses.service.d";
    let broken = "[Service]\nRestart=no\nExecStart=\nExecStart=/bin/false\n";
    machine.put(format!("{directory}/broken.conf"), broken, 0o644).unwrap();
    sh(machine, "systemctl daemon-reload");
    let before = pids(machine);
    let output = own(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    for words in [
        "stopped: what all instances need did not come back\n",
        "not touched, and as before: a, b, c\n",
    ] {
        assert!(output.stderr.contains(words), "{output}");
    }
    assert_eq!(pids(machine), before, "{output}");
    sh(machine, &format!("rm -r {directory}; systemctl daemon-reload"));
    done(machine, "apply");
    assert!(pids(machine).iter().all(|pid| !before.contains(pid)), "one was not restarted");
    settled(machine, "apply");
}

/// No server waits for its namespace, and it was up all the same.
fn the_way_back_stays_when_an_idle_one_fails(machine: &Machine) {
    // Its first client, who brings its namespace.
    sh(machine, "curl --silent --output /dev/null http://127.0.0.1:4104/");
    sh(machine, "systemctl stop opencode-lazy.service");
    assert_eq!(property(machine, "opencode-net@lazy.service", "ActiveState"), "active");
    let kept = |machine: &Machine| sh(machine, "sha256sum /var/lib/opencode/applied/*");
    let before = kept(machine);
    let lazy = "activation = \"on-demand\"\n";
    let current = sh(machine, &format!("cat {}", fleet::SPEC));
    let changed = current.replace(lazy, &format!("{lazy}extraGroups = [\"games\"]\n"));
    machine.put(fleet::SPEC, changed + "\n", 0o644).unwrap();
    let directory = "/run/systemd/system/opencode-net@lazy.service.d";
    let broken = "[Service]\nExecStart=\nExecStart=/bin/false\n";
    machine.put(format!("{directory}/broken.conf"), broken, 0o644).unwrap();
    sh(machine, "systemctl daemon-reload");
    let output = own(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    assert_eq!(kept(machine), before, "{output}");
    for name in UP {
        assert_healthy(machine, name);
    }
    sh(machine, &format!("rm -r {directory}; systemctl daemon-reload"));
    done(machine, "apply");
    assert_ne!(kept(machine), before);
    wait_until_served(machine, "lazy", SOON);
}
