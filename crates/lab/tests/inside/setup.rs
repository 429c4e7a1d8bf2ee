//! How a state comes into being: the operator's scripts, what an agent plants in it, what is missing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use instances_lab::{Agent, Image, Machine, Options, Release, fleet, stand_in, unavailable};

use crate::view::{
    SOON, apply, assert_healthy, done, engine, pid, property, sh, status, wait_for,
    wait_until_served,
};

const STATES: &str = "/var/lib/opencode/instance-state";

fn reason(machine: &Machine, instance: &str) -> String {
    status(machine, instance)["reason"].as_str().unwrap().to_owned()
}

/// Runs the command that a message ends with, exactly as it stands there.
fn mend(machine: &Machine, reason: &str) {
    sh(machine, reason.rsplit_once(": ").unwrap().1);
}

/// What setup noted.
fn noted(machine: &Machine, state: &str) -> String {
    sh(machine, &format!("jq -r .state {state}/.local/share/opencode-instances/state.json"))
}

const SCRIPTS: &str = r#"
[instances.web]
directory = "/srv/web"
listen.port = 4101
path = ["/opt/tools"]
environment.WORD = "two words"
environmentFile = "/etc/secrets/web.env"
settings.username = "the operator"
preInitScript = '''
exec >>seen 2>&1
echo "pre as $(id -un) in $PWD: $WORD, $SECRET, $(tac)"
ls -d .config .cache || true
ls /srv/web /var/lib/opencode/instance-state || true
cat /var/lib/opencode/instance-state/slow/own /srv/other/file || true
for address in 127.0.0.1 192.0.2.9; do
    (exec 3<>/dev/tcp/$address/9999) 2>/dev/null && echo "reached $address" || echo "no $address"
done
'''
postInitScript = '''
exec >>seen 2>&1
echo "post as $(id -un) in $PWD: $(tac)"
readlink .config/opencode/opencode.json
stat -c %a .local/share/opencode .local/state/opencode .cache/opencode
'''

[instances.slow]
directory = "/srv/slow"
listen.port = 4102
autoStart = false
preInitScript = '''
echo pre >>order
if [ -e deaf ]; then trap '' TERM; fi
while [ ! -e go ]; do sleep 0.1; done
'''
postInitScript = "echo post >>order"
"#;

const PREPARE: &str = "
install -D -m 755 /dev/stdin /opt/tools/bin/tac <<'END'
#!/bin/sh
echo from the tools
END
install -d -m 700 /etc/secrets
install -m 600 /dev/stdin /etc/secrets/web.env <<'END'
SECRET=of a file
END
echo secret >/srv/web/project-file
install -D -m 644 /dev/stdin /srv/other/file </dev/null
ip address add 192.0.2.9/32 dev lo
systemd-run --unit=listener --collect nc -l -k 0.0.0.0 9999
";

const SEEN: &str = "pre as opencode-web in /var/lib/opencode/instance-state/web: two words, of a file, from the tools
ls: cannot access '.config': No such file or directory
ls: cannot access '.cache': No such file or directory
ls: cannot access '/srv/web': No such file or directory
/var/lib/opencode/instance-state:
web
cat: /var/lib/opencode/instance-state/slow/own: No such file or directory
cat: /srv/other/file: No such file or directory
no 127.0.0.1
no 192.0.2.9
post as opencode-web in /var/lib/opencode/instance-state/web: from the tools
/etc/opencode-instances/web/config/opencode.json
700
700
700";

#[test]
fn scripts_run_once_and_start_over_when_they_were_cut_short() {
    if unavailable() {
        return;
    }
    let spec = format!("{}{SCRIPTS}", stand_in::DEFAULTS);
    let mut machine = stand_in::boot("scripts", &spec, &["/srv/web", "/srv/slow"]).unwrap();
    sh(&machine, PREPARE);
    // What the scripts are to find closed is open outside.
    let reached = "for a in 127.0.0.1 192.0.2.9; do nc -z $a 9999; done";
    machine.wait_until("the listener", SOON, |machine| Ok(machine.sh(reached)?.success())).unwrap();
    done(&machine, "apply");
    wait_until_served(&machine, "web", SOON);
    once(&machine, &spec);
    failing(&machine, &spec);
    cut_short(&mut machine);
}

