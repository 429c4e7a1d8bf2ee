//! What the builder makes of a fleet, and what somebody at a terminal sees of a refusal.

use instances_lab::{Machine, Options, nixos, unavailable};

use crate::view::{lines, name, sh};

#[test]
fn the_engine_builds_a_fleet() {
    if unavailable() {
        return;
    }
    let machine = nixos::boot(Options::new().name("nixos-building")).unwrap();
    let fleet = nixos::generation(&machine, 1).unwrap();
    the_outputs(&machine, &fleet);
    only_what_changed_is_built(&machine, &fleet);
    refusals(&machine);
}

fn the_outputs(machine: &Machine, fleet: &str) {
    let files = sh(machine, &format!("cd {fleet}; find . ! -type d | sort"));
    assert_eq!(
        lines(&files),
        lines(
            "./etc/opencode-instances/billing\n\
             ./etc/opencode-instances/builder\n\
             ./etc/opencode-instances/facts.json\n\
             ./etc/opencode-instances/instances.json\n\
             ./etc/opencode-instances/website\n\
             ./etc/systemd/system/opencode-host@addresses.service\n\
             ./etc/systemd/system/opencode-host@turns.service\n\
             ./etc/systemd/system/opencode-host@turns.socket\n\
             ./etc/systemd/system/opencode.slice\n\
             ./etc/systemd/system/opencode.target\n\
             ./lib/tmpfiles.d/opencode.conf"
        )
    );
    let units = sh(
        machine,
        &format!("ls $(realpath {fleet}/etc/opencode-instances/website)/../../systemd/system"),
    );
    assert_eq!(
        lines(&units),
        lines(
            "opencode-dns@website.service\n\
             opencode-dns@website.socket\n\
             opencode-endpoint@website.service\n\
             opencode-events@website.service\n\
             opencode-identity@website.service\n\
             opencode-listen@website.service\n\
             opencode-listen@website.socket\n\
             opencode-net@website.service\n\
             opencode-refusal@website.service\n\
             opencode-website.service"
        )
    );
    let complaints = sh(
        machine,
        &format!(
            "cp {fleet}/etc/systemd/system/* {fleet}/etc/opencode-instances/*/../../systemd/system/* \
             /etc/systemd/system/; systemd-analyze verify /etc/systemd/system/opencode* 2>&1; \
             rm /etc/systemd/system/opencode*"
        ),
    );
    assert_eq!(complaints, "");
    // What garbage collection would take away from under the units.
    let closure = sh(machine, &format!("nix-store --query --requisites {fleet}"));
    let closure: Vec<&str> = closure.lines().map(name).collect();
    for package in ["opencode", "glibc", "nftables", "python3", "tzdata"] {
        assert!(closure.contains(&package), "{package} is not part of {closure:?}");
    }
    assert!(!closure.contains(&"decoy"));
    assert!(!closure.iter().any(|path| path.contains(".drv")), "{closure:?}");
    // A second build is compared with the first.
    nixos::build(machine, &[&format!("{}/fleet.nix", nixos::EXPRESSIONS), "--check"]).unwrap();
}

/// An instance whose declaration did not change keeps its path, and so its text.
fn only_what_changed_is_built(machine: &Machine, first: &str) {
    let second = nixos::generation(machine, 2).unwrap();
    assert_ne!(first, second);
    let units = |fleet: &str, name: &str| {
        sh(machine, &format!("realpath {fleet}/etc/opencode-instances/{name}"))
    };
    for same in ["website", "builder"] {
        assert_eq!(units(first, same), units(&second, same));
    }
    assert_ne!(units(first, "billing"), units(&second, "billing"));
}

/// Each refusal: more instances, and what has to be said about them.
const REFUSALS: &[(&str, &[&str])] = &[
    (
        "{ intruder = { directory = \"/srv/website/inside\"; listen.port = 4101; }; }",
        &[
            "error[E0301]: `intruder` and `website` both listen on 127.0.0.1:4101",
            "error[E0307]: the project of `intruder` lies inside the project of `website`",
            "help: ",
        ],
    ),
    (
        "{ typo = { directory = \"/srv/typo\"; listen.prot = 4110; }; }",
        &["instances.typo.listen.prot", "did you mean `port`?"],
    ),
    (
        "{ wrong = { directory = \"relative\"; listen.port = 70000; }; }",
        &["instances.wrong.directory", "instances.wrong.listen.port", "refused with 2 findings"],
    ),
];

fn refusals(machine: &Machine) {
    let fleet = format!("{}/fleet.nix", nixos::EXPRESSIONS);
    for (more, words) in REFUSALS {
        let refused = nixos::try_build(machine, &[&fleet, "--arg", "more", more]).unwrap();
        assert!(!refused.success(), "{more} is built: {refused}");
        // The other front of Nix shows no more than the last lines of a log.
        let short = machine
            .run(["nix", "build", "--no-link", "--file", &fleet, "--arg", "more", more])
            .unwrap();
        for (said, how) in [(&refused.stderr, "nix-build"), (&short.stderr, "nix build")] {
            for word in *words {
                assert!(said.contains(word), "{how} {more} does not say {word:?}: {said}");
            }
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}
