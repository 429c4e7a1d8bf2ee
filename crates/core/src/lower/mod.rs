//! `RawSpec → Spec`: judges every value alone and then the instances against each other.
//!
//! Invariant: nothing stops at the first finding, and a [`Spec`] is returned only when nothing
//! refuses it.

mod idle;
mod inside;
mod network;
mod resources;
mod sandbox;

use std::net::{IpAddr, SocketAddr};

use inside::{Inside, script, secret, shown, username};

use crate::bound::{Access, BoundPath, is_below};
use crate::cross::{Placed, Places, judge};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Origin};
use crate::layout::STATE_ROOT;
use crate::node::{Format, parse};
use crate::overrides;
use crate::protected::protected;
use crate::raw::{Directives, Located, RawFleet, RawInstance, RawSpec, decode, nearest};
use crate::resources::Resources;
use crate::sockets;
use crate::spec::{
    AbsPath, AccountName, Argument, Fleet, Instance, InstanceName, LogLevel, Spec, UnitOverrides,
};
use crate::text::Refusal;

/// Reads a document: text → `RawSpec` → `Spec`. Returns the warnings beside the specification, or
/// every finding.
pub fn read(text: &str, format: Format) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut diagnostics = Diagnostics::new();
    let raw = parse(text, format, &mut diagnostics).map(|node| decode(&node, &mut diagnostics));
    let spec = raw.map(|raw| lower(&raw, &mut diagnostics));
    diagnostics.conclude(spec)
}

/// Judges what was typed. Instances with a refused option are left out, with their findings in
/// `diagnostics`; what they do claim is judged against the others all the same.
pub fn lower(raw: &RawSpec, diagnostics: &mut Diagnostics) -> Spec {
    let fleet = lower_fleet(&raw.fleet, diagnostics);
    judge_defaults(&raw.defaults, diagnostics);
    let mut placed: Vec<Placed> = raw
        .instances
        .iter()
        .filter_map(|named| {
            let options = named.options.or(&raw.defaults);
            idle::remark(&named.options, &options, diagnostics);
            lower_instance(&named.name, &options, false, diagnostics)
        })
        .collect();
    judge(&placed, diagnostics);
    placed.sort_by(|a, b| a.instance.name.cmp(&b.instance.name));
    let complete = placed.into_iter().filter(|one| one.complete);
    Spec { fleet, instances: complete.map(|one| one.instance).collect() }
}

fn lower_fleet(raw: &RawFleet, diagnostics: &mut Diagnostics) -> Fleet {
    let mut judge = Judge { diagnostics, complete: true, alone: false };
    Fleet {
        resources: judge.resources("fleet.", &raw.limits, &Resources::of_fleet()),
        max_concurrent_starts: judge.max_concurrent_starts(raw.max_concurrent_starts.as_ref()),
        memory_pressure: judge.memory_pressure(raw.memory_pressure.as_ref()),
    }
}

/// A bad value in `[defaults]` is refused even where every instance says otherwise.
fn judge_defaults(defaults: &RawInstance, diagnostics: &mut Diagnostics) {
    let mut phantom = defaults.clone();
    let nowhere = Origin::default();
    if phantom.directory.is_none() {
        phantom.directory = Some(Located { value: "/srv/project".to_owned(), at: nowhere.clone() });
    }
    let name = Located { value: "defaults".to_owned(), at: nowhere };
    lower_instance(&name, &phantom, true, diagnostics);
}

/// Collects refusals with the place of the value they are about.
struct Judge<'a> {
    diagnostics: &'a mut Diagnostics,
    /// Whether nothing was refused so far.
    complete: bool,
    /// Whether these are `[defaults]`, which no instance completes.
    alone: bool,
}