fn once(machine: &Machine, spec: &str) {
    let seen = format!("cat {STATES}/web/seen");
    assert_eq!(sh(machine, &seen), SEEN);
    assert_eq!(sh(machine, &format!("stat -c %U {STATES}/web/seen")), "opencode-web");
    assert_eq!(noted(machine, &format!("{STATES}/web")), "initialised");
    done(machine, "restart web");
    assert_eq!(sh(machine, &seen), SEEN);
    let before = pid(machine, "web");
    let said = apply(machine, &spec.replace("echo \"post as", "echo \"changed"));
    assert!(said.contains("change /etc/opencode-instances/web/setup/postInitScript"), "{said}");
    assert!(!said.contains("restart"), "{said}");
    assert_eq!(pid(machine, "web"), before);
    assert_eq!(status(machine, "web")["pendingRestart"], false);
    done(machine, "restart web");
    assert_eq!(sh(machine, &seen), SEEN);
}

fn failing(machine: &Machine, spec: &str) {
    let fails = |post: &str| {
        format!(
            "{spec}\n[instances.fails]\ndirectory = \"/srv/web-two\"\nlisten.port = 4103\n\
             preInitScript = \"echo pre >>order\"\npostInitScript = \"\"\"\n{post}\n\"\"\"\n"
        )
    };
    sh(machine, "mkdir /srv/web-two");
    machine
        .put(fleet::SPEC, fails("echo canary-output; echo post >>order; exit 7"), 0o644)
        .unwrap();
    let words = "postInitScript failed with status 7; its output is in the journal, and the next \
                 start begins anew";
    let stays_down = |command: &str, words: &str| {
        let output = engine(machine, command);
        assert_eq!(output.code(), 1, "{output}");
        assert!(output.stderr.contains(words), "{output}");
        assert_eq!(reason(machine, "fails"), words);
        let main = "opencode-fails.service";
        assert_eq!(property(machine, main, "ExecMainStartTimestampMonotonic"), "0");
        assert_eq!(property(machine, main, "ActiveState"), "inactive");
    };
    stays_down("apply", words);
    let journal = sh(machine, "journalctl -b -o cat -u opencode-setup@fails.service");
    assert!(journal.contains("canary-output") && journal.contains(words), "{journal}");
    let order = format!("tr '\\n' ' ' <{STATES}/fails/order");
    assert_eq!(sh(machine, &order), "pre post");
    stays_down("start fails", words);
    assert_eq!(sh(machine, &order), "pre post pre post");
    machine.put(fleet::SPEC, fails("kill -9 $$"), 0o644).unwrap();
    stays_down(
        "apply",
        "postInitScript was killed by signal 9; its output is in the journal, and the next start \
         begins anew",
    );
    apply(machine, &fails("echo post >>order"));
    wait_until_served(machine, "fails", SOON);
    assert_healthy(machine, "fails");
    assert_eq!(sh(machine, &order), "pre post pre post pre pre post");
    let nothing = done(machine, "apply");
    assert!(nothing.ends_with("nothing to do\n"), "{nothing}");
}

const SETUP: &str = "opencode-setup@slow.service";

/// Stops setup in the middle of its script, and says how long that took.
fn stop(machine: &Machine) -> Duration {
    let began = Instant::now();
    sh(machine, &format!("systemctl stop {SETUP}"));
    let took = began.elapsed();
    assert_eq!(sh(machine, "pgrep -fc '[s]etup/preInitScript' || true"), "0");
    took
}

