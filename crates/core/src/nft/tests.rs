use super::{HostLink, deny_all, host_addresses, host_table, namespace_table, quote};
use crate::network::{Allowed, Network, Policy, PortRange, Protocol};

fn statements(text: &str) -> Vec<&str> {
    text.lines().filter(|l| !l.starts_with(['\t', '#', '}']) && !l.is_empty()).collect()
}

fn network(policy: Policy) -> Network {
    let whole =
        |cidr: &str| Allowed { cidr: cidr.parse().unwrap(), protocol: None, ports: Vec::new() };
    let ports = vec![PortRange { first: 443, last: 443 }];
    let narrow =
        |cidr| Allowed { ports: ports.clone(), protocol: Some(Protocol::Tcp), ..whole(cidr) };
    let allow = match policy {
        Policy::Internet | Policy::AllowList => {
            vec![whole("192.168.1.0/24"), narrow("10.0.0.0/8"), narrow("2001:db8::/32")]
        }
        Policy::None | Policy::Unrestricted => Vec::new(),
    };
    Network { policy, allow, ..Network::default() }
}

#[test]
fn replaces_the_whole_table_in_one_transaction() {
    for policy in Policy::ALL {
        let text = namespace_table("foo", &network(policy));
        assert_eq!(
            statements(&text),
            ["table inet opencode", "delete table inet opencode", "table inet opencode {"]
        );
        assert!(!text.contains("destroy"));
        assert!(text.ends_with("}\n"));
    }
}

#[test]
fn closes_every_hook_under_every_policy() {
    for policy in Policy::ALL {
        let text = namespace_table("foo", &network(policy));
        for hook in ["input", "forward", "output"] {
            let line = format!("type filter hook {hook} priority filter; policy drop;");
            assert_eq!(text.matches(&line).count(), 1, "{policy} {hook}");
        }
        assert!(text.contains("iif \"lo\" accept") && text.contains("oif \"lo\" accept"));
    }
}

#[test]
fn without_a_link_nothing_but_loopback_is_accepted() {
    let text = deny_all("foo");
    assert_eq!(text, namespace_table("foo", &network(Policy::None)));
    assert_eq!(text.matches(" accept").count(), 2);
    let loopback = text.find("oif \"lo\" accept");
    let refusal = text.find("counter reject with icmpx admin-prohibited comment \"foo\"");
    assert!(loopback.is_some() && loopback < refusal);
}

#[test]
fn originals_are_judged_on_every_packet() {
    for policy in Policy::ALL {
        let text = namespace_table("foo", &network(policy));
        for line in text.lines().filter(|line| line.contains("ct state")) {
            assert!(line.contains("ct direction reply"), "{line}");
        }
        let output = text.split("chain output").nth(1).unwrap();
        assert!(!output.contains(" ct "), "{policy}");
    }
}

#[test]
fn the_host_is_refused_before_anything_is_allowed() {
    for policy in [Policy::Internet, Policy::AllowList, Policy::Unrestricted] {
        let text = namespace_table("foo", &network(policy));
        for (chain, refused, allowed) in [
            ("chain output {", "daddr @host", "daddr @allow"),
            ("chain answers {", "saddr @host", "saddr @allow"),
        ] {
            let rules = text
                .split(chain)
                .nth(1)
                .unwrap()
                .split(
                    "
	}",
                )
                .next()
                .unwrap();
            let host = rules.rfind(refused).unwrap();
            let first = rules.find(allowed).or_else(|| rules.find("\t\taccept")).unwrap();
            assert!(host < first, "{policy} {chain}");
        }
    }
}

#[test]
fn one_rule_for_each_set_however_long_it_is() {
    let mut many = network(Policy::AllowList);
    let short = namespace_table("foo", &many).matches(" accept\n").count();
    many.allow = (0..10_000u32)
        .map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n * 512);
            let mut one = many.allow[usize::from(n % 2 == 0)].clone();
            one.cidr = format!("{ip}/24").parse().unwrap();
            one
        })
        .chain(network(Policy::AllowList).allow)
        .collect();
    assert_eq!(namespace_table("foo", &many).matches(" accept\n").count(), short);
}

#[test]
fn fills_the_hosts_sets() {
    let nets: Vec<ipnet::IpNet> =
        ["10.219.0.0/16", "192.168.1.2/32", "10.219.0.4/32", "fd00:1::/48"]
            .map(|net| net.parse().unwrap())
            .to_vec();
    assert_eq!(
        host_addresses(&nets),
        "flush set inet opencode host4\n\
         add element inet opencode host4 {\n\t10.219.0.0/16,\n\t192.168.1.2,\n}\n\
         flush set inet opencode host6\n\
         add element inet opencode host6 {\n\tfd00:1::/48,\n}\n"
    );
    assert_eq!(
        host_addresses(&[]),
        "flush set inet opencode host4\nflush set inet opencode host6\n"
    );
}

#[test]
fn the_hosts_table_is_replaced_whole() {
    let links = [HostLink {
        host_end: "oc-abc".to_owned(),
        addresses: vec!["10.219.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
    }];
    let text = host_table(&links);
    assert_eq!(
        statements(&text),
        [
            "table inet opencode_host",
            "delete table inet opencode_host",
            "table inet opencode_host {"
        ]
    );
    assert!(text.contains("\t\t\t\"oc-abc\" . 10.219.0.1,\n"));
    assert!(text.contains("\t\t\t\"oc-abc\" . fd00::1,\n"));
    assert!(!host_table(&[]).contains("elements"));
}

#[test]
fn a_hostile_name_stays_inside_its_quotes() {
    assert_eq!(quote("a\"; flush ruleset\n#\\é"), "\"a_; flush ruleset_#__\"");
    assert_eq!(quote(&"x".repeat(300)).len(), 130);
    assert_eq!(deny_all("x\"\n}").lines().count(), deny_all("x").lines().count());
}