impl Judge<'_> {
    fn take<T>(&mut self, at: &Origin, what: &str, result: Result<T, Refusal>) -> Option<T> {
        result
            .map_err(|refusal| {
                self.refuse(Diagnostic::new(
                    refusal.code,
                    at,
                    format!("{what} is refused: {}", refusal.code.title()),
                    refusal.reason,
                    refusal.help,
                ));
            })
            .ok()
    }

    fn refuse(&mut self, diagnostic: Diagnostic) {
        self.complete = false;
        self.diagnostics.push(diagnostic);
    }

    /// An optional text: its value, or `default` where nothing was typed or what was is refused.
    fn text<T>(
        &mut self,
        option: &str,
        typed: Option<&Located<String>>,
        default: T,
        new: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> T {
        let Some(text) = typed else { return default };
        let what = format!("`{option}` {:?}", text.value);
        self.take(&text.at, &what, new(&text.value)).unwrap_or(default)
    }

    /// A list, without the items that are refused.
    fn list<T>(
        &mut self,
        option: &str,
        typed: Option<&Located<Vec<Located<String>>>>,
        new: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Vec<T> {
        let items = typed.map_or(&[][..], |list| &list.value);
        let judge = |item: &Located<String>| {
            self.take(&item.at, &format!("`{option}` {:?}", item.value), new(&item.value))
        };
        items.iter().filter_map(judge).collect()
    }
}

fn lower_instance(
    name: &Located<String>,
    raw: &RawInstance,
    alone: bool,
    diagnostics: &mut Diagnostics,
) -> Option<Placed> {
    let mut judge = Judge { diagnostics, complete: raw.mistyped.is_empty(), alone };
    let what = format!("the name {:?}", name.value);
    let legal_name = judge.take(&name.at, &what, InstanceName::new(&name.value));
    // The other options of an instance without a legal name are judged as those of another name.
    let stand_in = InstanceName::new("instance").ok();
    let known_name = legal_name.clone().or(stand_in)?;
    let instance = judge.instance(&known_name, name, raw)?;
    let complete = judge.complete;
    // Without its name, an instance cannot be told from the others.
    legal_name.map(|_| Placed { instance, complete, at: Places::of(name, raw) })
}

impl Judge<'_> {
    /// Judges every option. One that is refused is replaced by what clashes with nothing, so that
    /// the others can still be judged against other instances.
    fn instance(
        &mut self,
        name: &InstanceName,
        typed: &Located<String>,
        raw: &RawInstance,
    ) -> Option<Instance> {
        let state_dir = AbsPath::new(&format!("{STATE_ROOT}/{name}")).ok()?;
        let nowhere = AbsPath::new(&format!("/nonexistent/{name}")).ok()?;
        let package_default = AbsPath::new("/usr/bin/opencode").ok()?;
        let flag = |typed: &Option<Located<bool>>| typed.as_ref().is_none_or(|flag| flag.value);
        let opt_in = |typed: &Option<Located<bool>>| typed.as_ref().is_some_and(|flag| flag.value);
        let username_default = Argument::new("opencode").ok()?;
        let Inside {
            settings,
            enforced_settings,
            content,
            environment,
            environment_file,
            credentials,
        } = self.inside(name, raw);
        Some(Instance {
            name: name.clone(),
            enable: flag(&raw.enable) && !raw.mistyped.contains("enable"),
            directory: directory(raw, typed, self).unwrap_or(nowhere),
            state_dir: self.text("stateDir", raw.state_dir.as_ref(), state_dir, |text| {
                AbsPath::new(text).and_then(protected)
            }),
            user: self.text("user", raw.user.as_ref(), name.account(), AccountName::user),
            group: self.text("group", raw.group.as_ref(), name.account(), AccountName::group),
            extra_groups: self.list("extraGroups", raw.extra_groups.as_ref(), AccountName::group),
            package: self.text("package", raw.package.as_ref(), package_default, |text| {
                AbsPath::new(text).and_then(package)
            }),
            path: self.list("path", raw.path.as_ref(), |text| AbsPath::new(text).and_then(prefix)),
            listen: self.listen(raw),
            open_firewall: opt_in(&raw.open_firewall),
            network: self.network(raw),
            network_pool: self.pool(raw),
            read_write_paths: self.bound(
                "sandbox.readWritePaths",
                raw.read_write_paths.as_ref(),
                Access::Write,
            ),
            read_only_paths: self.bound(
                "sandbox.readOnlyPaths",
                raw.read_only_paths.as_ref(),
                Access::Read,
            ),
            relax: self.relax(raw),
            allow_nested_sandbox: self.allow_nested_sandbox(raw),
            devices: self.devices(raw),
            nix_store: self.nix_store(raw),
            unix_sockets: self.unix_sockets(raw.unix_sockets.as_ref()),
            resources: self.resources("", raw, &Resources::of_instance()),
            disk_quota: self.disk_quota(raw),
            log_level: self.text("logLevel", raw.log_level.as_ref(), LogLevel::Info, log_level),
            extra_args: self.list("extraArgs", raw.extra_args.as_ref(), argument),
            auto_start: flag(&raw.auto_start),
            activation: self.activation(raw),
            idle_timeout: self.idle_timeout(raw),
            idle_clients: self.idle_clients(raw),
            idle_children: flag(&raw.idle_children),
            restart_on_switch: flag(&raw.restart_on_switch),
            settings,
            config_file: self.text("configFile", raw.config_file.as_ref(), None, |text| {
                AbsPath::new(text).and_then(shown).map(Some)
            }),
            enforced_settings,
            trust_project: flag(&raw.trust_project),
            content,
            environment,
            environment_file,
            credentials,
            restart_on_secret_change: opt_in(&raw.restart_on_secret_change),
            pre_init_script: self.script("preInitScript", raw.pre_init_script.as_ref()),
            post_init_script: self.script("postInitScript", raw.post_init_script.as_ref()),
            auth_username: self.text(
                "auth.username",
                raw.auth_username.as_ref(),
                username_default,
                username,
            ),
            auth_enable: flag(&raw.auth_enable),
            auth_password_file: self.text(
                "auth.passwordFile",
                raw.auth_password_file.as_ref(),
                None,
                |text| AbsPath::new(text).and_then(secret).map(Some),
            ),
            nix_enable: opt_in(&raw.nix_enable),
            nix_ld_enable: opt_in(&raw.nix_ld_enable),
            unit_overrides: self.unit_overrides(raw),
        })
    }

    fn bound(
        &mut self,
        option: &str,
        typed: Option<&Located<Vec<Located<String>>>>,
        access: Access,
    ) -> Vec<BoundPath> {
        let mut bound = Vec::new();
        for item in typed.map_or(&[][..], |list| &list.value) {
            let what = format!("`{option}` {:?}", item.value);
            let Some(path) = self.take(&item.at, &what, BoundPath::read(&item.value, access))
            else {
                continue;
            };
            if path.is_wide() {
                self.diagnostics.push(Diagnostic::new(
                    Code::WidePath,
                    &item.at,
                    format!("`{}` is more than a project", path.source),
                    "keys and configuration of many programs",
                    "list what is meant of it",
                ));
            }
            bound.push(path);
        }
        bound
    }

    fn unix_sockets(&mut self, typed: Option<&Located<Vec<Located<String>>>>) -> Vec<BoundPath> {
        let mut listed: Vec<BoundPath> = Vec::new();
        for item in typed.map_or(&[][..], |list| &list.value) {
            let what = format!("`{}` {:?}", sockets::OPTION, item.value);
            let read = sockets::read(&item.value).and_then(|socket| apart(socket, &listed));
            let Some(socket) = self.take(&item.at, &what, read) else { continue };
            if let Some(gives) = sockets::gives_away(socket.source.as_str()) {
                self.diagnostics.push(Diagnostic::new(
                    Code::SocketOfHost,
                    &item.at,
                    format!("`{}` gives away much of the host", socket.source),
                    gives,
                    "remove it unless the agent may do as much as that",
                ));
            }
            listed.push(socket);
        }
        listed
    }

    fn script(&mut self, option: &str, typed: Option<&Located<String>>) -> Option<String> {
        let typed = typed?;
        self.take(&typed.at, &format!("`{option}`"), script(&typed.value))
    }

    fn unit_overrides(&mut self, raw: &RawInstance) -> UnitOverrides {
        let mut judge = |key: &str, typed: &Option<Located<Directives>>| {
            for warning in overrides::weaker(key, typed.as_ref()) {
                self.diagnostics.push(warning);
            }
            overrides::judge(key, typed.as_ref(), |at, what, refusal| {
                self.take::<()>(at, what, Err(refusal));
            })
        };
        UnitOverrides {
            main: judge("unitOverrides.main", &raw.overrides_main),
            setup: judge("unitOverrides.setup", &raw.overrides_setup),
            net: judge("unitOverrides.net", &raw.overrides_net),
        }
    }

    /// The endpoint; port 0, which clashes with nothing, where a part of it is refused.
    fn listen(&mut self, raw: &RawInstance) -> SocketAddr {
        let before = std::mem::replace(&mut self.complete, true);
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let ip = self.text("listen.address", raw.listen_address.as_ref(), loopback, address);
        let number = match &raw.listen_port {
            None => 4096,
            Some(typed) => {
                let what = format!("`listen.port` {}", typed.value);
                self.take(&typed.at, &what, port(typed.value)).unwrap_or(0)
            }
        };
        let judged = std::mem::replace(&mut self.complete, before);
        self.complete &= judged;
        let typed = ["listen.address", "listen.port"].iter().all(|key| !raw.mistyped.contains(key));
        let legal = judged && typed;
        SocketAddr::new(ip, if legal { number } else { 0 })
    }
}

