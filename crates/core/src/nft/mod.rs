//! The text of the nft tables that the engine owns: one in each instance's namespace, one on the host.
//!
//! Every table is written whole and replaced whole. Its text does so in one transaction, by declare,
//! delete, declare: the first line makes the delete succeed when there is nothing yet. `destroy table`
//! would say the same, but nft 1.0.6 does not know it. Where packets pass already, that one transaction
//! refuses a few of them that both the old and the new rules allow; [`dormant`] is for a replacement that
//! does not.

mod elements;
mod host;
mod trial;

use std::net::IpAddr;

use ipnet::IpNet;

pub use host::{
    HostLink, INNER_SETS, LINK_MARK, LINK_PREFIX, LINK_SETS, STUB_SETS, Stubs, end_masquerade,
    host_elements, host_table, one_stub,
};
pub use trial::{MODULES, trial};

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

/// Reports that the kernel itself sends on each link: nobody asked for them, so nobody is told.
const TALK4: &str = "		ip protocol igmp ip daddr 224.0.0.0/24 counter drop comment \"what the kernel says on a link\"";
const TALK6: &str = "		ip6 daddr ff02::/16 icmpv6 type { nd-router-solicit, mld-listener-report, mld-listener-reduction, mld2-listener-report } counter drop comment \"what the kernel says on a link\"";

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
/// Its default routes lead to an interface with nothing behind it, so that what would leave comes by here
/// and is counted and refused; what arrives or would be forwarded is dropped silently.
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
{TALK4}
{TALK6}
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
///
/// Each family has chains of its own, so that a packet passes no rule of the other one.
pub fn namespace_table(name: &str, network: &Network) -> String {
    if !network.policy.has_link() {
        return deny_all(name);
    }
    let whole = quote(&format!("{name}: {}", network.policy));
    let judges = Family::BOTH.map(|family| Judge::new(network, family));
    let sets: String = judges.iter().map(Judge::sets).collect();
    let [out4, out6] = judges.each_ref().map(|judge| judge.rules(Direction::Out));
    let [answers4, answers6] = judges.each_ref().map(|judge| judge.rules(Direction::In));
    table(&format!(
        "	comment {whole}

{sets}	chain input {{
		type filter hook input priority filter; policy drop;
		iif \"lo\" accept
		iifname \"{LINK}\" ct state established ct direction reply meta nfproto vmap {{ ipv4 : jump answers4, ipv6 : jump answers6 }}
		ct state related ct direction reply icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
		ct state related ct direction reply icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
		iifname \"{LINK}\" {NEIGHBOURS} accept
		counter drop
	}}

	chain answers4 {{
{answers4}	}}

	chain answers6 {{
{answers6}	}}

	chain forward {{
		type filter hook forward priority filter; policy drop;
	}}

	chain output {{
		type filter hook output priority filter; policy drop;
		oif \"lo\" accept
		meta nfproto vmap {{ ipv4 : goto out4, ipv6 : goto out6 }}
	}}

	chain out4 {{
		ip hdrlength != 5 jump options
{out4}		goto refuse
	}}

	chain options {{
{TALK4}
		ip option lsrr exists goto refuse
		ip option ssrr exists goto refuse
	}}

	chain out6 {{
		exthdr rt exists goto refuse
		oifname \"{LINK}\" {NEIGHBOURS} {ON_LINK} accept
{TALK6}
		fib saddr type != local goto refuse
{out6}		goto refuse
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
    Family::BOTH
        .map(|family| {
            let set = family.host();
            let elements = addresses(nets.iter().copied(), family);
            let flush = format!("flush set inet {NFT_TABLE} {set}\n");
            if elements.is_empty() {
                return flush;
            }
            format!("{flush}add element inet {NFT_TABLE} {set} {{\n{}}}\n", lines(&elements, "\t"))
        })
        .concat()
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

/// What a policy says of the addresses of one family.
struct Judge {
    family: Family,
    policy: Policy,
    /// Allowed on every port.
    whole: Vec<String>,
    /// Allowed on some.
    narrow: Vec<String>,
}

impl Judge {
    fn new(network: &Network, family: Family) -> Self {
        let whole = network.allow.iter().filter(|one| one.is_whole()).map(|one| one.cidr);
        let narrow = network.allow.iter().filter(|one| !one.is_whole());
        Self {
            family,
            policy: network.policy,
            whole: addresses(whole, family),
            narrow: ports(narrow, family),
        }
    }

    /// The sets that the rules look into.
    fn sets(&self) -> String {
        let (kind, digit) = (self.family.kind(), self.family.digit());
        let mut sets = intervals(self.family.host(), kind, &[]);
        if self.policy == Policy::Unrestricted {
            return sets;
        }
        if !self.whole.is_empty() {
            sets += &intervals(&format!("allow{digit}"), kind, &self.whole);
        }
        if !self.narrow.is_empty() {
            let kind = format!("{kind} . inet_proto . inet_service");
            sets += &intervals(&format!("allow{digit}_ports"), &kind, &self.narrow);
        }
        if self.policy == Policy::Internet {
            let special = addresses(SPECIAL.iter().map(|special| special.net), self.family);
            sets += &intervals(&format!("special{digit}"), kind, &special);
        }
        sets
    }

    /// The rules that judge one end of a packet.
    fn rules(&self, direction: Direction) -> String {
        let (word, digit, host) = (self.family.word(), self.family.digit(), self.family.host());
        let (address, port, refused) = match direction {
            Direction::Out => ("daddr", "dport", "goto refuse"),
            Direction::In => ("saddr", "sport", "drop"),
        };
        let nowhere = self.family.nowhere();
        let mut rules = format!(
            "\t\t{word} {address} {nowhere} {refused}\n\t\t{word} {address} @{host} {refused}\n"
        );
        if self.policy == Policy::Unrestricted {
            return rules + "\t\taccept\n";
        }
        if self.policy == Policy::Internet {
            rules += &format!("\t\t{word} {address} != @special{digit} accept\n");
        }
        if !self.whole.is_empty() {
            rules += &format!("\t\t{word} {address} @allow{digit} accept\n");
        }
        if !self.narrow.is_empty() {
            rules += &format!(
                "\t\tmeta l4proto {{ tcp, udp }} {word} {address} . meta l4proto . th {port} @allow{digit}_ports accept\n"
            );
        }
        rules
    }
}

/// A set of intervals.
fn intervals(name: &str, kind: &str, elements: &[String]) -> String {
    set(name, &format!("{kind}\n\t\tflags interval"), elements)
}

/// A set; `kind` is its type, with its flags in a line of their own.
fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("\t\telements = {{\n{}\t\t}}\n", lines(elements, "\t\t\t"))
    };
    format!("\tset {name} {{\n\t\ttype {kind}\n{elements}\t}}\n\n")
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

/// The same rules as a table named `name` that judges nothing until it is woken up ([`wake`]).
///
/// Of a table's text only the lines that name it differ: it is not declared first, since that would wake
/// up one that sleeps, and what stands behind its own text fills its sets.
pub fn dormant(text: &str, table: &str, name: &str) -> String {
    let declared = format!("table inet {table}");
    let opened = format!("{declared} {{");
    let named = ["delete table", "flush set", "add element"].map(|verb| {
        let of = |table: &str| format!("{verb} inet {table}");
        (of(table), of(name))
    });
    let line = |line: &str| {
        if line == declared {
            return String::new();
        }
        if line == opened {
            return format!("table inet {name} {{\n\tflags dormant;\n");
        }
        let renamed = named.iter().find_map(|(from, to)| {
            let rest = line.strip_prefix(from)?;
            (rest.is_empty() || rest.starts_with(' ')).then(|| format!("{to}{rest}\n"))
        });
        renamed.unwrap_or_else(|| format!("{line}\n"))
    };
    text.lines().map(line).collect()
}

/// Has a table judge packets that did not. One that does so already stays as it is; there must be one.
pub fn wake(name: &str) -> String {
    format!("table inet {name}\n")
}

/// Has a table judge nothing, and keep everything it holds. Where there is none, there is an empty one.
pub fn sleep(name: &str) -> String {
    format!("table inet {name} {{\n\tflags dormant;\n}}\n")
}

/// Removes a table that no packet passes, whether there is one or not.
pub fn remove(name: &str) -> String {
    format!("table inet {name}\ndelete table inet {name}\n")
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
