//! The model of `nixos-rebuild switch` against the real program, which nothing here contains: the
//! variable `SWITCH_TO_CONFIGURATION` names a build of it. Without it there is nothing to compare.
//! The variable `ROW` picks one row of the table.
//!
//! The units are the rendered ones with all that systemd decides by, and `sleep` in the place of
//! what they run.

#![expect(clippy::unwrap_used, reason = "clippy allows it in tests, but not in what tests share")]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows it in tests, but not in what tests share"
)]

#[expect(dead_code, reason = "the model's own tests look at more of it")]
#[path = "../../../core/tests/switch/fleet.rs"]
mod fleet;
#[path = "../../../core/tests/switch/model.rs"]
mod model;
#[path = "../../../core/tests/switch/systemd.rs"]
mod systemd;
#[expect(dead_code, reason = "the model's own tests look at more of it")]
#[path = "../../../core/tests/switch/table.rs"]
mod table;
#[path = "../../../core/tests/switch/text.rs"]
mod text;

mod stand_in;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::Duration;

use instances_lab::{Image, Machine, Options, Release, unavailable};

use model::Actions;
use systemd::{Became, Host};
use table::{ROWS, Row, Step, decided};
use text::Files;

const PROGRAM: &str = "/opt/switch-to-configuration";
const UNITS: &str = "/etc/systemd/system";
const NEW: &str = "/nix/store/new";

/// What the program wants to find on a host.
const PREPARE: &str = "
ip address add 192.0.2.1/32 dev lo
mkdir -p /nix/store/new/etc/systemd/system /run/current-system/sw/bin
touch /etc/NIXOS
echo 1 >/run/current-system/init-interface-version
echo 1 >/nix/store/new/init-interface-version
cp /usr/lib/systemd/system/multi-user.target /etc/systemd/system/
printf '[Unit]\\nDescription=none\\n' >/etc/systemd/system/sysinit-reactivation.target
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s ../opencode.target /etc/systemd/system/multi-user.target.wants/opencode.target
for file in fstab systemd/system.conf; do
  [ ! -e /etc/$file ] || ln -s /etc/$file /nix/store/new/etc/$file
done
";

/// From a state that any row may have left to one where nothing of ours is there.
const CLEAN: &str = "
systemctl stop 'opencode*'
rm -rf /etc/systemd/system/opencode*
systemctl daemon-reload
systemctl reset-failed
";

/// A client at each listener, who does not wait for an answer.
const CONNECT: &str = "
ss -Hltn | awk '{ print $4 }' | grep ':4[12]0[0-9]$' | while IFS=: read -r address port; do
  timeout 2 bash -c \"exec 3<>/dev/tcp/$address/$port\" || true
done
sleep 0.3
";

/// The activation: what `environment.etc` does to the units.
const ACTIVATE: &str = "#!/bin/sh
. /opt/clients
rm -rf /etc/systemd/system/opencode*
cp -a /nix/store/new/etc/systemd/system/. /etc/systemd/system
";

/// All that is not ours is the same in both generations.
const COPY: &str = "
cd /etc/systemd/system
for file in *; do
  case $file in opencode*) ;; *) cp -a \"$file\" /nix/store/new/etc/systemd/system/ ;; esac
done
";

/// The program, with what its wrapper sets.
const RUN: &str = "
OUT=/nix/store/new TOPLEVEL=/nix/store/new SYSTEMD=/usr DISTRO_ID=nixos LOCALE_ARCHIVE= \
INSTALL_BOOTLOADER=true PRE_SWITCH_CHECK=true NIXOS_NO_SYNC=1 NIXOS_NO_CHECK=1 \
exec /opt/switch-to-configuration test
";

