//! Secrets: they arrive, they are renewed, and they are nowhere else.

use std::thread::sleep;
use std::time::Duration;

use instances_lab::{Agent, Machine, Model, fleet, stand_in, unavailable};

use crate::view::{
    SOON, apply, assert_healthy, done, engine, http, pid, property, server, sh, status, url,
    wait_until_served,
};

/// Of the instance's own loopback.
const PORT: u16 = 8080;

const OF_FILE: &str = "canary-environment-6f1c";
const OF_CREDENTIAL: &str = "canary-credential-90ab";
const OF_OPERATOR: &str = "canary-password-41d7";

const SPEC: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
environmentFile = "/var/secrets/env"
credentials.key = "/var/secrets/key"
restartOnSecretChange = true
auth.username = "a team"
auth.passwordFile = "/var/secrets/password"
preInitScript = "test -n \"$CANARY\""

[instances.website.settings]
model = "fake/m"

[instances.website.settings.provider.fake]
npm = "@ai-sdk/openai-compatible"
options = { baseURL = "http://127.0.0.1:8080/v1", apiKey = "{credential:key}" }
models.m = {}

[instances.website.enforcedSettings]
provider.other.options.apiKey = "{credential:key}"

[instances.billing]
directory = "/srv/billing"
listen.port = 4102

[instances.open]
directory = "/srv/open"
listen.port = 4103
package = "/usr/local/bin/stand-in"
auth.enable = false
"#;

fn plant(machine: &Machine) {
    sh(machine, "install -d -m 700 /var/secrets");
    let file = format!("CANARY={OF_FILE}\n");
    for (name, text) in [("env", file.as_str()), ("key", OF_CREDENTIAL), ("password", OF_OPERATOR)]
    {
        machine.put(format!("/var/secrets/{name}"), text, 0o600).unwrap();
    }
}

#[test]
fn secrets_arrive_and_are_nowhere_else() {
    if unavailable() {
        return;
    }
    let projects = ["/srv/website", "/srv/billing", "/srv/open"];
    let machine = stand_in::boot("secrets", SPEC, &projects).unwrap();
    plant(&machine);
    let mut said = vec![engine(&machine, "apply")];
    for instance in ["website", "billing"] {
        wait_until_served(&machine, instance, SOON);
        assert_healthy(&machine, instance);
    }
    let generated = sh(&machine, "cat /var/lib/opencode/instance-auth/billing/password");
    they_arrive(&machine);
    a_name(&machine);
    for command in [
        "status",
        "status --json",
        "logs website --lines 1000",
        "logs billing --lines 1000",
        "check --json",
        "check",
        "plan",
        "plan --json",
        "render",
        "render --json",
        "apply",
        "rotate website",
        "restart website",
    ] {
        said.push(engine(&machine, command));
    }
    said.extend(failures(&machine));
    let said: String = said.iter().map(ToString::to_string).collect();
    rotate(&machine);
    let renewed = sh(&machine, "cat /var/lib/opencode/instance-auth/billing/password");
    let canaries = [OF_FILE, OF_CREDENTIAL, OF_OPERATOR, &generated, &renewed];
    nowhere(&machine, &canaries, &said);
}

fn they_arrive(machine: &Machine) {
    let agent = Agent::connect(machine, "website").unwrap();
    let config = agent.get("config").unwrap();
    assert_eq!(config["provider"]["fake"]["options"]["apiKey"], OF_CREDENTIAL);
    assert_eq!(config["provider"]["other"]["options"]["apiKey"], OF_CREDENTIAL);
    let link =
        sh(machine, "cat /var/lib/opencode/instance-state/website/.config/opencode/opencode.json");
    assert!(link.contains("{file:/run/credentials/opencode-website.service/key}"), "{link}");
    let model = Model::listen(machine, "website", PORT).unwrap();
    assert_eq!(agent.bash(&model, "echo $CANARY").unwrap(), format!("{OF_FILE}\n"));
}

