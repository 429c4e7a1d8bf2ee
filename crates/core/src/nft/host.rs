//! The host's table: the second layer, and what takes packets to the outside.
//!
//! It has no list of destinations. What an instance may reach is decided in its own namespace; here
//! stands what must hold for every instance, and most of it holds even where a namespace's table
//! would have been lost.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::elements::Family;
use super::{NEIGHBOURS, lines, quote, set, wake};
use crate::layout::NFT_HOST_TABLE;

/// What the name of every link's end on the host begins with.
pub const LINK_PREFIX: &str = "oc-";

/// The mark of packets that passed this table's first chain. A routing rule lets nothing with the pool's
/// source leave without it, so that nothing leaves with an inner address when this table is gone.
pub const LINK_MARK: u32 = 0x6f63;

/// A link of an instance, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// The interface on the host, `oc-…`.
    pub host_end: String,
    /// The addresses of the end inside: the only sources that may come from it.
    pub addresses: Vec<IpAddr>,
}

/// The sets of the host's table that follow what runs and what the host is told: no part of what must
/// not change by itself.
pub const STUB_SETS: [&str; 3] = ["stubs", "resolvers4", "resolvers6"];

/// Who asks the host's resolvers for instances, and whom they may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stubs {
    /// The users of the stubs that run.
    pub users: Vec<u32>,
    /// The host's resolvers.
    pub resolvers: Vec<IpAddr>,
}

/// The sets of the host's table that say which links there are.
pub const LINK_SETS: [&str; 2] = ["sources4", "sources6"];

/// The sets of the host's table that say whose answers come from outside. They follow records, which change
/// beside the table.
pub const INNER_SETS: [&str; 2] = ["inner4", "inner6"];

/// Adds to the table that is there what these links, addresses and stubs need of its sets, and takes nothing away.
pub fn host_elements(links: &[HostLink], inner: &[IpAddr], stubs: &Stubs) -> String {
    let add = |set: HostSet| {
        let (name, elements) = (set.name, Vec::from_iter(set.elements));
        if elements.is_empty() {
            return String::new();
        }
        format!("add element inet {NFT_HOST_TABLE} {name} {{\n{}}}\n", lines(&elements, "\t"))
    };
    wake(NFT_HOST_TABLE) + &sets(links, inner, stubs).map(add).concat()
}

/// The chain that gives packets the host's address. While there is one, the kernel also translates answers back.
const MASQUERADE: &str = "postrouting";

/// Takes translation out of the table that is there, and nothing else.
pub fn end_masquerade() -> String {
    format!("delete chain inet {NFT_HOST_TABLE} {MASQUERADE}\n")
}

/// Adds one stub to the table that is there.
pub fn one_stub(user: u32) -> String {
    let [stubs, ..] = STUB_SETS;
    wake(NFT_HOST_TABLE) + &format!("add element inet {NFT_HOST_TABLE} {stubs} {{ {user} }}\n")
}

