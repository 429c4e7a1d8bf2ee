//! Each control is taken away once, by a drop-in or by hand, and the audit says so.

use std::time::Duration;

use instances_core::audit::HOST;
use instances_core::controls::{Control, Weaker, all};
use instances_lab::fleet::BEGIN;
use instances_lab::{Machine, stand_in, unavailable};
use serde_json::Value;

use crate::view::{audit, findings, without_controllers};

const SPEC: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101

[instances.billing]
directory = "/srv/billing"
listen.port = 4102
"#;

const DROP_IN: &str = "/run/systemd/system/opencode-website.service.d/90-weak.conf";
const SOON: Duration = Duration::from_mins(1);

/// What takes a control away that cannot be given up otherwise, or is by a line that is not there.
const KEPT: &[(&str, &str)] = &[
    ("user", "PrivateUsers=no"),
    ("capabilities", "CapabilityBoundingSet=CAP_NET_RAW"),
    ("no-new-privileges", "User=root\nGroup=root\nNoNewPrivileges=no"),
    ("network", "PrivateNetwork=no\nNetworkNamespacePath="),
    ("file-system", "ProtectSystem=no\nBindReadOnlyPaths=/var/log"),
    ("temporary-files", "PrivateTmp=no\nBindPaths=/tmp /var/tmp /dev/shm"),
    ("hardware-listing", "BindReadOnlyPaths=/sys/class"),
    ("ipc", "PrivateIPC=no"),
    ("process-visibility", "PrivatePIDs=no\nProtectProc=default"),
    ("devices", "PrivateDevices=no\nDevicePolicy=auto"),
    ("systemd-messages", "InaccessiblePaths=\nNotifyAccess=all"),
    ("system-calls", "SystemCallFilter="),
    (
        "privileged-calls",
        "SystemCallFilter=\nSystemCallFilter=@system-service @privileged\n\
         SystemCallFilter=~@resources @keyring io_uring_enter io_uring_register io_uring_setup userfaultfd",
    ),
];

