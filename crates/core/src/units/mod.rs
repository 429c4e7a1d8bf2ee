//! The units of one instance and of the fleet, as data.
//!
//! | unit | runs as | what it is |
//! |---|---|---|
//! | `opencode-NAME.service` | the instance's user | the server; its process 1 is the supervisor |
//! | `opencode-setup@NAME.service` | the instance's user | the operator's scripts, and what the supervisor does in HOME without them |
//! | `opencode-judge@NAME.service` | root, without capabilities | judges the operator's files |
//! | `opencode-net@NAME.service` | root, confined | namespace, policy, accounts, password |
//! | `opencode-listen@NAME.socket`, `.service` | its own user | proxy from the host into the namespace |
//! | `opencode-dns@NAME.socket`, `.service` | its own user, no capability | names for the namespace |
//! | `opencode-events@NAME.service` | its own user | what was refused, into the journal |
//! | `opencode-hostport@NAME-PORT.socket`, `.service` | its own user | proxy from the namespace to a port of the host's loopback |
//! | `opencode-hostports@NAME.target` | | the sockets of those |
//! | `opencode-sockets@NAME.service` | root, confined | shows listed Unix sockets of the host |
//! | `opencode-places@NAME.service` | root, confined | shows a long list of the host's places |
//! | `opencode-refusal@NAME.service` | root, without capabilities | says why a start failed |
//! | `opencode-secrets@NAME.service` | root, without capabilities | restarts the server for new secrets |
//! | `opencode-endpoint@NAME.service` | root, without rights | on NixOS, moves the listener |
//! | `opencode-identity@NAME.service` | root, without rights | on NixOS, restarts what must not go on |
//! | `opencode-host@addresses.service` | root, confined | follows the host's addresses, rules and routes |

mod addresses;
mod dns;
mod environment;
mod events;
mod hostport;
mod judge;
mod listen;
mod main;
mod net;
pub mod places;
mod proxy;
mod refusal;
pub(crate) mod sandbox;
mod secrets;
mod setup;
mod sockets;
mod switch;
pub mod turns;
mod weaker;

use crate::facts::HostFacts;
use crate::layout::{CONFIG_DIR, NETNS_DIR, RUNTIME_DIR};
use crate::network::Network;
use crate::spec::{Instance, InstanceName, Spec};
use crate::unit::{Entry, Section, Unit, Value};

/// The target that starts the fleet.
pub const TARGET: &str = "opencode.target";
/// The slice of every server and of its tools: one limit for all of them. What enforces policies is not in
/// it, so that no agent takes from that.
pub const SLICE: &str = "opencode.slice";
/// What follows the host's addresses, rules and routes for all networks.
pub const ADDRESSES: &str = "opencode-host@addresses.service";
/// What lets servers start in turn.
pub const TURNS: &str = "opencode-host@turns.service";
/// Where their supervisors are connected to.
pub const TURNS_SOCKET: &str = "opencode-host@turns.socket";
/// The units of the fleet, which belong to no instance.
pub const FLEET: [&str; 5] = [TARGET, SLICE, ADDRESSES, TURNS, TURNS_SOCKET];

/// For how long a unit beside a server may start, in seconds. It is for one that hangs: after a boot hundreds of them
/// start at once, and each waits for its share of the processors.
const HELPER_START: u64 = 300;

/// The names of one instance's units and files.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a>(pub &'a InstanceName);

