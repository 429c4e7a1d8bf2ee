//! The real server: what it had when it was kept is there again, and what came later is not.

use instances_lab::{Agent, fleet, unavailable};

use crate::view::{assert_healthy, done, pid, sh, wait_until_served};
use crate::{STATES, refused};

const SPEC: &str = r#"
[instances.web]
directory = "/srv/web"
listen.port = 4101
preInitScript = "echo ran >>init"
"#;

#[test]
fn a_session_that_was_kept_while_the_server_ran_comes_back() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("backup-real", SPEC, &["/srv/web"]).unwrap();
    done(&machine, "apply");
    let titles = |agent: &Agent<'_>| -> Vec<String> {
        let sessions = agent.get("session").unwrap();
        let all = sessions.as_array().unwrap().iter();
        all.map(|one| one["title"].as_str().unwrap().to_owned()).collect()
    };
    let say = |agent: &Agent<'_>, title: &str| {
        agent.post("session", &serde_json::json!({ "title": title })).unwrap();
    };
    let agent = Agent::connect(&machine, "web").unwrap();
    say(&agent, "kept");
    let before = pid(&machine, "web");
    done(&machine, "backup web /root/web.backup");
    assert_eq!(pid(&machine, "web"), before, "the server was restarted");
    assert_eq!(sh(&machine, "stat -c '%U %a' /root/web.backup"), "root 600");
    let version = "zstd -dc /root/web.backup | tar -xO manifest.json | jq -r .opencode";
    assert_eq!(sh(&machine, version), instances_lab::install::OPENCODE_VERSION);
    assert!(refused(&machine, "backup web /root/web.backup").contains("--force"));
    say(&agent, "later");
    assert!(titles(&agent).contains(&"later".to_owned()));

    let said = refused(&machine, "restore web /root/web.backup");
    assert!(said.contains("opencode-instances stop web"), "{said}");
    done(&machine, "stop web");
    let said = done(&machine, "restore web /root/web.backup");
    let aside = sh(&machine, &format!("ls -d {STATES}/.web.opencode-before-*"));
    assert!(said.contains(&aside), "{said}");
    assert_eq!(sh(&machine, &format!("stat -c '%U %a' {aside}")), "root 700");
    assert_eq!(sh(&machine, &format!("stat -c '%U %a' {STATES}/web")), "opencode-web 700");
    done(&machine, "start web");
    wait_until_served(&machine, "web", fleet::PATIENCE);
    assert_healthy(&machine, "web");
    let agent = Agent::connect(&machine, "web").unwrap();
    let found = titles(&agent);
    assert!(found.contains(&"kept".to_owned()), "{found:?}");
    assert!(!found.contains(&"later".to_owned()), "{found:?}");
    assert_eq!(sh(&machine, &format!("cat {STATES}/web/init")), "ran", "the scripts ran again");

    done(&machine, "restore web --forget");
    assert_eq!(sh(&machine, &format!("ls -A {STATES}")), "web");
    // On a host that never had it, by a pipe.
    let fresh = format!(
        "opencode-instances stop web; rm -r {STATES}/web; \
         opencode-instances restore web - </root/web.backup 2>&1; opencode-instances start web"
    );
    assert!(!sh(&machine, &fresh).contains("the state before"));
    let agent = Agent::connect(&machine, "web").unwrap();
    assert!(titles(&agent).contains(&"kept".to_owned()));
}