fn cut_short(machine: &mut Machine) {
    let begin = |machine: &Machine, times: usize| {
        sh(machine, "systemctl start --no-block opencode-slow.service");
        let begun = format!("test $(grep -c pre {STATES}/slow/order) = {times}");
        let what = "the script is in its middle";
        machine.wait_until(what, SOON, |machine| Ok(machine.sh(&begun)?.success())).unwrap();
        assert_eq!(noted(machine, &format!("{STATES}/slow")), "begun");
    };
    begin(machine, 1);
    let found = status(machine, "slow");
    assert_eq!(found["state"], "starting", "{found}");
    assert_eq!(found["reason"], "setup is running", "{found}");
    sh(machine, &format!("kill -9 {}", property(machine, SETUP, "MainPID")));
    wait_for(machine, SETUP, "failed");
    assert_eq!(property(machine, "opencode-slow.service", "ActiveState"), "inactive");
    assert_eq!(sh(machine, "pgrep -fc '[s]etup/preInitScript' || true"), "0");

    begin(machine, 2);
    assert!(stop(machine) < Duration::from_secs(5));
    // One that does not listen has the unit's ten seconds.
    sh(machine, &format!("touch {STATES}/slow/deaf"));
    begin(machine, 3);
    assert!(stop(machine) < Duration::from_secs(25));
    sh(machine, &format!("rm {STATES}/slow/deaf"));

    begin(machine, 4);
    machine.power_cut().unwrap();
    assert_eq!(noted(machine, &format!("{STATES}/slow")), "begun");
    sh(machine, &format!("touch {STATES}/slow/go"));
    done(machine, "start slow");
    wait_until_served(machine, "slow", SOON);
    let order = sh(machine, &format!("tr '\\n' ' ' <{STATES}/slow/order"));
    assert_eq!(order, "pre pre pre pre pre post");
    assert_eq!(noted(machine, &format!("{STATES}/slow")), "initialised");
}

/// A project that is missing, one that the user cannot enter; with the project trusted, and not.
const PROJECTS: &str = r#"
[instances.gone]
directory = "/srv/gone"
listen.port = 4101

[instances.gone-too]
directory = "/srv/gone-too"
listen.port = 4102
trustProject = false

[instances.closed]
directory = "/srv/closed"
listen.port = 4103

[instances.closed-too]
directory = "/srv/closed-too"
listen.port = 4104
trustProject = false

[instances.full]
directory = "/srv/full"
listen.port = 4105
stateDir = "/mnt/small/full"
"#;

#[test]
fn what_is_missing_comes_with_the_command_that_mends_it() {
    if unavailable() {
        return;
    }
    let spec = format!("{}{PROJECTS}", stand_in::DEFAULTS);
    let projects = ["/srv/closed", "/srv/closed-too", "/srv/full"];
    let machine = stand_in::boot("projects", &spec, &projects).unwrap();
    sh(
        &machine,
        "chmod 700 /srv/closed /srv/closed-too
         mkdir /mnt/small && mount -t tmpfs -o size=64m,mode=755 tmpfs /mnt/small",
    );
    let look = "find /srv -printf '%p %i %m %u %g %T@ %C@\\n' | sort; getfacl -pR /srv/closed*";
    let before = sh(&machine, look);
    let output = engine(&machine, "apply");
    assert_eq!(output.code(), 1, "{output}");
    assert_eq!(sh(&machine, look), before);
    wait_until_served(&machine, "full", SOON);
    for (instance, words) in [
        ("gone", "does not exist"),
        ("gone-too", "does not exist"),
        ("closed", "cannot enter"),
        ("closed-too", "cannot enter"),
    ] {
        let main = format!("opencode-{instance}.service");
        machine
            .wait_until("it was tried often enough", SOON, |machine| {
                Ok(["failed", "inactive"].contains(&&*property(machine, &main, "ActiveState")))
            })
            .unwrap();
        let reason = reason(&machine, instance);
        assert!(
            reason.contains(&format!("project directory /srv/{instance}")),
            "{instance}: {reason}"
        );
        assert!(reason.contains(words), "{instance}: {reason}");
        assert!(output.stderr.contains(&reason), "{reason} is not in {output}");
        assert_eq!(sh(&machine, look), before);
    }
    for instance in ["gone", "gone-too", "closed", "closed-too"] {
        mend(&machine, &reason(&machine, instance));
        let mended = sh(&machine, look);
        done(&machine, &format!("start {instance}"));
        wait_until_served(&machine, instance, SOON);
        assert_healthy(&machine, instance);
        assert_eq!(sh(&machine, look), mended);
    }
    nearly_full(&machine);
}

