//! What other tables of the host do to packets of instances, as `nft -j list ruleset` shows them.
//!
//! A packet of which some things are known goes through each base chain. A rule matches it, or does not, or
//! nobody can say: then it may have accepted or dropped, and the next rule is looked at.

use serde_json::Value;

use crate::layout::NFT_HOST_TABLE;
use crate::nft::LINK_PREFIX;

/// The deepest jump that is followed: the kernel's own limit.
const DEEPEST: usize = 16;

/// A packet of TCP, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where it comes in; `None` where that may be any but a link of an instance.
    pub from: Option<&'a str>,
    /// Where it goes out; the same. Nothing for one that is for the host.
    pub to: Option<&'a str>,
    /// Whether it is an answer.
    pub is_answer: bool,
    /// The port that it is for.
    pub port: Option<u16>,
}

/// Whom a table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// firewalld.
    Firewalld,
    /// ufw.
    Ufw,
    /// Docker.
    Docker,
    /// Whoever it is.
    Other,
}

/// A base chain that does not let a packet pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Whose it is.
    pub owner: Owner,
    /// Whether a rule of it may let the packet pass after all.
    pub perhaps: bool,
}

/// Whether a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    Perhaps,
}

impl Match {
    fn known(matches: bool) -> Self {
        if matches { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }

    fn any(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::No, |one, other| match (one, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            _ => Self::Perhaps,
        })
    }
}

/// How the way through a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accept,
    Drop,
    GoOn,
}

/// The base chains at a hook that stop a packet, but for those of our own tables.
pub fn stops(ruleset: &Value, hook: &str, packet: Packet<'_>) -> Vec<Stop> {
    let list = ruleset.get("nftables").and_then(Value::as_array);
    let objects: Vec<&Value> = list.into_iter().flatten().collect();
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    chains
        .filter(|chain| {
            text(chain, "hook") == hook
                && text(chain, "type") == "filter"
                && matches!(text(chain, "family"), "ip" | "ip6" | "inet")
                && !text(chain, "table").starts_with(NFT_HOST_TABLE)
        })
        .filter_map(|chain| stop(&objects, chain, packet))
        .collect()
}

fn stop(objects: &[&Value], chain: &Value, packet: Packet<'_>) -> Option<Stop> {
    let place =
        Place { objects, family: text(chain, "family"), table: text(chain, "table"), packet };
    let mut perhaps = false;
    let fate = place.through(text(chain, "name"), &mut perhaps, 0);
    let drops = match fate {
        Fate::Accept => false,
        Fate::Drop => true,
        Fate::GoOn => text(chain, "policy") == "drop",
    };
    drops.then(|| Stop {
        family: place.family.to_owned(),
        table: place.table.to_owned(),
        chain: text(chain, "name").to_owned(),
        owner: place.owner(),
        perhaps,
    })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A table that a packet goes through.
struct Place<'a> {
    objects: &'a [&'a Value],
    family: &'a str,
    table: &'a str,
    packet: Packet<'a>,
}

