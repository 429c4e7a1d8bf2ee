//! `apply` and `remove` on a machine whose other instance must not notice.

use instances_lab::{Machine, fleet, place, unavailable};

use crate::view::{
    FILES, SOON, apply, assert_healthy, done, engine, http, pid, sh, status, units, url,
    wait_until_served,
};

fn example() -> String {
    std::fs::read_to_string(place::workspace().join("examples/two-projects.toml")).unwrap()
}

fn with(instance: &str, options: &str) -> String {
    let header = format!("[instances.{instance}]\n");
    example().replace(&header, &format!("{header}{options}\n"))
}

#[test]
fn applying_changes_what_changed_and_nothing_else() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("applying", &example(), &["/srv/website", "/srv/billing"]).unwrap();
    two_applies_at_once(&machine);
    the_second_apply_does_nothing(&machine);
    one_changed_option(&machine);
    a_listener_moves(&machine);
    a_policy_is_put_back(&machine);
    a_foreign_file_is_left_alone(&machine);
    instances_go(&machine);
    an_instance_comes_back(&machine);
    removal(&machine);
}

/// The first one starts real servers, which takes seconds.
fn two_applies_at_once(machine: &Machine) {
    sh(machine, "systemd-run --unit=first -p RemainAfterExit=yes opencode-instances apply");
    let what = "the first apply is at work";
    machine
        .wait_until(what, SOON, |machine| {
            Ok(sh(machine, "journalctl -u first -o cat").contains("daemon-reload"))
        })
        .unwrap();
    for command in ["apply", "remove"] {
        let second = engine(machine, command);
        assert_eq!(second.code(), 1, "{second}");
        assert!(second.stderr.contains("another apply or remove is running"), "{second}");
    }
    let what = "the first apply has ended";
    machine
        .wait_until(what, SOON, |machine| {
            Ok(sh(machine, "systemctl show --value -p SubState first") == "exited")
        })
        .unwrap();
    assert_healthy(machine, "website");
    assert_healthy(machine, "billing");
}

fn the_second_apply_does_nothing(machine: &Machine) {
    let before = (sh(machine, FILES), pid(machine, "website"), pid(machine, "billing"));
    let narration = done(machine, "apply");
    assert_eq!(narration, "nothing to do\n");
    assert_eq!(done(machine, "plan"), "nothing to do\n");
    let after = (sh(machine, FILES), pid(machine, "website"), pid(machine, "billing"));
    assert_eq!(before, after);
}

fn one_changed_option(machine: &Machine) {
    let (website, billing) = (pid(machine, "website"), pid(machine, "billing"));
    apply(machine, &with("website", "logLevel = \"WARN\""));
    assert_eq!(pid(machine, "billing"), billing);
    assert_ne!(pid(machine, "website"), website);
    let command = format!("tr '\\0' ' ' </proc/{}/cmdline", pid(machine, "website"));
    assert!(sh(machine, &command).contains("--log-level WARN"));
    wait_until_served(machine, "website", SOON);
}

fn a_listener_moves(machine: &Machine) {
    let (website, billing) = (pid(machine, "website"), pid(machine, "billing"));
    let spec = with("website", "logLevel = \"WARN\"");
    let header = "[instances.billing]\n";
    apply(machine, &spec.replace(header, &format!("{header}listen.address = \"127.0.0.2\"\n")));
    assert_eq!(http(machine, "http://127.0.0.1:4102/config", 20), 0, "the old address refuses");
    assert_eq!(http(machine, "http://127.0.0.2:4102/config", 20), 401);
    wait_until_served(machine, "billing", SOON);
    assert_eq!((pid(machine, "website"), pid(machine, "billing")), (website, billing));
    apply(machine, &spec.replace("listen.port = 4102", "listen.port = 4202"));
    assert_eq!(http(machine, "http://127.0.0.1:4102/config", 20), 0, "the old port refuses");
    assert_eq!(http(machine, "http://127.0.0.1:4202/config", 20), 401);
    assert_eq!((pid(machine, "website"), pid(machine, "billing")), (website, billing));
    apply(machine, &spec);
    assert_eq!(http(machine, "http://127.0.0.2:4102/config", 20), 0);
    assert_eq!(http(machine, "http://127.0.0.1:4102/config", 20), 401);
    assert_eq!((pid(machine, "website"), pid(machine, "billing")), (website, billing));
}

