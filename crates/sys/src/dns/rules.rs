//! Which names may be asked for: decided on the question alone, before anybody else hears of it.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::Rtype;
use domain::base::name::{Label, Name};

/// A name in the form of a message, in lower case.
type Canonical = Box<[u8]>;

/// A name of `network.dns.allowNames`: exact, or `*.` and a name for everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    below: bool,
    name: Canonical,
}

/// Why a pattern is refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "{pattern:?} is no name: write \"example.org\", or \"*.example.org\" for every name below it"
)]
pub struct BadPattern {
    /// What was given.
    pub pattern: String,
}

impl Pattern {
    /// Reads `example.org` or `*.example.org`, in any case, with or without the last dot.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern { pattern: text.to_owned() };
        let (below, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !name.bytes().all(plain) || name.trim_end_matches('.').is_empty() {
            return Err(bad());
        }
        let name = Name::vec_from_str(name).map_err(|_| bad())?;
        Ok(Self { below, name: canonical(&name) })
    }
}

/// The patterns, made for looking up: a list of thousands costs what a list of one does.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    exact: HashSet<Canonical>,
    below: HashSet<Canonical>,
}

impl FromIterator<Pattern> for Patterns {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        let mut all = Self::default();
        for Pattern { below, name } in patterns {
            if below {
                all.below.insert(name)
            } else {
                all.exact.insert(name)
            };
        }
        all
    }
}

impl Patterns {
    fn list(&self, name: &Name<Vec<u8>>) -> bool {
        let name = canonical(name);
        if self.exact.contains(&name) {
            return true;
        }
        let mut rest: &[u8] = &name;
        // `*.example.org` is everything below and not the name itself: cut one label, then look.
        while let Some(parent) = parent(rest) {
            if self.below.contains(parent) {
                return true;
            }
            rest = parent;
        }
        false
    }
}

/// What follows the first label; nothing follows the root.
fn parent(name: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*name.first()?);
    if length == 0 { None } else { name.get(length + 1..) }
}

fn canonical(name: &Name<Vec<u8>>) -> Canonical {
    // A length is at most 63, and so is never taken for a letter.
    name.as_slice().to_ascii_lowercase().into_boxed_slice()
}

/// What one instance may resolve.
pub struct Rules {
    /// The outbound policy, as records name it.
    pub policy: String,
    /// Whether names are asked for that are not listed.
    pub open: bool,
    /// Whether names of the local network are names like others: where the policy holds nothing back.
    pub local: bool,
    /// Names that may be asked for in any case.
    pub names: Patterns,
    /// Whether the policy could ever allow this address, on any port. Others are taken out of answers.
    pub permits: Box<dyn Fn(IpAddr) -> bool>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, open, local, names, permits: _ } = self;
        let mut all = formatter.debug_struct("Rules");
        all.field("policy", policy).field("open", open).field("local", local).field("names", names);
        all.finish_non_exhaustive()
    }
}

impl Rules {
    /// Whether an address may stand in an answer.
    ///
    /// A mapped address reaches the IPv4 address in it, whatever is said of IPv6.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        (self.permits)(address.to_canonical())
    }
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A resolver of the host is asked.
    Ask,
    /// This very machine: the loopback addresses.
    Localhost,
    /// The name may exist; nothing of this type is told.
    Nothing,
    /// A type that no stub resolver asks for.
    BadType,
    /// The name is not among those that are allowed.
    NotAllowed,
    /// The name is one of the local network's, and nobody is asked.
    LocalNetwork,
}

/// Names that a resolver would look for in the local network: RFC 6762 (also its appendix G),
/// RFC 8375, the reserved `internal`, and RFC 9462, which would tell of the resolver itself.
const LOCAL_ZONES: [&[&[u8]]; 9] = [
    &[b"local"],
    &[b"internal"],
    &[b"intranet"],
    &[b"private"],
    &[b"corp"],
    &[b"home"],
    &[b"lan"],
    &[b"home", b"arpa"],
    &[b"resolver", b"arpa"],
];

