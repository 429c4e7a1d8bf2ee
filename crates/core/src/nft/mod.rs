//! The text of the nft tables that the engine owns: one in each instance's namespace, one on the host.
//!
//! Every table is written whole and replaced whole, in one transaction. The replace idiom is
//! declare, delete, declare: the first line makes the delete succeed when there is nothing yet.
//! `destroy table` would say the same, but nft 1.0.6 does not know it.

mod elements;
mod host;

use std::net::IpAddr;

use ipnet::IpNet;

pub use host::{HostLink, LINK_MARK, LINK_PREFIX, host_table};

use crate::layout::NFT_TABLE;
use crate::network::{Network, Policy};
use crate::special::SPECIAL;
use elements::{Family, addresses, ports};

/// The longest comment that nft takes, in bytes.
const COMMENT_MAX: usize = 128;

/// The sets of a namespace's table whose elements are no part of its text: what belongs to the host
/// and is known only when the table is loaded. [`host_addresses`] fills them.
pub const HOST_SETS: [&str; 2] = ["host4", "host6"];

/// The NFLOG group that refused packets are logged to, in every namespace.
pub const LOG_GROUP: u16 = 1;

/// The link's name inside a namespace.
const LINK: &str = "eth0";

/// The kernel's own talk about the link: neighbours are found, everything else of that kind is refused.
/// A hop limit of 255 proves that a packet comes from the link itself (RFC 4861).
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255";

/// Where such a packet may go to: the link's own addresses, and the groups that ask for one of them.
const ON_LINK: &str = "ip6 daddr { fd00::/8, fe80::/10, ff02::1:ff00:0/104 }";

/// What is no single place outside: never reached, whatever is listed. Without this, a wide range or
/// `unrestricted` would have packets for groups and for the link itself leave.
const NOWHERE: [(&str, &str); 2] = [
    ("ip", "{ 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 }"),
    ("ip6", "{ ::/96, ::ffff:0:0/96, fe80::/10, ff00::/8 }"),
];

/// The limit guards the log alone, never the verdict. Every refusal is in one of the counters.
///
/// TCP gets a reset where an ICMP error would come to nothing: a flow that was allowed once takes such
/// an error for a passing one, and over IPv6 a connecting socket hears it at its second try.
const REFUSE: &str = "		limit rate 50/second burst 100 packets log prefix \"opencode\" group 1
		tcp flags & (syn | ack) != syn counter reject with tcp reset
		meta nfproto ipv6 meta l4proto tcp counter reject with tcp reset
		counter reject with icmpx admin-prohibited";

/// The policy of an instance that has no link at all: nothing in, nothing out, loopback works.
///
/// Without a route the kernel refuses at once, before any rule sees a packet; what has a way all the
/// same is counted and refused, and what arrives or would be forwarded is dropped silently.
///
/// Loopback is matched by index (`oif`), not by name (`oifname`): the kernel gives `lo` index 1 in
/// every namespace and never hands that index to another device, whereas names can be swapped.
/// It exists, although down, before the first rule is loaded, so the name always resolves.
pub fn deny_all(name: &str) -> String {
    let comment = quote(name);
    let whole = quote(&format!("{name}: nothing but loopback"));
    table(&format!(
        "	comment {whole}

	chain input {{
		type filter hook input priority filter; policy drop;
		iif \"lo\" accept comment {comment}
	}}

	chain forward {{
		type filter hook forward priority filter; policy drop;
	}}

	chain output {{
		type filter hook output priority filter; policy drop;
		oif \"lo\" accept comment {comment}
{REFUSE} comment {comment}
	}}
"
    ))
}

/// The table of an instance's namespace.
///
/// A packet that names its way is refused: its destination would be a place on that way. Originals are
/// judged on every packet: nothing leaves because a connection was allowed before.
/// What arrives is an answer, of a destination that is still allowed, or an ICMP error about a packet
/// that was sent; so a flow ends in both directions when its destination leaves the list. No
/// address of the host is reachable, whatever else is allowed: see [`HOST_SETS`].
pub fn namespace_table(name: &str, network: &Network) -> String {
    if !network.policy.has_link() {
        return deny_all(name);
    }
    let whole = quote(&format!("{name}: {}", network.policy));
    let (sets, out) = judged(network, Direction::Out);
    let (_, back) = judged(network, Direction::In);
    table(&format!(
        "	comment {whole}

{sets}	chain input {{
		type filter hook input priority filter; policy drop;
		iif \"lo\" accept
		iifname \"{LINK}\" ct state established ct direction reply jump answers
		ct state related ct direction reply icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
		ct state related ct direction reply icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
		iifname \"{LINK}\" {NEIGHBOURS} accept
		counter drop
	}}

	chain answers {{
{back}	}}

	chain forward {{
		type filter hook forward priority filter; policy drop;
	}}

	chain output {{
		type filter hook output priority filter; policy drop;
		oif \"lo\" accept
		meta nfproto ipv6 exthdr rt exists goto refuse
		ip option lsrr exists goto refuse
		ip option ssrr exists goto refuse
		oifname \"{LINK}\" {NEIGHBOURS} {ON_LINK} accept
		ip6 daddr ff02::/16 icmpv6 type {{ nd-router-solicit, mld-listener-report, mld-listener-reduction, mld2-listener-report }} counter drop comment \"what the kernel says on a link\"
		ip protocol igmp ip daddr 224.0.0.0/24 counter drop comment \"what the kernel says on a link\"
		meta nfproto ipv6 fib saddr type != local goto refuse
{out}		goto refuse
	}}

	chain refuse {{
{REFUSE}
	}}
"
    ))
}