impl Names<'_> {
    /// `opencode-NAME.service`.
    pub fn main(self) -> String {
        format!("opencode-{}.service", self.0)
    }

    /// `opencode-setup@NAME.service`, with scripts of the operator's.
    pub fn setup(self) -> String {
        format!("opencode-setup@{}.service", self.0)
    }

    /// `opencode-net@NAME.service`.
    pub fn net(self) -> String {
        format!("opencode-net@{}.service", self.0)
    }

    /// `opencode-listen@NAME.socket`.
    pub fn socket(self) -> String {
        format!("opencode-listen@{}.socket", self.0)
    }

    /// `opencode-listen@NAME.service`.
    pub fn proxy(self) -> String {
        format!("opencode-listen@{}.service", self.0)
    }

    /// `opencode-dns@NAME.socket`, where there is a link.
    pub fn dns_socket(self) -> String {
        format!("opencode-dns@{}.socket", self.0)
    }

    /// `opencode-dns@NAME.service`, where there is a link.
    pub fn dns(self) -> String {
        format!("opencode-dns@{}.service", self.0)
    }

    /// The user of that service, which exists while it runs.
    pub fn dns_user(self) -> String {
        sandbox::user_of(&self.dns())
    }

    /// `opencode-events@NAME.service`.
    pub fn events(self) -> String {
        format!("opencode-events@{}.service", self.0)
    }

    /// `opencode-hostports@NAME.target`, with `network.hostPorts`.
    pub fn host_ports(self) -> String {
        format!("opencode-hostports@{}.target", self.0)
    }

    /// `opencode-hostport@NAME-PORT.socket`, for a port of `network.hostPorts`.
    pub fn host_port_socket(self, port: u16) -> String {
        format!("opencode-hostport@{}-{port}.socket", self.0)
    }

    /// `opencode-hostport@NAME-PORT.service`, for a port of `network.hostPorts`.
    pub fn host_port(self, port: u16) -> String {
        format!("opencode-hostport@{}-{port}.service", self.0)
    }

    /// What works beside a server for the network that was declared, sockets before their services.
    pub fn helpers(self, network: &Network) -> Vec<String> {
        let dns = network.has_dns().then(|| [self.dns_socket(), self.dns()]);
        let ports = network.host_ports.iter();
        let ports = ports.flat_map(|port| [self.host_port_socket(*port), self.host_port(*port)]);
        dns.into_iter().flatten().chain(ports).chain([self.events()]).collect()
    }

    /// `opencode-endpoint@NAME.service`, on NixOS.
    pub fn endpoint(self) -> String {
        format!("opencode-endpoint@{}.service", self.0)
    }

    /// `opencode-identity@NAME.service`, on NixOS.
    pub fn identity(self) -> String {
        format!("opencode-identity@{}.service", self.0)
    }

    /// `opencode-secrets@NAME.service`, with `restartOnSecretChange`.
    pub fn secrets(self) -> String {
        format!("opencode-secrets@{}.service", self.0)
    }

    /// `opencode-sockets@NAME.service`, with `sandbox.unixSockets`.
    pub fn sockets(self) -> String {
        format!("opencode-sockets@{}.service", self.0)
    }

    /// `opencode-places@NAME.service`, with a long list of places.
    pub fn places(self) -> String {
        format!("opencode-places@{}.service", self.0)
    }

    /// `opencode-refusal@NAME.service`.
    pub fn refusal(self) -> String {
        format!("opencode-refusal@{}.service", self.0)
    }

    /// `opencode-judge@NAME.service`, with files of the operator's.
    pub fn judge(self) -> String {
        format!("opencode-judge@{}.service", self.0)
    }

    /// Every unit that is on every host, in the order in which they stop.
    pub fn all(self) -> [String; 4] {
        [self.socket(), self.proxy(), self.main(), self.net()]
    }

    /// Those that an instance has for what it declares. Each ends with one of [`Self::all`], or by itself.
    pub fn sometimes(self) -> [String; 5] {
        [self.setup(), self.judge(), self.secrets(), self.sockets(), self.places()]
    }

    /// The pinned network namespace.
    pub fn netns(self) -> String {
        format!("{NETNS_DIR}/opencode-{}", self.0)
    }

    /// The directory of the instance's installed files.
    pub fn config_dir(self) -> String {
        format!("{CONFIG_DIR}/{}", self.0)
    }

    /// The rules of the instance's namespace, at a path that never changes.
    pub fn rules(self) -> String {
        format!("{CONFIG_DIR}/{}/rules.nft", self.0)
    }

    /// The declared network, for everything that reads it beside the kernel.
    pub fn network(self) -> String {
        format!("{CONFIG_DIR}/{}/network.json", self.0)
    }

    /// The generated files of the sandbox's `/etc`, in which links lead to them.
    pub fn etc(self) -> String {
        format!("{CONFIG_DIR}/{}/etc", self.0)
    }

    /// The directory that is the root of the sandboxes: links, names of accounts, and mount points.
    pub fn root(self) -> String {
        format!("{RUNTIME_DIR}/{}/root", self.0)
    }

    /// An empty directory, whose sight in the sandbox says that all places of a long list are there.
    pub fn shown(self) -> String {
        format!("{RUNTIME_DIR}/{}/places", self.0)
    }

    /// The directory of the file that says why a start failed.
    pub fn failures(self) -> String {
        format!("{RUNTIME_DIR}/{}/failure", self.0)
    }

    /// That file.
    pub fn failure(self) -> String {
        format!("{}/reason", self.failures())
    }

    /// The directory of the instance's volatile files.
    pub fn runtime_dir(self) -> String {
        format!("{RUNTIME_DIR}/{}", self.0)
    }
}

/// Whose a unit or an installed file is, by its name or path; nobody's where it is the fleet's, or none of ours.
pub fn owner(path: &str) -> Option<InstanceName> {
    let below = path.strip_prefix(CONFIG_DIR).and_then(|rest| rest.strip_prefix('/'));
    if let Some((name, _)) = below.and_then(|rest| rest.split_once('/')) {
        return InstanceName::new(name).ok();
    }
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    let stem = file.strip_prefix("opencode-")?.rsplit_once('.')?.0;
    let name = match stem.split_once('@') {
        None => stem,
        Some(("host", _)) => return None,
        Some(("hostport", rest)) => rest.rsplit_once('-')?.0,
        Some((_, name)) => name,
    };
    InstanceName::new(name).ok()
}