/// The host's table for these links, whole.
///
/// Towards a namespace goes nothing but answers; what the host itself sends there is an ICMP error
/// about a packet of the instance's, or finds a neighbour. An `accept` ends this table's chain alone:
/// a firewall of the host's can still drop. The chains come before those of usual firewalls, which have
/// priority `filter`, so that what is dropped here reaches no rule of theirs. What is for the host is
/// dropped before anybody can send it elsewhere by a rule for destinations (`dstnat`), as ports of containers
/// are: once for each connection, because that is when a rule for destinations is asked. Where such a
/// destination becomes the host's own later, `input` refuses what still comes. A packet that belongs to no
/// connection would not be masqueraded.
///
/// The stubs are the one thing on the host that reads what an agent wrote. Their users reach the host's
/// resolvers, loopback ones too, and nothing else; who answers an agent does so through a socket of its
/// namespace, which never comes by here.
///
/// `inner` are the addresses inside of instances, with a link or without. The kernel
/// remembers whose answers are whose for longer than there is a link, and translates those that come late: without
/// a link they would follow the host's default route back outside, with an inner address. `forward` drops them.
///
/// `untranslated` comes after translation, and drops what still has an inner address: while `postrouting` is gone or
/// not there yet, nothing is translated, not even what belongs to connections that were. It is the first
/// chain, because the kernel puts them in the packets' way in this order.
///
/// Answers get the mark too, before their destination is translated back: with `rp_filter` the kernel
/// asks for the way that a packet in the other direction would take, and that one needs the mark. IPv6
/// has no such filter.
pub fn host_table(links: &[HostLink], inner: &[IpAddr], stubs: &Stubs) -> String {
    let table = format!("table inet {NFT_HOST_TABLE}");
    let ours = format!("\"{LINK_PREFIX}*\"");
    let one = |of: HostSet| set(of.name, &of.kind, &Vec::from_iter(of.elements));
    let sources = sets(links, inner, stubs).map(one).concat();
    format!(
        "\
# generated by opencode-instances; do not edit
{table}
delete {table}
{table} {{
	comment \"links of opencode instances\"

{sources}	chain untranslated {{
		type filter hook postrouting priority srcnat + 10; policy accept;
		iifname {ours} ip saddr @inner4 counter drop
		iifname {ours} ip6 saddr @inner6 counter drop
	}}

	chain prerouting {{
		type filter hook prerouting priority mangle; policy accept;
		iifname {ours} goto from
		ct direction reply ct original ip saddr @inner4 meta mark set meta mark or {LINK_MARK:#x}
	}}

	chain from {{
		meta nfproto ipv4 iifname . ip saddr @sources4 goto way
		{NEIGHBOURS} iifname . ip6 saddr @sources6 accept
		ip6 saddr fe80::/10 {NEIGHBOURS} accept
		meta nfproto ipv6 iifname . ip6 saddr @sources6 goto way
		meta nfproto ipv6 counter drop
		counter drop
	}}

	chain way {{
		ct state != established fib daddr type {{ local, broadcast, anycast, multicast }} counter drop
		meta mark set meta mark or {LINK_MARK:#x}
	}}

	chain input {{
		type filter hook input priority filter - 10; policy accept;
		iifname {ours} goto refuse
	}}

	chain refuse {{
		{NEIGHBOURS} accept
		counter drop
	}}

	chain forward {{
		type filter hook forward priority filter - 10; policy accept;
		iifname {ours} goto outward
		oifname {ours} goto inward
		ct direction reply ct original ip saddr @inner4 counter drop
		ct direction reply ct original ip6 saddr @inner6 counter drop
	}}

	chain outward {{
		oifname {ours} counter drop
		ct state invalid,untracked counter drop
	}}

	chain inward {{
		ct state established,related ct direction reply accept
		counter drop
	}}

	chain output {{
		type filter hook output priority filter - 10; policy accept;
		meta skuid @stubs goto stubs
		oifname != {ours} accept
		{NEIGHBOURS} accept
		ct state related ct direction reply accept
		counter drop
	}}

	chain stubs {{
		ip daddr @resolvers4 meta l4proto {{ tcp, udp }} th dport 53 accept
		ip6 daddr @resolvers6 meta l4proto {{ tcp, udp }} th dport 53 accept
		meta l4proto tcp counter reject with tcp reset
		counter reject with icmpx admin-prohibited
	}}

	chain {MASQUERADE} {{
		type nat hook postrouting priority srcnat; policy accept;
		iifname {ours} masquerade
	}}
}}
"
    )
}

/// A set of the host's table.
struct HostSet {
    name: &'static str,
    kind: String,
    /// Each once.
    elements: BTreeSet<String>,
}

/// All of them: which source may come from which link, whose answers are an instance's, who asks for names, and whom.
fn sets(links: &[HostLink], inner: &[IpAddr], stubs: &Stubs) -> [HostSet; 7] {
    let [sources4, sources6] = LINK_SETS;
    let [inner4, inner6] = INNER_SETS;
    let [users, resolvers4, resolvers6] = STUB_SETS;
    let pairs = || links.iter().flat_map(|link| link.addresses.iter().map(move |ip| (link, *ip)));
    let sources = |family: Family| {
        let own = pairs().filter(move |(_, ip)| family.has(ip));
        own.map(|(link, ip)| format!("{} . {ip}", quote(&link.host_end))).collect()
    };
    let all = |addresses: &mut dyn Iterator<Item = IpAddr>, family: Family| {
        addresses.filter(|ip| family.has(ip)).map(|ip| ip.to_string()).collect()
    };
    let resolvers = || stubs.resolvers.iter().map(IpAddr::to_canonical);
    let (four, six) = (Family::Four.kind(), Family::Six.kind());
    [
        (sources4, format!("ifname . {four}"), sources(Family::Four)),
        (sources6, format!("ifname . {six}"), sources(Family::Six)),
        (inner4, four.to_owned(), all(&mut inner.iter().copied(), Family::Four)),
        (inner6, six.to_owned(), all(&mut inner.iter().copied(), Family::Six)),
        (users, "uid".to_owned(), stubs.users.iter().map(ToString::to_string).collect()),
        (resolvers4, four.to_owned(), all(&mut resolvers(), Family::Four)),
        (resolvers6, six.to_owned(), all(&mut resolvers(), Family::Six)),
    ]
    .map(|(name, kind, elements)| HostSet { name, kind, elements })
}
