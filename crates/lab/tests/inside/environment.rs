//! The variables of a server and of its tools, and the programs that they find.

use instances_lab::{Agent, Machine, Model, fleet, stand_in, unavailable};

use crate::view::{
    SOON, apply, done, engine, pid, property, server, sh, status, wait_for, wait_until_served,
};

/// Of the instance's own loopback.
const PORT: u16 = 8080;

fn spec() -> String {
    format!(
        r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
path = ["/opt/tools"]
environmentFile = ["/etc/secrets/first", "/etc/secrets/second"]

[instances.website.environment]
OF_OPTION = "option"
OF_FIRST = "option"
OF_SECOND = "option"
OPENCODE_DISABLE_LSP_DOWNLOAD = "0"
npm_config_fetch_retries = "option"
ODD = "a $HOME %h \"q\" 'q' \\ ü"

[instances.website.settings]
{}

[instances.light]
directory = "/srv/light"
listen.port = 4102
package = "/usr/local/bin/stand-in"
environmentFile = "/etc/secrets/light"
"#,
        Model::settings(PORT)
    )
}

const PREPARE: &str = "
install -d -m 700 /etc/secrets
install -m 600 /dev/stdin /etc/secrets/first <<'END'
OF_FIRST=first
OF_SECOND=first
npm_config_fetch_retries=first
END
install -m 600 /dev/stdin /etc/secrets/second <<'END'
# A comment.
OF_SECOND=second
QUOTED=\"two words\"
END
install -m 600 /dev/stdin /etc/secrets/light <<'END'
WORD=light
END
install -D -m 755 /dev/stdin /opt/tools/bin/tac <<'END'
#!/bin/sh
echo from the tools
END
";

/// What each variable must be, by whoever says it last.
const WANTED: &[&str] = &[
    "HOME=/var/lib/opencode/instance-state/website",
    "ODD=a $HOME %h \"q\" 'q' \\ ü",
    "OF_FIRST=first",
    "OF_OPTION=option",
    "OF_SECOND=second",
    "OPENCODE_DISABLE_AUTOUPDATE=1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD=0",
    "QUOTED=two words",
    "npm_config_fetch_retries=first",
];

#[test]
fn variables_have_their_order_and_files_their_owner() {
    if unavailable() {
        return;
    }
    let machine = stand_in::boot("environment", &spec(), &["/srv/website", "/srv/light"]).unwrap();
    sh(&machine, PREPARE);
    done(&machine, "apply");
    for instance in ["website", "light"] {
        wait_until_served(&machine, instance, SOON);
    }
    order(&machine);
    tools(&machine);
    refused_names(&machine);
    a_file_that_goes(&machine);
    files_of_others(&machine);
}

fn assert_wanted(said: &str, who: &str) {
    let lines: Vec<&str> = said.lines().collect();
    for wanted in WANTED {
        assert!(lines.contains(wanted), "{who} has no {wanted}: {said}");
    }
    for hidden in ["CREDENTIALS_DIRECTORY=", "NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_"] {
        assert!(!lines.iter().any(|line| line.starts_with(hidden)), "{who}: {said}");
    }
}

fn order(machine: &Machine) {
    let environ = format!("tr '\\0' '\\n' </proc/{}/environ", server(machine, "website"));
    assert_wanted(&sh(machine, &environ), "the server");
    let agent = Agent::connect(machine, "website").unwrap();
    assert_wanted(&agent.shell("env").unwrap(), "the shell endpoint");
    let model = Model::listen(machine, "website", PORT).unwrap();
    assert_wanted(&agent.bash(&model, "env").unwrap(), "the bash tool");
}

/// What an agent needs at least, with the configuration as it comes.
fn tools(machine: &Machine) {
    const SCRIPT: &str = "tac; test -n \"$BASH_VERSION\" && echo bash; mkdir work; \
        git -C work init -q && git -C work -c user.name=x -c user.email=x@x commit -q --allow-empty -m x && \
        git -C work log --format=%s; echo needle >work/hay; rg --no-filename needle; \
        grep -c needle work/hay; sort work/hay; find . -name hay; rm -r work; \
        echo \"$PATH\" | cut -d: -f1";
    const SAID: &str = "from the tools\nbash\nx\nneedle\n1\nneedle\n./work/hay\n/opt/tools/bin\n";
    sh(machine, "setfacl -m u:opencode-website:rwX /srv/website");
    let agent = Agent::connect(machine, "website").unwrap();
    let model = Model::listen(machine, "website", PORT).unwrap();
    assert_eq!(agent.bash(&model, SCRIPT).unwrap(), SAID);
    let said = agent.shell(SCRIPT).unwrap();
    assert_eq!(said, SAID);
}