fn directory(raw: &RawInstance, name: &Located<String>, judge: &mut Judge<'_>) -> Option<AbsPath> {
    if raw.mistyped.contains("directory") {
        return None;
    }
    let Some(typed) = &raw.directory else {
        judge.refuse(Diagnostic::new(
            Code::MissingOption,
            &name.at,
            format!("`{}.directory` is missing", name.at.path),
            "this instance has no project",
            format!("add `directory = \"/srv/{}\"`", name.value.escape_default()),
        ));
        return None;
    };
    let what = format!("`directory` {:?}", typed.value);
    judge.take(&typed.at, &what, AbsPath::new(&typed.value).and_then(protected))
}

/// A package is bound into the sandbox, so it may not be a large part of the host.
fn package(path: AbsPath) -> Result<AbsPath, Refusal> {
    let text = path.as_str();
    let parts = text.split('/').count() - 1;
    let of_system = text == "/usr" || text.starts_with("/usr/");
    let of_store = text.starts_with("/nix/store/");
    if of_system || of_store || (parts >= 2 && protected(path.clone()).is_ok()) {
        return Ok(path);
    }
    Err(Refusal {
        code: Code::ProtectedPath,
        reason: "this would bind a large part of the host into the sandbox".to_owned(),
        help: "name the opencode binary itself, or the directory made for it alone".to_owned(),
    })
}

/// A socket whose place is that of no other one, and whose directory lies in that of no other one.
fn apart(socket: BoundPath, others: &[BoundPath]) -> Result<BoundPath, Refusal> {
    let directory = sockets::directory(&socket);
    let refuse = |reason: String| {
        let (source, name) = (&socket.source, sockets::name(&socket));
        Err(Refusal {
            code: Code::CoveredPlace,
            reason,
            help: format!("show it elsewhere, as in `{source}:/run/other/{name}`"),
        })
    };
    for other in others {
        let theirs = sockets::directory(other);
        if other.target == socket.target {
            return refuse(format!("`{}` is shown there already", other.source));
        }
        if directory != theirs && (is_below(directory, theirs) || is_below(theirs, directory)) {
            return refuse(format!("{theirs} holds nothing but sockets, and lies in its way"));
        }
    }
    Ok(socket)
}

/// An entry of `path` is bound like a package, and `PATH` separates its entries with colons.
fn prefix(path: AbsPath) -> Result<AbsPath, Refusal> {
    if path.as_str().contains(':') {
        return Err(Refusal {
            code: Code::PathNotBindable,
            reason: "`PATH` separates directories with colons".to_owned(),
            help: "rename the directory, or reach it through a symbolic link".to_owned(),
        });
    }
    package(path)
}

fn log_level(text: &str) -> Result<LogLevel, Refusal> {
    let names = LogLevel::ALL.map(LogLevel::as_str);
    LogLevel::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| Refusal {
        code: Code::BadLogLevel,
        reason: format!("the levels are {}", names.join(", ")),
        help: match nearest(text, &names) {
            Some(near) => format!("write `{near}`"),
            None => "write `INFO`".to_owned(),
        },
    })
}

fn address(text: &str) -> Result<IpAddr, Refusal> {
    let refuse = |reason: &str, help: String| Refusal {
        code: Code::BadAddress,
        reason: reason.to_owned(),
        help,
    };
    let address: IpAddr = text.parse().map_err(|_| match text {
        "localhost" => refuse("names are not resolved", "write `127.0.0.1` or `::1`".to_owned()),
        "*" | "" => refuse("not an address", "write `0.0.0.0` or `::` for all of them".to_owned()),
        _ => match text.trim_start_matches('[').split(']').next().map(str::parse::<IpAddr>) {
            Some(Ok(inner)) => refuse("no brackets and no port here", format!("write `{inner}`")),
            _ => refuse(
                "not an IPv4 or IPv6 address",
                "write an address such as `127.0.0.1`".to_owned(),
            ),
        },
    })?;
    let address = address.to_canonical();
    if address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        return Err(refuse(
            "a server cannot listen on it",
            "write one of the host's addresses".to_owned(),
        ));
    }
    Ok(address)
}

