//! The judgement of what was seen.

use super::firewall::{Owner, Packet, Stop, stops};
use super::observed::{ControlGroups, Kind, Leftover, Observed, Package, Room, Switch};
use super::{Code, Finding};
use crate::audit::NEWER;
use crate::dialect::Dialect;
use crate::facts::OLDEST_SYSTEMD;
use crate::nft::MODULES;
use crate::opencode;
use crate::terminal::harmless;

/// The controllers that limits need.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Said when less is left, in bytes; on a small file system a fiftieth of it.
const LEAST: u64 = 256 << 20;
/// Where a packet of an instance's or an answer comes by, in this order.
const HOOKS: [&str; 3] = [EARLY, "forward", "postrouting"];
const EARLY: &str = "prerouting";
/// An interface of a link as rules see it, where there is none yet.
const ANY_LINK: &str = "oc-0123456789ab";

/// Everything that is worth a word, the findings first.
pub fn judge(seen: &Observed) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(systemd(seen));
    found.extend(nft(seen));
    found.extend(veth(seen));
    found.extend(control_groups(seen));
    found.extend(seen.switched_off.iter().map(forwarding));
    found.extend(firewalls(seen));
    found.extend(listeners(seen));
    found.extend(legacy(seen));
    found.extend(ipv6(seen));
    found.extend(resolvers(seen));
    found.extend(seen.rooms.iter().flat_map(room));
    found.extend(seen.packages.iter().filter_map(package));
    found.extend(clock(seen));
    found.extend(kernel(seen));
    found.extend(seen.leftovers.iter().map(leftover));
    found.extend(secrets(seen));
    found.extend(seen.failed.iter().map(|unit| failed(unit)));
    found.extend(seen.unseen.iter().map(|what| {
        finding(Code::Unseen, what.clone(), "run it as root: sudo opencode-instances doctor")
    }));
    found.sort_by_key(|finding| (!finding.code.is_finding(), finding.code));
    found
}

fn finding(code: Code, what: impl AsRef<str>, remedy: impl AsRef<str>) -> Finding {
    Finding { code, what: harmless(what.as_ref()), remedy: harmless(remedy.as_ref()) }
}

fn systemd(seen: &Observed) -> Vec<Finding> {
    match seen.systemd {
        None => Vec::new(),
        Some(0) => vec![finding(
            Code::NoSystemd,
            "systemd is not the service manager of this host",
            "boot with systemd; `render` writes the files without it",
        )],
        Some(version) if version < OLDEST_SYSTEMD => vec![finding(
            Code::OldSystemd,
            format!("this is systemd {version}"),
            format!("use systemd {OLDEST_SYSTEMD} or newer, as in Debian 12"),
        )],
        Some(version) => NEWER
            .iter()
            .filter(|newer| version < newer.since)
            .map(|newer| {
                finding(
                    Code::LacksProtection,
                    format!(
                        "systemd {version} has no {}, which is of the control {}",
                        newer.directive, newer.control
                    ),
                    format!(
                        "systemd {} has it; `docs/reference/controls.md` says what it stops",
                        newer.since
                    ),
                )
            })
            .collect(),
    }
}

fn nft(seen: &Observed) -> Option<Finding> {
    let nft = &seen.nft;
    match (&nft.version, &nft.rules) {
        (Some(Err(why)), _) => Some(finding(
            Code::NoNft,
            format!("{} does not work: {why}", nft.path),
            "install nftables, as with `apt install nftables`",
        )),
        (_, Some(Err(why))) => Some(finding(
            Code::NoRules,
            format!(
                "rules of instances and of the host cannot be loaded in a fresh network namespace: {why}"
            ),
            format!(
                "modprobe --all {}; where modules are locked, have them loaded at boot; in a container, let its \
                 host load them, and let it have its own nftables",
                MODULES.join(" ")
            ),
        )),
        _ => None,
    }
}

fn veth(seen: &Observed) -> Option<Finding> {
    let why = seen.veth.as_ref()?.as_ref().err()?;
    Some(finding(
        Code::NoVeth,
        format!("no link can be made in a fresh network namespace: {why}"),
        "modprobe veth; where modules are locked, have it loaded at boot; in a container, let its host load it, \
         and let it write to /proc/sys/net",
    ))
}