impl Place<'_> {
    fn is_of_it(&self, object: &Value) -> bool {
        text(object, "family") == self.family && text(object, "table") == self.table
    }

    fn owner(&self) -> Owner {
        if self.table == "firewalld" {
            return Owner::Firewalld;
        }
        let chains = self.objects.iter().filter_map(|object| object.get("chain"));
        let mut owner = Owner::Other;
        for chain in chains.filter(|chain| self.is_of_it(chain)) {
            match text(chain, "name") {
                // Docker's own chain for rules like those, which stands before ufw's.
                "DOCKER-USER" => return Owner::Docker,
                name if name.starts_with("ufw-") || name.starts_with("ufw6-") => owner = Owner::Ufw,
                _ => {}
            }
        }
        owner
    }

    fn through(&self, chain: &str, perhaps: &mut bool, depth: usize) -> Fate {
        if depth > DEEPEST {
            *perhaps = true;
            return Fate::GoOn;
        }
        let rules = self.objects.iter().filter_map(|object| object.get("rule"));
        for rule in rules.filter(|rule| self.is_of_it(rule) && text(rule, "chain") == chain) {
            let (mut matches, mut strange) = (Match::Yes, false);
            let statements = rule.get("expr").and_then(Value::as_array);
            for (name, value) in
                statements.into_iter().flatten().filter_map(Value::as_object).flatten()
            {
                if matches == Match::No {
                    break;
                }
                match name.as_str() {
                    "match" => matches = matches.and(self.packet.matches(value)),
                    // It changes nothing of what is looked at here.
                    "counter" | "comment" | "log" | "mangle" | "notrack" | "flow" => {}
                    "accept" | "drop" | "reject" | "return" | "jump" | "goto" => {
                        match self.verdict(name, value, matches, perhaps, depth) {
                            Some(fate) => return fate,
                            None => strange = false,
                        }
                        break;
                    }
                    // A match that nft cannot show, or a verdict.
                    _ => (matches, strange) = (matches.and(Match::Perhaps), true),
                }
            }
            *perhaps |= strange && matches != Match::No;
        }
        Fate::GoOn
    }

    /// The end of the way, if the verdict is one.
    fn verdict(
        &self,
        name: &str,
        value: &Value,
        matches: Match,
        perhaps: &mut bool,
        depth: usize,
    ) -> Option<Fate> {
        let fate = match name {
            "accept" => Fate::Accept,
            "drop" | "reject" => Fate::Drop,
            "return" => Fate::GoOn,
            _ => {
                let fate = self.through(text(value, "target"), perhaps, depth + 1);
                if fate == Fate::GoOn && name == "jump" {
                    return None;
                }
                fate
            }
        };
        if matches == Match::Yes {
            return Some(fate);
        }
        // What may not come here cannot be said to be dropped, and may be accepted.
        *perhaps |= fate == Fate::Accept || name == "return" || name == "goto";
        None
    }
}

impl Packet<'_> {
    fn matches(self, value: &Value) -> Match {
        let (Some(left), Some(right)) = (value.get("left"), value.get("right")) else {
            return Match::Perhaps;
        };
        let found = if let Some(key) = left.pointer("/meta/key").and_then(Value::as_str) {
            self.meta(key, right)
        } else if left.pointer("/ct/key").and_then(Value::as_str) == Some("state") {
            let mine = if self.is_answer { "established" } else { "new" };
            each(right, &|one| Match::known(one.as_str() == Some(mine)))
        } else if let Some(protocol) = left.pointer("/payload/protocol").and_then(Value::as_str) {
            let field = left.pointer("/payload/field").and_then(Value::as_str);
            self.payload(protocol, field.unwrap_or_default(), right)
        } else if let Some(fib) = left.get("fib") {
            has_way_back(fib, right)
        } else {
            Match::Perhaps
        };
        if text(value, "op") == "!=" { found.not() } else { found }
    }

    fn meta(self, key: &str, right: &Value) -> Match {
        match key {
            "iifname" | "iif" => each(right, &|one| named(self.from, one)),
            "oifname" | "oif" => each(right, &|one| named(self.to, one)),
            "l4proto" => each(right, &|one| {
                Match::known(one.as_str() == Some("tcp") || one.as_u64() == Some(6))
            }),
            _ => Match::Perhaps,
        }
    }

    fn payload(self, protocol: &str, field: &str, right: &Value) -> Match {
        match (protocol, field) {
            ("udp" | "icmp" | "icmpv6" | "sctp" | "dccp" | "esp" | "ah", _) => Match::No,
            ("ip", "protocol") | ("ip6", "nexthdr") => self.meta("l4proto", right),
            ("tcp" | "th", "dport") => match self.port {
                Some(port) => each(right, &|one| is_port(port, one)),
                None => Match::Perhaps,
            },
            _ => Match::Perhaps,
        }
    }
}

/// A reverse path filter asks whether there is a way back to where a packet comes from. There is one: an instance has its
/// link, and an answer comes by the way that was taken.
fn has_way_back(fib: &Value, right: &Value) -> Match {
    let is_source = |flag: &Value| flag.as_str() == Some("saddr");
    let of_source = match fib.get("flags") {
        Some(Value::Array(flags)) => flags.iter().any(is_source),
        Some(flag) => is_source(flag),
        None => false,
    };
    // Newer versions of nft call the result `check`.
    let asks = of_source && matches!(text(fib, "result"), "oif" | "check");
    right.as_bool().filter(|_| asks).map_or(Match::Perhaps, Match::known)
}

