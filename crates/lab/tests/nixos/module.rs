//! The same through the module, which needs nixpkgs' `lib`: `NIXPKGS_LIB` names a checkout of nixpkgs
//! or of nixpkgs.lib. No registry has it, so that this is skipped where the variable is not set.

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;

use instances_lab::{Machine, Options, nixos, place, unavailable};
use serde_json::{Value, json};

use crate::view::{agent, name, sh, visible, wait_until_healthy};

/// Where a machine has nixpkgs and the module.
const NIXPKGS: &str = "/etc/nixos/nixpkgs";
const MODULE: &str = "/etc/nixos/opencode";

fn nixpkgs() -> Option<PathBuf> {
    let path = env::var_os("NIXPKGS_LIB").filter(|path| !path.is_empty());
    if path.is_none() {
        let reason = "NIXPKGS_LIB does not name a checkout of nixpkgs, or of its lib";
        instances_lab::progress::say(&format!("SKIP: {reason}"));
    }
    path.map(PathBuf::from)
}

#[test]
fn the_modules_fleet_runs() {
    if unavailable() {
        return;
    }
    let Some(nixpkgs) = nixpkgs() else { return };
    let options = Options::new()
        .name("nixos-module")
        .bind_ro(nixpkgs, NIXPKGS)
        .bind_ro(place::workspace().join("nix"), MODULE);
    let machine = nixos::boot(options).unwrap();
    let host = evaluate(&machine);
    sh(&machine, "mkdir -p /srv/website /srv/billing");
    nixos::switch(&machine, host["fleet"].as_str().unwrap()).unwrap();
    for instance in ["website", "billing"] {
        wait_until_healthy(&machine, instance);
    }
    the_sandbox(&machine);
    the_configuration(&machine);
    the_firewall(&machine, &host);
}

/// What the module gives NixOS.
fn evaluate(machine: &Machine) -> Value {
    let expression = format!("{}/module.nix", nixos::EXPRESSIONS);
    let arguments = [&expression, "--arg", "nixpkgs", NIXPKGS, "--arg", "module", MODULE];
    let output = nixos::build(machine, &arguments).unwrap();
    let mut host: Value = serde_json::from_str(&machine.get(&output).unwrap()).unwrap();
    assert_eq!(host["problems"], json!([]));
    assert_eq!(host["ports"], json!([4101]));
    assert_eq!(host["homes"]["opencode-website"], "/var/lib/opencode/instance-state/website");
    // The entry of /etc is a directory of the fleet's output.
    let etc = host["fleet"].as_str().unwrap();
    host["fleet"] = etc.strip_suffix("/etc/opencode-instances").unwrap().into();
    let packages: BTreeSet<&str> = host["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| name(path.as_str().unwrap()))
        .collect();
    let expected =
        ["opencode-instance-billing", "opencode-instance-website", "opencode-instances-fleet"];
    assert_eq!(packages, BTreeSet::from(expected));
    host
}

fn the_sandbox(machine: &Machine) {
    let expected = [
        "bash",
        "busybox",
        "cacert",
        "first",
        "git",
        "glibc",
        "iana-etc",
        "ncurses",
        "nix-ld",
        "notes",
        "opencode",
        "opencode-configuration-website.json",
        "opencode-instances",
        "opencode-sandbox.json",
        "python3",
        "review.md",
        "ripgrep",
        "rules",
        "tzdata",
    ];
    assert_eq!(visible(machine, "website"), expected.map(str::to_owned).into());
    let path = agent(machine, "website", "echo $PATH");
    assert!(path.split('/').nth(3).is_some_and(|first| first.ends_with("-python3")), "{path}");
    let said = agent(machine, "website", "date +%Z; TZ= date +%Z; echo $LANG; git --version");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("CE"), "{said}");
    assert_eq!(lines[2], "en_US.UTF-8");
    let certificates =
        "python3 -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 9)'";
    assert_eq!(agent(machine, "website", certificates), "True");
    let inside = "ls -A /etc; for file in /etc/* /etc/ssl/certs/*; do \
                  test -e $file || echo $file leads nowhere; done";
    let inside = agent(machine, "website", inside);
    assert!(!inside.contains("nowhere") && !inside.contains("shadow"), "{inside}");
    let daemon = "nix store ping --store daemon 2>&1; ls -d /nix/store/*-python3";
    let daemon = agent(machine, "billing", daemon);
    assert!(daemon.contains("Store URL: daemon") && daemon.contains("-python3"), "{daemon}");
}

/// What the declaration names of the store is there, and is what the server goes by.
fn the_configuration(machine: &Machine) {
    let home = "/var/lib/opencode/instance-state/website";
    let read = format!(
        "cat $NOTES {home}/made {home}/.config/opencode/agents/review.md \
         {home}/.config/opencode/commands/lint.md; cat $(sed -n 's|.*\"\\(.*/rules.md\\)\".*|\\1|p' \
         {home}/.config/opencode/opencode.json)"
    );
    let said = agent(machine, "website", &read);
    assert_eq!(said, "a notemade onceRead what changed.Run the linter.rule");
    let config = "curl --silent --fail $(opencode-instances url website)config";
    let config: Value = serde_json::from_str(&sh(machine, config)).unwrap();
    assert_eq!(config["share"], "disabled", "{config}");
    assert!(config["agent"]["review"].is_object(), "{config}");
    let facts = sh(machine, "cat /etc/opencode-instances/facts.json");
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let versions = facts["opencode"].as_object().unwrap();
    assert_eq!(versions.values().collect::<Vec<_>>(), [&json!("1.18.33")]);
}

/// A firewall as NixOS has it, with the ports that the module opens.
fn the_firewall(machine: &Machine, host: &Value) {
    let ports: Vec<String> =
        host["ports"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let rules = format!(
        "table inet nixos-fw {{ chain input {{ type filter hook input priority filter; policy drop; \
         iifname lo accept; ct state established,related accept; tcp dport {{ {} }} accept; }}; }}",
        ports.join(", ")
    );
    let script = format!(
        "ip netns add client; ip link add inside type veth peer name outside netns client; \
         ip address add 192.0.2.1/24 dev inside; ip link set inside up; \
         ip -n client address add 192.0.2.2/24 dev outside; ip -n client link set outside up; \
         printf '%s' '{rules}' | nft -f -"
    );
    sh(machine, &script);
    let client = |port: u32| {
        let url = format!("http://192.0.2.1:{port}/config");
        let options = ["--silent", "--max-time", "3", "--output", "/dev/null", "--write-out"];
        let argv = ["ip", "netns", "exec", "client", "curl"].into_iter().chain(options);
        machine.run(argv.chain(["%{http_code}", &url])).unwrap().stdout
    };
    assert_eq!(client(4101), "401", "the open port leads to the server, which asks for a password");
    assert_eq!(client(4102), "000", "a port is open without openFirewall");
    sh(machine, "nft delete table inet nixos-fw");
    assert_eq!(client(4102), "401", "the firewall is what closed it");
}