fn control_groups(seen: &Observed) -> Vec<Finding> {
    let controllers = match &seen.control_groups {
        ControlGroups::Unseen => return Vec::new(),
        ControlGroups::Missing => {
            return vec![finding(
                Code::NoCgroups,
                "/sys/fs/cgroup is not the unified hierarchy",
                "boot without systemd.unified_cgroup_hierarchy=0",
            )];
        }
        ControlGroups::With(controllers) => controllers,
    };
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !controllers.contains(*name)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let enabled = missing.iter().map(|name| format!("cgroup_enable={name}"));
    vec![finding(
        Code::NoController,
        format!("the kernel has no controller {} at /sys/fs/cgroup", missing.join(", ")),
        format!(
            "boot with {} on the kernel's command line, or a kernel that has them",
            enabled.collect::<Vec<_>>().join(" ")
        ),
    )]
}

fn forwarding(switch: &Switch) -> Finding {
    let Switch { setting, instances } = switch;
    let who = match instances.as_slice() {
        [one] => format!("`{one}`"),
        [one, other] => format!("`{one}` and `{other}`"),
        [one, others @ ..] => format!("`{one}` and {} others", others.len()),
        [] => "instances".to_owned(),
    };
    // An interface may have dots in its name; then sysctl wants slashes around it.
    let name = if setting.contains('.') { setting.clone() } else { setting.replace('/', ".") };
    let what = if setting.ends_with("/src_valid_mark") {
        format!("with it at 0 the reverse path filter (rp_filter) drops what comes back to {who}")
    } else if setting.starts_with("net/ipv6/") {
        format!("with it at 0 nothing of {who} is forwarded over IPv6 there")
    } else {
        format!("with it at 0 nothing that comes in there is forwarded, of or to {who}")
    };
    finding(Code::NotForwarded, format!("{name}: {what}"), format!("sysctl -w {name}=1"))
}

fn firewalls(seen: &Observed) -> Vec<Finding> {
    let Some(ruleset) = &seen.ruleset else { return Vec::new() };
    let link = seen.links.first().map_or(ANY_LINK, |link| link.name.as_str());
    let uplink = seen.uplink.as_deref();
    let mut found = Vec::new();
    for hook in HOOKS {
        // Before its way is decided a packet goes nowhere.
        let to = |link| if hook == EARLY { None } else { link };
        let out = Packet { from: Some(link), to: to(uplink), is_answer: false, port: Some(443) };
        let back = Packet { from: uplink, to: to(Some(link)), is_answer: true, port: None };
        let out = stops(ruleset, hook, out);
        found.extend(out.iter().map(|stop| dropped(stop, hook, "what instances send")));
        let back = stops(ruleset, hook, back);
        let same =
            |stop: &Stop| out.iter().any(|one| one.chain == stop.chain && one.table == stop.table);
        let alone = back.iter().filter(|stop| !same(stop));
        found.extend(alone.map(|stop| dropped(stop, hook, "answers to instances")));
    }
    found
}

/// What a chain does, and the lines that let instances through.
fn dropped(stop: &Stop, hook: &str, what: &str) -> Finding {
    let Stop { family, table, chain, owner, perhaps } = stop;
    let to_link = if hook == EARLY { "" } else { "oifname '\"oc-*\"' " };
    let lines = format!(
        "nft insert rule {family} {table} {chain} iifname '\"oc-*\"' accept; nft insert rule {family} {table} \
         {chain} {to_link}ct state established,related accept; and the same rules where the table is made"
    );
    let (who, remedy) = match owner {
        Owner::Docker => (
            "Docker's, ",
            "iptables -I DOCKER-USER -i oc-+ -j ACCEPT; iptables -I DOCKER-USER -o oc-+ -m conntrack \
             --ctstate RELATED,ESTABLISHED -j ACCEPT; and again after each boot"
                .to_owned(),
        ),
        Owner::Firewalld => (
            "firewalld's, ",
            "firewall-cmd --permanent --zone=trusted --add-interface=oc-+; firewall-cmd --reload"
                .to_owned(),
        ),
        Owner::Ufw => ("ufw's, ", "ufw route allow in on oc-+".to_owned()),
        Owner::Other => ("", lines.clone()),
    };
    // What these programs offer is about the forward hook.
    let remedy = if hook == "forward" { remedy } else { lines };
    let (code, drops) =
        if *perhaps { (Code::MayBeDropped, "may drop") } else { (Code::ForwardDropped, "drops") };
    finding(
        code,
        format!(
            "the chain {chain} of table {family} {table}, {who}at the hook {hook}, {drops} {what}"
        ),
        remedy,
    )
}

