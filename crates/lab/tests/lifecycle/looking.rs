//! What `status` says of a fleet, with light stand-ins.

use instances_lab::{Agent, Machine, fleet, openmetrics, stand_in, unavailable};
use serde_json::Value;

use crate::view::{SOON, apply, engine, number, sh, status, wait_for};

/// They come before `web`, hang, and each would take all the time that it may.
const HANGING: [&str; 4] = ["a", "b", "c", "d"];

/// Answers the supervisor, and nobody who comes through the listener.
const HANG: &str = "sed '/if name.lower() == \"content-length\":/i\\        if name.lower() == \"host\" and \":4096\" not \
                    in value: __import__(\"time\").sleep(3600)' /usr/local/bin/stand-in >/usr/local/bin/hanging; \
                    chmod 755 /usr/local/bin/hanging; grep -q sleep /usr/local/bin/hanging";

/// As docs/how-to/operating.md has it.
const WRITE: &str = "umask 022; mkdir -p /var/lib/prometheus/node-exporter; cd /var/lib/prometheus/node-exporter; \
                     opencode-instances status --metrics >opencode.prom.new; chmod 644 opencode.prom.new; \
                     mv opencode.prom.new opencode.prom";

fn spec() -> String {
    let mut spec = stand_in::DEFAULTS.to_owned() + "network.outbound.policy = \"none\"\n";
    for (name, port) in HANGING.iter().zip(4111..) {
        spec += &format!(
            "[instances.{name}]\ndirectory = \"/srv/{name}\"\nlisten.port = {port}\n\
             package = \"/usr/local/bin/hanging\"\n"
        );
    }
    spec + "[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\n\
            [instances.lazy]\ndirectory = \"/srv/lazy\"\nlisten.port = 4102\nactivation = \"on-demand\"\n"
}

#[test]
fn a_fleet_is_looked_at() {
    if unavailable() {
        return;
    }
    let names = [&HANGING[..], &["web", "lazy"]].concat();
    let projects: Vec<String> = names.iter().map(|name| format!("/srv/{name}")).collect();
    let projects: Vec<&str> = projects.iter().map(String::as_str).collect();
    let machine = stand_in::boot("looking", &spec(), &projects).unwrap();
    sh(&machine, HANG);
    apply(&machine, &spec());
    one_on_demand_is_not_asked(&machine);
    one_that_runs_is_measured(&machine);
    refusals_are_counted(&machine);
    a_narrow_terminal_shows_less_and_watching_leaves_it_as_it_was(&machine);
    metrics_are_written_for_a_collector(&machine);
    others_see_what_systemd_knows(&machine);
    assert_eq!(status(&machine, "lazy")["state"], "idle", "looking woke it");
    one_that_hangs_delays_nobody(&machine);
    the_last_error_is_told(&machine);
}

/// It has run, so it has a password and could be asked.
fn one_on_demand_is_not_asked(machine: &Machine) {
    sh(machine, "opencode-instances start lazy");
    let lazy = status(machine, "lazy");
    assert_eq!((&lazy["state"], &lazy["healthy"]), (&"running".into(), &Value::Null), "{lazy:#}");
    sh(machine, "systemctl stop opencode-lazy.service");
    assert_eq!(status(machine, "lazy")["state"], "idle");
}

fn one_that_runs_is_measured(machine: &Machine) {
    let web = status(machine, "web");
    let above_zero = |value: &Value| value.as_u64() > Some(0);
    assert!(web["uptime"].is_u64(), "{web:#}");
    assert!(above_zero(&web["usage"]["cpuNanoseconds"]), "{web:#}");
    assert_eq!(web["sessions"], serde_json::json!({ "busy": 0, "idle": 0 }), "{web:#}");
    assert_eq!(web["url"], "http://127.0.0.1:4101/");
    // What systemd counts is counted here, for all units together.
    for (unit, name) in [("MemoryCurrent", "memory"), ("TasksCurrent", "tasks")] {
        let shown = sh(machine, &format!("systemctl show --value -p {unit} opencode-web.service"));
        assert_eq!(
            shown.parse::<u64>().is_ok(),
            above_zero(&web["usage"][name]),
            "{shown} {web:#}"
        );
    }
    assert_eq!((&web["refusedLastHour"]["packets"], &web["lastError"]), (&0.into(), &Value::Null));
}

fn refusals_are_counted(machine: &Machine) {
    let agent = Agent::connect(machine, "web").unwrap();
    for address in ["1.1.1.1", "8.8.8.8"] {
        let script =
            format!("for i in 1 2 3; do (echo >/dev/tcp/{address}/443) 2>/dev/null; done; true");
        agent.shell(&script).unwrap();
    }
    let counted = |web: &Value| {
        let refused = &web["refusedLastHour"];
        refused["destinations"] == 2 && refused["packets"].as_u64() >= Some(6)
    };
    machine
        .wait_until("refusals are counted", SOON, |machine| Ok(counted(&status(machine, "web"))))
        .unwrap();
    assert_eq!(status(machine, "a")["refusedLastHour"]["destinations"], 0);
}