fn port(number: i64) -> Result<u16, Refusal> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| Refusal {
        code: Code::BadPort,
        reason: "ports are 1 to 65535".to_owned(),
        help: "write a port such as `4096`".to_owned(),
    })
}

/// Arguments that carry the isolation, without dashes and in lower case.
const RESERVED: &[(&str, &str)] = &[
    ("port", " and use `listen.port`"),
    ("hostname", " and use `listen.address`"),
    ("loglevel", " and use `logLevel`"),
    ("printlogs", "; the log is always printed to the journal"),
    ("mdns", " and use `listen.address`"),
    ("mdnsdomain", " and use `listen.address`"),
    ("help", "; the server would print its help and exit"),
    ("h", "; the server would print its help and exit"),
    ("version", "; the server would print its version and exit"),
    ("v", "; the server would print its version and exit"),
];

fn argument(text: &str) -> Result<Argument, Refusal> {
    let argument = Argument::new(text)?;
    if let Some(flag) = text.strip_prefix('-') {
        let key = flag.split('=').next().unwrap_or_default().replace('-', "").to_lowercase();
        let key = key.strip_prefix("no").filter(|rest| !rest.is_empty()).unwrap_or(&key);
        if let Some((_, instead)) = RESERVED.iter().find(|(name, _)| *name == key) {
            return Err(Refusal {
                code: Code::ReservedArgument,
                reason: "the unit sets this argument".to_owned(),
                help: format!("remove it{instead}"),
            });
        }
    }
    Ok(argument)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::OPTIONS;

    fn codes(text: &str) -> Vec<&'static str> {
        match read(text, Format::Toml) {
            Ok((_, warnings)) => warnings.iter().map(|one| one.code.as_str()).collect(),
            Err(found) => found.iter().map(|one| one.code.as_str()).collect(),
        }
    }

    fn one(options: &str) -> Instance {
        let text = format!("[instances.a]\n{options}");
        read(&text, Format::Toml).unwrap().0.instances.remove(0)
    }

    #[test]
    fn an_instance_needs_only_a_directory() {
        let instance = one("directory = \"/srv/a\"");
        assert_eq!(instance.state_dir.as_str(), "/var/lib/opencode/instance-state/a");
        assert_eq!(instance.user.as_str(), "opencode-a");
        assert_eq!(instance.listen.to_string(), "127.0.0.1:4096");
        assert!(instance.auth_enable && instance.auto_start && instance.enable);
    }

    #[test]
    fn no_default_is_inert_and_every_instance_can_say_otherwise() {
        let bare = "[instances.a]\n";
        for option in OPTIONS {
            let needed = match option.key {
                "directory" => "",
                "openFirewall" => "directory = \"/srv/a\"\nlisten.address = \"192.0.2.1\"\n",
                "network.dns.allowNames" => {
                    "directory = \"/srv/a\"\nnetwork.outbound.policy = \"allow-list\"\n"
                }
                _ => "directory = \"/srv/a\"\n",
            };
            let auth = if option.key == "auth.enable" { "" } else { "auth.enable = true\n" };
            let defaults = format!("[defaults]\n{} = {}\n", option.key, option.example);
            let with = read(&format!("{defaults}{bare}{needed}{auth}"), Format::Toml).unwrap().0;
            if option.key != "directory" {
                let without = read(&format!("{bare}{needed}{auth}"), Format::Toml).unwrap().0;
                assert_ne!(with, without, "defaults.{} is inert", option.key);
            }
            let own = format!("[instances.a]\n{} = {}\n{needed}{auth}", option.key, option.example);
            let own = read(&own, Format::Toml).unwrap().0;
            assert_eq!(with, own, "defaults.{} means something else", option.key);
        }
    }

    /// Each option of the network for the whole fleet, and another value of one instance.
    #[test]
    fn an_instance_outranks_the_defaults_of_the_network() {
        let listed = "network.outbound.policy = \"allow-list\"\n";
        let wide = "network.outbound.policy = \"internet\"\n";
        for (around, option, fleet, own) in [
            ("", "network.outbound.policy", "\"allow-list\"", "\"unrestricted\""),
            ("", "network.outbound.policy", "\"none\"", "\"internet\""),
            (listed, "network.outbound.allowCidrs", "[\"192.168.1.20/32\"]", "[\"10.0.0.0/8\"]"),
            (listed, "network.outbound.allowCidrs", "[\"192.168.1.20/32\"]", "[]"),
            (wide, "network.dns.policy", "\"names\"", "\"open\""),
            (listed, "network.dns.allowNames", "[\"a.example.org\"]", "[\"*.example.net\"]"),
            (listed, "network.dns.allowNames", "[\"a.example.org\"]", "[]"),
            ("", "network.hostPorts", "[11434]", "[8080, 9090]"),
            ("", "network.hostPorts", "[11434]", "[]"),
        ] {
            let directory = "directory = \"/srv/a\"\n";
            let network = |defaults: &str, own: &str| {
                let text =
                    format!("[defaults]\n{around}{defaults}\n[instances.a]\n{directory}{own}");
                read(&text, Format::Toml).unwrap().0.instances.remove(0).network
            };
            let line = |value: &str| format!("{option} = {value}\n");
            let (of_fleet, of_own) = (network(&line(fleet), ""), network("", &line(own)));
            assert_ne!(of_fleet, of_own, "{option}");
            assert_eq!(network("", &line(fleet)), of_fleet, "{option} = {fleet}");
            // One value in the place of the other: lists are not joined.
            assert_eq!(network(&line(fleet), &line(own)), of_own, "{option} = {own}");
        }
        let pools = |own: &str| {
            let text = format!(
                "[defaults]\nnetwork.pool = \"172.30.0.0/16\"\n[instances.a]\ndirectory = \"/srv/a\"\n{own}"
            );
            read(&text, Format::Toml).unwrap().0.instances[0].network_pool.to_string()
        };
        assert_eq!(pools(""), "172.30.0.0/16");
        assert_eq!(pools("network.pool = \"172.31.0.0/16\"\n"), "172.31.0.0/16");
    }

    /// What one instance says must go together with what it does not say.
    #[test]
    fn defaults_of_the_network_that_no_instance_can_use_are_refused() {
        let with = |defaults: &str, own: &str| {
            codes(&format!("[defaults]\n{defaults}\n[instances.a]\ndirectory = \"/srv/a\"\n{own}"))
        };
        let list = "network.outbound.policy = \"allow-list\"\nnetwork.outbound.allowCidrs = [\"10.0.0.0/8\"]\n";
        assert_eq!(with(list, ""), [""; 0]);
        let none = "network.outbound.policy = \"none\"\n";
        assert_eq!(with(list, none), ["E0319"]);
        assert_eq!(with(list, &format!("{none}network.outbound.allowCidrs = []\n")), [""; 0]);
    }

    #[test]
    fn an_instance_outranks_the_defaults() {
        let text = "[defaults]\nlogLevel = \"WARN\"\nextraGroups = [\"x\"]\nauth.enable = false\n\
            [instances.a]\ndirectory = \"/srv/a\"\nlogLevel = \"DEBUG\"\nextraGroups = []\nauth.enable = true\n";
        let (spec, warnings) = read(text, Format::Toml).unwrap();
        assert_eq!(spec.instances[0].log_level, LogLevel::Debug);
        assert!(spec.instances[0].extra_groups.is_empty());
        assert_eq!(warnings, []);
    }

    #[test]
    fn a_bad_default_is_refused_once_even_where_nothing_uses_it() {
        let text = "[defaults]\nlogLevel = \"debug\"\n\
            [instances.a]\ndirectory = \"/srv/a\"\nlogLevel = \"INFO\"\n\
            [instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 2\n";
        assert_eq!(codes(text), ["E0209"]);
    }

    #[test]
    fn what_is_said_aloud_is_remarked_on() {
        let codes = |options: &str| {
            codes(&format!(
                "[instances.a]\ndirectory = \"/srv/a\"\nsettings.model = \"a/b\"\n{options}\n"
            ))
        };
        let quiet = codes("");
        let more = |options: &str| -> Vec<&str> {
            codes(options).into_iter().filter(|code| !quiet.contains(code)).collect()
        };
        assert_eq!(more("network.outbound.policy = \"unrestricted\""), ["W0414"]);
        let list = "network.outbound.policy = \"allow-list\"\n";
        assert_eq!(more(list), [""; 0]);
        assert_eq!(more(&format!("{list}network.dns.policy = \"open\"")), ["W0413"]);
        for (range, expected) in [
            ("192.168.0.0/16", &[][..]),
            ("fd12::/16", &[]),
            ("8.8.8.8/32", &[]),
            ("169.254.169.254/32", &["W0412"]),
            ("100.64.0.0/16", &["W0412"]),
            ("0.0.0.0/0", &["W0412"]),
            ("::/0", &["W0412"]),
            ("64:ff9b::/96", &["W0412"]),
        ] {
            assert_eq!(
                more(&format!("network.outbound.allowCidrs = [\"{range}\"]")),
                expected,
                "{range}"
            );
        }
    }

    #[test]
    fn the_network_of_an_instance() {
        let network = one("directory = \"/srv/a\"").network;
        assert_eq!(network, crate::network::Network::default());
        let options = "directory = \"/srv/a\"
            network.outbound.policy = \"allow-list\"
            network.outbound.allowCidrs = [
                { cidr = \"10.0.1.0/24\", ports = [443, \"8000-8100\", 444] },
                { cidr = \"10.0.0.0/24\", ports = [444, 443, \"8000-8100\"] },
                \"192.0.2.7/32\", \"192.0.2.0/24\",
            ]
            network.dns.allowNames = [\"b.example.\", \"A.example\", \"a.example\"]
            network.hostPorts = [11434, 11434]";
        let network = one(options).network;
        let allowed: Vec<String> = network.allow.iter().map(|one| one.cidr.to_string()).collect();
        assert_eq!(allowed, ["10.0.0.0/23", "192.0.2.0/24"]);
        let ports: Vec<String> = network.allow[0].ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["443-444", "8000-8100"]);
        assert_eq!(network.dns.policy, crate::network::DnsPolicy::Names);
        assert_eq!(network.dns.names, ["a.example", "b.example"]);
        assert_eq!(network.host_ports, [11434]);
    }

    #[test]
    fn one_pool_and_no_listener_of_another() {
        let two = |options: &str| {
            codes(&format!(
                "[instances.a]\ndirectory = \"/srv/a\"\nsettings.model = \"a/b\"\n\
                 [instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 4097\nsettings.model = \"a/b\"\n{options}\n"
            ))
        };
        assert_eq!(two("network.pool = \"172.30.0.0/16\""), ["E0321"]);
        assert_eq!(two("sandbox.readOnlyPaths = [\"/srv/a\"]"), ["E0323"]);
        assert_eq!(two("sandbox.readOnlyPaths = [\"/srv\"]"), ["E0324"]);
        assert_eq!(two("sandbox.readOnlyPaths = [\"/srv/c\"]"), [""; 0]);
        assert_eq!(two("network.hostPorts = [4097]"), ["E0322"]);
        assert_eq!(two("listen.address = \"::1\"\nnetwork.hostPorts = [4097]"), [""; 0]);
    }

    #[test]
    fn refused_and_remarked_sockets() {
        let cases: &[(&str, &str)] = &[
            ("sandbox.unixSockets = [\"/run/x\"]", "E0237"),
            ("sandbox.unixSockets = [\"/run/systemd/private:/run/x/s\"]", "E0211"),
            ("sandbox.unixSockets = [\"/run/a/s\", \"/run/b/s:/run/a/s\"]", "E0237"),
            ("sandbox.unixSockets = [\"/run/a/s\", \"/run/b/s:/var/run/a/s\"]", "E0237"),
            ("sandbox.unixSockets = [\"/run/a/s\", \"/run/a/b/s\"]", "E0237"),
            ("sandbox.unixSockets = [\"/run/x/s:/srv/a/run/s\"]", "E0237"),
            ("sandbox.unixSockets = [\"/run/x/s:/srv/s\"]", "E0237"),
            ("sandbox.unixSockets = [\"/srv/a/s:/run/x/s\"]", "E0323"),
            (
                "sandbox.readWritePaths = [\"/data\"]\nsandbox.unixSockets = [\"/data/s:/run/x/s\"]",
                "E0323",
            ),
            (
                "sandbox.readOnlyPaths = [\"/data\"]\nsandbox.unixSockets = [\"/run/x/s:/data/x/s\"]",
                "E0237",
            ),
            ("package = \"/opt/x\"\nsandbox.unixSockets = [\"/run/x/s:/opt/x/y/s\"]", "E0237"),
            ("sandbox.unixSockets = [\"/run/docker.sock:/run/docker/docker.sock\"]", "W0417"),
            ("sandbox.unixSockets = [\"/nix/var/nix/daemon-socket/socket\"]", "W0417"),
        ];
        for (options, code) in cases {
            let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}\n");
            assert_eq!(codes(&text), [*code], "{options}");
        }
    }

    #[test]
    fn refusals_by_table() {
        let cases: &[(&str, &str)] = &[
            ("logLevel = \"info\"", "E0209"),
            ("listen.port = 0", "E0207"),
            ("listen.port = 65536", "E0207"),
            ("listen.port = -1", "E0207"),
            ("listen.port = \"4096\"", "E0103"),
            ("listen.address = \"localhost\"", "E0208"),
            ("listen.address = \"[::1]:80\"", "E0208"),
            ("listen.address = \"224.0.0.1\"", "E0208"),
            ("listen.address = \"fe80::1%eth0\"", "E0208"),
            ("listen.address = \"0.0.0.0\"\nauth.enable = false", "E0306"),
            ("network.outbound.policy = \"closed\"", "E0233"),
            ("network.outbound.allowCidrs = [\"10.1.2.3/8\"]", "E0228"),
            ("network.outbound.allowCidrs = [\"::ffff:10.0.0.0/104\"]", "E0229"),
            ("network.outbound.allowCidrs = [\"example.org\"]", "E0227"),
            ("network.outbound.allowCidrs = [\"127.0.0.1/32\"]", "E0230"),
            ("network.outbound.allowCidrs = [{ ports = [1] }]", "E0103"),
            ("network.outbound.allowCidrs = [{ cidr = \"::/0\", port = 1 }]", "E0102"),
            ("network.outbound.allowCidrs = [{ cidr = \"::/0\", ports = 1 }]", "E0103"),
            ("network.outbound.allowCidrs = [{ cidr = \"2001:db8::/32\", ports = [0] }]", "E0231"),
            (
                "network.outbound.allowCidrs = [{ cidr = \"2001:db8::/32\", protocol = \"icmp\" }]",
                "E0232",
            ),
            (
                "network.outbound.policy = \"none\"\nnetwork.outbound.allowCidrs = [\"10.0.0.0/8\"]",
                "E0319",
            ),
            ("network.outbound.policy = \"none\"\nnetwork.dns.policy = \"open\"", "E0320"),
            ("network.dns.allowNames = [\"example.org\"]", "E0320"),
            ("network.dns.policy = \"names\"\nnetwork.dns.allowNames = [\"*\"]", "E0234"),
            ("network.dns.policy = \"some\"", "E0233"),
            ("network.hostPorts = [4096]", "E0322"),
            ("listen.port = 4100\nnetwork.hostPorts = [4100]", "E0322"),
            ("network.hostPorts = [0]", "E0207"),
            ("network.pool = \"8.8.8.0/24\"", "E0235"),
            ("resources.memoryMax = \"4g\"", "E0236"),
            ("sandbox.readWritePaths = [\"/srv/a/x\"]", "E0323"),
            ("sandbox.readWritePaths = [\"/srv\"]", "E0324"),
            ("sandbox.readWritePaths = [\"/data\", \"/data/x\"]", "E0323"),
            ("sandbox.readOnlyPaths = [\"/srv/a\"]", "E0323"),
            ("sandbox.readOnlyPaths = [\"/data:/srv/a/x\"]", "E0237"),
            ("sandbox.readOnlyPaths = [\"/data:/srv\"]", "E0237"),
            (
                "sandbox.readWritePaths = [\"/data:/cache\"]\nsandbox.readOnlyPaths = [\"/cache/x\"]",
                "E0237",
            ),
            ("sandbox.readOnlyPaths = [\"/home\"]", "W0415"),
            ("sandbox.readOnlyPaths = [\"/run/postgresql\"]", "E0211"),
            ("resources.memoryMax = 4096", "E0103"),
            ("resources.memoryMax = \"4\"", "E0236"),
            ("resources.memoryMax = \"1G\"\nresources.memoryHigh = \"1G\"", "E0236"),
            ("resources.memoryHigh = \"50%\"", "E0236"),
            ("resources.cpuQuota = \"50\"", "E0236"),
            ("resources.cpuWeight = 0", "E0236"),
            ("resources.tasksMax = 10", "E0236"),
            ("resources.ioWeight = 10001", "E0236"),
            ("stateDir = \"state\"", "E0203"),
            ("stateDir = \"/srv/a/state\"", "E0304"),
            ("stateDir = \"/srv/a\"", "E0304"),
            ("stateDir = \"/etc/x\"", "E0211"),
            ("stateDir = \"/var/lib/opencode/instance-auth/a\"", "E0211"),
            ("stateDir = \"/srv/x\\nUser=root\"", "E0206"),
            ("user = \"root\"", "E0210"),
            ("group = \"docker\"", "E0214"),
            ("extraGroups = [\"ok\", \"docker\"]", "E0214"),
            ("package = \"/\"", "E0211"),
            ("package = \"/home\"", "E0211"),
            ("package = \"/etc/opencode\"", "E0211"),
            ("package = \"/root/.opencode/bin/opencode\"", "E0211"),
            ("extraArgs = [\"--port\", \"1\"]", "E0212"),
            ("extraArgs = [\"--hostname=0.0.0.0\"]", "E0212"),
            ("extraArgs = [\"--logLevel\"]", "E0212"),
            ("extraArgs = [\"--no-mdns\"]", "E0212"),
            ("extraArgs = [\"a\\u0000b\"]", "E0206"),
        ];
        for (options, code) in cases {
            let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}\n");
            assert_eq!(codes(&text), [*code], "{options}");
        }
        for (directory, code) in [
            ("/", "E0211"),
            ("/home/alice", "E0211"),
            ("/var/lib/postgresql", "E0211"),
            ("/var/spool/cron", "E0211"),
            ("/home", "E0211"),
            ("/etc/nixos", "E0211"),
            ("/root/x", "E0211"),
            ("/tmp/x", "E0211"),
            ("/var/lib/opencode/instance-state/a/x", "E0304"),
            ("/srv/a ", "E0205"),
        ] {
            let text = format!("[instances.a]\ndirectory = \"{directory}\"\n");
            assert_eq!(codes(&text), [code], "{directory}");
        }
    }

    #[test]
    fn refusals_of_what_is_declared_inside() {
        let cases: &[(&str, &str)] = &[
            ("environment.HOME = \"/x\"", "E0220"),
            ("environment.OPENCODE_PERMISSION = \"{}\"", "E0220"),
            ("environment.OPENCODE_DB = \"/srv/a/sessions.db\"", "E0220"),
            ("environment.LISTEN_FDS = 1", "E0220"),
            ("environment.BUN_INSPECT = 1", "E0220"),
            ("environment.\"A B\" = 1", "E0219"),
            ("environment.A = \"x\\ny\"", "E0206"),
            ("environment.A = 1.5", "E0103"),
            ("environment.API_TOKEN = \"0123456789abcdef\"", "W0410"),
            ("environmentFile = \"/nix/store/x\"", "E0218"),
            ("environmentFile = [\"/run/secrets/*.env\"]", "E0205"),
            ("environmentFile = \"/srv/a/env\"", "E0312"),
            ("credentials.password = \"/run/secrets/x\"", "E0221"),
            ("credentials.\"a/b\" = \"/run/secrets/x\"", "E0221"),
            ("credentials.k = \"/srv/a/k\"", "E0312"),
            ("credentials.k = \"/var/lib/opencode/instance-auth/a/password\"", "E0211"),
            ("configFile = \"/proc/1/environ\"", "E0211"),
            ("configFile = \"/etc\"", "E0211"),
            ("configFile = \"/srv/a/opencode.json\"", "E0308"),
            ("configFile = \"/etc/o.json\"\nsettings.model = \"a/b\"", "E0314"),
            ("configFile = \"/etc/o.json\"\nsettings = {}", ""),
            (
                "settings.provider.p.options.apiKey = \"{credential:kee}\"\ncredentials.key = \"/k/k\"",
                "E0315",
            ),
            ("settings.provider.p.options.apiKey = \"{file:/run/secrets/k}\"", "E0316"),
            ("settings.provider.p.options.apiKey = \"sk-0123456789ab\"", "W0410"),
            ("settings.permission = [{ a = \"ask\", b = \"ask\" }]", "E0223"),
            ("settings.permission = [{ a = \"ask\" }, { a = \"deny\" }]", "E0105"),
            ("settings.x = 1979-05-27", "E0103"),
            ("settings.x = inf", "E0103"),
            ("settings = 1", "E0103"),
            ("agents.\"../x\" = \"text\"", "E0222"),
            ("plugins.notify = \"text\"", "E0222"),
            ("agents.x = \"/etc/opencode/x.md\"", "E0226"),
            ("agents.x = { file = \"/srv/a/x.md\" }", "E0308"),
            ("agents.x = { text = \"x\" }", "E0103"),
            ("instructions = \"a\\u0000b\"", "E0206"),
            ("preInitScript = \"\\n\"", "E0224"),
            ("preInitScript = \"a\\u001bb\"", "E0206"),
            ("auth.username = \"a:b\"", "E0225"),
            ("auth.username = \"\"", "E0225"),
        ];
        for (options, code) in cases {
            let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}\n");
            let wanted: Vec<&str> =
                Some(*code).into_iter().filter(|code| !code.is_empty()).collect();
            assert_eq!(codes(&text), wanted, "{options}");
        }
    }

    #[test]
    fn defaults_may_name_credentials_that_instances_have() {
        let text = "[defaults]\nsettings.x = \"{credential:key}\"\n\
            [instances.a]\ndirectory = \"/srv/a\"\ncredentials.key = \"/k/a\"\n";
        assert_eq!(codes(text), [""; 0]);
        let without = format!("{text}[instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 1\n");
        assert_eq!(codes(&without), ["E0315"]);
    }

    #[test]
    fn instances_do_not_share() {
        let two = |a: &str, b: &str| {
            codes(&format!(
                "[instances.a]\ndirectory = \"/srv/a\"\nlisten.port = 1\n{a}\n\
                 [instances.b]\ndirectory = \"/srv/b\"\nlisten.port = 2\n{b}\n"
            ))
        };
        assert_eq!(two("", ""), [""; 0]);
        assert_eq!(two("listen.address = \"0.0.0.0\"", "listen.address = \"::1\""), [""; 0]);
        assert_eq!(two("user = \"u\"", "user = \"u\""), ["E0302"]);
        assert_eq!(two("user = \"opencode-b\"", ""), ["E0302"]);
        assert_eq!(two("stateDir = \"/s/x\"", "stateDir = \"/s/x\""), ["E0303"]);
        assert_eq!(two("stateDir = \"/s/x\"", "stateDir = \"/s/x/y\""), ["E0303"]);
        assert_eq!(two("stateDir = \"/srv/b/x\"", ""), ["E0304"]);
        assert_eq!(two("stateDir = \"/var/lib/opencode/instance-state/b\"", ""), ["E0303"]);
        let ports = |a: &str, b: &str| {
            codes(&format!(
                "[instances.a]\ndirectory = \"/srv/a\"\n{a}\n[instances.b]\ndirectory = \"/srv/b\"\n{b}\n"
            ))
        };
        assert_eq!(ports("", ""), ["E0301"]);
        assert_eq!(
            ports("listen.address = \"127.0.0.1\"", "listen.address = \"127.0.0.2\""),
            [""; 0]
        );
        assert_eq!(ports("listen.address = \"::\"", "listen.address = \"127.0.0.2\""), ["E0301"]);
        assert_eq!(ports("listen.address = \"::ffff:127.0.0.1\"", ""), ["E0301"]);
        assert_eq!(ports("", "enable = false"), [""; 0]);
    }

    #[test]
    fn projects_do_not_nest() {
        let two = |a: &str, b: &str| {
            codes(&format!(
                "[instances.a]\ndirectory = \"{a}\"\nlisten.port = 1\n\
                 [instances.b]\ndirectory = \"{b}\"\nlisten.port = 2\n"
            ))
        };
        assert_eq!(two("/srv/x", "/srv/x"), ["W0401"]);
        assert_eq!(two("/srv/x", "/srv/x/y"), ["E0307"]);
        assert_eq!(two("/srv/x", "/srv/xy"), [""; 0]);
        let package = "\"\nlisten.port = 2\npackage = \"/srv/a/bin/opencode";
        assert_eq!(
            two("/srv/a", &format!("/srv/b{}", package.replace("listen.port = 2\n", ""))),
            ["E0308"]
        );
        assert_eq!(two("/srv/x", "/var/lib/opencode/instance-state/a/p"), ["E0305"]);
    }

    #[test]
    fn an_instance_with_a_bad_option_is_still_judged_against_the_others() {
        let text = "[defaults]\nuser = \"shared\"\nlisten.port = 5000\n\
            [instances.a]\ndirectory = \"/srv/x\"\n\
            [instances.b]\ndirectory = \"/srv/x/y\"\nlogLevel = \"x\"\n";
        assert_eq!(codes(text).len(), 4, "{:?}", codes(text));
        // What is refused clashes with nothing.
        let text = "[instances.a]\ndirectory = \"/\"\nlisten.port = 0\n\
            [instances.b]\ndirectory = \"/\"\nlisten.port = 0\n";
        assert_eq!(codes(text), ["E0211", "E0207", "E0211", "E0207"]);
    }

    #[test]
    fn a_value_of_a_wrong_type_is_one_finding() {
        let two = |defaults: &str, both: &str| {
            codes(&format!(
                "[defaults]\n{defaults}\n[instances.a]\ndirectory = \"/srv/a\"\n{both}\n\
                 [instances.b]\ndirectory = \"/srv/b\"\n{both}\n"
            ))
        };
        assert_eq!(two("", "listen.port = \"4101\""), ["E0103", "E0103"]);
        assert_eq!(two("listen.port = 4101", "listen.address = 1"), ["E0103", "E0103"]);
        assert_eq!(two("", "listen = 4101"), ["E0103", "E0103"]);
        assert_eq!(two("", "enable = \"no\""), ["E0103", "E0103"]);
        assert_eq!(two("listen.port = \"4101\"", ""), ["E0103"]);
        assert_eq!(two("listen = 4101", ""), ["E0103"]);
        assert_eq!(two("listen.port = \"4101\"", "listen.port = 1"), ["E0103", "E0301"]);
        assert_eq!(codes("[instances.a]\ndirectory = 1\n"), ["E0103"]);
        assert_eq!(codes("[defaults]\ndirectory = 1\n[instances.a]\n"), ["E0103"]);
        assert_eq!(codes("[instances]\na = 1\nb = 1\n"), ["E0103", "E0103"]);
    }

    #[test]
    fn a_state_directory_with_an_odd_name_is_not_left_to_state_directory() {
        let leaf = |leaf: &str| {
            let path = format!("/var/lib/opencode/instance-state/{leaf}");
            let instance = one(&format!("directory = \"/srv/a\"\nstateDir = \"{path}\""));
            instance.state_leaf().map(str::to_owned)
        };
        assert_eq!(leaf("renamed_1.x"), Some("renamed_1.x".to_owned()));
        for odd in ["x mysql", "a:b", "a%b", "-x", ".x", "ü", "a/b"] {
            assert_eq!(leaf(odd), None, "{odd}");
        }
    }

    #[test]
    fn all_findings_come_at_once_in_the_order_of_the_text() {
        let text = "[instances.A]\nlisten.port = 0\nlogLevel = \"x\"\nuser = \"root\"\nnope = 1\n";
        assert_eq!(codes(text), ["E0104", "E0201", "E0207", "E0209", "E0210", "E0102"]);
    }
}
