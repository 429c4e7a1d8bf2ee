//! The options of the network: what may be reached, which names are resolved, which of the host's
//! ports appear inside.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{Judge, port};
use crate::diagnostic::{Code, Diagnostic, Origin};
use crate::layout::SERVER_PORT;
use crate::network::{Allowed, Dns, DnsPolicy, Network, Policy, PortRange, Protocol, merged};
use crate::raw::{RawCidr, RawInstance, nearest};
use crate::special::{self, Class};
use crate::text::Refusal;

impl Judge<'_> {
    pub(super) fn network(&mut self, raw: &RawInstance) -> Network {
        let key = "network.outbound.policy";
        let policy = self.text(key, raw.network_policy.as_ref(), Policy::default(), |text| {
            one_of(Code::BadPolicy, text, &Policy::ALL, Policy::WORDS)
        });
        let listed = raw.allow_cidrs.as_ref();
        let allow: Vec<Allowed> = listed
            .map_or(&[][..], |typed| &typed.value)
            .iter()
            .filter_map(|entry| self.allowed(entry))
            .collect();
        let dns = self.dns(raw, policy);
        let host_ports = self.host_ports(raw);
        if !self.alone {
            self.contradictions(raw, policy, &dns);
        }
        Network { policy, allow: merged(allow), dns, host_ports }
    }

    pub(super) fn pool(&mut self, raw: &RawInstance) -> Ipv4Net {
        let default = Ipv4Net::new_assert([10, 219, 0, 0].into(), 16);
        self.text("network.pool", raw.network_pool.as_ref(), default, pool)
    }

    fn allowed(&mut self, entry: &RawCidr) -> Option<Allowed> {
        let option = "network.outbound.allowCidrs";
        let what = format!("`{option}` {:?}", entry.cidr.value);
        let cidr = self.take(&entry.cidr.at, &what, range(&entry.cidr.value));
        let mut ports = Vec::with_capacity(entry.ports.len());
        for typed in &entry.ports {
            let what = format!("the port {:?} of `{option}`", typed.value);
            ports.push(self.take(&typed.at, &what, ports_of(&typed.value))?);
        }
        let protocol = match &entry.protocol {
            None => None,
            Some(typed) => {
                let what = format!("the protocol {:?} of `{option}`", typed.value);
                let known = &Protocol::ALL;
                let judged = one_of(Code::BadProtocol, &typed.value, known, Protocol::WORDS);
                Some(self.take(&typed.at, &what, judged)?)
            }
        };
        let cidr = cidr?;
        self.warn_of_range(&cidr, &entry.cidr.at);
        Some(Allowed { cidr, protocol, ports: PortRange::merged(ports) })
    }

    fn warn_of_range(&mut self, cidr: &IpNet, at: &Origin) {
        let around = special::of(cidr).filter(|special| special.class == Class::Delicate);
        let mut opened: Vec<&str> = around.iter().map(|special| special.what).collect();
        if opened.is_empty() {
            opened.extend(
                special::within(cidr).filter(|one| one.class != Class::Plain).map(|one| one.what),
            );
            if !opened.is_empty() {
                opened.extend(special::within(cidr).map(|special| special.what));
            }
        }
        let mut once: Vec<&str> = Vec::new();
        for what in opened {
            if !once.contains(&what) {
                once.push(what);
            }
        }
        if once.is_empty() {
            return;
        }
        self.diagnostics.push(Diagnostic::new(
            Code::SpecialRange,
            at,
            format!("`{cidr}` is more than the internet"),
            format!("this opens {}", once.join(", ")),
            "list smaller ranges, unless this is what is meant",
        ));
    }

    fn dns(&mut self, raw: &RawInstance, policy: Policy) -> Dns {
        let default = match policy {
            Policy::AllowList => DnsPolicy::Names,
            Policy::Internet | Policy::None | Policy::Unrestricted => DnsPolicy::Open,
        };
        let policy = self.text("network.dns.policy", raw.dns_policy.as_ref(), default, |text| {
            one_of(Code::BadPolicy, text, &[DnsPolicy::Open, DnsPolicy::Names], DnsPolicy::WORDS)
        });
        let mut names = self.list("network.dns.allowNames", raw.dns_names.as_ref(), host_name);
        names.sort_unstable();
        names.dedup();
        Dns { policy, names }
    }

    fn host_ports(&mut self, raw: &RawInstance) -> Vec<u16> {
        let typed = raw.host_ports.as_ref().map_or(&[][..], |list| &list.value);
        let mut ports = Vec::with_capacity(typed.len());
        for one in typed {
            let what = format!("`network.hostPorts` {}", one.value);
            ports.extend(self.take(&one.at, &what, host_port(one.value)));
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// What is declared although nothing would look at it, and what is said aloud.
    fn contradictions(&mut self, raw: &RawInstance, policy: Policy, dns: &Dns) {
        let listed = raw.allow_cidrs.as_ref().filter(|typed| !typed.value.is_empty());
        if let Some(typed) = listed
            && matches!(policy, Policy::None | Policy::Unrestricted)
        {
            self.refuse(Diagnostic::new(
                Code::UnusedAllowList,
                &typed.at,
                format!("`network.outbound.allowCidrs` is not looked at with the policy `{policy}`"),
                if policy == Policy::None { "there is no link" } else { "everything is open" },
                "write `network.outbound.policy = \"allow-list\"`, or `network.outbound.allowCidrs = []`",
            ));
        }
        let names = raw.dns_names.as_ref().filter(|typed| !typed.value.is_empty());
        let unread = |at: &Origin, reason: &str, help: &str| {
            let message = format!("`{}` is not looked at", at.path);
            Diagnostic::new(Code::UnusedNames, at, message, reason, help)
        };
        let typed_policy = raw.dns_policy.as_ref().map(|typed| &typed.at);
        if policy == Policy::None {
            let reason = "with the policy `none` there is no resolver";
            for at in typed_policy.into_iter().chain(names.map(|typed| &typed.at)) {
                self.refuse(unread(at, reason, "remove it"));
            }
        } else if let Some(typed) = names.filter(|_| dns.policy == DnsPolicy::Open) {
            let help = "write `network.dns.policy = \"names\"`, or `network.dns.allowNames = []`";
            self.refuse(unread(&typed.at, "every name is resolved", help));
        }
        if let Some(at) = typed_policy
            && (policy, dns.policy) == (Policy::AllowList, DnsPolicy::Open)
        {
            self.diagnostics.push(Diagnostic::new(
                Code::OpenResolver,
                at,
                "names leave an instance that reaches listed addresses alone",
                "every name is resolved",
                "remove it, and list names in `network.dns.allowNames`",
            ));
        }
        if let Some(typed) = raw.network_policy.as_ref().filter(|_| policy == Policy::Unrestricted)
        {
            self.diagnostics.push(Diagnostic::new(
                Code::Unrestricted,
                &typed.at,
                "the agent reaches everything that the host reaches",
                "the local network and metadata services too",
                "remove it, and list what is needed in `network.outbound.allowCidrs`",
            ));
        }
    }
}

pub(super) fn one_of<T: Copy>(
    code: Code,
    text: &str,
    values: &[T],
    words: &[&str],
) -> Result<T, Refusal> {
    let found = words.iter().zip(values).find(|(word, _)| **word == text);
    found.map(|(_, value)| *value).ok_or_else(|| Refusal {
        code,
        reason: format!("what can stand here is {}", words.join(", ")),
        help: match nearest(text, words) {
            Some(near) => format!("write `{near}`"),
            None => format!("write `{}`", words.first().copied().unwrap_or_default()),
        },
    })
}

/// A network in the one spelling that leaves no doubt of its size.
fn network(text: &str) -> Result<IpNet, Refusal> {
    let bad = |reason: &str, help: String| Refusal {
        code: Code::BadCidr,
        reason: reason.to_owned(),
        help,
    };
    let example = || "write a range such as `192.0.2.0/24` or `2001:db8::/32`".to_owned();
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(ip) => {
                bad("the length of the prefix is missing", format!("write `{}`", IpNet::from(ip)))
            }
            Err(_) => bad("not an address", example()),
        });
    };
    let ip: IpAddr =
        address.parse().map_err(|_| bad("not an address before the slash", example()))?;
    let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let plain = plain && (length == "0" || !length.starts_with('0'));
    let length = length.parse().ok().filter(|_| plain);
    let net = length.and_then(|length| IpNet::new(ip, length).ok());
    let net = net.ok_or_else(|| {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        bad("not the length of a prefix", format!("write `{ip}/{most}` for this address alone"))
    })?;
    if let IpNet::V6(six) = net
        && let Some(four) = six.addr().to_ipv4_mapped()
        && let Some(length) = six.prefix_len().checked_sub(96)
    {
        return Err(Refusal {
            code: Code::MappedAddress,
            reason: "no packet of IPv6 has such a destination".to_owned(),
            help: format!("write `{four}/{length}`"),
        });
    }
    if net != net.trunc() {
        let (network, one) = (net.trunc(), IpNet::from(ip));
        return Err(Refusal {
            code: Code::HostBits,
            reason: format!("the network is {network}"),
            help: format!("write `{network}` for the network, or `{one}` for this address alone"),
        });
    }
    Ok(net)
}

