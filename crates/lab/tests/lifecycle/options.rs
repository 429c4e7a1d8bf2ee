//! Instances that are not like the example: each option where only a real host shows that it works.

use instances_lab::{Agent, Image, Machine, Options, Release, place, unavailable};

use crate::view::{
    SOON, apply, assert_healthy, done, http, property, sh, status, url, wait_until_served,
};

/// The project's directory and the state directory of the instance `odd`.
const PROJECT: &str = "/srv/my project: 100% ü;#$HOME";
const STATE: &str = "/srv/the state: 100% ü;#$HOME";

const SPEC: &str = r#"
[instances.manual]
directory = "/srv/manual"
listen.port = 4201
autoStart = false
package = "/opt/opencode"

[instances.existing]
directory = "/home/alice/project"
listen = { address = "::1", port = 4202 }
user = "alice"
group = "alice"

[instances.open]
directory = "/srv/open"
stateDir = "/data/opencode/open"
listen.port = 4203
auth.enable = false

[instances.odd]
directory = "/srv/my project: 100% ü;#$HOME"
stateDir = "/srv/the state: 100% ü;#$HOME"
listen.port = 4204

[instances.team]
directory = "/srv/team"
listen.port = 4205
extraGroups = ["editors"]
"#;

const PREPARE: &str = "
useradd --create-home --user-group alice
install -d -o alice -g alice /home/alice/project
groupadd editors
install -d -g editors -m 2770 /srv/team
mkdir -p /srv/manual /srv/open '/srv/my project: 100% ü;#$HOME'
";

#[test]
fn every_option_does_what_it_says() {
    if unavailable() {
        return;
    }
    let options = Options::new()
        .name("options")
        .engine()
        .bind_ro(place::opencode(), "/opt/opencode/bin/opencode");
    let machine = Machine::boot(&Image::ensure(Release::Trixie).unwrap(), &options).unwrap();
    sh(&machine, PREPARE);
    apply(&machine, SPEC);
    for instance in ["existing", "open", "odd", "team"] {
        wait_until_served(&machine, instance, SOON);
        assert_healthy(&machine, instance);
    }
    started_by_hand(&machine);
    an_existing_user(&machine);
    no_password(&machine);
    odd_characters(&machine);
    writing_by_group(&machine);
    let again = done(&machine, "apply");
    assert!(again.ends_with("nothing to do\n"), "{again}");
}

fn shell(machine: &Machine, instance: &str, script: &str) -> String {
    Agent::connect(machine, instance).unwrap().shell(script).unwrap()
}

/// The package is a prefix, too.
fn started_by_hand(machine: &Machine) {
    assert_eq!(status(machine, "manual")["state"], "stopped");
    assert_eq!(status(machine, "manual")["listening"], false);
    assert_eq!(http(machine, "http://127.0.0.1:4201/", 20), 0);
    done(machine, "start manual");
    wait_until_served(machine, "manual", SOON);
    assert_healthy(machine, "manual");
    let command = format!("tr '\\0' ' ' </proc/{}/cmdline", crate::view::server(machine, "manual"));
    assert!(sh(machine, &command).starts_with("/opt/opencode/bin/opencode serve "));
    done(machine, "stop manual");
    let again = done(machine, "apply");
    assert!(again.ends_with("nothing to do\n"), "{again}");
    assert_eq!(property(machine, "opencode-manual.service", "ActiveState"), "inactive");
}

/// And a listener on IPv6.
fn an_existing_user(machine: &Machine) {
    assert!(url(machine, "existing").ends_with("@[::1]:4202"));
    let said = shell(machine, "existing", "id -un; echo by-alice >note; echo $HOME");
    assert!(said.starts_with("alice\n"), "{said}");
    assert_eq!(sh(machine, "stat -c %U /home/alice/project/note"), "alice");
    assert_eq!(
        sh(machine, "stat -c '%U %a' /var/lib/opencode/instance-state/existing"),
        "alice 700"
    );
    let accounts = machine.run(["getent", "passwd", "opencode-existing"]).unwrap();
    assert!(!accounts.success(), "an account that nobody uses");
}

fn no_password(machine: &Machine) {
    assert_eq!(url(machine, "open"), "http://127.0.0.1:4203");
    assert_eq!(http(machine, "http://127.0.0.1:4203/config", 20), 200);
    assert_eq!(sh(machine, "stat -c '%U %a' /data/opencode/open"), "opencode-open 700");
    assert_eq!(sh(machine, "ls /data/opencode/open/.local/share"), "opencode\nopencode-instances");
    let password = machine.run(["test", "-e", "/var/lib/opencode/instance-auth/open/password"]);
    assert!(!password.unwrap().success(), "a password that nobody asks for");
}

fn odd_characters(machine: &Machine) {
    // No `$HOME`: opencode's shell endpoint expands every variable twice.
    let said = shell(machine, "odd", "pwd; cd; pwd; echo x >written");
    assert_eq!(said.trim_end(), format!("{PROJECT}\n{STATE}"));
    assert_eq!(sh(machine, &format!("stat -c '%U %a' '{STATE}'")), "opencode-odd 700");
    assert_eq!(sh(machine, &format!("cat '{STATE}/written'")), "x");
    // Not a directory that one of the escapings made beside it.
    assert_eq!(sh(machine, "ls /srv | wc -l"), "5");
}

fn writing_by_group(machine: &Machine) {
    let said = shell(machine, "team", "echo written >note && cat note");
    assert_eq!(said, "written\n");
    assert_eq!(sh(machine, "stat -c '%U %G' /srv/team/note"), "opencode-team editors");
}
