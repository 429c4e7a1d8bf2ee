//! `behind-caddy.toml` and `behind-caddy.Caddyfile`, with Debian's Caddy.

use instances_lab::{Agent, HOST, Internet, Machine, unavailable};

use crate::view::{SOON, done, sh, url};
use crate::{boot, example, reached, reached_by_host};

/// Certificates of Caddy's own, where no authority can be asked for others.
const LOCAL: &str = "{\n\tlocal_certs\n\tskip_install_trust\n}\n\n";
const ROOT: &str = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt";

/// What a client elsewhere in the internet gets, that judges certificates.
fn client(machine: &Machine, options: &str, url: &str) -> String {
    let names = ["website", "billing", "other"]
        .map(|name| format!("--resolve {name}.example.org:443:{}", HOST[0]))
        .join(" ");
    let curl = format!("curl --silent --max-time 20 --cacert {ROOT} {names} {options} {url}");
    sh(machine, &format!("ip netns exec internet {curl} || true"))
}

/// The status of the answer.
fn status(machine: &Machine, options: &str, url: &str) -> String {
    client(machine, &format!("--output /dev/null --write-out '%{{http_code}}' {options}"), url)
}

/// The name and the password of an instance, for curl.
fn user(machine: &Machine, instance: &str) -> String {
    let url = url(machine, instance);
    let (user, _) = url.trim_start_matches("http://").split_once('@').unwrap();
    format!("--user '{user}'")
}

#[test]
fn caddy_leads_each_name_to_its_instance_and_no_agent_reaches_caddy() {
    if unavailable() {
        return;
    }
    let machine = boot("behind-caddy", &["/srv/website", "/srv/billing"]);
    let caddyfile = format!("{LOCAL}{}", example("behind-caddy.Caddyfile"));
    machine.put("/etc/caddy/Caddyfile", caddyfile, 0o644).unwrap();
    let _internet = Internet::attach(&machine, false).unwrap();
    done(&machine, "apply");
    sh(&machine, "systemctl start caddy");
    // Caddy makes the certificate of each name in the background.
    for name in ["website", "billing"] {
        let config = format!("https://{name}.example.org/config");
        let serves = |machine: &Machine| Ok(status(machine, "", &config) == "401");
        machine.wait_until(&format!("caddy serves {name}"), SOON, serves).unwrap();
    }

    // Each name has its own instance, which asks for its own password.
    let users = ["website", "billing"].map(|name| user(&machine, name));
    for (number, name) in ["website", "billing"].iter().enumerate() {
        let path = client(&machine, &users[number], &format!("https://{name}.example.org/path"));
        assert!(path.contains(&format!("\"/srv/{name}\"")), "{name}: {path}");
        let other = &users[1 - number];
        assert_eq!(status(&machine, other, &format!("https://{name}.example.org/path")), "401");
    }
    assert_eq!(status(&machine, &users[0], "https://other.example.org/path"), "000");
    // Nobody elsewhere reaches an instance around Caddy.
    assert_eq!(reached_by_host(&machine, "127.0.0.1:4101"), "connected");
    assert_eq!(
        reached_by_host(&machine, &format!("{0}:4101 {0}:4102", HOST[0])),
        "ECONNREFUSED, ECONNREFUSED"
    );

    events_and_terminals_pass(&machine, &users[0]);

    let caddy = format!("{0}:443 {0}:80 127.0.0.1:443 127.0.0.1:2019 127.0.0.1:4102", HOST[0]);
    assert_eq!(
        reached_by_host(&machine, &caddy),
        "connected, connected, connected, connected, connected"
    );
    let refused = reached(&Agent::connect(&machine, "website").unwrap(), &caddy);
    assert!(!refused.contains("connected"), "{refused}");
}

/// What opencode's page needs beside plain requests: a stream of events that is not held back, and a WebSocket.
fn events_and_terminals_pass(machine: &Machine, user: &str) {
    // curl ends with its own time, while the stream goes on.
    let events = client(
        machine,
        &format!("{user} --no-buffer --max-time 8"),
        "https://website.example.org/event",
    );
    assert!(events.contains("server.connected"), "{events}");
    let made = client(
        machine,
        &format!(
            "{user} --header 'content-type: application/json' --data '{{\"command\":\"/bin/sh\"}}'"
        ),
        "https://website.example.org/pty",
    );
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let connect =
        format!("https://website.example.org/pty/{}/connect", made["id"].as_str().unwrap());
    let upgrade = "--http1.1 --include --max-time 8 --output - --header 'Connection: Upgrade' --header 'Upgrade: websocket' \
                   --header 'Sec-WebSocket-Version: 13' --header 'Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=='";
    let answer = client(
        machine,
        &format!("{user} {upgrade}"),
        &format!("{connect} | head -1 | tr -d '\\r'"),
    );
    assert!(answer.contains(" 101 "), "{answer}");
}