/// A network that an instance can be let reach.
fn range(text: &str) -> Result<IpNet, Refusal> {
    let net = network(text)?;
    match special::of(&net).filter(|special| special.class == Class::Nowhere) {
        None => Ok(net),
        Some(special) => Err(Refusal {
            code: Code::RefusedRange,
            reason: format!("{} is {}", special.net, special.what),
            help: match special.what {
                "loopback" => {
                    "remove it; a port of the host's loopback goes to `network.hostPorts`"
                }
                "link-local addresses" if net.addr().is_ipv4() => {
                    "remove it; a metadata service is listed by its address, `169.254.169.254/32`"
                }
                _ => "remove it",
            }
            .to_owned(),
        }),
    }
}

fn pool(text: &str) -> Result<Ipv4Net, Refusal> {
    let private =
        [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16), ([100, 64, 0, 0], 10)];
    let bad = |reason: &str| Refusal {
        code: Code::BadPool,
        reason: reason.to_owned(),
        help: "write a private network such as `10.219.0.0/16`".to_owned(),
    };
    let IpNet::V4(net) = network(text)? else {
        return Err(bad("links have IPv4 addresses of a pool"));
    };
    if !private.iter().any(|&(first, len)| Ipv4Net::new_assert(first.into(), len).contains(&net)) {
        return Err(bad("this is no private network, and somebody else's addresses may be in it"));
    }
    if net.prefix_len() > 28 {
        return Err(bad("this has room for a few links only"));
    }
    Ok(net)
}