fn nearly_full(machine: &Machine) {
    assert_eq!(reason(machine, "full"), "serving on port 4096");
    sh(
        machine,
        "setpriv --reuid=opencode-full --regid=opencode-full --clear-groups \
         sh -c 'head -c 63m /dev/zero >/mnt/small/full/large'",
    );
    done(machine, "restart full");
    assert_healthy(machine, "full");
    let words = "serving on port 4096; only 0 MiB are left for /mnt/small/full";
    assert_eq!(reason(machine, "full"), words);
}

const HOSTILE: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
settings.username = "the operator"
agents.review = "---\ndescription: x\n---\nReview."
preInitScript = "echo ran >>ran"
"#;

const STATE: &str = "/var/lib/opencode/instance-state/website";

#[test]
fn what_an_agent_plants_in_its_state_leads_nowhere() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("planted", HOSTILE, &["/srv/website"]).unwrap();
    sh(&machine, "echo x >/srv/website/file");
    done(&machine, "apply");
    sh(&machine, "chown -R opencode-website: /srv/website");
    wait_until_served(&machine, "website", SOON);
    a_long_log(&machine);
    adopted(&machine);
    let notes = format!("{STATE}/.local/share/opencode-instances");
    for (plant, words) in [
        (
            "rm -r ~/.config/opencode; ln -s /srv/website ~/.config/opencode",
            format!("{STATE}/.config/opencode is a symbolic link where a directory must be"),
        ),
        (
            "rm -r ~/.config; ln -s /var/tmp ~/.config",
            format!("{STATE}/.config is a symbolic link where a directory must be"),
        ),
        (
            "cd ~/.local/share/opencode-instances; rm state.json; mkfifo state.json",
            format!("{notes}/state.json is not a file"),
        ),
        (
            "cd ~/.local/share/opencode-instances; rm links.json; mkdir -p links.json/x",
            format!("{notes}/links.json is not a file"),
        ),
        (
            "cd ~/.local/share/opencode-instances; truncate -s 1G state.json",
            format!("{notes}/state.json is too long"),
        ),
        (
            "cd ~/.local/share/opencode-instances; rm state.json; ln -s /etc/passwd state.json",
            format!("{notes}/state.json is not a file"),
        ),
        (
            "chmod 500 ~/.config/opencode",
            format!("{STATE}/.config/opencode has no full access for its owner"),
        ),
        (
            "chmod 500 ~/.local/share/opencode-instances",
            format!("{notes} has no full access for its owner"),
        ),
    ] {
        planted(&machine, plant, &words);
    }
    // HOME itself is systemd's to keep.
    agent(&machine).shell("chmod 500 ~").unwrap();
    done(&machine, "restart website");
    assert_eq!(sh(&machine, &format!("cat {STATE}/ran")), "ran");
}

fn agent(machine: &Machine) -> Agent<'_> {
    Agent::connect(machine, "website").unwrap()
}

fn a_long_log(machine: &Machine) {
    let log = format!("{STATE}/.local/share/opencode/log/opencode.log");
    let size =
        |machine: &Machine| -> u64 { sh(machine, &format!("stat -c %s {log}")).parse().unwrap() };
    assert!(size(machine) < 64 << 20);
    agent(machine).shell("truncate -s 65M ~/.local/share/opencode/log/opencode.log").unwrap();
    assert!(size(machine) > 64 << 20);
    let emptied = |machine: &Machine| {
        sleep(Duration::from_secs(1));
        Ok(size(machine) < 1 << 20)
    };
    machine.wait_until("the log is emptied", Duration::from_secs(75), emptied).unwrap();
    agent(machine).shell("true").unwrap();
    // It goes on at the file's new end, and leaves no hole.
    assert!(size(machine) < 1 << 20);
}

