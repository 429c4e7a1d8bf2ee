//! A fleet that a switch has brought: served, closed, and changed by the next one.

use std::collections::BTreeSet;

use instances_lab::{Machine, nixos, unavailable};

use crate::view::{agent, lines, name, pid, sh, visible, wait_until_healthy};

const INSTANCES: [&str; 3] = ["website", "billing", "builder"];

/// What each agent has of the store by name; `website` has what its `path` says besides.
const CLOSURE: [&str; 9] = [
    "bash",
    "busybox",
    "cacert",
    "git",
    "glibc",
    "opencode",
    "opencode-instances",
    "ripgrep",
    "tzdata",
];

#[test]
fn a_fleet_runs_from_the_store() {
    if unavailable() {
        return;
    }
    let mut machine = nixos::fleet("nixos-running", 1).unwrap();
    for instance in INSTANCES {
        wait_until_healthy(&machine, instance);
    }
    only_the_configuration_changes_the_host(&machine);
    only_the_closure_is_visible(&machine);
    nothing_else_of_the_host(&machine);
    the_environment(&machine);
    nothing_in_the_store_can_be_changed(&machine);
    nix_only_where_it_was_asked_for(&machine);
    the_daemon_is_no_way_out(&machine);
    the_proxy_sees_only_its_own(&machine);
    another_generation(&machine);
    garbage_and_a_reboot(&mut machine);
}

/// The commands that would change the host refuse; `check` reads what the configuration installed.
fn only_the_configuration_changes_the_host(machine: &Machine) {
    let before = INSTANCES.map(|instance| pid(machine, instance));
    for command in ["plan", "apply", "remove", "render"] {
        let output = machine.run(["opencode-instances", command]).unwrap();
        assert!(!output.success(), "{command}");
        assert!(output.stderr.contains("NixOS configuration declares"), "{command}: {output}");
    }
    let said = sh(machine, "opencode-instances check");
    assert!(said.contains("instances.json is accepted: 3 enabled"), "{said}");
    assert_eq!(before, INSTANCES.map(|instance| pid(machine, instance)));
}

fn only_the_closure_is_visible(machine: &Machine) {
    let closure: BTreeSet<String> = CLOSURE.iter().map(ToString::to_string).collect();
    assert_eq!(visible(machine, "billing"), closure);
    let mut website = closure;
    website.extend(["python3", "tools"].map(str::to_owned));
    assert_eq!(visible(machine, "website"), website);
    // Neither by its name: the settings of others, their own, and what nobody declared.
    let others = sh(
        machine,
        "realpath /etc/opencode-instances/* | cut -d / -f -4; ls -d /nix/store/*-decoy",
    );
    for path in others.lines() {
        let seen = agent(machine, "website", &format!("ls -d {path} && echo seen"));
        assert!(!seen.contains("seen"), "{path} is visible: {seen}");
    }
}

fn nothing_else_of_the_host(machine: &Machine) {
    sh(machine, "mkdir -p /home/alice /run/current-system /run/nscd; touch /etc/shadow");
    let expected = [
        ("/usr", "bin"),
        ("/usr/bin", "env"),
        ("/bin", "sh"),
        ("/lib64", "ld-linux-x86-64.so.2"),
        ("/home", ""),
        ("/nix", "store"),
        ("/etc/ssl/certs", "ca-certificates.crt"),
        (
            "/etc",
            "gitconfig\ngroup\nhost.conf\nhosts\nnsswitch.conf\nopencode-instances\npasswd\nresolv.conf\nssl",
        ),
        // Where the sandboxes of the supervisor and of the resolver have what they read.
        ("/etc/opencode-instances", "website"),
        ("/etc/opencode-instances/website", "etc\nnetwork.json\nsetup"),
        ("/etc/opencode-instances/website/setup", "plan.json"),
        ("/srv", "website"),
    ];
    for (directory, entries) in expected {
        let seen = agent(machine, "website", &format!("ls -A {directory}"));
        assert_eq!(lines(&seen), lines(entries), "in {directory}");
    }
    let run =
        "find /run -type s 2>/dev/null; ls -d /run/current-system /run/nscd 2>/dev/null; true";
    assert_eq!(agent(machine, "website", run), "");
}

fn the_environment(machine: &Machine) {
    let path = agent(machine, "website", "echo $PATH");
    let first: Vec<&str> = path.split(':').map(name_of_bin).collect();
    let expected = ["python3", "tools", "bash", "busybox", "git", "ripgrep"];
    assert_eq!(first[..6], expected, "{path}");
    assert_eq!(agent(machine, "website", "date +%Z | grep -c CES*T"), "1");
    let zone = "python3 -c 'import time; print(time.tzname[0])'";
    assert_eq!(agent(machine, "website", zone), "CET");
    let certificates =
        "python3 -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 9)'";
    assert_eq!(agent(machine, "website", certificates), "True");
    assert_eq!(agent(machine, "website", "basename $SHELL; id -un"), "bash\nopencode-website");
    let version = agent(machine, "website", "git --version; rg --version | head -n 1");
    assert!(version.contains("git version") && version.contains("ripgrep"), "{version}");
}

fn name_of_bin(directory: &str) -> &str {
    directory.strip_suffix("/bin").map_or(directory, name)
}

fn nothing_in_the_store_can_be_changed(machine: &Machine) {
    for instance in INSTANCES {
        let mounts = "awk '$2 ~ \"^/nix\" && $4 !~ \"^ro,\"' /proc/self/mounts";
        assert_eq!(agent(machine, instance, mounts), "", "a mount of {instance} is writable");
        let write = "for place in /nix /nix/store /nix/store/* /nix/store/*/bin; do \
                     touch $place/owned 2>&1 && echo BREACH; done; true";
        let said = agent(machine, instance, write);
        assert!(said.contains("Read-only file system") && !said.contains("BREACH"), "{said}");
    }
}

