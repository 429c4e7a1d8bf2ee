//! The engine as a builder of Nix, without Nix: what it reads, writes and refuses.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a broken fixture fails the test"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

const ENGINE: &str = "/nix/store/00000000000000000000000000000000-engine";

fn facts() -> Value {
    json!({
        "systemd": 258, "engine": format!("{ENGINE}/bin/opencode-instances"),
        "nft": "/n", "shell": "/s", "getent": "/g", "nixos": { "path": ["/tools"] },
    })
}

fn build(out: &Path, attributes: &Value) -> Output {
    let mut attributes = attributes.clone();
    attributes["outputs"] = json!({ "out": out });
    attributes["facts"] = facts();
    let file = out.with_extension("attrs.json");
    fs::write(&file, attributes.to_string()).unwrap();
    let mut builder = Command::new(env!("CARGO_BIN_EXE_opencode-instances"));
    // As Nix does: nothing of the caller's environment.
    builder.arg("nixos").env_clear().env("NIX_ATTRS_JSON_FILE", file).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_instance_and_the_fleet_are_built() {
    let place = tempfile::tempdir().unwrap();
    let (one, fleet) = (place.path().join("one"), place.path().join("fleet"));
    let web =
        json!({ "directory": "/srv/web", "stateDir": "/data/web", "package": "/nix/store/x/o" });
    let off = json!({ "directory": "/srv/off", "enable": false, "listen": { "port": 4097 } });
    let built = build(
        &one,
        &json!({
            "instance": "web", "spec": { "instances": { "web": web } },
            "agent": [{ "path": "/nix/store/b" }, { "path": "/nix/store/a", "references": [] }],
            "proxy": [{ "path": "/nix/store/p" }],
        }),
    );
    assert!(built.status.success(), "{}", words(&built));
    let main = fs::read_to_string(one.join("etc/systemd/system/opencode-web.service")).unwrap();
    let closure = "BindReadOnlyPaths=/nix/store/a\nBindReadOnlyPaths=/nix/store/b\n";
    assert!(main.contains(closure), "{main}");
    assert!(!main.contains("=/usr") && !main.contains("/nix/store/p\n"), "{main}");
    let proxy = fs::read_to_string(one.join("etc/systemd/system/opencode-listen@web.service"));
    let proxy = proxy.unwrap();
    assert!(
        proxy.contains("BindReadOnlyPaths=/nix/store/p\n") && !proxy.contains("/nix/store/a\n")
    );
    let units = fs::read_dir(one.join("etc/systemd/system")).unwrap().count();
    assert_eq!(units, 10, "nothing of the fleet is here");
    assert!(one.join("etc/opencode-instances/web/instance.json").is_file());
    assert!(!one.join("etc/sysusers.d").exists(), "NixOS makes accounts");

    let resources = json!({ "memoryMax": "64G", "cpuQuota": null, "tasksMax": 65536 });
    let both = json!({
        "fleet": { "resources": resources }, "instances": { "web": web, "off": off },
    });
    let built = build(&fleet, &json!({ "spec": both, "units": { "web": one } }));
    assert!(built.status.success(), "{}", words(&built));
    let target = fs::read_to_string(fleet.join("etc/systemd/system/opencode.target")).unwrap();
    assert!(target.contains("Wants=opencode-web.service\n") && !target.contains("opencode-off"));
    let slice = fs::read_to_string(fleet.join("etc/systemd/system/opencode.slice")).unwrap();
    assert!(slice.ends_with("MemoryMax=64G\nTasksMax=65536\n"), "{slice}");
    let link = fs::read_link(fleet.join("etc/opencode-instances/web")).unwrap();
    assert_eq!(link, one.join("etc/opencode-instances/web"));
    let tmpfiles = fs::read_to_string(fleet.join("lib/tmpfiles.d/opencode-web.conf")).unwrap();
    assert!(tmpfiles.contains("/data/web"));
    for file in ["instances.json", "facts.json"] {
        let text = fs::read_to_string(fleet.join("etc/opencode-instances").join(file)).unwrap();
        let _: Value = serde_json::from_str(&text).unwrap();
    }
}

/// What an instance is told goes into its own output, and what that names of the store has to be kept.
#[test]
fn configuration_is_part_of_the_output() {
    let place = tempfile::tempdir().unwrap();
    let (one, fleet) = (place.path().join("one"), place.path().join("fleet"));
    let settings = json!({ "model": "a/b", "permission": [{ "*": "ask" }, { "edit": "deny" }] });
    let web = json!({
        "directory": "/srv/web", "package": "/nix/store/o", "settings": settings,
        "enforcedSettings": { "share": "disabled" }, "configFile": null, "preInitScript": null,
        "agents": { "review": "Read.", "other": { "file": "/nix/store/x-other.md" } },
        "postInitScript": "mkdir notes", "environmentFile": ["/run/secrets/web.env"],
    });
    let spec = json!({ "instances": { "web": web } });
    let given = json!({
        "instance": "web", "spec": spec, "versions": { "web": "1.18.33" },
        "agent": [{ "path": "/nix/store/x-other.md" }],
    });
    let built = build(&one, &given);
    assert!(built.status.success(), "{}", words(&built));
    let read = |path: &str| fs::read_to_string(one.join("etc").join(path)).unwrap();
    let own = "opencode-instances/web";
    let written = read(&format!("{own}/config/opencode.json"));
    assert!(written.find("\"*\"") < written.find("\"edit\""), "{written}");
    assert_eq!(read(&format!("{own}/config/agents/review.md")), "Read.");
    assert!(read(&format!("{own}/enforced/opencode.json")).contains("disabled"));
    assert_eq!(read(&format!("{own}/setup/postInitScript")), "mkdir notes\n");
    assert!(!one.join("etc").join(own).join("setup/preInitScript").exists());
    assert!(read(&format!("{own}/setup/plan.json")).contains("/files/agents/other.md"));
    let main = read("systemd/system/opencode-web.service");
    for line in [
        "BindReadOnlyPaths=/nix/store/x-other.md:/etc/opencode-instances/web/files/agents/other.md\n",
        "EnvironmentFile=/run/secrets/web.env\n",
        " --guarded ",
        " --log-level INFO\n",
    ] {
        assert!(main.contains(line), "{line}: {main}");
    }

    // `check` on the host knows the version too.
    let units = json!({ "spec": spec, "units": { "web": one }, "versions": { "web": "1.18.33" } });
    let built = build(&fleet, &units);
    assert!(built.status.success(), "{}", words(&built));
    let facts = fs::read_to_string(fleet.join("etc/opencode-instances/facts.json")).unwrap();
    let facts: Value = serde_json::from_str(&facts).unwrap();
    assert_eq!(facts["opencode"], json!({ "/nix/store/o": "1.18.33" }));

    // What opencode 2 cannot hold fails the build.
    let mut newer = given.clone();
    newer["versions"] = json!({ "web": "2.0.12" });
    let refused = build(&place.path().join("newer"), &newer);
    assert!(!refused.status.success() && words(&refused).contains("E0318"));

    // Of a package that does not say its version nothing is known.
    let unknown = place.path().join("unknown");
    let mut unversioned = given.clone();
    unversioned["versions"] = json!({});
    assert!(build(&unknown, &unversioned).status.success());
    let main = fs::read_to_string(unknown.join("etc/systemd/system/opencode-web.service"));
    assert!(!main.unwrap().contains("--opencode"));

    let mut dangling = given;
    dangling["agent"] = json!([{ "path": "/nix/store/x-other.md-2" }]);
    let refused = build(&place.path().join("dangling"), &dangling);
    assert_eq!(refused.status.code(), Some(1));
    assert!(words(&refused).contains("`agents` of `web` names /nix/store/x-other.md, and"));
}

/// Nix 2.8 names the file as it is called outside the root of its own sandbox.
#[test]
fn the_attributes_are_found_in_the_builds_directory() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let spec = json!({ "instances": {} });
    let attributes = json!({ "outputs": { "out": out }, "facts": facts(), "spec": spec });
    fs::write(place.path().join(".attrs.json"), attributes.to_string()).unwrap();
    let mut builder = Command::new(env!("CARGO_BIN_EXE_opencode-instances"));
    builder.arg("nixos").env_clear().current_dir("/");
    builder.env("NIX_BUILD_TOP", place.path());
    let built = builder.env("NIX_ATTRS_JSON_FILE", "/not/here/.attrs.json").output().unwrap();
    assert!(built.status.success(), "{}", words(&built));
    assert!(out.join("etc/systemd/system/opencode.target").is_file());
}

