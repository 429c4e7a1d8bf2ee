use super::{
    HostLink, Stubs, deny_all, dormant, host_addresses, host_table, namespace_table, quote,
};
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
fn replaces_the_whole_table() {
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
        for (chain, refused) in [
            ("chain out4 {", "daddr @host4"),
            ("chain out6 {", "daddr @host6"),
            ("chain answers4 {", "saddr @host4"),
            ("chain answers6 {", "saddr @host6"),
        ] {
            let rules = text.split(chain).nth(1).unwrap().split("\n\t}").next().unwrap();
            let host = rules.find(refused).unwrap();
            let accepted = |line: &str| line.ends_with("accept") && !line.contains("hoplimit 255");
            let first = rules.lines().find(|line| accepted(line)).and_then(|line| rules.find(line));
            assert!(first.is_none_or(|first| host < first), "{policy} {chain}");
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
    let stubs = Stubs {
        users: vec![64950],
        resolvers: ["127.0.0.53", "::ffff:192.0.2.1", "fe80::1"]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
    };
    let inner = ["10.219.0.1", "10.219.0.3", "fd00::3"].map(|ip| ip.parse().unwrap());
    let text = host_table(&links, &inner, &stubs);
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
    for element in ["64950", "127.0.0.53", "192.0.2.1", "fe80::1", "10.219.0.3", "fd00::3"] {
        assert!(text.contains(&format!("\t\t\t{element},\n")), "{text}");
    }
    // Before anything of theirs may leave.
    let output = text.split("chain output {").nth(1).unwrap();
    assert!(output.lines().nth(2).unwrap().contains("meta skuid @stubs goto stubs"), "{output}");
    assert!(!host_table(&[], &[], &Stubs::default()).contains("elements"));
}

#[test]
fn a_dormant_table_differs_in_its_name_alone() {
    let nets = ["10.219.0.0/16", "fd00:1::/48"].map(|net| net.parse().unwrap());
    for policy in Policy::ALL {
        let text = namespace_table("foo", &network(policy)) + &host_addresses(&nets);
        let other = dormant(&text, "opencode", "opencode_next");
        assert_eq!(
            other.matches(" inet opencode_next").count(),
            text.matches(" inet ").count() - 1
        );
        assert!(other.contains("table inet opencode_next {\n\tflags dormant;\n\tcomment \"foo"));
        // It is not declared before it is deleted: that would wake it up.
        assert!(!other.lines().any(|line| line == "table inet opencode_next"), "{other}");
        let back = other.replace("\tflags dormant;\n", "").replace("opencode_next", "opencode");
        assert_eq!(back, text.replace("\ntable inet opencode\n", "\n"));
    }
    let host = host_table(&[], &[], &Stubs::default());
    assert_eq!(dormant(&host, "opencode_host", "x").matches(" inet x").count(), 2);
}

#[test]
fn a_hostile_name_stays_inside_its_quotes() {
    assert_eq!(quote("a\"; flush ruleset\n#\\é"), "\"a_; flush ruleset_#__\"");
    assert_eq!(quote(&"x".repeat(300)).len(), 130);
    assert_eq!(deny_all("x\"\n}").lines().count(), deny_all("x").lines().count());
}