fn listeners(seen: &Observed) -> Vec<Finding> {
    let Some(ruleset) = &seen.ruleset else { return Vec::new() };
    let mut found = Vec::new();
    for listener in &seen.listeners {
        let port = listener.port;
        let packet =
            Packet { from: seen.uplink.as_deref(), to: None, is_answer: false, port: Some(port) };
        for stop in stops(ruleset, "input", packet).iter().filter(|stop| !stop.perhaps) {
            let Stop { family, table, chain, .. } = stop;
            let remedy = match stop.owner {
                Owner::Firewalld => {
                    format!("firewall-cmd --permanent --add-port={port}/tcp; firewall-cmd --reload")
                }
                Owner::Ufw => format!("ufw allow {port}/tcp"),
                Owner::Docker | Owner::Other => format!(
                    "nft insert rule {family} {table} {chain} tcp dport {port} accept; and the same rule \
                     where the table is made"
                ),
            };
            let what = format!(
                "the chain {chain} of table {family} {table}, at the hook input, drops clients of `{}` at \
                 port {port}",
                listener.instance
            );
            found.push(finding(Code::ListenerDropped, what, remedy));
        }
    }
    found
}

fn legacy(seen: &Observed) -> Option<Finding> {
    let tables = seen.legacy.join(", ");
    (!seen.legacy.is_empty()).then(|| {
        finding(
            Code::LegacyRules,
            format!("rules of iptables-legacy that doctor cannot read: tables {tables}"),
            "iptables-legacy-save and ip6tables-legacy-save show them: see that none drops what comes in from \
             oc-+, or its answers; doctor reads those of iptables-nft",
        )
    })
}

fn ipv6(seen: &Observed) -> Option<Finding> {
    (seen.ipv6 == Some(false)).then(|| {
        let what = "the host has no way to the internet over IPv6: instances have IPv4 alone";
        finding(Code::NoIpv6, what, "")
    })
}

fn resolvers(seen: &Observed) -> Vec<Finding> {
    let silent: Vec<String> = seen
        .resolvers
        .iter()
        .filter(|(_, answers)| !answers)
        .map(|(ip, _)| ip.to_string())
        .collect();
    let remedy = "see that /etc/resolv.conf names a resolver that this host reaches; with systemd-resolved, \
                  `resolvectl status` says whom it asks";
    if seen.resolvers.is_empty() {
        let what = "neither /run/systemd/resolve/resolv.conf nor /etc/resolv.conf names a resolver";
        return vec![finding(Code::NoResolver, what, remedy)];
    }
    if silent.is_empty() {
        return Vec::new();
    }
    let words = silent.join(", ");
    vec![if silent.len() == seen.resolvers.len() {
        finding(Code::SilentResolvers, format!("no answer from {words}"), remedy)
    } else {
        finding(
            Code::SilentResolver,
            format!("no answer from {words}, but from another one"),
            remedy,
        )
    }]
}

fn room(room: &Room) -> Vec<Finding> {
    let Room { path, bytes: (free, all), files: (left, files) } = room;
    let mut found = Vec::new();
    if *free < LEAST.min(all / 50).max(1) {
        found.push(finding(
            Code::LittleRoom,
            format!("only {} MiB are left on the file system of {path}", free >> 20),
            format!("make room; `du --max-depth=2 --human-readable {path}` says who took it"),
        ));
    }
    if *files > 0 && *left < (files / 50).max(1) {
        found.push(finding(
            Code::FewInodes,
            format!("only {left} of {files} files can still be made on the file system of {path}"),
            format!("remove files; `du --inodes --max-depth=2 {path}` says where they are"),
        ));
    }
    found
}

