//! Two instances on a NixOS host, and the generations that they are rendered to.

use std::collections::BTreeMap;

use instances_core::desired::{Content, UNIT_DIR, desire};
use instances_core::lower::read;
use instances_core::node::Format;
use serde_json::{Value, json};

use crate::text::Files;

/// The instance that a row changes, and its neighbour.
pub(crate) const NAMES: [&str; 2] = ["blue", "green"];

/// A NixOS configuration, as far as the engine sees it.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    /// Whether the module is switched on.
    pub(crate) enabled: bool,
    /// What `instances.NAME` says.
    pub(crate) instances: BTreeMap<&'static str, Value>,
    /// What the module says of the host.
    pub(crate) facts: Value,
    /// What the builder adds for each instance: the store paths of its agent.
    pub(crate) agents: BTreeMap<&'static str, Vec<String>>,
    /// Files that others add below `/etc/systemd/system`, and changes of ours that no option makes.
    pub(crate) edits: Vec<Edit>,
}

/// A change of a rendered file: the unit, a piece of its text and what stands there instead.
pub(crate) type Edit = (&'static str, &'static str, &'static str);

/// What a switch replaces.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    /// The files below `/etc/systemd/system`.
    pub(crate) units: Files,
    /// Everything, by its absolute path.
    pub(crate) all: Files,
    /// Where each enabled instance listens, and whether that starts by itself; by its socket.
    pub(crate) listens: BTreeMap<String, (String, bool)>,
}

impl Default for Fleet {
    fn default() -> Self {
        let instance = |directory: &str, port: u16| {
            json!({
                "directory": directory,
                "listen": { "port": port },
                "package": "/nix/store/aaa-opencode-1.18.33/bin/opencode",
            })
        };
        let agent = ["bash-5.3", "coreutils-9.8", "opencode-1.18.33"];
        let agent: Vec<_> = agent.iter().map(|name| format!("/nix/store/aaa-{name}")).collect();
        Self {
            enabled: true,
            instances: BTreeMap::from([
                ("blue", instance("/srv/blue", 4101)),
                ("green", instance("/srv/green", 4102)),
            ]),
            facts: json!({
                "systemd": 258,
                "engine": "/nix/store/aaa-opencode-instances/bin/opencode-instances",
                "nft": "/nix/store/aaa-nftables/bin/nft",
                "shell": "/nix/store/aaa-bash-5.3/bin/bash",
                "getent": "/nix/store/aaa-getent/bin/getent",
                "nixos": {
                    "binds": [
                        { "source": "/nix/store/aaa-bash-5.3/bin/sh", "target": "/bin/sh" },
                    ],
                    "environment": { "TZDIR": "/nix/store/aaa-tzdata/share/zoneinfo" },
                    "path": ["/nix/store/aaa-coreutils-9.8/bin"],
                    "nix": "/nix/store/aaa-nix-2.31",
                    "nixLd": {
                        "binds": [{
                            "source": "/nix/store/aaa-nix-ld/libexec/nix-ld",
                            "target": "/lib64/ld-linux-x86-64.so.2",
                        }],
                    },
                    "proxy": ["/nix/store/aaa-systemd-258"],
                },
            }),
            agents: NAMES.iter().map(|name| (*name, agent.clone())).collect(),
            edits: Vec::new(),
        }
    }
}

impl Fleet {
    /// Sets an option of an instance: its path, words joined by dots.
    pub(crate) fn set(&mut self, name: &str, option: &str, value: impl Into<Value>) {
        let mut place = self.instances.get_mut(name).unwrap();
        for word in option.split('.') {
            place = &mut place[word];
        }
        *place = value.into();
    }

    /// The same with every store path of the host another one, as after an update of nixpkgs.
    pub(crate) fn update(&mut self) {
        let renamed =
            |value: &Value| value.to_string().replace("/nix/store/aaa-", "/nix/store/bbb-");
        self.facts = serde_json::from_str(&renamed(&self.facts)).unwrap();
        for instance in self.instances.values_mut() {
            *instance = serde_json::from_str(&renamed(instance)).unwrap();
        }
        for path in self.agents.values_mut().flatten() {
            *path = path.replace("/nix/store/aaa-", "/nix/store/bbb-");
        }
    }

    /// Renders it as the derivations do: each instance by itself, and then what they share.
    pub(crate) fn generation(&self) -> Generation {
        if !self.enabled {
            let units = Files::from([("multi-user.target".to_owned(), "[Unit]\n".to_owned())]);
            return Generation { units, all: Files::new(), listens: BTreeMap::new() };
        }
        let mut all = self.render(&self.instances, &[]);
        all.retain(|path, _| !NAMES.iter().any(|name| path.contains(name)));
        for (name, instance) in &self.instances {
            let alone = BTreeMap::from([(*name, instance.clone())]);
            let agent = self.agents.get(name).cloned().unwrap_or_default();
            let own = self.render(&alone, &agent);
            all.extend(own.into_iter().filter(|(path, _)| path.contains(name)));
        }
        for (file, old, new) in &self.edits {
            let text = all.entry(format!("{UNIT_DIR}/{file}")).or_default();
            assert!(text.contains(old), "{file} has no {old}\n{text}");
            *text = text.replace(old, new);
        }
        let below =
            |path: &String| Some(path.strip_prefix(UNIT_DIR)?.strip_prefix('/')?.to_owned());
        let mut units: Files =
            all.iter().filter_map(|(path, text)| Some((below(path)?, text.clone()))).collect();
        // The module says `systemd.targets.opencode.wantedBy`.
        units.insert("multi-user.target".to_owned(), "[Unit]\nWants=opencode.target\n".to_owned());
        let listens = self.listens();
        Generation { units, all, listens }
    }

    fn render(&self, instances: &BTreeMap<&str, Value>, agent: &[String]) -> Files {
        let mut facts = self.facts.clone();
        facts["nixos"]["agent"] = agent.into();
        let facts = serde_json::from_value(facts).unwrap();
        let spec = json!({ "instances": instances }).to_string();
        let (spec, _) = read(&spec, Format::Json).unwrap_or_else(|all| panic!("{all:?}\n{spec}"));
        let files = desire(&spec, &facts).files.into_iter();
        files
            .filter_map(|(path, file)| match file.content {
                Content::Text(text) => Some((path, text)),
                Content::Link(_) => None,
            })
            .collect()
    }

    fn listens(&self) -> BTreeMap<String, (String, bool)> {
        let enabled = self.instances.iter().filter(|(_, one)| one["enable"] != json!(false));
        let listens = enabled.map(|(name, instance)| {
            let listen = &instance["listen"];
            let address = listen["address"].as_str().unwrap_or("127.0.0.1");
            let address = format!("{address}:{}", listen["port"]);
            let by_itself = instance["autoStart"] != json!(false);
            (format!("opencode-listen@{name}.socket"), (address, by_itself))
        });
        listens.collect()
    }
}