/// Whether one of the values matches: a single one, a list, or a set that is written out.
fn each(right: &Value, matches: &dyn Fn(&Value) -> Match) -> Match {
    let list = right.get("set").unwrap_or(right);
    match list {
        Value::Array(all) => Match::any(all.iter().map(matches)),
        // The name of a set, whose elements are not looked at.
        Value::String(name) if name.starts_with('@') => Match::Perhaps,
        one => matches(one),
    }
}

fn is_port(port: u16, value: &Value) -> Match {
    if let Some([first, last]) = value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        let between = |(first, last)| first <= u64::from(port) && u64::from(port) <= last;
        return match first.as_u64().zip(last.as_u64()) {
            Some(range) => Match::known(between(range)),
            None => Match::Perhaps,
        };
    }
    match value.as_u64() {
        Some(number) => Match::known(number == u64::from(port)),
        None => Match::Perhaps,
    }
}

/// Whether an interface has the name, which may end in `*`.
fn named(interface: Option<&str>, value: &Value) -> Match {
    let Some(pattern) = value.as_str() else { return Match::Perhaps };
    match (interface, pattern.strip_suffix('*')) {
        (Some(name), Some(start)) => Match::known(name.starts_with(start)),
        (Some(name), None) => Match::known(name == pattern),
        (None, _) if pattern.starts_with(LINK_PREFIX) => Match::No,
        (None, _) => Match::Perhaps,
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "what `json!` makes is passed on as it is")]
mod tests {
    use super::*;
    use serde_json::json;

    const OUT: Packet<'_> =
        Packet { from: Some("oc-abc"), to: Some("eth0"), is_answer: false, port: Some(443) };

    fn base(hook: &str, policy: &str) -> Value {
        json!({ "chain": {
            "family": "inet", "table": "t", "name": "c", "type": "filter", "hook": hook, "prio": 0,
            "policy": policy,
        }})
    }

    fn rule(chain: &str, expr: Value) -> Value {
        json!({ "rule": { "family": "inet", "table": "t", "chain": chain, "expr": expr } })
    }

    fn is(left: Value, right: Value) -> Value {
        json!({ "match": { "op": "==", "left": left, "right": right } })
    }

    fn meta(key: &str, right: Value) -> Value {
        is(json!({ "meta": { "key": key } }), right)
    }

    fn stops_of(policy: &str, rules: &[Value], packet: Packet<'_>) -> Option<bool> {
        let mut all = vec![base("forward", policy)];
        all.extend(rules.iter().cloned());
        let found = stops(&json!({ "nftables": all }), "forward", packet);
        assert!(found.len() < 2);
        found.first().map(|stop| stop.perhaps)
    }