#[test]
fn what_is_refused_fails_the_build_in_its_own_words() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let port = json!({ "directory": "/srv/a", "listen": { "port": 1 } });
    let spec =
        json!({ "instances": { "a": port, "b": { "directory": "/b", "listen": { "port": 1 } } } });
    let refused = build(&out, &json!({ "spec": spec }));
    assert_eq!(refused.status.code(), Some(3));
    let said = words(&refused);
    assert!(said.contains("error[E0301]: `a` and `b` both listen on 127.0.0.1:1"), "{said}");
    assert!(said.contains("services.opencode: instances.b.listen.port"), "{said}");
    assert!(!out.exists(), "an output of a refused build");

    let off = json!({ "instances": { "a": { "directory": "/srv/a", "enable": false } } });
    let refused = build(&out, &json!({ "spec": off, "instance": "a" }));
    assert_eq!(refused.status.code(), Some(1));
    assert!(words(&refused).contains("does not enable an instance `a`"));

    let on = json!({ "instances": { "a": { "directory": "/srv/a" } } });
    let refused = build(&out, &json!({ "spec": on, "units": {} }));
    assert!(words(&refused).contains("gave no units of the instance `a`"));

    let mut by_hand = Command::new(env!("CARGO_BIN_EXE_opencode-instances"));
    let said = by_hand.arg("nixos").env_clear().current_dir(place.path()).output().unwrap();
    assert!(words(&said).contains("Nix runs this"), "{}", words(&said));
}