fn ports_of(text: &str) -> Result<PortRange, Refusal> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| plain && *port != 0)
    };
    let refuse = |reason: &str, help: String| Refusal {
        code: Code::BadPortRange,
        reason: reason.to_owned(),
        help,
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(PortRange { first, last }),
        (Some(first), Some(last)) => Err(refuse(
            "the last port comes before the first",
            format!("write `\"{last}-{first}\"`"),
        )),
        _ => Err(refuse("ports are 1 to 65535", "write `443`, or `\"8000-8100\"`".to_owned())),
    }
}

fn host_port(number: i64) -> Result<u16, Refusal> {
    let port = port(number)?;
    if port == SERVER_PORT {
        return Err(Refusal {
            code: Code::PortOfInstance,
            reason: "inside, the server itself has this port".to_owned(),
            help: "have the host's service listen on another port".to_owned(),
        });
    }
    Ok(port)
}

/// A name in lower case, without the dot at its end.
fn host_name(text: &str) -> Result<String, Refusal> {
    let refuse = |reason: &str, help: String| Refusal {
        code: Code::BadDnsName,
        reason: reason.to_owned(),
        help,
    };
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name == "*" {
        let help = "write `network.dns.policy = \"open\"` to resolve every name".to_owned();
        return Err(refuse("this is every name", help));
    }
    if text.parse::<IpAddr>().is_ok() {
        let help = "list it in `network.outbound.allowCidrs`".to_owned();
        return Err(refuse("this is an address, which nobody has to resolve", help));
    }
    if !text.is_ascii() {
        let help = "write it as DNS has it, with `xn--`".to_owned();
        return Err(refuse("DNS has no such letters", help));
    }
    let bare = name.strip_prefix("*.").unwrap_or(&name);
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(legal) && !label.starts_with('-')
    };
    if name.len() > 253 || !bare.split('.').all(label) {
        let help = "write a name such as `api.example.org`, or `*.example.org`".to_owned();
        return Err(refuse("labels of letters, digits, `-` and `_`, with dots between", help));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::{host_name, network, pool, ports_of, range};
    use crate::code::Code;
    use crate::text::Refusal;

    fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>) -> (Code, String) {
        let refusal = result.unwrap_err();
        (refusal.code, refusal.help)
    }

    #[test]
    fn a_range_has_one_spelling() {
        for text in
            ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0", "2001:DB8::1/128"]
        {
            assert!(network(text).is_ok(), "{text}");
        }
        assert_eq!(
            refused(network("10.1.2.3/8")),
            (
                Code::HostBits,
                "write `10.0.0.0/8` for the network, or `10.1.2.3/32` for this address alone"
                    .to_owned()
            )
        );
        assert_eq!(
            refused(network("2001:db8::1/64")),
            (Code::HostBits, "write `2001:db8::/64` for the network, or `2001:db8::1/128` for this address alone".to_owned())
        );
        assert_eq!(
            refused(network("::ffff:10.0.0.0/104")),
            (Code::MappedAddress, "write `10.0.0.0/8`".to_owned())
        );
        assert_eq!(refused(network("10.1.2.3")), (Code::BadCidr, "write `10.1.2.3/32`".to_owned()));
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "010.0.0.0/8",
            "10.0.0/8",
            "example.org",
            "::/129",
            "10.0.0.0/8 ",
            "fe80::1%eth0/64",
        ] {
            assert_eq!(refused(network(text)).0, Code::BadCidr, "{text}");
        }
    }

    #[test]
    fn what_is_nowhere_cannot_be_listed() {
        for text in [
            "127.0.0.1/32",
            "127.0.0.0/8",
            "169.254.1.0/24",
            "224.0.0.251/32",
            "255.255.255.255/32",
            "0.0.0.0/8",
            "::1/128",
            "fe80::/10",
            "ff02::/16",
        ] {
            assert_eq!(refused(range(text)).0, Code::RefusedRange, "{text}");
        }
        for text in ["169.254.169.254/32", "10.0.0.0/8", "0.0.0.0/0", "fd00:ec2::254/128"] {
            assert!(range(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn ports_and_pools() {
        assert_eq!(ports_of("443").map(|p| p.to_string()).ok(), Some("443".to_owned()));
        assert_eq!(ports_of("8000-8100").map(|p| p.to_string()).ok(), Some("8000-8100".to_owned()));
        assert_eq!(refused(ports_of("9-8")).1, "write `\"8-9\"`");
        for text in ["0", "65536", "", "-", "1-", "true", "+1", "1-2-3", " 1"] {
            assert_eq!(refused(ports_of(text)).0, Code::BadPortRange, "{text}");
        }
        assert!(pool("10.219.0.0/16").is_ok() && pool("192.168.128.0/28").is_ok());
        for text in ["8.0.0.0/8", "fd00::/48", "10.0.0.0/29", "0.0.0.0/0"] {
            assert_eq!(refused(pool(text)).0, Code::BadPool, "{text}");
        }
        assert_eq!(refused(pool("10.219.1.0/16")).0, Code::HostBits);
    }

    #[test]
    fn names_are_as_dns_has_them() {
        assert_eq!(host_name("API.Example.org.").ok(), Some("api.example.org".to_owned()));
        assert_eq!(host_name("*.example.org").ok(), Some("*.example.org".to_owned()));
        assert!(host_name("_dmarc.xn--bcher-kva.example").is_ok());
        for text in [
            "",
            ".",
            "*",
            "*.",
            "a.*.b",
            "a*.b",
            "a..b",
            "-a.b",
            "1.2.3.4",
            "::1",
            "bücher.example",
            "a b",
            "a/b",
        ] {
            assert_eq!(refused(host_name(text)).0, Code::BadDnsName, "{text}");
        }
    }
}