/// Readiness and watchdog ask with it, and nobody gets in with the one that opencode has by itself.
fn a_name(machine: &Machine) {
    let address = url(machine, "website");
    assert!(address.starts_with("http://a%20team:canary-password"), "{address}");
    let code = |user: &str, password: &str| {
        let user = format!("{user}:{password}");
        let ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-u", &user];
        let argv = ask.into_iter().chain(["http://127.0.0.1:4101/config"]);
        machine.run(argv).unwrap().stdout
    };
    assert_eq!(code("a team", OF_OPERATOR), "200");
    assert_eq!(code("opencode", OF_OPERATOR), "401");
    assert_eq!(code("a team", "wrong"), "401");
    let main = "opencode-website.service";
    let fed = |machine: &Machine| property(machine, main, "WatchdogTimestampMonotonic");
    let (server, before) = (pid(machine, "website"), fed(machine));
    let again = |machine: &Machine| Ok(fed(machine) != before);
    machine.wait_until("the watchdog is fed", Duration::from_secs(20), again).unwrap();
    assert_eq!(pid(machine, "website"), server);
    assert_eq!(status(machine, "website")["reason"], "serving on port 4096");
}

/// What is said when something about the secrets is wrong.
fn failures(machine: &Machine) -> Vec<instances_lab::Output> {
    let mut said = Vec::new();
    for (breaks, mends) in [
        ("chmod 644 /var/secrets/env", "chmod 600 /var/secrets/env"),
        ("chmod 644 /var/secrets/key", "chmod 600 /var/secrets/key"),
        ("echo more >>/var/secrets/password", "true"),
        ("sed -i s/$/more/ /var/secrets/key; truncate -s 0 /var/secrets/password", "true"),
    ] {
        sh(machine, breaks);
        for command in ["apply", "restart website", "status", "url website", "status --json"] {
            let mut output = engine(machine, command);
            if command.starts_with("url") {
                // The one that tells it.
                output.stdout.clear();
            }
            said.push(output);
        }
        sh(machine, mends);
        plant(machine);
        done(machine, "restart website");
    }
    let broken = SPEC.replace("credentials.key", "credentials.kex");
    machine.put("/root/broken.toml", broken, 0o644).unwrap();
    said.push(engine(machine, "apply /root/broken.toml"));
    wait_until_served(machine, "website", SOON);
    said
}

fn rotate(machine: &Machine) {
    let old = url(machine, "billing");
    assert_eq!(http(machine, &format!("{old}/config"), 20), 200);
    let before = pid(machine, "billing");
    let said = done(machine, "rotate billing");
    assert_eq!(said, "`opencode-instances url billing` shows the new password\n");
    assert_ne!(pid(machine, "billing"), before);
    wait_until_served(machine, "billing", SOON);
    assert_ne!(url(machine, "billing"), old);
    assert_eq!(http(machine, &format!("{old}/config"), 20), 401);
    let mode = "stat -c '%U %a' /var/lib/opencode/instance-auth/billing/password";
    assert_eq!(sh(machine, mode), "root 600");
    let refused = |instance: &str| {
        let output = engine(machine, &format!("rotate {instance}"));
        assert_eq!(output.code(), 1, "{output}");
        output.stderr
    };
    assert_eq!(
        refused("website"),
        "error: the password of `website` is yours: write another one to /var/secrets/password, and \
         run `opencode-instances restart website`\n"
    );
    assert_eq!(refused("open"), "error: `open` asks for no password: `auth.enable` is off\n");
    // A stopped one stays stopped, and has the new one when it starts.
    done(machine, "stop billing");
    done(machine, "rotate billing");
    assert_eq!(property(machine, "opencode-billing.service", "ActiveState"), "inactive");
    done(machine, "start billing");
    wait_until_served(machine, "billing", SOON);
    let told = sh(machine, "opencode-instances url --json billing | jq -r .password");
    assert_eq!(told, sh(machine, "cat /var/lib/opencode/instance-auth/billing/password"));
    // More often than a server may start by itself.
    for _ in 0..7 {
        done(machine, "rotate billing");
        assert_eq!(property(machine, "opencode-billing.service", "ActiveState"), "active");
    }
    wait_until_served(machine, "billing", SOON);
}

/// Everything that somebody may read who is not to know a secret, or that is kept.
fn nowhere(machine: &Machine, canaries: &[&str], said: &str) {
    let nowhere = |place: &str, text: &str| {
        for canary in canaries {
            let found = text.lines().find(|line| line.contains(canary));
            assert_eq!(found, None, "{canary} is in {place}");
        }
    };
    nowhere("what commands say", said);
    for (place, look) in [
        (
            "files",
            "find /etc /run/systemd /run/opencode* /usr/lib/systemd /tmp /var/tmp -type f -exec cat -- {} +",
        ),
        ("systemctl show", "systemctl show --all 'opencode*'"),
        (
            "systemctl cat",
            "systemctl cat $(systemctl list-units --all --plain --no-legend 'opencode*' | cut -d' ' -f1)",
        ),
        ("command lines", "cat /proc/[0-9]*/cmdline"),
        ("the journal", "journalctl --all -o export"),
    ] {
        let output = machine.run_for(fleet::PATIENCE, ["/bin/sh", "-c", look]).unwrap();
        assert!(output.stdout.len() > 100, "{place}: {output}");
        nowhere(place, &format!("{}{}", output.stdout, output.stderr));
    }
    // The look finds what is there.
    for canary in canaries.iter().take(3) {
        let found = sh(machine, &format!("grep -rl {canary} /var/secrets"));
        assert!(!found.is_empty());
    }
}

