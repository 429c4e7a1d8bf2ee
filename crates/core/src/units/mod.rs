//! The units of one instance and of the fleet, as data.
//!
//! | unit | runs as | what it is |
//! |---|---|---|
//! | `opencode-NAME.service` | the instance's user | the server; its process 1 is the supervisor |
//! | `opencode-setup@NAME.service` | the instance's user | initialises an empty HOME, keeps the links in it |
//! | `opencode-judge@NAME.service` | root, without capabilities | judges the operator's files |
//! | `opencode-net@NAME.service` | root, confined | namespace, policy, accounts, password |
//! | `opencode-listen@NAME.socket`, `.service` | its own user | proxy from the host into the namespace |
//! | `opencode-secrets@NAME.service` | root, without capabilities | restarts the server for new secrets |
//! | `opencode-endpoint@NAME.service` | root, without rights | on NixOS, moves the listener |
//! | `opencode-identity@NAME.service` | root, without rights | on NixOS, restarts what must not go on |

mod environment;
mod judge;
mod listen;
mod main;
mod net;
pub(crate) mod sandbox;
mod secrets;
mod setup;
mod switch;

use crate::facts::HostFacts;
use crate::layout::{CONFIG_DIR, NETNS_DIR, RUNTIME_DIR};
use crate::spec::{Instance, InstanceName, Spec};
use crate::unit::{Section, Unit, Value};

/// The target that starts the fleet.
pub const TARGET: &str = "opencode.target";
/// The slice of every unit: one limit for the whole fleet.
pub const SLICE: &str = "opencode.slice";

/// The names of one instance's units and files.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a>(pub &'a InstanceName);

impl Names<'_> {
    /// `opencode-NAME.service`.
    pub fn main(self) -> String {
        format!("opencode-{}.service", self.0)
    }

    /// `opencode-setup@NAME.service`.
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

    /// `opencode-judge@NAME.service`, with files of the operator's.
    pub fn judge(self) -> String {
        format!("opencode-judge@{}.service", self.0)
    }

    /// Every unit that is on every host, in the order in which they stop.
    pub fn all(self) -> [String; 5] {
        [self.socket(), self.proxy(), self.main(), self.setup(), self.net()]
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

    /// The empty directory that is the root of the sandbox; only mount points come into being in it.
    pub fn root(self) -> String {
        format!("{RUNTIME_DIR}/{}/root", self.0)
    }

    /// The directory of the instance's volatile files.
    pub fn runtime_dir(self) -> String {
        format!("{RUNTIME_DIR}/{}", self.0)
    }
}

pub(crate) use switch::RELOADS;

/// Stands where the main unit names its own generation, until that is known.
pub(crate) const NO_GENERATION: &str = "0000000000000000";

/// The units of an instance; `rules` is the text of its policy.
pub fn of_instance(instance: &Instance, facts: &HostFacts, rules: &str) -> Vec<Unit> {
    let overrides = &instance.unit_overrides;
    let socket = listen::socket(instance, facts);
    let mut units = Vec::with_capacity(8);
    units.extend(switch::endpoint(instance, facts, &socket));
    units.extend(switch::identity(instance, facts));
    units.extend(judge::unit(instance, facts));
    units.extend(secrets::unit(instance, facts));
    units.extend([
        overrides.main.apply(main::unit(instance, facts)),
        overrides.setup.apply(setup::unit(instance, facts)),
        switch::watches(overrides.net.apply(net::unit(instance, facts)), facts, rules),
        socket,
        listen::proxy(instance, facts),
    ]);
    units
}

/// The target and the slice.
pub fn of_fleet(spec: &Spec, facts: &HostFacts) -> [Unit; 2] {
    let started = spec.enabled().filter(|instance| instance.auto_start).flat_map(|instance| {
        let names = Names(&instance.name);
        let endpoint = facts.nixos.is_some().then(|| names.endpoint());
        [Some(names.main()), Some(names.socket()), endpoint].into_iter().flatten()
    });
    let mut unit = Section::new("Unit").set("Description", Value::word("opencode servers"));
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
        ],
    };
    [target, slice]
}

/// `Description=…, instance NAME`.
fn description(what: &'static str, name: &InstanceName) -> Value {
    Value::words([what, "of instance", name.as_str()])
}