pub(crate) use switch::RELOADS;

/// Stands where the main unit names its own generation, until that is known.
pub(crate) const NO_GENERATION: &str = "0000000000000000";

/// What is in the namespace as long as that is there.
fn inside(instance: &Instance, what: &'static str) -> Section {
    let names = Names(&instance.name);
    Section::new("Unit")
        .set("Description", description(what, &instance.name))
        .set("BindsTo", Value::words([names.net()]))
        .set("After", Value::words([names.net()]))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it starts as often as the namespace, which many restarts in a row must not end",
        )
        .set_why(
            "DefaultDependencies",
            Value::word("no"),
            "they would put it before the namespace that it is in",
        )
        .set("Conflicts", Value::word("shutdown.target"))
        .set("Before", Value::word("shutdown.target"))
}

/// The lines by which what works for a server on demand ends with it.
fn ends_with_server(instance: &Instance) -> Option<Entry> {
    let why = "activation is on-demand: what works for the server ends with it";
    let bound = || Entry::new("BindsTo", Value::words([Names(&instance.name).main()])).because(why);
    instance.is_on_demand().then(bound)
}

/// The units of an instance; `rules` is the text of its policy, `network` that of its declared network.
pub fn of_instance(
    instance: &Instance,
    facts: &HostFacts,
    rules: &str,
    network: &str,
) -> Vec<Unit> {
    let overrides = &instance.unit_overrides;
    let socket = listen::socket(instance, facts);
    let mut units = Vec::with_capacity(12);
    units.extend(switch::endpoint(instance, facts, &socket));
    units.extend(switch::identity(instance, facts));
    units.extend(judge::unit(instance, facts));
    units.extend(secrets::unit(instance, facts));
    units.extend(sockets::unit(instance, facts));
    let main = places::leave(overrides.main.apply(main::unit(instance, facts)), instance, facts);
    units.extend(places::unit(instance, facts, &main));
    units.extend(setup::unit(instance, facts).map(|unit| overrides.setup.apply(unit)));
    units.extend([
        main,
        switch::watches(overrides.net.apply(net::unit(instance, facts)), facts, rules),
        socket,
        listen::proxy(instance, facts),
        refusal::unit(instance, facts),
        events::unit(instance, facts),
    ]);
    if instance.network.has_dns() {
        units.extend([dns::socket(instance), dns::service(instance, facts, network)]);
    }
    units.extend(hostport::units(instance, facts));
    units
}

/// The target, the slice, what follows the host, and what lets servers start in turn.
pub fn of_fleet(spec: &Spec, facts: &HostFacts) -> [Unit; 5] {
    let started = spec.enabled().filter(|instance| instance.auto_start).flat_map(|instance| {
        let names = Names(&instance.name);
        let endpoint = facts.nixos.is_some().then(|| names.endpoint());
        // A switch starts what the target wants; what an active server's namespace wants by now, it
        // does not look at.
        let on_demand = instance.is_on_demand();
        let dns =
            (instance.network.has_dns() && !on_demand).then(|| [names.dns_socket(), names.dns()]);
        let ports =
            (!on_demand && !instance.network.host_ports.is_empty()).then(|| names.host_ports());
        let main = (!on_demand).then(|| names.main());
        [main, Some(names.socket()), endpoint]
            .into_iter()
            .flatten()
            .chain(dns.into_iter().flatten())
            .chain(ports)
    });
    let mut unit = Section::new("Unit").set("Description", Value::word("opencode servers"));
    unit = unit.set("Wants", Value::words([ADDRESSES, TURNS_SOCKET, TURNS]));
    for name in started {
        unit = unit.set("Wants", Value::words([name]));
    }
    let target = Unit {
        name: TARGET.to_owned(),
        sections: vec![
            unit,
            Section::new("Install").set("WantedBy", Value::word("multi-user.target")),
        ],
    };
    let slice = Unit {
        name: SLICE.to_owned(),
        sections: vec![
            Section::new("Unit").set("Description", Value::word("All opencode servers")),
            Section::new("Slice").extend(spec.fleet.resources.entries().map(limit_of_all)),
        ],
    };
    [target, slice, addresses::unit(facts), turns::service(&spec.fleet, facts), turns::socket()]
}

fn limit_of_all(entry: Entry) -> Entry {
    match &*entry.directive {
        "MemoryMax" => entry.because(
            "what is left is the host's, whatever all agents together do; swap is not counted",
        ),
        _ => entry,
    }
}

/// `Description=…, instance NAME`.
fn description(what: &'static str, name: &InstanceName) -> Value {
    Value::words([what, "of instance", name.as_str()])
}