fn nix_only_where_it_was_asked_for(machine: &Machine) {
    let all = agent(machine, "builder", "ls /nix/store");
    assert!(all.contains("-decoy\n"), "{all}");
    let ping = agent(machine, "builder", "nix store ping --store daemon 2>&1");
    assert!(ping.contains("Store URL: daemon") && ping.contains("Trusted: 0"), "{ping}");
    let added = agent(
        machine,
        "builder",
        "cd && echo mine >mine && cat $(nix-store --add mine 2>/dev/null)",
    );
    assert_eq!(added, "mine", "what the daemon adds appears");
    let socket = "ls /nix/var 2>&1; nix --version 2>&1; true";
    let absent = agent(machine, "website", socket);
    assert!(!absent.contains("daemon") && !absent.contains("(Nix)"), "{absent}");
}

/// A build that looks for the host; `$1` is another attribute and the rest is for Nix.
const SPY: &str = r#"
more=$1
shift
built=$(nix-build --no-out-link "$@" --expr "derivation {
  name = \"spy\"; system = builtins.currentSystem; builder = \"/bin/sh\"; $more
  args = [ \"-c\" \"test -e /srv && echo BREACH >\$out || echo closed >\$out\" ];
}" 2>/tmp/errors) && cat $built || cat /tmp/errors
"#;

/// The daemon builds what an agent asks for, though not with the daemon's own view of the host.
fn the_daemon_is_no_way_out(machine: &Machine) {
    machine.put("/srv/builder/spy", SPY, 0o644).unwrap();
    let spy = |arguments: &str| agent(machine, "builder", &format!("sh ./spy {arguments}"));
    assert_eq!(spy("''"), "closed");
    let outside = spy("'__noChroot = true;'");
    assert!(!outside.contains("BREACH") && outside.contains("__noChroot"), "{outside}");
    let option = spy("'again = 1;' --option sandbox false");
    assert_eq!(option, "closed");
    // It would be one, had the operator opened the builds' sandbox.
    let open = sh(machine, "sh /srv/builder/spy '__noChroot = true;'");
    assert_eq!(open, "BREACH");
}

fn the_proxy_sees_only_its_own(machine: &Machine) {
    let root = "cd /proc/$(systemctl show --value -p MainPID opencode-listen@website.service)/root; \
                find nix/store -mindepth 2 -maxdepth 2 | cut -d / -f 3 | sort -u; \
                find bin usr srv lib64 -type f -size +0; test ! -e etc/shadow";
    let seen = sh(machine, root);
    let names: Vec<&str> = seen.lines().map(name).collect();
    assert_eq!(names, ["opencode-instances"], "{seen}");
}

/// What NixOS writes for any entry below `systemd.services`.
const DROP_IN: &str = "/etc/systemd/system/opencode-billing.service.d/overrides.conf";
const OVERRIDES: &str =
    "[Service]\nEnvironment=\"PATH=/something/bin:/else/bin\"\nEnvironment=\"MINE=1\"\n";

/// An operator's own search path comes after what the declaration says.
fn the_drop_in_holds(machine: &Machine) {
    let path = agent(machine, "billing", "echo $PATH; echo $MINE");
    let first: Vec<&str> = path.split(':').map(name_of_bin).collect();
    assert_eq!(first[..5], ["nix", "bash", "busybox", "git", "ripgrep"], "{path}");
    assert!(path.ends_with(":/something/bin:/else/bin\n1"), "{path}");
}

fn another_generation(machine: &Machine) {
    let before = INSTANCES.map(|instance| pid(machine, instance));
    machine.put(DROP_IN, OVERRIDES, 0o644).unwrap();
    let fleet = nixos::generation(machine, 2).unwrap();
    let mut changed = nixos::switch(machine, &fleet).unwrap();
    changed.retain(|unit| unit != "opencode-listen@billing.service");
    assert_eq!(changed, ["opencode-billing.service", "opencode-endpoint@billing.service"]);
    wait_until_healthy(machine, "billing");
    let after = INSTANCES.map(|instance| pid(machine, instance));
    assert_eq!((&before[0], &before[2]), (&after[0], &after[2]), "others were touched");
    assert_ne!(before[1], after[1]);
    let url = sh(machine, "opencode-instances url billing");
    assert!(url.ends_with("127.0.0.1:4112/"), "{url}");
    let old = machine.run(["curl", "--silent", "http://127.0.0.1:4102/"]).unwrap();
    assert_eq!(old.code(), 7, "the old listener is still there: {old}");
    assert!(visible(machine, "billing").contains("nix"), "the closure has grown");
    let socket = agent(machine, "billing", "ls /nix/var 2>&1; true");
    assert!(!socket.contains("nix\n"), "a Nix in the path opens no socket: {socket}");
    the_drop_in_holds(machine);
    // The same again is nothing.
    assert_eq!(nixos::switch(machine, &fleet).unwrap(), [""; 0]);
    assert_eq!(INSTANCES.map(|instance| pid(machine, instance)), after);
}

fn garbage_and_a_reboot(machine: &mut Machine) {
    let collect = "systemctl stop opencode.target 'opencode-*'; \
                   ln -sfn $(realpath /etc/opencode-instances)/../.. /nix/var/nix/gcroots/system; \
                   nix-store --gc; ls -d /nix/store/*-decoy || echo gone";
    let said = sh(machine, collect);
    assert!(said.ends_with("gone"), "{said}");
    machine.reboot().unwrap();
    for instance in INSTANCES {
        wait_until_healthy(machine, instance);
    }
}