#[test]
#[ignore = "needs a build of switch-to-configuration; run it by hand"]
fn the_real_program_does_what_the_model_says() {
    let program = env::var_os("SWITCH_TO_CONFIGURATION");
    let program = program.expect("SWITCH_TO_CONFIGURATION names the program to compare with");
    if unavailable() {
        return;
    }
    let options = Options::new().bind_ro(program, PROGRAM);
    let machine = Machine::boot(&Image::ensure(Release::Trixie).unwrap(), &options).unwrap();
    machine.sh(PREPARE).unwrap().ok().unwrap();
    machine.put(format!("{NEW}/activate"), ACTIVATE, 0o755).unwrap();
    let only = env::var("ROW").ok();
    let rows: Vec<&Row> =
        ROWS.iter().filter(|row| only.as_ref().is_none_or(|only| row.name == only)).collect();
    assert!(!rows.is_empty(), "the table has no row {only:?}");
    let mut differences = Vec::new();
    for row in rows {
        for impatient in [false, true] {
            differences.extend(compare(&machine, row, impatient));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Takes a row in the model and in the machine, and says where they differ.
fn compare(machine: &Machine, row: &Row, impatient: bool) -> Option<String> {
    let [old, new] = row.generations().map(|generation| stand_in::of(&generation.units));
    let mut host = Host::booted(with_target(&old));
    for step in row.meanwhile {
        step.take(&mut host);
    }
    let before = host.clone();
    let actions = host.switch(with_target(&new), impatient);
    let model = Seen {
        decided: decided(&actions),
        became: host
            .became(&before)
            .into_iter()
            .filter(|(unit, _)| unit.starts_with("opencode-"))
            .collect(),
        stale: host.stale().into_iter().filter(|unit| is_server(unit)).collect(),
        listening: host.listening().into_keys().map(str::to_owned).collect(),
    };

    machine.sh(CLEAN).unwrap().ok().unwrap();
    install(machine, UNITS, &old);
    machine.sh("systemctl daemon-reload; systemctl start multi-user.target").unwrap().ok().unwrap();
    for step in row.meanwhile {
        let output = match step {
            Step::Connect => machine.sh(CONNECT),
            Step::Start(unit) => machine.run(["systemctl", "start", unit]),
            Step::Stop(unit) => machine.run(["systemctl", "stop", unit]),
        };
        output.unwrap().ok().unwrap();
    }
    machine.put("/opt/clients", if impatient { CONNECT } else { "" }, 0o644).unwrap();
    let real = switch(machine, &new);
    (model != real).then(|| {
        format!("{} (impatient: {impatient})\nmodel: {model:#?}\nreal: {real:#?}", row.name)
    })
}

/// What one switch shows of itself.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// What the program says that it does.
    decided: String,
    /// What became of each unit.
    became: BTreeMap<String, Became>,
    /// The servers and proxies that run with another text than the installed one.
    stale: BTreeSet<String>,
    /// The open listeners.
    listening: BTreeSet<String>,
}

/// Only these leave a process behind that can be asked.
fn is_server(unit: &str) -> bool {
    !unit.contains('@') || unit.starts_with("opencode-listen@")
}

/// The model boots into this target; the machine has one of its own.
fn with_target(units: &Files) -> Files {
    let mut units = units.clone();
    units.insert("multi-user.target".to_owned(), "[Unit]\nWants=opencode.target\n".to_owned());
    units
}

fn install(machine: &Machine, below: &str, units: &Files) {
    let mut script = format!("rm -rf {below}/opencode*; mkdir -p {below}\n");
    for (name, text) in units {
        let (directory, _) = name.rsplit_once('/').unwrap_or_default();
        script += &format!("mkdir -p {below}/{directory}\n");
        script += &format!("cat >'{below}/{name}' <<'END OF UNIT'\n{text}END OF UNIT\n");
    }
    machine.put("/opt/install", script, 0o644).unwrap();
    machine.run(["sh", "-eu", "/opt/install"]).unwrap().ok().unwrap();
}

/// Every unit of ours: whether it is active, and its invocation.
fn states(machine: &Machine) -> BTreeMap<String, (bool, String)> {
    let show = "systemctl show --all 'opencode-*' -p Id -p ActiveState -p InvocationID";
    let text = machine.sh(show).unwrap().ok().unwrap();
    let blocks = text.split("\n\n").map(|block| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        (value("Id"), (value("ActiveState") == "active", value("InvocationID")))
    });
    blocks.filter(|(unit, _)| unit.strip_suffix(".slice").is_none()).collect()
}

fn switch(machine: &Machine, new: &Files) -> Seen {
    let before = states(machine);
    install(machine, &format!("{NEW}{UNITS}"), new);
    machine.sh(COPY).unwrap().ok().unwrap();
    let output = machine.run_for(Duration::from_mins(1), ["sh", "-c", RUN]).unwrap();
    assert!(output.success(), "{output}");
    let after = states(machine);
    let none = (false, String::new());
    let units: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let became = units.into_iter().filter_map(|unit| {
        let (was, old) = before.get(unit).unwrap_or(&none);
        let (is, new) = after.get(unit).unwrap_or(&none);
        let became = match (was, is) {
            (true, true) if old == new => Became::Same,
            (true, true) => Became::Again,
            (false, true) => Became::New,
            (true, false) => Became::Gone,
            (false, false) if old != new && !new.is_empty() => Became::Ran,
            (false, false) => return None,
        };
        Some((unit.clone(), became))
    });
    let running = after.iter().filter(|(unit, (active, _))| *active && is_server(unit));
    let stale =
        running.filter(|(unit, _)| unit.strip_suffix(".service").is_some()).filter(|(unit, _)| {
            let script = "tr '\\0' '\\n' </proc/$(systemctl show --value -p MainPID $0)/environ";
            let runs_with = machine.run(["sh", "-euc", script, unit]).unwrap().ok().unwrap();
            let files = new.iter().filter(|(name, _)| name.starts_with(unit.as_str()));
            let marks = files.flat_map(|(_, text)| text.lines()).filter_map(|line| {
                line.strip_prefix("Environment=").filter(|mark| mark.contains('='))
            });
            let marks: BTreeSet<&str> = marks.collect();
            let found: BTreeSet<&str> = runs_with
                .lines()
                .filter(|line| line.starts_with("TEXT=") || line.starts_with("DROP_IN="))
                .collect();
            marks != found
        });
    let listening = machine.sh("ss -Hltn | awk '{ print $4 }' | grep ':4[12]0[0-9]$' || true");
    Seen {
        decided: said(&output.stderr),
        became: became.collect(),
        stale: stale.map(|(unit, _)| unit.clone()).collect(),
        listening: listening.unwrap().ok().unwrap().lines().map(str::to_owned).collect(),
    }
}

/// What the program says, as [`decided`] puts it.
fn said(stderr: &str) -> String {
    let mut actions = Actions::default();
    for line in stderr.lines() {
        let steps = [
            ("stopping the following units: ", &mut actions.stop),
            ("NOT restarting the following changed units: ", &mut actions.skip),
            ("reloading the following units: ", &mut actions.reload),
            ("restarting the following units: ", &mut actions.restart),
            ("starting the following units: ", &mut actions.start),
        ];
        for (words, units) in steps {
            if let Some(names) = line.strip_prefix(words) {
                units.extend(names.split(", ").map(str::to_owned));
            }
        }
    }
    decided(&actions)
}
