//! Servers that restart one after the other, with the files of several written at one time. The server is a light stand-in.

use instances_lab::{Machine, fleet, stand_in, unavailable};

use crate::view::{
    SOON, apply, assert_healthy, cursor, done, engine, one_at_a_time, pid, property, sh, status,
    wait_for, wait_until_served,
};

const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
/// Begins as its project says: not at all, or slowly.
const PICKY: &str = "/usr/local/bin/picky";
/// What changes with each case.
const LEVELS: [&str; 4] = ["DEBUG", "INFO", "WARN", "ERROR"];

fn defaults(level: &str) -> String {
    format!("[defaults]\npackage = \"{PICKY}\"\nlogLevel = \"{level}\"\n")
}

fn instances() -> String {
    let one = |(name, port)| {
        format!("[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\n")
    };
    NAMES.iter().zip(4101..).map(one).collect()
}

fn spec(level: &str) -> String {
    defaults(level) + &instances()
}

fn pids(machine: &Machine) -> [u64; 7] {
    NAMES.map(|name| pid(machine, name))
}

/// The level with which its unit starts it, by its file and by systemd, which has no other file than that.
fn level(machine: &Machine, name: &str) -> String {
    let unit = format!("opencode-{name}.service");
    let file = sh(machine, &format!("cat /etc/systemd/system/{unit}"));
    let loaded = property(machine, &unit, "ExecStart");
    let of = |text: &str| {
        let found: Vec<&str> = LEVELS.into_iter().filter(|one| text.contains(one)).collect();
        assert_eq!(found.len(), 1, "{text}");
        found[0].to_owned()
    };
    assert_eq!(of(&file), of(&loaded), "{name}");
    assert_eq!(property(machine, &unit, "NeedDaemonReload"), "no", "{name}");
    of(&file)
}

/// All files of an instance, with their contents.
fn files(machine: &Machine, name: &str) -> String {
    let units =
        format!("/etc/systemd/system/opencode-{name}.service /etc/systemd/system/*@{name}.*");
    sh(
        machine,
        &format!("find {units} /etc/opencode-instances/{name} -type f | sort | xargs sha256sum"),
    )
}

#[test]
fn files_of_several_are_written_at_one_time() {
    if unavailable() {
        return;
    }
    let projects = NAMES.map(|name| format!("/srv/{name}"));
    let projects = projects.each_ref().map(String::as_str);
    let machine = stand_in::boot("batches", &spec("DEBUG"), &projects).unwrap();
    let program = format!(
        "#!/bin/sh\ntest ! -e slow || sleep \"$(cat slow)\"\ntest ! -e broken || exit 1\nexec {} \"$@\"\n",
        stand_in::SERVER
    );
    machine.put(PICKY, program, 0o755).unwrap();
    done(&machine, "apply");
    systemd_reads_them_a_few_times(&machine);
    files_are_put_back_where_one_fails(&machine);
    what_began_meanwhile_is_due(&machine);
    a_killed_run_leaves_nobody_out(&machine);
}

fn systemd_reads_them_a_few_times(machine: &Machine) {
    let before = pids(machine);
    let since = cursor(machine);
    let said = apply(machine, &spec("INFO"));
    assert_eq!(one_at_a_time(machine, &since), NAMES.map(str::to_owned).into());
    for (name, earlier) in NAMES.into_iter().zip(before) {
        assert_healthy(machine, name);
        assert_eq!(level(machine, name), "INFO");
        assert_ne!(pid(machine, name), earlier);
    }
    // Of one, one, two and three.
    assert_eq!(said.matches("daemon-reload\n").count(), 4, "{said}");
}

fn files_are_put_back_where_one_fails(machine: &Machine) {
    let later = &NAMES[3..];
    let before = pids(machine);
    let kept: Vec<String> = later.iter().map(|name| files(machine, name)).collect();
    sh(machine, "touch /srv/c/broken");
    machine.put(fleet::SPEC, spec("WARN"), 0o644).unwrap();
    let fails = || {
        let output = engine(machine, "apply");
        assert_eq!(output.code(), 1, "{output}");
        for words in [
            "stopped at `c`, which did not come back\n",
            "not touched, and as before: d, e, f, g\n",
        ] {
            assert!(output.stderr.contains(words), "{output}");
        }
        output.stderr
    };
    let said = fails();
    // One of the batch is so again; those of later ones always were.
    let unit = "/etc/systemd/system/opencode-d.service\n";
    assert_eq!(said.matches(unit).count(), 2, "{said}");
    assert!(!said.contains("opencode-e.service"), "{said}");
    for name in ["a", "b"] {
        assert_eq!(level(machine, name), "WARN");
        assert_healthy(machine, name);
    }
    wait_for(machine, "opencode-c.service", "failed");
    for ((name, kept), earlier) in later.iter().zip(kept).zip(&before[3..]) {
        assert_eq!(files(machine, name), kept);
        assert_eq!(level(machine, name), "INFO");
        assert_eq!(pid(machine, name), *earlier, "{name}");
        assert_eq!(status(machine, name)["pendingRestart"], false);
    }
    // It would have come back with them.
    sh(machine, &format!("kill -KILL {}", before[3]));
    let is_another = |machine: &Machine| Ok(![0, before[3]].contains(&pid(machine, "d")));
    machine.wait_until("d is another process", SOON, is_another).unwrap();
    wait_until_served(machine, "d", SOON);
    fails();
    sh(machine, "rm /srv/c/broken");
    done(machine, "apply");
    for name in NAMES {
        assert_eq!(level(machine, name), "WARN");
        assert_healthy(machine, name);
    }
    let after = pids(machine);
    assert!(!after[3..].iter().any(|pid| before.contains(pid)), "one was not restarted");
}