/// Runs a command on a terminal of that many columns, and returns all that it wrote there; it is in
/// `/tmp/screen` meanwhile.
fn on_terminal(machine: &Machine, columns: u32, command: &str) -> String {
    let inner = format!("stty cols {columns} rows 30; {command}");
    let script = format!(
        "rm -f /tmp/screen; TERM=xterm script --quiet --flush --return --command '{inner}' /tmp/screen </dev/null"
    );
    machine.run_for(fleet::PATIENCE, ["/bin/sh", "-c", &script]).unwrap().stdout
}

fn a_narrow_terminal_shows_less_and_watching_leaves_it_as_it_was(machine: &Machine) {
    let wide = on_terminal(machine, 200, "opencode-instances status web lazy");
    assert!(wide.contains("URL") && wide.contains("\u{1b}[32mrunning\u{1b}[0m"), "{wide:?}");
    let narrow = on_terminal(machine, 60, "NO_COLOR=1 opencode-instances status web lazy");
    assert!(narrow.contains("PORT") && !narrow.contains("URL"), "{narrow:?}");
    assert!(
        !narrow.contains('\u{1b}') && narrow.lines().all(|line| line.trim_end().len() <= 60),
        "{narrow:?}"
    );
    let piped = engine(machine, "status").stdout;
    assert!(piped.contains("URL") && !piped.contains('\u{1b}'), "{piped}");

    let before = "stty -a >/tmp/before; ";
    let watch = "opencode-instances status --watch web & watch=$!; \
                 until grep -q [h]ealthy /tmp/screen; do sleep 0.05; done; kill -INT $watch; wait $watch; \
                 echo ended $?; ";
    let seen = on_terminal(machine, 100, &format!("{before}{watch} stty -a >/tmp/after"));
    let (drawn, rest) = seen.split_once("\u{1b}[?25h\u{1b}[?1049l").unwrap();
    assert!(drawn.starts_with("\u{1b}[?1049h\u{1b}[?25l") && drawn.contains("web"), "{seen:?}");
    // The one escape that would make it flicker.
    assert!(!drawn.contains("\u{1b}[2J"), "{seen:?}");
    assert!(rest.contains("ended 0") && !rest.contains('\u{1b}'), "{seen:?}");
    assert_eq!(sh(machine, "cmp /tmp/before /tmp/after && echo same"), "same");
    let refused = engine(machine, "status --watch");
    assert!(refused.code() == 2 && refused.stderr.contains("needs a terminal"), "{refused}");
}

fn metrics_are_written_for_a_collector(machine: &Machine) {
    sh(machine, WRITE);
    let file = "/var/lib/prometheus/node-exporter/opencode.prom";
    assert_eq!(sh(machine, &format!("stat -c '%a %U' {file}")), "644 root");
    assert_eq!(
        sh(machine, &format!("ls {}", "/var/lib/prometheus/node-exporter")),
        "opencode.prom"
    );
    let metrics = openmetrics::read(&machine.get(file).unwrap()).unwrap();
    let value = |name: &str| metrics.value(name, &[("instance", "web")]);
    assert_eq!(value("opencode_instance_healthy"), Some(1.0));
    assert_eq!(value("opencode_instance_refused_destinations"), Some(2.0));
    assert!(value("opencode_instance_cpu_seconds_total") > Some(0.0));
    let idle = [("instance", "lazy"), ("state", "idle")];
    assert_eq!(metrics.value("opencode_instance_state", &idle), Some(1.0));
}

fn others_see_what_systemd_knows(machine: &Machine) {
    let text = sh(machine, "runuser -u nobody -- opencode-instances status --json web");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let web = &answer["instances"][0];
    assert_eq!((&web["state"], &web["healthy"]), (&"running".into(), &Value::Null), "{web:#}");
    assert_eq!(
        (&web["sessions"], &web["refusedLastHour"]),
        (&Value::Null, &Value::Null),
        "{web:#}"
    );
    assert!(web["uptime"].is_u64(), "{web:#}");
}

fn one_that_hangs_delays_nobody(machine: &Machine) {
    let answer = engine(machine, "status --json");
    assert_eq!(answer.code(), 4, "{answer}");
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    let of = |name: &str| {
        let all = answer["instances"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    for name in HANGING {
        let one = of(name);
        assert_eq!((&one["healthy"], &one["sessions"]), (&false.into(), &Value::Null), "{one:#}");
        assert!(one["reason"].as_str().unwrap().contains("no answer in time"), "{one:#}");
    }
    assert_eq!(of("web")["healthy"], true, "{answer:#}");
}

fn the_last_error_is_told(machine: &Machine) {
    let before = number(machine, "opencode-web.service", "MainPID");
    sh(machine, &format!("kill -KILL {before}"));
    machine
        .wait_until("it is started again", SOON, |machine| {
            Ok(![0, before].contains(&number(machine, "opencode-web.service", "MainPID")))
        })
        .unwrap();
    wait_for(machine, "opencode-web.service", "active");
    machine
        .wait_until("the journal has it", SOON, |machine| {
            let web = status(machine, "web");
            Ok(web["lastError"]["result"] == "signal" && web["restarts"] == 1)
        })
        .unwrap();
    let table = engine(machine, "status web").stdout;
    assert!(table.contains(": killed by a signal"), "{table}");
}