const RENEWED: &str = r#"
[instances.web]
directory = "/srv/web"
listen.port = 4101
environmentFile = "/run/secrets/env"
credentials.key = "/run/secrets/key"
auth.passwordFile = "/run/secrets/password"
restartOnSecretChange = true

[instances.still]
directory = "/srv/still"
listen.port = 4102
environmentFile = "/run/secrets/env"
credentials.key = "/run/secrets/key"
auth.passwordFile = "/run/secrets/password"

[instances.plain]
directory = "/srv/plain"
listen.port = 4103
environmentFile = ["/etc/plain-secrets/one", "/etc/plain-secrets/two"]
restartOnSecretChange = true
"#;

#[test]
fn a_server_restarts_for_new_secrets() {
    if unavailable() {
        return;
    }
    let spec = format!("{}{RENEWED}", stand_in::DEFAULTS);
    let machine =
        stand_in::boot("renewed", &spec, &["/srv/web", "/srv/still", "/srv/plain"]).unwrap();
    sh(&machine, "install -d -m 0751 /run/secrets.d; install -d -m 700 /etc/plain-secrets");
    generation(&machine, 1, "one");
    plain(&machine, "one", "1");
    plain(&machine, "two", "1");
    apply(&machine, &spec);
    for instance in ["web", "still", "plain"] {
        wait_until_served(&machine, instance, SOON);
    }
    assert_eq!(seen(&machine, "web"), "one one one");
    generations(&machine);
    plain_files(&machine);
    while_nobody_looks(&machine);
    while_it_is_stopped(&machine);
    nothing_is_lost_on_the_way(&machine);
}