fn package(package: &Package) -> Option<Finding> {
    let Package { path, instances, version } = package;
    let it = match instances.as_slice() {
        [] => path.clone(),
        names => format!("{path}, of {},", names.join(", ")),
    };
    let newest = opencode::known("").version;
    let remedy = format!(
        "let `package` name opencode {newest}, or another 1.x, in a place where only root can write"
    );
    let version = match version {
        Ok(version) => version,
        Err(why) => {
            let what = format!("{it} cannot be told for an opencode: {why}");
            return Some(finding(Code::NoPackage, what, remedy));
        }
    };
    if !Dialect::of(Some(version)).verified {
        let what = format!("{it} is opencode {version}, and no test runs any of its generation");
        return Some(finding(Code::NoPackage, what, remedy));
    }
    (!opencode::known(version).exact).then(|| {
        let what = format!("{it} is opencode {version}");
        finding(Code::OtherVersion, what, format!("its settings are judged as those of {newest}"))
    })
}

fn clock(seen: &Observed) -> Vec<Finding> {
    let clock = &seen.clock;
    let mut found = Vec::new();
    if let Some((name, time)) = &clock.youngest
        && clock.now < *time
    {
        found.push(finding(
            Code::EarlyClock,
            format!("the clock is {} s behind the time of {name}", time - clock.now),
            "set the clock: timedatectl set-ntp true, or date --set",
        ));
    }
    if clock.synchronised == Some(false) {
        found.push(finding(
            Code::Unsynchronised,
            "no program sets the clock by a server's time",
            "timedatectl set-ntp true",
        ));
    }
    found
}