/// The lines that take a control away.
fn weaker(control: &Control) -> String {
    if let Some((_, lines)) = KEPT.iter().find(|(name, _)| *name == control.name) {
        return (*lines).to_owned();
    }
    let Some(relaxed) = control.relaxed else { panic!("{} has no lines here", control.name) };
    let lines = relaxed.weaker.iter().map(|weaker| match weaker {
        Weaker::Value(name, value) => format!("{name}={value}"),
        Weaker::Calls(calls) => format!("SystemCallFilter={calls}"),
        Weaker::Family(family) => format!("RestrictAddressFamilies={family}"),
        Weaker::Without(name, _) => panic!("{} needs {name}=", control.name),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A machine with two instances that run.
fn machine(name: &str) -> Machine {
    let spec = format!("{}{SPEC}", stand_in::DEFAULTS);
    let machine = stand_in::boot(name, &spec, &["/srv/website", "/srv/billing"]).unwrap();
    machine.run_for(SOON, ["opencode-instances", "apply"]).unwrap().ok().unwrap();
    machine
}

fn restart(machine: &Machine) {
    let restart = format!(
        "{BEGIN} systemctl daemon-reload; systemctl reset-failed opencode-website.service; begin opencode-website.service"
    );
    let output = machine.run_for(SOON, ["sh", "-ec", &restart]).unwrap();
    assert_eq!(output.code(), 0, "{output}");
}

/// What an audit finds beside what every machine of the lab lacks.
fn found(machine: &Machine) -> (Vec<String>, Value) {
    let (code, report) = audit(machine, "website");
    let all = findings(&report);
    assert_eq!(code == 4, !all.is_empty(), "{code}: {all:?}");
    (without_controllers(&all).into_iter().map(str::to_owned).collect(), report)
}

#[test]
fn a_control_that_a_drop_in_takes_away_is_found() {
    if unavailable() {
        return;
    }
    let machine = machine("audit-drop-ins");
    assert_eq!(found(&machine).0, [""; 0]);
    let mut missed = Vec::new();
    for control in all() {
        let lines = weaker(control);
        machine.sh(&format!("mkdir -p $(dirname {DROP_IN})")).unwrap().ok().unwrap();
        machine.put(DROP_IN, format!("[Service]\n{lines}\n"), 0o644).unwrap();
        restart(&machine);
        let (found, _) = found(&machine);
        let named = |finding: &String| finding.starts_with(&format!("{}: ", control.name));
        if !found.iter().any(named) {
            missed.push(format!("{}: {found:#?}", control.name));
        }
        machine.sh(&format!("rm {DROP_IN}")).unwrap().ok().unwrap();
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    restart(&machine);
    assert_eq!(found(&machine).0, [""; 0]);
}

/// What takes one away that no directive of the server makes, what puts it back, and the control.
const BY_HAND: &[(&str, &str, &str)] = &[
    (
        "policy",
        "ip netns exec opencode-website nft add rule inet opencode out4 counter accept",
        "systemctl reload opencode-net@website",
    ),
    (
        "policy",
        "ip netns exec opencode-website nft delete table inet opencode",
        "systemctl reload opencode-net@website",
    ),
    (
        "policy",
        "systemctl stop opencode-host@addresses; nft delete table inet opencode_host",
        "systemctl start opencode-host@addresses; systemctl reload opencode-net@website",
    ),
    ("policy", "systemctl stop opencode-host@addresses", "systemctl start opencode-host@addresses"),
    (
        "listener",
        "systemctl stop opencode-listen@website.socket",
        "systemctl start opencode-listen@website.socket",
    ),
    (
        "state",
        "chmod 755 /var/lib/opencode/instance-state/website",
        "chmod 700 /var/lib/opencode/instance-state/website",
    ),
    (
        "secrets",
        "chmod 644 /var/lib/opencode/instance-auth/website/password",
        "chmod 600 /var/lib/opencode/instance-auth/website/password",
    ),
    (
        "mounts",
        "nsenter --mount --target $(systemctl show --property=MainPID --value opencode-website) \
         mount -t tmpfs none /etc/ssl",
        "opencode-instances restart website",
    ),
    (
        "mounts",
        "nsenter --mount --target $(systemctl show --property=MainPID --value opencode-website) \
         mount -o remount,bind,rw /usr",
        "opencode-instances restart website",
    ),
    (
        "units",
        "echo '# edited' >>/etc/systemd/system/opencode-refusal@website.service",
        "sed -i '/^# edited/d' /etc/systemd/system/opencode-refusal@website.service; systemctl daemon-reload",
    ),
    (
        "units",
        "mkdir -p /run/systemd/system/opencode-net@website.service.d; \
         printf '[Service]\\nCapabilityBoundingSet=~\\n' >/run/systemd/system/opencode-net@website.service.d/x.conf; \
         systemctl daemon-reload",
        "rm -r /run/systemd/system/opencode-net@website.service.d; systemctl daemon-reload",
    ),
    (
        "units",
        "sed -i 's|^BindPaths=/srv/website$|&\\nBindPaths=/home|' /etc/systemd/system/opencode-website.service; \
         systemctl daemon-reload; opencode-instances restart website",
        "sed -i '/^BindPaths=.home$/d' /etc/systemd/system/opencode-website.service; \
         systemctl daemon-reload; opencode-instances restart website",
    ),
    (
        "mounts",
        "nsenter --mount --target $(systemctl show --property=MainPID --value opencode-website) \
         mount --bind /usr/share /srv/website",
        "opencode-instances restart website",
    ),
    (
        "limits",
        "systemctl set-property --runtime opencode-website.service MemoryMax=infinity",
        "systemctl revert opencode-website.service; systemctl daemon-reload",
    ),
    (
        "limits",
        "systemctl set-property --runtime opencode.slice TasksMax=infinity",
        "systemctl revert opencode.slice; systemctl daemon-reload",
    ),
    (
        "clock",
        "sed -i s/ProtectClock=yes/ProtectClock=no/ /etc/systemd/system/opencode-website.service; \
         systemctl daemon-reload",
        "sed -i s/ProtectClock=no/ProtectClock=yes/ /etc/systemd/system/opencode-website.service; \
         systemctl daemon-reload",
    ),
];

#[test]
fn what_is_changed_by_hand_is_found() {
    if unavailable() {
        return;
    }
    let machine = machine("audit-by-hand");
    let mut missed = Vec::new();
    for (control, attack, mend) in BY_HAND {
        machine.sh(attack).unwrap().ok().unwrap();
        let (found, _) = found(&machine);
        if !found.iter().any(|finding| finding.starts_with(&format!("{control}: "))) {
            missed.push(format!("{attack}: {found:#?}"));
        }
        machine.sh(mend).unwrap().ok().unwrap();
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_eq!(found(&machine).0, [""; 0]);
    // The limits are what these machines lack, so that they are found always.
    let (_, report) = audit(&machine, "website");
    assert_eq!(findings(&report).len(), 2);
    for (control, _) in HOST {
        // Sockets go stale in `given_up`.
        let seen = BY_HAND.iter().any(|(name, ..)| name == control) || *control == "sockets";
        assert!(seen, "nothing takes {control} away here");
    }
}