/// A generation of secrets as sops-nix and agenix make it: complete, then linked, then alone.
fn generation(machine: &Machine, number: u32, value: &str) {
    sh(
        machine,
        &format!(
            "cd /run/secrets.d; install -d -m 0751 {number}
             printf 'WORD={value}\\n' >{number}/env
             printf {value} >{number}/key
             printf {value} >{number}/password
             chmod 0400 {number}/*
             ln -sfn /run/secrets.d/{number} /run/secrets.tmp
             mv -T /run/secrets.tmp /run/secrets
             for old in *; do [ $old = {number} ] || rm -r $old; done"
        ),
    );
}

/// What a server was given: a variable of the file, the credential, the password.
fn seen(machine: &Machine, instance: &str) -> String {
    let environ = format!("tr '\\0' '\\n' </proc/{}/environ", server(machine, instance));
    let environ = sh(machine, &environ);
    let variable = |name: &str| {
        environ.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    let key = format!("cat /run/credentials/opencode-{instance}.service/key");
    [variable("WORD="), sh(machine, &key), variable("OPENCODE_SERVER_PASSWORD=")].join(" ")
}

/// Nothing while there is no server: it may restart while it is looked at.
fn words(machine: &Machine) -> String {
    let words = "main=$(systemctl show -P MainPID opencode-plain); \
                 tr '\\0' '\\n' </proc/$(pgrep -o -P $main)/environ | grep -E '^(ONE|TWO)=' | sort | tr '\\n' ' '";
    machine.sh(words).unwrap().stdout.trim_end().to_owned()
}

/// Waits until another server runs than the one with this process.
fn wait_for_another(machine: &Machine, instance: &str, before: u64) {
    let main = format!("opencode-{instance}.service");
    let another = |machine: &Machine| {
        let now = pid(machine, instance);
        let active = property(machine, &main, "ActiveState") == "active";
        Ok(active && now != 0 && now != before)
    };
    machine.wait_until("it restarts by itself", Duration::from_secs(20), another).unwrap();
}

fn generations(machine: &Machine) {
    let still = pid(machine, "still");
    // More often than a server may start by itself.
    for (number, value) in (2..).zip(["two", "three", "four", "five", "six", "seven", "eight"]) {
        let before = pid(machine, "web");
        generation(machine, number, value);
        wait_for_another(machine, "web", before);
        assert_eq!(seen(machine, "web"), [value; 3].join(" "));
        wait_until_served(machine, "web", SOON);
    }
    assert_eq!(pid(machine, "still"), still);
    assert_eq!(seen(machine, "still"), "one one one");
    // A generation with nothing new in it.
    let before = pid(machine, "web");
    generation(machine, 9, "eight");
    sleep(Duration::from_secs(5));
    assert_eq!(pid(machine, "web"), before);
}

/// Writes beside a file and puts it in its place.
fn plain(machine: &Machine, name: &str, value: &str) {
    sh(
        machine,
        &format!(
            "cd /etc/plain-secrets; echo {}={value} >.new; chmod 400 .new; mv .new {name}",
            name.to_uppercase()
        ),
    );
}

fn plain_files(machine: &Machine) {
    assert_eq!(words(machine), "ONE=1 TWO=1");
    let before = pid(machine, "plain");
    plain(machine, "one", "2");
    sleep(Duration::from_millis(300));
    plain(machine, "two", "2");
    wait_for_another(machine, "plain", before);
    machine.wait_until("both arrive", SOON, |machine| Ok(words(machine) == "ONE=2 TWO=2")).unwrap();
    // Written in place.
    sleep(Duration::from_secs(3));
    let before = pid(machine, "plain");
    sh(machine, "echo ONE=3 >/etc/plain-secrets/one");
    wait_for_another(machine, "plain", before);
    assert_eq!(words(machine), "ONE=3 TWO=2");
}

/// The watcher alone ends and comes back: by itself, and as a switch of NixOS restarts it.
fn while_nobody_looks(machine: &Machine) {
    const WATCHER: &str = "opencode-secrets@plain.service";
    let stop = format!("systemctl kill --signal=STOP {WATCHER}");
    let comes_back = [
        format!("systemctl kill --signal=KILL {WATCHER}"),
        format!("systemctl kill --signal=KILL {WATCHER}; systemctl restart {WATCHER}"),
    ];
    for (number, comes_back) in comes_back.iter().enumerate() {
        let before = pid(machine, "plain");
        let watcher = property(machine, WATCHER, "MainPID");
        sh(machine, &format!("{stop}; {comes_back}"));
        sleep(Duration::from_secs(4));
        assert_ne!(property(machine, WATCHER, "MainPID"), watcher);
        assert_eq!(pid(machine, "plain"), before, "nothing is new");
        sh(
            machine,
            &format!("{stop}; echo ONE=away{number} >/etc/plain-secrets/one; {comes_back}"),
        );
        wait_for_another(machine, "plain", before);
        assert_eq!(words(machine), format!("ONE=away{number} TWO=2"));
        sleep(Duration::from_secs(3));
    }
    let kept = "stat -c '%U %a' /run/opencode-secrets@plain /run/opencode-secrets@plain/given.json";
    assert_eq!(sh(machine, kept), "root 700\nroot 600");
    let restarted = pid(machine, "plain");
    sleep(Duration::from_secs(3));
    assert_eq!(pid(machine, "plain"), restarted, "once for each");
}

fn while_it_is_stopped(machine: &Machine) {
    let main = "opencode-web.service";
    sh(machine, &format!("systemctl stop {main}"));
    generation(machine, 10, "ten");
    sleep(Duration::from_secs(5));
    assert_eq!(property(machine, main, "ActiveState"), "inactive");
    done(machine, "start web");
    assert_eq!(seen(machine, "web"), "ten ten ten");
}

/// A file that is gone for a while, or that others could read, does not take the server along.
fn nothing_is_lost_on_the_way(machine: &Machine) {
    let before = pid(machine, "plain");
    sh(machine, "mv /etc/plain-secrets/one /etc/plain-secrets/away");
    sleep(Duration::from_secs(5));
    assert_eq!(pid(machine, "plain"), before);
    sh(
        machine,
        "echo ONE=4 >/etc/plain-secrets/away; chmod 644 /etc/plain-secrets/away
        mv /etc/plain-secrets/away /etc/plain-secrets/one",
    );
    sleep(Duration::from_secs(5));
    assert_eq!(pid(machine, "plain"), before);
    let log = sh(machine, "journalctl -b -o cat -u opencode-secrets@plain.service");
    assert!(log.contains("can be read by everybody (mode 0644)"), "{log}");
    sh(machine, "chmod 400 /etc/plain-secrets/one");
    wait_for_another(machine, "plain", before);
    assert_eq!(words(machine), "ONE=4 TWO=2");
}