fn refused_names(machine: &Machine) {
    let names = ["HOME", "PATH", "XDG_DATA_HOME", "OPENCODE_CONFIG", "OPENCODE_DB"];
    for name in names.into_iter().chain(["OPENCODE_SERVER_PASSWORD"]) {
        let spec = format!("{}[instances.light.environment]\n{name} = \"/tmp\"\n", spec());
        machine.put("/root/refused.toml", spec, 0o644).unwrap();
        for command in ["check /root/refused.toml", "apply /root/refused.toml"] {
            let output = engine(machine, command);
            assert_eq!(output.code(), 3, "{output}");
            assert!(output.stderr.contains("E0220") && output.stderr.contains(name), "{output}");
        }
    }
}

const FILE: &str = "/etc/secrets/light";
const MAIN: &str = "opencode-light.service";

fn reason(machine: &Machine) -> String {
    status(machine, "light")["reason"].as_str().unwrap().to_owned()
}

/// Neither `apply` nor a start takes it, and both say the same; another apply mends it.
fn refuse(machine: &Machine, words: &str) {
    let before = pid(machine, "light");
    let output = engine(machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains(words), "{output}");
    assert_eq!(pid(machine, "light"), before, "a refused apply restarts nothing");
    let output = engine(machine, "restart light");
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains(words), "{output}");
    assert_ne!(property(machine, MAIN, "ActiveState"), "active");
    let reason = reason(machine);
    assert!(reason.contains(words), "{reason}");
}

fn start(machine: &Machine) {
    done(machine, "start light");
    wait_until_served(machine, "light", SOON);
    let environ = format!("tr '\\0' '\\n' </proc/{}/environ", server(machine, "light"));
    assert!(sh(machine, &environ).lines().any(|line| line == "WORD=light"));
}

fn a_file_that_goes(machine: &Machine) {
    let words = "/etc/secrets/light, which environmentFile names, cannot be trusted: \
                 /etc/secrets/light does not exist; write the secret to it, and let only root read it";
    sh(machine, &format!("mv {FILE} {FILE}.away"));
    refuse(machine, words);
    sh(machine, &format!("mv {FILE}.away {FILE}"));
    start(machine);
    // And where nothing but the server starts.
    sh(machine, &format!("mv {FILE} {FILE}.away; systemctl restart {MAIN} || true"));
    wait_for(machine, MAIN, "failed");
    assert_eq!(reason(machine), words);
    sh(machine, &format!("mv {FILE}.away {FILE}"));
    start(machine);
    // A file that nobody wrote yet.
    let with =
        spec().replace("\"/etc/secrets/light\"", "[\"/etc/secrets/light\", \"/etc/secrets/new\"]");
    machine.put(fleet::SPEC, &with, 0o644).unwrap();
    let before = pid(machine, "light");
    let output = engine(machine, "apply");
    assert!(
        output.code() == 1 && output.stderr.contains("/etc/secrets/new does not exist"),
        "{output}"
    );
    assert_eq!(pid(machine, "light"), before);
    sh(machine, "install -m 600 /dev/null /etc/secrets/new");
    apply(machine, &with);
    start(machine);
    apply(machine, &spec());
}

fn files_of_others(machine: &Machine) {
    for (change, words, mend) in [
        (
            "chmod 644",
            "can be read by everybody (mode 0644); chmod o= /etc/secrets/light",
            "chmod 600",
        ),
        (
            "chmod 620",
            "can be written by others (mode 0620); chmod go-w /etc/secrets/light",
            "chmod 600",
        ),
        ("chown nobody", "belongs to user 65534; chown root /etc/secrets/light", "chown root"),
    ] {
        sh(machine, &format!("{change} {FILE}"));
        refuse(machine, words);
        sh(machine, &format!("{mend} {FILE}"));
        start(machine);
    }
}
