//! `local-model.toml`.

use instances_lab::{Agent, HOST, Internet, Model, unavailable};

use crate::view::{done, sh};
use crate::{boot, reached, reached_by_host};

#[test]
fn an_agent_works_with_a_model_of_the_host_and_reaches_nothing_else() {
    if unavailable() {
        return;
    }
    let machine = boot("local-model", &["/srv/website"]);
    let mut internet = Internet::attach(&machine, false).unwrap();
    internet.greet("1.1.1.1:8080".parse().unwrap()).unwrap();
    let model = Model::listen_on_host(&machine, 11434).unwrap();
    // Two neighbours of the model: on the loopback, and on all addresses of the host.
    sh(
        &machine,
        "for place in 11435,bind=127.0.0.1 8080; do
             systemd-run --quiet --collect socat TCP4-LISTEN:$place,fork,reuseaddr SYSTEM:'echo secret'
         done
         sleep 0.5",
    );
    done(&machine, "apply");
    let agent = Agent::connect(&machine, "website").unwrap();
    // A turn of the real agent: the model calls a tool, and is told what that said.
    assert_eq!(agent.bash(&model, "echo from $((6 * 7))").unwrap().trim(), "from 42");
    let requests = model.requests();
    assert!(!requests.is_empty());
    for request in &requests {
        assert_eq!(request["model"], "qwen3-coder", "{request}");
    }

    let neighbours =
        format!("127.0.0.1:11435 127.0.0.1:8080 {0}:8080 {0}:11434 1.1.1.1:8080", HOST[0]);
    assert_eq!(
        reached_by_host(&machine, &neighbours),
        "secret, secret, secret, ECONNREFUSED, the internet",
        "nobody answers"
    );
    let refused = reached(&agent, &neighbours);
    assert!(
        !refused.contains("secret")
            && !refused.contains("internet")
            && !refused.contains("connected"),
        "{refused}"
    );
    assert_eq!(reached(&agent, "127.0.0.1:11434"), "connected");
}