/// Fills [`HOST_SETS`] in an instance's table with what the host holds: its own addresses, the pool of
/// all links. Appended to the table's text it is loaded in the same transaction; alone it replaces
/// the elements at once. Only a table with a link has these sets.
pub fn host_addresses(nets: &[IpNet]) -> String {
    let sets = HOST_SETS.into_iter().zip(Family::BOTH);
    sets.map(|(set, family)| {
        let elements = addresses(nets.iter().copied(), family);
        let flush = format!("flush set inet {NFT_TABLE} {set}\n");
        if elements.is_empty() {
            return flush;
        }
        format!("{flush}add element inet {NFT_TABLE} {set} {{\n{}}}\n", lines(&elements, "\t"))
    })
    .collect()
}

/// The same for single addresses.
pub fn host_address(ip: IpAddr) -> IpNet {
    ip.to_canonical().into()
}

/// Which end of a packet is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

/// The sets of a policy, and the rules that judge a packet by them.
fn judged(network: &Network, direction: Direction) -> (String, String) {
    let (address, port) = match direction {
        Direction::Out => ("daddr", "dport"),
        Direction::In => ("saddr", "sport"),
    };
    let refused = if direction == Direction::Out { "goto refuse" } else { "drop" };
    let (mut sets, mut rules) = (String::new(), String::new());
    for (word, nowhere) in NOWHERE {
        rules.push_str(&format!("\t\t{word} {address} {nowhere} {refused}\n"));
    }
    for (family, host) in Family::BOTH.into_iter().zip(HOST_SETS) {
        sets.push_str(&set(host, family.kind(), &[]));
        rules.push_str(&format!("\t\t{} {address} @{host} {refused}\n", family.word()));
    }
    if network.policy == Policy::Unrestricted {
        rules.push_str("\t\taccept\n");
        return (sets, rules);
    }
    for family in Family::BOTH {
        let (word, kind, digit) = (family.word(), family.kind(), family.digit());
        let whole = network.allow.iter().filter(|one| one.is_whole()).map(|one| one.cidr);
        let whole = addresses(whole, family);
        if !whole.is_empty() {
            sets.push_str(&set(&format!("allow{digit}"), kind, &whole));
            rules.push_str(&format!("\t\t{word} {address} @allow{digit} accept\n"));
        }
        let narrow = ports(network.allow.iter().filter(|one| !one.is_whole()), family);
        if !narrow.is_empty() {
            let name = format!("allow{digit}_ports");
            let kind = format!("{kind} . inet_proto . inet_service");
            sets.push_str(&set(&name, &kind, &narrow));
            rules.push_str(&format!(
                "\t\tmeta l4proto {{ tcp, udp }} {word} {address} . meta l4proto . th {port} @{name} accept\n"
            ));
        }
    }
    if network.policy == Policy::Internet {
        for family in Family::BOTH {
            let (word, digit) = (family.word(), family.digit());
            let special = addresses(SPECIAL.iter().map(|special| special.net), family);
            sets.push_str(&set(&format!("special{digit}"), family.kind(), &special));
            rules.push_str(&format!("\t\t{word} {address} != @special{digit} accept\n"));
        }
    }
    (sets, rules)
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("\t\telements = {{\n{}\t\t}}\n", lines(elements, "\t\t\t"))
    };
    format!("\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n{elements}\t}}\n\n")
}

fn lines(elements: &[String], indent: &str) -> String {
    elements.iter().map(|element| format!("{indent}{element},\n")).collect()
}

fn table(body: &str) -> String {
    let table = format!("table inet {NFT_TABLE}");
    format!(
        "# generated by opencode-instances; do not edit\n{table}\ndelete {table}\n{table} {{\n{body}}}\n"
    )
}

/// A quoted nft string.
///
/// nft has no escape inside quotes, so whatever could end the string or the line becomes `_`, and
/// what is too long for the kernel is cut.
fn quote(text: &str) -> String {
    let safe = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '_' };
    let inner: String = text.chars().map(safe).take(COMMENT_MAX).collect();
    format!("\"{inner}\"")
}

#[cfg(test)]
mod tests;
