//! Routing rules that let nothing with an inner source address leave unless the host's table saw it.
//!
//! Without that table nobody would translate the source, and nobody would have judged the packet a
//! second time. So a packet that was forwarded from a link, and does not carry the table's mark, is
//! refused by the routing itself, which no program that reloads a firewall touches:
//!
//! ```text
//! 60: from POOL fwmark MARK/MARK goto 63    the table has seen it
//! 61: from POOL iif lo goto 63              the host's own end of a link
//! 62: from POOL prohibit
//! 63: nop
//! ```
//!
//! `goto` and not `lookup main`: the rules of a VPN, which come later, must still have their say, or
//! instances would go around it. With `rp_filter` the kernel asks these rules about answers as well, as
//! if they went the other way: hence the table marks answers too, and `src_valid_mark` is set.

use std::io;
use std::net::IpAddr;

use instances_core::nft::LINK_MARK;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::super::route::Route;

/// Before the rules of anybody else that are known to us, and after the host's own addresses (0).
const FIRST: u32 = 60;
const END: u32 = FIRST + 3;

/// Rules of this protocol are left alone by systemd-networkd, which removes those that it did not
/// make whenever it starts (`ManageForeignRoutingPolicyRules=`).
const PROTOCOL: RouteProtocol = RouteProtocol::Kernel;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    v6: bool,
    priority: u32,
    source: Option<IpNet>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Marked,
    Own,
    Prohibit,
    End,
}

/// Makes the rules those for these sources: what is missing comes, what is too much goes.
pub(super) fn ensure(route: &Route, sources: &[IpNet]) -> io::Result<()> {
    let wanted = rules(sources);
    let found = list(route)?;
    for rule in wanted.iter().filter(|rule| !found.contains(rule)) {
        match route.change(RouteNetlinkMessage::NewRule(rule.message()), NLM_F_CREATE | NLM_F_EXCL)
        {
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {}
            done => done?,
        }
    }
    for rule in found.iter().rev().filter(|rule| !wanted.contains(rule)) {
        match route.change(RouteNetlinkMessage::DelRule(rule.message()), 0) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            done => done?,
        }
    }
    Ok(())
}

/// What a host needs for these sources, in the order in which it is safe to add it.
fn rules(sources: &[IpNet]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let of_family = || sources.iter().filter(move |net| matches!(net, IpNet::V6(_)) == v6);
        if of_family().next().is_none() {
            continue;
        }
        rules.push(Rule { v6, priority: END, source: None, kind: Kind::End });
        for (priority, kind) in
            [(FIRST, Kind::Marked), (FIRST + 1, Kind::Own), (FIRST + 2, Kind::Prohibit)]
        {
            let rule = |net: &IpNet| Rule { v6, priority, source: Some(*net), kind };
            rules.extend(of_family().map(rule));
        }
    }
    rules
}

/// Those of ours that are there, whoever they were for.
fn list(route: &Route) -> io::Result<Vec<Rule>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        // Somebody's rule that this program cannot read is not one of ours.
        let bodies = route.list(&RouteNetlinkMessage::GetRule(message))?;
        let messages = bodies.iter().filter_map(|body| RuleMessage::parse(body).ok());
        found.extend(
            messages
                .filter(|message| message.header.family == family)
                .filter_map(|m| Rule::read(&m)),
        );
    }
    Ok(found)
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.attributes =
            vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(PROTOCOL)];
        if let Some(source) = self.source {
            message.header.src_len = source.prefix_len();
            message.attributes.push(RuleAttribute::Source(source.network()));
        }
        let (action, more) = match self.kind {
            Kind::Marked => (
                RuleAction::Goto,
                vec![
                    RuleAttribute::FwMark(LINK_MARK),
                    RuleAttribute::FwMask(LINK_MARK),
                    RuleAttribute::Goto(END),
                ],
            ),
            Kind::Own => (
                RuleAction::Goto,
                vec![RuleAttribute::Iifname("lo".to_owned()), RuleAttribute::Goto(END)],
            ),
            Kind::Prohibit => (RuleAction::Prohibit, Vec::new()),
            Kind::End => (RuleAction::Nop, Vec::new()),
        };
        message.header.action = action;
        message.attributes.extend(more);
        message
    }

    /// Recognises one of ours.
    fn read(message: &RuleMessage) -> Option<Self> {
        let attributes = &message.attributes;
        let priority = attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        })?;
        let source: Option<IpAddr> = attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Source(source) => Some(*source),
            _ => None,
        });
        let kind = match priority.checked_sub(FIRST)? {
            0 => Kind::Marked,
            1 => Kind::Own,
            2 => Kind::Prohibit,
            3 => Kind::End,
            _ => return None,
        };
        let source = match source {
            Some(source) => Some(IpNet::new(source, message.header.src_len).ok()?),
            None => None,
        };
        let v6 = message.header.family == AddressFamily::Inet6;
        let rule = Self { v6, priority, source, kind };
        let own = rule.message();
        let same = own.header.action == message.header.action
            && own.attributes.iter().all(|attribute| attributes.contains(attribute));
        same.then_some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Rule, rules};
    use netlink_packet_route::rule::RuleAttribute;

    fn some() -> Vec<Rule> {
        rules(&["10.219.0.0/16".parse().unwrap(), "fd00:1:2::/48".parse().unwrap()])
    }

    #[test]
    fn nothing_is_wanted_without_sources() {
        assert_eq!(rules(&[]), []);
        assert_eq!(rules(&["10.0.0.0/8".parse().unwrap()]).len(), 4);
    }

    #[test]
    fn the_way_around_is_there_before_the_wall() {
        let kinds: Vec<Kind> = some().iter().map(|rule| rule.kind).collect();
        let family = [Kind::End, Kind::Marked, Kind::Own, Kind::Prohibit];
        assert_eq!(kinds, [family, family].concat());
    }

    #[test]
    fn what_is_written_is_recognised_and_nothing_else() {
        for rule in some() {
            let mut message = rule.message();
            assert_eq!(Rule::read(&message), Some(rule.clone()));
            // The kernel adds more, which says nothing.
            message.attributes.push(RuleAttribute::SuppressPrefixLen(u32::MAX));
            assert_eq!(Rule::read(&message), Some(rule.clone()));
            message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
            assert_eq!(Rule::read(&message), None);
        }
    }
}