/// Decides on a question.
pub(super) fn judge(rules: &Rules, name: &Name<Vec<u8>>, rtype: Rtype) -> Verdict {
    // 0, OPT, and what only queries have: TSIG, transfers, ANY.
    if matches!(rtype.to_int(), 0 | 41 | 128..=255) {
        return Verdict::BadType;
    }
    let labels: Vec<Vec<u8>> = name.iter().map(lower).filter(|label| !label.is_empty()).collect();
    if labels.last().is_some_and(|last| last == b"localhost") {
        return Verdict::Localhost;
    }
    let listed = rules.names.list(name);
    if !listed && !rules.open {
        return Verdict::NotAllowed;
    }
    if !listed && !rules.local && is_local(&labels, rtype, rules) {
        return Verdict::LocalNetwork;
    }
    // They carry addresses in a form of their own, and clients do without them.
    if matches!(rtype, Rtype::SVCB | Rtype::HTTPS) { Verdict::Nothing } else { Verdict::Ask }
}

fn lower(label: &Label) -> Vec<u8> {
    label.as_slice().to_ascii_lowercase()
}

fn is_local(labels: &[Vec<u8>], rtype: Rtype, rules: &Rules) -> bool {
    // Other types of a single label are questions about top-level domains.
    if labels.len() == 1 && matches!(rtype, Rtype::A | Rtype::AAAA) {
        return true;
    }
    let in_zone = |zone: &&[&[u8]]| {
        labels.len() >= zone.len()
            && labels.iter().rev().zip(zone.iter().rev()).all(|(label, part)| label == part)
    };
    if LOCAL_ZONES.iter().any(in_zone) {
        return true;
    }
    // The reverse of addresses that the policy could never allow.
    reverse(labels).is_some_and(|(first, last)| !rules.permits(first) && !rules.permits(last))
}

/// The first and the last address that a name of `in-addr.arpa` or `ip6.arpa` stands for.
///
/// Those zones themselves stand for every address, which tells nothing.
fn reverse(labels: &[Vec<u8>]) -> Option<(IpAddr, IpAddr)> {
    let [rest @ .., zone, arpa] = labels else { return None };
    if arpa != b"arpa" || rest.is_empty() {
        return None;
    }
    let digits = rest.iter().rev().map(|label| std::str::from_utf8(label).ok());
    if zone == b"in-addr" && rest.len() <= 4 {
        let (mut first, mut last) = ([0; 4], [255; 4]);
        for ((low, high), digit) in first.iter_mut().zip(&mut last).zip(digits) {
            *low = digit?.parse().ok()?;
            *high = *low;
        }
        return Some((Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into()));
    }
    if zone == b"ip6" && rest.len() <= 32 {
        let (mut first, mut last) = (0_u128, u128::MAX);
        for (place, digit) in digits.enumerate() {
            let digit = digit.filter(|digit| digit.len() == 1)?;
            let shift = 124 - 4 * u32::try_from(place).ok()?;
            let value = u128::from(u8::from_str_radix(digit, 16).ok()?) << shift;
            first |= value;
            last = (last & !(0xf << shift)) | value;
        }
        return Some((Ipv6Addr::from(first).into(), Ipv6Addr::from(last).into()));
    }
    None
}