/// Crashes and policies that change follow nobody's turn.
fn what_began_meanwhile_is_due(machine: &Machine) {
    let before = pids(machine);
    let rules = |name: &str| {
        sh(
            machine,
            &format!("nsenter --net=/run/netns/opencode-{name} nft list table inet opencode"),
        )
    };
    let command = |name| {
        let pid = pid(machine, name);
        (pid, sh(machine, &format!("tr '\\0' ' ' </proc/{pid}/cmdline 2>/dev/null || true")))
    };
    sh(machine, "touch /srv/c/broken; echo 12 >/srv/c/slow");
    let changed = format!("{}network.outbound.allowCidrs = [\"10.1.2.0/24\"]\n", defaults("ERROR"));
    machine.put(fleet::SPEC, changed + &instances(), 0o644).unwrap();
    let said = "--property=StandardError=file:/root/said";
    sh(machine, &format!("systemd-run --unit=halts {said} opencode-instances apply"));
    let has_its_turn = |machine: &Machine| Ok(pid(machine, "c") != before[2]);
    machine.wait_until("c has its turn", SOON, has_its_turn).unwrap();
    sh(machine, &format!("kill -KILL {}; systemctl reload opencode-net@d", before[3]));
    let is_new = |_: &Machine| {
        let (pid, command) = command("d");
        Ok(pid != before[3] && command.contains("ERROR"))
    };
    machine.wait_until("d is another process", SOON, is_new).unwrap();
    assert!(rules("d").contains("10.1.2.0/24"), "{}", rules("d"));
    wait_for(machine, "halts.service", "failed");
    let said = sh(machine, "cat /root/said");
    for words in ["not touched, and as before: e, f, g\n", "had no turn, and not as before: d\n"] {
        assert!(said.contains(words), "{said}");
    }
    for (name, earlier) in NAMES.into_iter().zip(before).skip(3) {
        wait_until_served(machine, name, SOON);
        assert_eq!(level(machine, name), "WARN");
        assert!(!rules(name).contains("10.1.2.0/24"), "{name}: {}", rules(name));
        assert_eq!(pid(machine, name) == earlier, name != "d", "{name}");
    }
    sh(machine, "rm /srv/c/broken /srv/c/slow");
    // Its files are those, and what runs is not.
    apply(machine, &spec("WARN"));
    for name in NAMES {
        let (_, command) = command(name);
        assert!(command.contains("WARN"), "{name}: {command}");
        assert_healthy(machine, name);
    }
}

fn a_killed_run_leaves_nobody_out(machine: &Machine) {
    let before = pids(machine);
    sh(machine, "echo 20 >/srv/c/slow");
    machine.put(fleet::SPEC, spec("ERROR"), 0o644).unwrap();
    sh(machine, "systemd-run --unit=killed opencode-instances apply");
    let has_its_turn = |machine: &Machine| Ok(pid(machine, "c") != before[2]);
    machine.wait_until("c has its turn", SOON, has_its_turn).unwrap();
    sh(machine, "systemctl kill --signal=KILL killed; rm /srv/c/slow");
    wait_for(machine, "killed.service", "failed");
    // Its files are new, and its server is the earlier one, until its turn comes.
    assert_eq!((level(machine, "d").as_str(), pid(machine, "d")), ("ERROR", before[3]));
    assert_eq!(status(machine, "d")["pendingRestart"], true);
    assert_eq!(level(machine, "e"), "WARN");
    // The next one ends before it comes to it.
    sh(machine, "touch /srv/c/broken");
    let output = engine(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    for words in [
        "stopped at `c`, which did not come back\n",
        "not touched, and as before: e, f, g\n",
        "had no turn, and not as before: d\n",
    ] {
        assert!(output.stderr.contains(words), "{output}");
    }
    sh(machine, "rm /srv/c/broken");
    done(machine, "apply");
    for (name, earlier) in NAMES.into_iter().zip(before) {
        assert_eq!(level(machine, name), "ERROR");
        assert_healthy(machine, name);
        assert_ne!(pid(machine, name), earlier, "{name}");
    }
    let said = done(machine, "apply");
    assert!(said.ends_with("\nnothing to do\n"), "{said}");
}