fn a_policy_is_put_back(machine: &Machine) {
    let rules = "/etc/opencode-instances/billing/rules.nft";
    let list = "ip netns exec opencode-billing nft list ruleset";
    let (wanted, billing) = (sh(machine, list), pid(machine, "billing"));
    sh(machine, &format!("sed -i 's/reject with.*/drop/; s/policy drop/policy accept/' {rules}"));
    sh(machine, "ip netns exec opencode-billing nft flush ruleset");
    let narration = done(machine, "apply");
    assert!(narration.contains(&format!("change {rules}\n")), "{narration}");
    assert!(narration.contains("reload opencode-net@billing.service\n"), "{narration}");
    assert!(!narration.contains("restart"), "{narration}");
    assert_eq!(sh(machine, list), wanted);
    assert_eq!(pid(machine, "billing"), billing);
}

fn a_foreign_file_is_left_alone(machine: &Machine) {
    let path = "/etc/systemd/system/opencode-third.service";
    machine.put(path, "# somebody else's\n", 0o644).unwrap();
    let before = (sh(machine, FILES), pid(machine, "website"), pid(machine, "billing"));
    let spec = machine.get(fleet::SPEC).unwrap();
    let third =
        format!("{spec}[instances.third]\ndirectory = \"/srv/third\"\nlisten.port = 4103\n");
    // Not in place of the old one, whose time would change.
    machine.put("/root/third.toml", third, 0o644).unwrap();
    let output = engine(machine, "apply /root/third.toml");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains(path) && output.stderr.contains("move it away"), "{output}");
    let after = (sh(machine, FILES), pid(machine, "website"), pid(machine, "billing"));
    assert_eq!(before, after);
    assert_eq!(machine.get(path).unwrap(), "# somebody else's\n");
    sh(machine, &format!("rm {path}"));
}

/// One instance is taken out of the file, the other one is disabled.
fn instances_go(machine: &Machine) {
    let website = pid(machine, "website");
    let spec = with("website", "logLevel = \"WARN\"");
    let narration = apply(machine, spec.split("[instances.billing]").next().unwrap());
    assert!(
        narration.contains("left alone: /var/lib/opencode/instance-state/billing"),
        "{narration}"
    );
    assert_gone(machine, "billing");
    assert_eq!(pid(machine, "website"), website);
    wait_until_served(machine, "website", SOON);
    let password = url(machine, "website");
    let narration = apply(machine, &with("website", "enable = false"));
    assert!(
        narration.contains("left alone: /var/lib/opencode/instance-state/website"),
        "{narration}"
    );
    assert_gone(machine, "website");
    machine.put("/root/password", password, 0o600).unwrap();
}

fn assert_gone(machine: &Machine, instance: &str) {
    for unit in units(instance) {
        let state = format!("systemctl show --value -p LoadState,ActiveState '{unit}'");
        assert_eq!(sh(machine, &state).replace('\n', " "), "not-found inactive", "{unit}");
    }
    let files = "find /etc /run/opencode-instances";
    let left = sh(machine, &format!("{files} -name '*{instance}*' | sort"));
    assert_eq!(left, "", "files are left");
    assert!(!sh(machine, "ip netns list").contains(instance), "the namespace is left");
    // What belongs to the operator stays.
    let user = format!("opencode-{instance}");
    sh(machine, &format!("getent passwd {user}; getent group {user}"));
    for path in ["instance-state", "instance-auth"] {
        sh(machine, &format!("test -n \"$(ls -A /var/lib/opencode/{path}/{instance})\""));
    }
    sh(machine, &format!("test -d /srv/{instance}"));
    let unknown = engine(machine, &format!("status {instance}"));
    assert_eq!(unknown.code(), 1, "{unknown}");
}

fn an_instance_comes_back(machine: &Machine) {
    let spec = example();
    apply(machine, spec.split("[instances.billing]").next().unwrap());
    wait_until_served(machine, "website", SOON);
    assert_eq!(url(machine, "website"), machine.get("/root/password").unwrap());
    assert_eq!(status(machine, "website")["state"], "running");
}

fn removal(machine: &Machine) {
    let narration = done(machine, "remove");
    for left in [
        "left alone: /var/lib/opencode/instance-state/website (state of website)",
        "/srv/website (its project)",
        "user opencode-website",
        "passwords are kept in /var/lib/opencode/instance-auth",
    ] {
        assert!(narration.contains(left), "{narration}");
    }
    assert_gone(machine, "website");
    let files = "find /etc/systemd /etc/sysusers.d /etc/tmpfiles.d /run/opencode-instances \
                 -name '*opencode*' ! -path /run/opencode-instances";
    assert_eq!(sh(machine, files), "");
    assert_eq!(sh(machine, "ls /etc/opencode-instances"), "instances.toml");
    assert_eq!(sh(machine, "systemctl list-units --all --plain --no-legend 'opencode*'"), "");
    let again = done(machine, "remove");
    assert!(again.contains("nothing is installed"), "{again}");
}