    #[test]
    fn a_packet_goes_through_rule_by_rule() {
        let accept = json!({ "accept": null });
        let drop = json!({ "drop": null });
        let state = |states: Value| is(json!({ "ct": { "key": "state" } }), states);
        let ours = meta("iifname", json!("oc-*"));
        let source =
            is(json!({ "payload": { "protocol": "ip", "field": "saddr" } }), json!("10.0.0.1"));
        for (policy, rules, expected) in [
            ("accept", vec![], None),
            ("drop", vec![], Some(false)),
            ("accept", vec![rule("c", json!([drop]))], Some(false)),
            ("accept", vec![rule("c", json!([{ "counter": {} }, { "reject": {} }]))], Some(false)),
            ("drop", vec![rule("c", json!([ours, accept]))], None),
            ("drop", vec![rule("c", json!([meta("oifname", json!("oc-*")), accept]))], Some(false)),
            (
                "drop",
                vec![rule("c", json!([state(json!(["established", "related"])), accept]))],
                Some(false),
            ),
            ("drop", vec![rule("c", json!([state(json!({ "set": ["new"] })), accept]))], None),
            ("accept", vec![rule("c", json!([meta("iifname", json!("eth7")), drop]))], None),
            ("drop", vec![rule("c", json!([source, accept]))], Some(true)),
            ("accept", vec![rule("c", json!([source, drop]))], None),
            ("drop", vec![rule("c", json!([{ "xt": { "type": "match" } }, accept]))], Some(true)),
            (
                "drop",
                vec![rule("c", json!([meta("iifname", json!("@trusted")), accept]))],
                Some(true),
            ),
            ("drop", vec![rule("c", json!([meta("l4proto", json!("udp")), accept]))], Some(false)),
            (
                "drop",
                vec![
                    rule("c", json!([ours, { "jump": { "target": "d" } }])),
                    rule("d", json!([meta("oifname", json!("eth0")), accept])),
                ],
                None,
            ),
            (
                "accept",
                vec![rule("c", json!([{ "goto": { "target": "d" } }])), rule("d", json!([drop]))],
                Some(false),
            ),
            // Endless, which the kernel does not take.
            ("drop", vec![rule("c", json!([{ "jump": { "target": "c" } }]))], Some(true)),
            (
                "drop",
                vec![rule("c", json!([{ "match": 5 }, { "accept": 5 }])), rule("c", json!(7))],
                Some(true),
            ),
        ] {
            assert_eq!(stops_of(policy, &rules, OUT), expected, "{policy} {rules:?}");
        }
        let answer = Packet { from: Some("eth0"), to: Some("oc-abc"), is_answer: true, port: None };
        let established = rule("c", json!([state(json!("established")), accept]));
        assert_eq!(stops_of("drop", &[established], answer), None);
        let port = |right: Value| {
            let left = json!({ "payload": { "protocol": "tcp", "field": "dport" } });
            stops_of("drop", &[rule("c", json!([is(left, right), accept]))], OUT)
        };
        assert_eq!(port(json!(443)), None);
        assert_eq!(port(json!({ "set": [22, { "range": [400, 500] }] })), None);
        assert_eq!(port(json!({ "set": [22, 80] })), Some(false));
        let fib = |flags: Value, exists: Value, verdict: Value| {
            let left = json!({ "fib": { "result": "oif", "flags": flags } });
            rule("c", json!([is(left, exists), verdict]))
        };
        let filter = |flags: Value| fib(flags, json!(true), accept.clone());
        assert_eq!(stops_of("drop", &[filter(json!(["saddr", "mark", "iif"]))], OUT), None);
        assert_eq!(stops_of("drop", &[filter(json!("saddr"))], answer), None);
        assert_eq!(stops_of("drop", &[filter(json!(["daddr", "iif"]))], OUT), Some(true));
        let missing = fib(json!(["saddr", "iif"]), json!(false), drop.clone());
        assert_eq!(stops_of("accept", &[missing], OUT), None);
    }

    #[test]
    fn other_hooks_families_and_our_own_tables_are_passed_over() {
        let mut own = base("forward", "drop");
        own["chain"]["table"] = json!("opencode_host");
        let mut bridge = base("forward", "drop");
        bridge["chain"]["family"] = json!("bridge");
        let all = json!({ "nftables": [{ "metainfo": {} }, own, bridge, base("input", "drop")] });
        assert_eq!(stops(&all, "forward", OUT), []);
        assert_eq!(stops(&json!([1]), "forward", OUT), []);
    }

    #[test]
    fn the_owner_is_known_by_names() {
        let owner = |table: &str, chain: &str| {
            let mut base = base("forward", "drop");
            base["chain"]["table"] = json!(table);
            let other = json!({ "chain": { "family": "inet", "table": table, "name": chain } });
            stops(&json!({ "nftables": [base, other] }), "forward", OUT)[0].owner
        };
        assert_eq!(owner("firewalld", "x"), Owner::Firewalld);
        assert_eq!(owner("filter", "ufw-before-forward"), Owner::Ufw);
        assert_eq!(owner("filter", "DOCKER-USER"), Owner::Docker);
        assert_eq!(owner("filter", "mine"), Owner::Other);
    }
}