fn kernel(seen: &Observed) -> Vec<Finding> {
    let kernel = &seen.kernel;
    let setting = |name: &str| kernel.settings.get(name).map(String::as_str);
    let persists = "and the same line in a file below /etc/sysctl.d";
    let mut found = Vec::new();
    if setting("user.max_user_namespaces") == Some("0") {
        found.push(finding(
            Code::NoNamespaces,
            "user.max_user_namespaces is 0",
            format!("sysctl -w user.max_user_namespaces=10000; {persists}"),
        ));
    }
    if kernel.seccomp == Some(false) {
        found.push(finding(
            Code::NoSeccomp,
            "the kernel does not filter system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ));
    }
    for name in ["fs.protected_hardlinks", "fs.protected_symlinks"] {
        if setting(name) == Some("0") {
            found.push(finding(
                Code::LooseLinks,
                format!("{name} is 0"),
                format!("sysctl -w {name}=1; {persists}"),
            ));
        }
    }
    for (name, restricted) in [
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ] {
        if setting(name) == Some(restricted) {
            found.push(finding(
                Code::NestedNeedsMore,
                format!("{name} is {restricted}"),
                format!(
                    "where sandboxes in the sandbox are wanted: sysctl -w {name}={}",
                    u8::from(restricted == "0")
                ),
            ));
        }
    }
    found
}

fn leftover(left: &Leftover) -> Finding {
    let name = &left.name;
    match left.kind {
        Kind::Namespace => finding(
            Code::LeftNamespace,
            format!("the network namespace {name} belongs to no instance"),
            format!("ip netns delete {name}"),
        ),
        Kind::Link => finding(
            Code::LeftLink,
            format!("the link {name} belongs to no instance"),
            format!("ip link delete {name}"),
        ),
        Kind::Table => finding(
            Code::LeftTable,
            format!("the table inet {name} is there, and no instance"),
            format!("nft delete table inet {name}"),
        ),
        Kind::Unit => finding(
            Code::LeftUnit,
            format!("the unit {name} belongs to no instance"),
            format!(
                "systemctl disable --now {unit}; rm {name}; systemctl daemon-reload",
                unit = name.rsplit('/').next().unwrap_or_default()
            ),
        ),
        Kind::State => finding(
            Code::KeptState,
            format!("{name} is of no instance that is installed, and was kept"),
            format!("if nobody wants it back: rm -r {name}"),
        ),
        Kind::User => finding(
            Code::KeptUser,
            format!("the user {name} is of no instance that is installed, and was kept"),
            format!("if nothing of its is wanted: userdel {name}"),
        ),
    }
}

fn secrets(seen: &Observed) -> impl Iterator<Item = Finding> {
    seen.secrets.iter().map(|secret| {
        let code = if secret.is_empty { Code::EmptySecret } else { Code::BadSecret };
        finding(code, format!("{}: {}", secret.instance, secret.what), &secret.remedy)
    })
}

fn failed(unit: &str) -> Finding {
    finding(
        Code::FailedUnit,
        format!("{unit} failed"),
        format!(
            "journalctl -u {unit} says why; then start it again, or systemctl reset-failed {unit}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::doctor::observed::{Clock, Kernel, Listener, Nft, Secret};
    use serde_json::{Value, json};

    /// A host on which all is well.
    fn well() -> Observed {
        Observed {
            systemd: Some(257),
            nft: Nft {
                path: "/usr/sbin/nft".to_owned(),
                version: Some(Ok("1.1.3".to_owned())),
                rules: Some(Ok(())),
            },
            veth: Some(Ok(())),
            control_groups: ControlGroups::With(CONTROLLERS.map(str::to_owned).into()),
            ruleset: Some(json!({ "nftables": [] })),
            uplink: Some("eth0".to_owned()),
            ipv6: Some(true),
            resolvers: vec![("192.0.2.1".parse().unwrap(), true)],
            rooms: vec![Room {
                path: "/var/lib/opencode".to_owned(),
                bytes: (10 << 30, 100 << 30),
                files: (1000, 2000),
            }],
            clock: Clock {
                synchronised: Some(true),
                now: 2000,
                youngest: Some(("x".to_owned(), 1000)),
            },
            kernel: Kernel {
                settings: [("fs.protected_hardlinks", "1"), ("user.max_user_namespaces", "5")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                seccomp: Some(true),
            },
            ..Observed::default()
        }
    }

    fn chain(hook: &str, table: &str) -> Value {
        json!({ "nftables": [{ "chain": {
            "family": "inet", "table": table, "name": "c", "type": "filter", "hook": hook,
            "policy": "drop",
        }}]})
    }

    fn only(change: impl Fn(&mut Observed)) -> Finding {
        let mut seen = well();
        change(&mut seen);
        let found = judge(&seen);
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    }

    fn left(kind: Kind, name: &str) -> Vec<Leftover> {
        vec![Leftover { kind, name: name.to_owned() }]
    }

    fn off(setting: &str, instances: &[&str]) -> Vec<Switch> {
        let instances = instances.iter().map(|&name| name.to_owned()).collect();
        vec![Switch { setting: setting.to_owned(), instances }]
    }

    fn set(seen: &mut Observed, name: &str, value: &str) {
        seen.kernel.settings.insert(name.to_owned(), value.to_owned());
    }

    fn of_package(version: Result<&str, &str>) -> Vec<Package> {
        vec![Package {
            path: "/opt/opencode".to_owned(),
            instances: vec!["web".to_owned()],
            version: version.map(str::to_owned).map_err(str::to_owned),
        }]
    }

    type Case = (Code, &'static str, fn(&mut Observed));

    /// Each code, a word of what is said, and what is wrong with the host.
    const CASES: &[Case] = &[
        (Code::NoSystemd, "render", |seen| seen.systemd = Some(0)),
        (Code::OldSystemd, "systemd 249", |seen| seen.systemd = Some(249)),
        (Code::NoNft, "apt install nftables", |seen| {
            seen.nft.version = Some(Err("gone".to_owned()));
        }),
        (Code::NoRules, "fib: no. modprobe --all nf_tables", |seen| {
            seen.nft.rules = Some(Err("fib: no.".to_owned()));
        }),
        (Code::NoVeth, "not supported modprobe veth", |seen| {
            seen.veth = Some(Err("not supported".to_owned()));
        }),
        (Code::NoCgroups, "/sys/fs/cgroup", |seen| seen.control_groups = ControlGroups::Missing),
        (Code::NoController, "cgroup_enable=memory", |seen| {
            seen.control_groups =
                ControlGroups::With(["cpu", "io", "pids"].map(str::to_owned).into());
        }),
        (Code::NotForwarded, "to `web` sysctl -w net.ipv4.conf.oc-1.forwarding=1", |seen| {
            seen.switched_off = off("net/ipv4/conf/oc-1/forwarding", &["web"]);
        }),
        (
            Code::NotForwarded,
            "to `a` and `b` sysctl -w net/ipv4/conf/eth0.7/forwarding=1",
            |seen| {
                seen.switched_off = off("net/ipv4/conf/eth0.7/forwarding", &["a", "b"]);
            },
        ),
        (
            Code::NotForwarded,
            "of `a` and 2 others is forwarded over IPv6 there sysctl -w net.ipv6",
            |seen| {
                seen.switched_off = off("net/ipv6/conf/all/forwarding", &["a", "b", "c"]);
            },
        ),
        (
            Code::NotForwarded,
            "back to `web` sysctl -w net.ipv4.conf.eth0.src_valid_mark=1",
            |seen| {
                seen.switched_off = off("net/ipv4/conf/eth0/src_valid_mark", &["web"]);
            },
        ),
        (Code::ForwardDropped, "nft insert rule inet t c iifname", |seen| {
            seen.ruleset = Some(chain("forward", "t"));
        }),
        (Code::ForwardDropped, "firewall-cmd", |seen| {
            seen.ruleset = Some(chain("forward", "firewalld"));
        }),
        (
            Code::ForwardDropped,
            "prerouting, drops what instances send nft insert rule inet t c",
            |seen| {
                seen.ruleset = Some(chain("prerouting", "t"));
            },
        ),
        (
            Code::ForwardDropped,
            "insert rule inet firewalld c oifname '\"oc-*\"' ct state",
            |seen| {
                seen.ruleset = Some(chain("postrouting", "firewalld"));
            },
        ),
        (Code::LegacyRules, "ip filter, ip6 nat", |seen| {
            seen.legacy = vec!["ip filter".to_owned(), "ip6 nat".to_owned()];
        }),
        (Code::ListenerDropped, "tcp dport 4101 accept", |seen| {
            seen.ruleset = Some(chain("input", "t"));
            seen.listeners = vec![Listener { instance: "web".to_owned(), port: 4101 }];
        }),
        (Code::NoResolver, "/etc/resolv.conf", |seen| seen.resolvers.clear()),
        (Code::SilentResolvers, "192.0.2.1", |seen| seen.resolvers[0].1 = false),
        (Code::LittleRoom, "only 3 MiB are left", |seen| seen.rooms[0].bytes.0 = 3 << 20),
        (Code::FewInodes, "only 3 of 2000", |seen| seen.rooms[0].files.0 = 3),
        (Code::NoPackage, "/opt/opencode, of web, cannot be told for an opencode: gone", |seen| {
            seen.packages = of_package(Err("gone"));
        }),
        (Code::NoPackage, "/opt/opencode cannot be told", |seen| {
            seen.packages = of_package(Err("gone"));
            seen.packages[0].instances.clear();
        }),
        (Code::NoPackage, "opencode 2.0.1", |seen| seen.packages = of_package(Ok("2.0.1"))),
        (Code::EarlyClock, "500 s behind", |seen| seen.clock.now = 500),
        (Code::NoNamespaces, "sysctl -w", |seen| set(seen, "user.max_user_namespaces", "0")),
        (Code::NoSeccomp, "CONFIG_SECCOMP_FILTER", |seen| seen.kernel.seccomp = Some(false)),
        (Code::LooseLinks, "fs.protected_symlinks=1", |seen| {
            set(seen, "fs.protected_symlinks", "0");
        }),
        (Code::LeftNamespace, "ip netns delete opencode-x", |seen| {
            seen.leftovers = left(Kind::Namespace, "opencode-x");
        }),
        (Code::LeftLink, "ip link delete oc-1", |seen| seen.leftovers = left(Kind::Link, "oc-1")),
        (Code::LeftTable, "nft delete table inet opencode_host", |seen| {
            seen.leftovers = left(Kind::Table, "opencode_host");
        }),
        (
            Code::LeftUnit,
            "disable --now opencode-x.service; rm /etc/systemd/system/opencode-x.service",
            |seen| {
                seen.leftovers = left(Kind::Unit, "/etc/systemd/system/opencode-x.service");
            },
        ),
        (Code::BadSecret, "chmod o= /x", |seen| {
            seen.secrets = vec![Secret {
                instance: "web".to_owned(),
                what: "open".to_owned(),
                remedy: "chmod o= /x".to_owned(),
                is_empty: false,
            }];
        }),
        (Code::EmptySecret, "write it", |seen| {
            seen.secrets = vec![Secret {
                instance: "web".to_owned(),
                what: "empty".to_owned(),
                remedy: "write it".to_owned(),
                is_empty: true,
            }];
        }),
        (Code::FailedUnit, "reset-failed opencode-x.service", |seen| {
            seen.failed = vec!["opencode-x.service".to_owned()];
        }),
        (Code::Unseen, "sudo", |seen| seen.unseen = vec!["the rules".to_owned()]),
        (Code::LacksProtection, "PrivatePIDs=", |seen| seen.systemd = Some(256)),
        (Code::MayBeDropped, "may drop", |seen| {
            let mut ruleset = chain("forward", "t");
            let rule = json!({ "rule": {
                "family": "inet", "table": "t", "chain": "c",
                "expr": [{ "xt": null }, { "accept": null }],
            }});
            ruleset["nftables"].as_array_mut().unwrap().push(rule);
            seen.ruleset = Some(ruleset);
        }),
        (Code::NoIpv6, "IPv4 alone", |seen| seen.ipv6 = Some(false)),
        (Code::SilentResolver, "no answer from 192.0.2.2", |seen| {
            seen.resolvers.push(("192.0.2.2".parse().unwrap(), false));
        }),
        (Code::OtherVersion, "opencode 1.19.0", |seen| seen.packages = of_package(Ok("1.19.0"))),
        (Code::Unsynchronised, "timedatectl", |seen| seen.clock.synchronised = Some(false)),
        (Code::NestedNeedsMore, "kernel.unprivileged_userns_clone=1", |seen| {
            set(seen, "kernel.unprivileged_userns_clone", "0");
        }),
        (Code::KeptState, "rm -r /var/lib/x", |seen| {
            seen.leftovers = left(Kind::State, "/var/lib/x");
        }),
        (Code::KeptUser, "userdel opencode-x", |seen| {
            seen.leftovers = left(Kind::User, "opencode-x");
        }),
    ];

    #[test]
    fn nothing_is_said_of_a_host_that_is_well() {
        assert_eq!(judge(&well()), []);
    }

    #[test]
    fn what_could_not_be_seen_is_no_finding() {
        let seen = Observed { resolvers: well().resolvers, ..Observed::default() };
        assert_eq!(judge(&seen), []);
    }

    #[test]
    fn each_code_is_found_and_has_a_remedy() {
        let mut codes = BTreeSet::new();
        for (code, word, change) in CASES {
            codes.insert(*code);
            if *code == Code::LacksProtection {
                let mut seen = well();
                change(&mut seen);
                let found = judge(&seen);
                assert!(found.iter().all(|one| one.code == *code) && found.len() > 1);
                assert!(found.iter().any(|one| one.what.contains(word)), "{found:?}");
                continue;
            }
            let finding = only(change);
            assert_eq!(finding.code, *code, "{finding:?}");
            let text = format!("{} {}", finding.what, finding.remedy);
            assert!(text.contains(word), "{text}");
            assert!(!code.is_finding() || !finding.remedy.is_empty(), "{finding:?}");
        }
        let all: BTreeSet<Code> = Code::ALL.iter().copied().collect();
        assert_eq!(codes, all, "a code without a case");
    }

    #[test]
    fn codes_are_unique_and_in_order() {
        let texts: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let mut sorted = texts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(texts, sorted);
    }

    #[test]
    fn names_are_harmless() {
        let finding = only(|seen| seen.leftovers = left(Kind::State, "/var/lib/\u{1b}[2J"));
        assert!(!(finding.what + &finding.remedy).contains(char::is_control));
    }
}