#[test]
fn by_hand_it_writes_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let on = json!({ "instances": { "a": { "directory": "/srv/a" } } });
    let attributes = json!({ "spec": on, "instance": "a" });
    assert!(build(&out, &attributes).status.success());

    // What is there already stays as it is, a directory or a link to one.
    let link = place.path().join("link");
    symlink(place.path(), &link).unwrap();
    for there in [&out, &link] {
        let refused = build(there, &attributes);
        assert_eq!(refused.status.code(), Some(1), "{}", there.display());
        assert!(words(&refused).contains("exists already"), "{}", words(&refused));
    }
    assert!(!place.path().join("etc").exists(), "written through a link");

    // A file that lies where somebody happens to be says nothing.
    fs::remove_dir_all(&out).unwrap();
    fs::rename(out.with_extension("attrs.json"), place.path().join(".attrs.json")).unwrap();
    let mut by_hand = Command::new(env!("CARGO_BIN_EXE_opencode-instances"));
    let said = by_hand.arg("nixos").env_clear().current_dir(place.path()).output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(words(&said).contains("NIX_ATTRS_JSON_FILE is not set"), "{}", words(&said));
    assert!(!out.exists(), "written for a file of the working directory");

    // Old Nix names a file that is not there, beside the directory where it is.
    let mut old = Command::new(env!("CARGO_BIN_EXE_opencode-instances"));
    old.arg("nixos").env_clear().env("NIX_ATTRS_JSON_FILE", "/nonexistent/.attrs.json");
    let built = old.env("NIX_BUILD_TOP", place.path()).output().unwrap();
    assert!(built.status.success() && out.join("etc").is_dir(), "{}", words(&built));
}