/// The name as records and files have it: in lower case, without the last dot, and in characters
/// that mean nothing to anybody; the others as `\DDD`.
pub(super) fn text(name: &Name<Vec<u8>>) -> String {
    let mut text = String::new();
    for label in name.iter().map(lower).filter(|label| !label.is_empty()) {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("\\{byte:03}"));
            }
        }
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn rules(open: bool, names: &[&str]) -> Rules {
        Rules {
            policy: "allow-list".to_owned(),
            open,
            local: false,
            names: names.iter().map(|name| Pattern::new(name).unwrap()).collect(),
            permits: Box::new(|address| match address {
                IpAddr::V4(v4) => !v4.is_private() && !v4.is_loopback() && !v4.is_link_local(),
                IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
            }),
        }
    }

    fn verdict(rules: &Rules, name: &str) -> Verdict {
        judge(rules, &Name::vec_from_str(name).unwrap(), Rtype::A)
    }

    #[test]
    fn patterns_are_exact_or_everything_below() {
        let rules = rules(false, &["Example.org.", "*.deep.example.net", "_x.a-b.c"]);
        for allowed in [
            "example.org",
            "EXAMPLE.oRg.",
            "a.deep.example.net",
            "a.B.C.Deep.example.net",
            "_X.a-b.c",
        ] {
            assert_eq!(verdict(&rules, allowed), Verdict::Ask, "{allowed}");
        }
        for refused in [
            ".",
            "org",
            "a.example.org",
            "example.org.evil.net",
            "xexample.org",
            "deep.example.net",
            "xdeep.example.net",
            "deep.example.net.a",
            "a\\.deep.example.net",
            "nas",
            "10.in-addr.arpa",
        ] {
            assert_eq!(verdict(&rules, refused), Verdict::NotAllowed, "{refused}");
        }
        assert_eq!(verdict(&rules, "x.LocalHost"), Verdict::Localhost);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", ".", "*", "*.", "a..b", "a b", "*.*.a", "a.*", "ä.org", "a\\.b", "*a.b"] {
            let error = Pattern::new(bad).unwrap_err().to_string();
            assert!(error.contains("*.example.org"), "{bad}: {error}");
        }
        assert!(Pattern::new(&format!("{}.org", "a".repeat(64))).is_err());
        assert!(Pattern::new(&"a.".repeat(128)).is_err());
    }

    #[test]
    fn names_of_the_local_network_stay_here_unless_listed() {
        let open = rules(true, &["nas.lan", "*.home.arpa", "printer"]);
        for asked in [
            "example.org",
            "nas.lan",
            "tv.home.arpa",
            "printer",
            "8.8.8.8.in-addr.arpa",
            "in-addr.arpa",
            "172.in-addr.arpa",
            "ip6.arpa",
            "xlocal.org",
            "local.org",
            "a.10.in-addr.arpa",
        ] {
            assert_eq!(verdict(&open, asked), Verdict::Ask, "{asked}");
        }
        for local in [
            "nas",
            "router.local",
            "LOCAL",
            "a.b.Internal",
            "home.arpa",
            "tv.lan",
            "_dns.resolver.arpa",
            "10.in-addr.arpa",
            "1.2.168.192.in-addr.arpa",
            "168.192.in-addr.arpa",
            "254.169.in-addr.arpa",
            "d.f.ip6.arpa",
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
        ] {
            assert_eq!(verdict(&open, local), Verdict::LocalNetwork, "{local}");
        }
        let unrestricted = Rules { local: true, ..rules(true, &[]) };
        assert_eq!(verdict(&unrestricted, "nas"), Verdict::Ask);
    }

    #[test]
    fn types_that_carry_addresses_of_their_own_or_whole_zones_are_not_asked_for() {
        let rules = rules(true, &[]);
        let name = Name::vec_from_str("example.org").unwrap();
        for rtype in [Rtype::SVCB, Rtype::HTTPS] {
            assert_eq!(judge(&rules, &name, rtype), Verdict::Nothing);
        }
        for rtype in [Rtype::ANY, Rtype::AXFR, Rtype::IXFR, Rtype::TSIG, Rtype::OPT] {
            assert_eq!(judge(&rules, &name, rtype), Verdict::BadType);
        }
        for rtype in [Rtype::TXT, Rtype::MX, Rtype::SRV, Rtype::CAA, Rtype::from_int(65280)] {
            assert_eq!(judge(&rules, &name, rtype), Verdict::Ask);
        }
    }

    #[test]
    fn a_name_becomes_text_that_means_nothing_to_anybody() {
        let name = Name::from_octets(b"\x04A\nb \x03oRg\0".to_vec()).unwrap();
        assert_eq!(text(&name), "a\\010b\\032.org");
        assert_eq!(text(&Name::root_vec()), ".");
    }
}
