//! What a NixOS host has besides: its store, the daemon that fills it, and places of its own.

use crate::catalogue::{Group, Red, attack, python, steal};
use crate::files::CANARY;

const READ_ONLY: Red = Red::Nowhere("the host's own store is mounted read-only");

/// `paths` in the project names what is in the store, as if everything were known of the host.
pub(crate) const STORE: Group = Group {
    name: "the store",
    attacks: &[
        steal(
            "read another's declaration",
            Red::AsRoot,
            "4102",
            ". ./paths; cat $billing/etc/opencode-instances/billing/spec.json",
        ),
        steal(
            "read another's units",
            Red::AsRoot,
            "ExecStart",
            ". ./paths; cat $billing/etc/systemd/system/opencode-billing.service",
        ),
        steal(
            "read the own units",
            Red::AsRoot,
            "ExecStart",
            ". ./paths; cat $website/etc/systemd/system/opencode-website.service",
        ),
        steal(
            "read the fleet's declaration",
            Red::AsRoot,
            "4102",
            ". ./paths; cat $fleet/etc/opencode-instances/instances.json",
        ),
        steal("read a path of nobody's", Red::AsRoot, CANARY, ". ./paths; cat $decoy"),
        steal("find a path of nobody's", Red::AsRoot, "-decoy", "find /nix -name '*-decoy'"),
        steal("find recipes", Red::AsRoot, ".drv", "find /nix -name '*.drv'"),
        steal("find another's output", Red::AsRoot, "opencode-instance-", "find /nix -maxdepth 3"),
        steal("list the database", Red::AsRoot, "db.sqlite", "ls /nix/var/nix/db"),
        steal("list profiles", Red::AsRoot, "per-user", "ls /nix/var/nix/profiles /nix/var/nix"),
        attack("Nix's daemon", Red::AsRoot, python!("unix('/nix/var/nix/daemon-socket/socket')")),
        steal(
            "see Nix's daemon",
            Red::AsRoot,
            "nix-daemon",
            "ps -eo args | grep 'bin/nix-daemo[n]'",
        ),
        attack("the name service's daemon", Red::AsRoot, python!("unix('/run/nscd/socket')")),
        attack(
            "the resolver",
            Red::AsRoot,
            python!("unix('/run/systemd/resolve/io.systemd.Resolve')"),
        ),
        steal("read the configuration", Red::AsRoot, "derivation", "cat /etc/nixos/store.nix"),
        steal("read Nix's settings", Red::AsRoot, "substituters", "cat /etc/nix/nix.conf"),
        attack("list the current system", Red::AsRoot, "ls /run/current-system/sw && echo BREACH"),
        attack("list what was booted", Red::AsRoot, "ls /run/booted-system/sw && echo BREACH"),
        steal("run a wrapper", Red::AsRoot, "uid=", "/run/wrappers/bin/id"),
        attack(
            "add a root for the collector",
            Red::AsRoot,
            "ln -s / /nix/var/nix/gcroots/evil && echo BREACH; rm -f /nix/var/nix/gcroots/evil",
        ),
        attack(
            "make the store writable",
            Red::AsRoot,
            "mount -o remount,rw,bind /nix/store && echo BREACH; mount -o remount,ro,bind /nix/store",
        ),
        attack(
            "make a path writable",
            Red::AsRoot,
            ". ./paths; mount --bind $opencode $opencode && mount -o remount,rw,bind $opencode && echo BREACH; \
             umount $opencode",
        ),
        attack(
            "replace the server in the store",
            READ_ONLY,
            ". ./paths; chmod u+w $opencode/bin $opencode/bin/opencode && echo BREACH; \
             : >>$opencode/bin/opencode && echo BREACH",
        ),
        attack(
            "add a file to a path",
            READ_ONLY,
            ". ./paths; for path in $opencode /nix/store/*; do touch $path/bin/owned && echo BREACH; done",
        ),
        attack(
            "add a path",
            READ_ONLY,
            "mkdir /nix/store/evil && echo BREACH; touch /nix/evil && echo BREACH",
        ),
    ],
};