/// A state from before there were notes.
fn adopted(machine: &Machine) {
    assert_eq!(sh(machine, &format!("cat {STATE}/ran")), "ran");
    sh(machine, &format!("rm -r {STATE}/.local/share/opencode-instances"));
    done(machine, "restart website");
    wait_until_served(machine, "website", SOON);
    assert_eq!(sh(machine, &format!("cat {STATE}/ran")), "ran");
    assert_eq!(noted(machine, STATE), "initialised");
    // Watched to succeed where no server has been.
    sh(machine, &format!("mv {STATE} {STATE}.used"));
    done(machine, "restart website");
    assert_eq!(sh(machine, &format!("cat {STATE}/ran")), "ran");
    done(machine, "stop website");
    sh(machine, &format!("rm -r {STATE}; mv {STATE}.used {STATE}"));
    done(machine, "start website");
    wait_until_served(machine, "website", SOON);
}

fn planted(machine: &Machine, plant: &str, words: &str) {
    let outside = "find /srv /etc/opencode-instances /etc/passwd -printf '%p %i %m %U %s\\n' | sort; cat /srv/website/file";
    agent(machine).shell(plant).unwrap();
    let before = sh(machine, outside);
    let output = engine(machine, "restart website");
    assert_eq!(output.code(), 1, "{plant}: {output}");
    assert!(output.stderr.contains(words), "{plant}: {output}");
    let reason = reason(machine, "website");
    assert!(reason.starts_with(words), "{plant}: {reason}");
    assert_ne!(property(machine, "opencode-website.service", "ActiveState"), "active");
    assert_eq!(sh(machine, outside), before, "{plant}");
    mend(machine, &reason);
    done(machine, "start website");
    wait_until_served(machine, "website", SOON);
    assert_eq!(sh(machine, outside), before, "{plant}");
    let link = sh(machine, &format!("readlink {STATE}/.config/opencode/opencode.json"));
    assert_eq!(link, "/etc/opencode-instances/website/config/opencode.json", "{plant}");
}

const OLD: &str = r#"
[instances.website]
directory = "/srv/website"
listen.port = 4101
environmentFile = "/etc/secrets/env"
restartOnSecretChange = true
settings.username = "the operator"
enforcedSettings.share = "disabled"
agents.review = "---\ndescription: canary-agent\n---\nReview."
preInitScript = "echo \"pre $SECRET\" >>order"
postInitScript = "readlink .config/opencode/agents/review.md >>order"
"#;

/// It has neither `PrivatePIDs=` nor `OpenFile=`.
#[test]
fn systemd_252_does_the_same() {
    if unavailable() {
        return;
    }
    let image = Image::ensure(Release::Bookworm).unwrap();
    let machine = Machine::boot(&image, &Options::new().name("inside-old").engine()).unwrap();
    sh(
        &machine,
        "mkdir /srv/website; install -D -m 600 /dev/stdin /etc/secrets/env <<'END'\nSECRET=old\nEND",
    );
    apply(&machine, OLD);
    wait_until_served(&machine, "website", SOON);
    assert_healthy(&machine, "website");
    let order = sh(&machine, &format!("cat {STATE}/order"));
    assert_eq!(order, "pre old\n/etc/opencode-instances/website/config/agents/review.md");
    let agent = agent(&machine);
    let config = agent.get("config").unwrap();
    assert_eq!(config["username"], "the operator");
    assert_eq!(config["share"], "disabled");
    assert!(agent.get("agent").unwrap().to_string().contains("canary-agent"));
    assert_eq!(agent.shell("echo \"$SECRET\"").unwrap(), "old\n");
    // Why setup fails is told here, too.
    agent.shell("chmod 500 ~/.config/opencode").unwrap();
    let output = engine(&machine, "restart website");
    assert_eq!(output.code(), 1, "{output}");
    mend(&machine, &reason(&machine, "website"));
    done(&machine, "start website");
    wait_until_served(&machine, "website", SOON);
    let before = pid(&machine, "website");
    sh(
        &machine,
        "echo SECRET=new >/etc/secrets/.new; mv /etc/secrets/.new /etc/secrets/env; chmod 600 /etc/secrets/env",
    );
    machine
        .wait_until("it restarts by itself", SOON, |machine| {
            let now = pid(machine, "website");
            Ok(now != 0 && now != before)
        })
        .unwrap();
    wait_until_served(&machine, "website", SOON);
    assert_eq!(self::agent(&machine).shell("echo \"$SECRET\"").unwrap(), "new\n");
}
