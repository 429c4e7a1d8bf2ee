//! What each change of a declaration does to the instance that it is about, and to its neighbour.

use serde_json::json;

use crate::fleet::{Fleet, Generation};
use crate::model::Actions;
use crate::systemd::{Became, Event, Host};

/// One change.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// What it is called in reports.
    pub(crate) name: &'static str,
    /// What is declared before it, beside [`Fleet::default`].
    pub(crate) before: fn(&mut Fleet),
    /// What the operator or a client does before it.
    pub(crate) meanwhile: &'static [Step],
    /// The change of the declaration.
    pub(crate) change: fn(&mut Fleet),
    /// What the program says that it does.
    pub(crate) decides: &'static str,
    /// What then happens, in order: `+` a start, `-` a stop, `~` a reload.
    pub(crate) happens: &'static str,
    /// What becomes of the changed instance's server; nothing if it does not run at all.
    pub(crate) agent: Option<Became>,
    /// Whether the change is about the neighbour as well.
    pub(crate) both: bool,
}

/// Something that happens between the boot and the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Clients connect to every open listener.
    Connect,
    /// `systemctl start`.
    Start(&'static str),
    /// `systemctl stop`.
    Stop(&'static str),
}

const NOTHING: Row = Row {
    name: "",
    before: |_| (),
    meanwhile: &[],
    change: |_| (),
    decides: "",
    happens: "",
    agent: Some(Became::Same),
    both: false,
};

/// The server alone is restarted.
const RESTARTED: Row =
    Row { decides: "restart blue", happens: "-blue +blue", agent: Some(Became::Again), ..NOTHING };

/// The server's accounts or its password changed, which the namespace's unit makes.
const RESTARTED_WITH_NET: Row = Row {
    decides: "restart blue net@blue",
    happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue +net@blue +dns@blue.socket +dns@blue +events@blue +blue",
    agent: Some(Became::Again),
    ..NOTHING
};

/// The listener moves, and the server goes on.
const MOVED: Row = Row {
    decides: "stop endpoint@blue; start endpoint@blue",
    happens: "-listen@blue.socket -endpoint@blue +listen@blue.socket +endpoint@blue",
    ..NOTHING
};

/// The same while clients are connected: they have to connect again.
const MOVED_WITH_PROXY: Row = Row {
    happens: "-listen@blue.service -listen@blue.socket -endpoint@blue \
              +listen@blue.socket +endpoint@blue",
    ..MOVED
};

/// What was stopped by hand starts again, for its target is started.
const CAME_BACK: Row = Row {
    happens: "+net@blue +dns@blue.socket +dns@blue +events@blue +blue +listen@blue.socket",
    agent: Some(Became::New),
    ..NOTHING
};

pub(crate) const ROWS: &[Row] = &[
    Row { name: "nothing", ..NOTHING },
    Row { name: "nothing, with clients", meanwhile: CLIENTS, ..NOTHING },
    Row {
        name: "the module is switched on",
        before: |fleet| fleet.enabled = false,
        change: |fleet| fleet.enabled = true,
        both: true,
        agent: Some(Became::New),
        happens: "+host@addresses +host@turns.socket +host@turns +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +opencode.slice +blue \
                  +endpoint@blue +listen@blue.socket +identity@green +net@green +dns@green.socket +dns@green +events@green \
                  +green +endpoint@green +listen@green.socket \
                  +opencode.target",
        ..NOTHING
    },
    Row {
        name: "the module is switched off",
        change: |fleet| fleet.enabled = false,
        both: true,
        agent: Some(Became::Gone),
        decides: "stop blue dns@blue dns@blue.socket dns@green dns@green.socket endpoint@blue \
                  endpoint@green events@blue events@green green host@addresses host@turns host@turns.socket identity@blue \
                  identity@green listen@blue.socket listen@green.socket net@blue net@green \
                  opencode.slice opencode.target",
        happens: "-blue -dns@blue -dns@blue.socket -dns@green -dns@green.socket \
                  -listen@blue.socket -endpoint@blue -listen@green.socket -endpoint@green \
                  -events@blue -events@green -green -host@addresses -host@turns -host@turns.socket -net@blue -identity@blue \
                  -net@green -identity@green -opencode.slice -opencode.target",
        ..NOTHING
    },
    Row {
        name: "the first instances",
        before: without_any,
        change: |fleet| *fleet = Fleet::default(),
        both: true,
        agent: Some(Became::New),
        happens: "+identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +opencode.slice +blue \
                  +endpoint@blue +listen@blue.socket +identity@green +net@green +dns@green.socket +dns@green +events@green \
                  +green +endpoint@green +listen@green.socket",
        ..NOTHING
    },
    Row {
        name: "no instances any more",
        change: without_any,
        both: true,
        agent: Some(Became::Gone),
        decides: "stop blue dns@blue dns@blue.socket dns@green dns@green.socket endpoint@blue \
              endpoint@green events@blue events@green green identity@blue identity@green \
              listen@blue.socket listen@green.socket net@blue net@green",
        happens: "-blue -dns@blue -dns@blue.socket -dns@green -dns@green.socket \
              -listen@blue.socket -endpoint@blue -listen@green.socket -endpoint@green \
              -events@blue -events@green -green -net@blue -identity@blue -net@green \
              -identity@green",
        ..NOTHING
    },
    Row {
        name: "an instance is added",
        before: without_blue,
        change: |fleet| *fleet = Fleet::default(),
        agent: Some(Became::New),
        happens: "+identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +blue +endpoint@blue \
                  +listen@blue.socket",
        ..NOTHING
    },
    Row {
        name: "an instance is removed",
        change: without_blue,
        agent: Some(Became::Gone),
        decides: "stop blue dns@blue dns@blue.socket endpoint@blue events@blue identity@blue \
              listen@blue.socket net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -listen@blue.socket -endpoint@blue -events@blue \
              -net@blue -identity@blue",
        ..NOTHING
    },
    Row {
        name: "an instance is removed, with clients",
        meanwhile: CLIENTS,
        change: without_blue,
        agent: Some(Became::Gone),
        decides: "stop blue dns@blue dns@blue.socket endpoint@blue events@blue identity@blue \
              listen@blue.service listen@blue.socket net@blue",
        happens: "-listen@blue.service -blue -dns@blue -dns@blue.socket -listen@blue.socket \
              -endpoint@blue -events@blue -net@blue -identity@blue",
        ..NOTHING
    },
    Row {
        name: "an instance is disabled",
        change: |fleet| fleet.set("blue", "enable", false),
        agent: Some(Became::Gone),
        decides: "stop blue dns@blue dns@blue.socket endpoint@blue events@blue identity@blue \
              listen@blue.socket net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -listen@blue.socket -endpoint@blue -events@blue \
              -net@blue -identity@blue",
        ..NOTHING
    },
    Row {
        name: "the port of a removed instance is taken over",
        change: take_over,
        both: true,
        agent: Some(Became::Gone),
        decides: "stop blue dns@blue dns@blue.socket endpoint@blue endpoint@green events@blue \
              identity@blue listen@blue.socket net@blue; start endpoint@green",
        happens: "-blue -dns@blue -dns@blue.socket -listen@blue.socket -endpoint@blue \
              -listen@green.socket -endpoint@green -events@blue -net@blue -identity@blue \
              +listen@green.socket +endpoint@green",
        ..NOTHING
    },
    Row { name: "logLevel", change: log_level, ..RESTARTED },
    Row {
        name: "logLevel, with clients",
        meanwhile: CLIENTS,
        change: log_level,
        decides: "restart blue",
        happens: "-listen@blue.service -blue +blue +refusal@blue +listen@blue.service",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row { name: "listen.port", change: port, ..MOVED },
    Row { name: "listen.port, with clients", meanwhile: CLIENTS, change: port, ..MOVED_WITH_PROXY },
    Row {
        name: "listen.address",
        change: |fleet| fleet.set("blue", "listen.address", "127.0.0.2"),
        ..MOVED
    },
    Row {
        name: "listen.address, with clients",
        meanwhile: CLIENTS,
        change: |fleet| fleet.set("blue", "listen.address", "127.0.0.2"),
        ..MOVED_WITH_PROXY
    },
    Row {
        name: "two instances swap their ports",
        change: swap,
        both: true,
        decides: "stop endpoint@blue endpoint@green; start endpoint@blue endpoint@green",
        happens: "-listen@blue.socket -endpoint@blue -listen@green.socket -endpoint@green \
                  +listen@blue.socket +endpoint@blue +listen@green.socket +endpoint@green",
        ..NOTHING
    },
    Row {
        name: "two instances swap their ports, with clients",
        meanwhile: CLIENTS,
        change: swap,
        both: true,
        decides: "stop endpoint@blue endpoint@green; start endpoint@blue endpoint@green",
        happens: "-listen@blue.service -listen@blue.socket -endpoint@blue -listen@green.service \
                  -listen@green.socket -endpoint@green +listen@blue.socket +endpoint@blue \
                  +listen@green.socket +endpoint@green",
        ..NOTHING
    },
    Row {
        name: "listen.port and logLevel, with clients",
        meanwhile: CLIENTS,
        change: |fleet| {
            port(fleet);
            log_level(fleet);
        },
        decides: "stop endpoint@blue; restart blue; start endpoint@blue",
        happens: "-listen@blue.service -listen@blue.socket -endpoint@blue -blue \
                  +blue +listen@blue.socket +endpoint@blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        name: "the policy",
        change: policy,
        decides: "reload net@blue",
        happens: "~net@blue",
        ..NOTHING
    },
    Row {
        name: "one address range more",
        change: one_more,
        decides: "reload net@blue; restart dns@blue",
        happens: "~net@blue -dns@blue +dns@blue",
        ..NOTHING
    },
    Row {
        name: "without restarts: one address range more",
        before: stays,
        change: one_more,
        decides: "reload net@blue; restart dns@blue",
        happens: "~net@blue -dns@blue +dns@blue",
        ..NOTHING
    },
    Row {
        name: "no link any more",
        change: no_link,
        decides: "stop dns@blue dns@blue.socket; reload net@blue; restart events@blue",
        happens: "-dns@blue -dns@blue.socket ~net@blue -events@blue +events@blue",
        ..NOTHING
    },
    Row {
        name: "a link comes",
        before: no_link,
        change: with_link,
        decides: "reload net@blue; restart events@blue",
        happens: "~net@blue -events@blue +events@blue +dns@blue.socket +dns@blue",
        ..NOTHING
    },
    Row {
        name: "a port of the host comes",
        change: host_port,
        decides: "restart dns@blue",
        happens: "-dns@blue +dns@blue +hostport@blue-11434.socket +hostports@blue.target",
        ..NOTHING
    },
    Row {
        name: "one more port of the host",
        before: host_port,
        change: |fleet| fleet.set("blue", "network.hostPorts", json!([11434, 11435])),
        decides: "restart dns@blue",
        happens: "-dns@blue +dns@blue +hostport@blue-11435.socket",
        ..NOTHING
    },
    Row {
        name: "no port of the host any more",
        before: host_port,
        change: |fleet| fleet.set("blue", "network.hostPorts", json!([])),
        decides: "stop hostport@blue-11434.socket hostports@blue.target; restart dns@blue",
        happens: "-hostport@blue-11434.socket -hostports@blue.target -dns@blue +dns@blue",
        ..NOTHING
    },
    Row {
        name: "the policy of an instance that was stopped",
        meanwhile: STOPPED,
        change: policy,
        ..CAME_BACK
    },
    Row {
        name: "the policy and extraGroups",
        change: |fleet| {
            policy(fleet);
            groups(fleet);
        },
        decides: "restart blue identity@blue net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        ..RESTARTED_WITH_NET
    },
    Row { name: "a file of the sandbox's /etc", change: sandbox_etc, ..RESTARTED },
    Row {
        name: "directory",
        change: |fleet| fleet.set("blue", "directory", "/srv/other"),
        decides: "restart blue identity@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        ..RESTARTED
    },
    Row {
        name: "stateDir",
        change: |fleet| fleet.set("blue", "stateDir", "/data/blue"),
        decides: "restart blue identity@blue net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        ..RESTARTED_WITH_NET
    },
    Row {
        name: "extraGroups",
        change: groups,
        decides: "restart blue identity@blue net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        ..RESTARTED_WITH_NET
    },
    Row {
        name: "extraArgs",
        change: |fleet| fleet.set("blue", "extraArgs", json!(["--pure"])),
        ..RESTARTED
    },
    Row { name: "package", change: package, ..RESTARTED },
    Row { name: "path", change: path, ..RESTARTED },
    Row {
        name: "auth.enable off",
        change: |fleet| fleet.set("blue", "auth.enable", false),
        decides: "restart blue identity@blue net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        ..RESTARTED_WITH_NET
    },
    Row {
        name: "auth.passwordFile",
        change: |fleet| fleet.set("blue", "auth.passwordFile", "/run/secrets/blue"),
        decides: "restart blue identity@blue net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +judge@blue +blue",
        ..RESTARTED_WITH_NET
    },
    Row {
        name: "nix.enable",
        change: |fleet| fleet.set("blue", "nix.enable", true),
        decides: "restart blue identity@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        ..RESTARTED
    },
    Row {
        name: "nixLd.enable",
        change: |fleet| fleet.set("blue", "nixLd.enable", true),
        ..RESTARTED
    },
    Row {
        name: "openFirewall",
        before: |fleet| fleet.set("blue", "listen.address", "192.0.2.1"),
        change: |fleet| fleet.set("blue", "openFirewall", true),
        ..NOTHING
    },
    Row {
        name: "unitOverrides.main",
        change: |fleet| fleet.set("blue", "unitOverrides.main.MemoryMax", "4G"),
        ..RESTARTED
    },
    Row {
        name: "unitOverrides.main that forbid the restart",
        change: |fleet| {
            let overrides = json!({ "MemoryMax": "4G", "X-RestartIfChanged": false });
            fleet.set("blue", "unitOverrides.main", overrides);
        },
        decides: "skip blue",
        ..NOTHING
    },
    Row {
        name: "the first script",
        change: |fleet| fleet.set("blue", "preInitScript", "true"),
        happens: "-blue +setup@blue +blue",
        ..RESTARTED
    },
    Row {
        name: "another script",
        before: |fleet| fleet.set("blue", "preInitScript", "true"),
        change: |fleet| fleet.set("blue", "preInitScript", "false"),
        ..NOTHING
    },
    Row {
        name: "no script any more",
        before: |fleet| fleet.set("blue", "preInitScript", "true"),
        change: |fleet| fleet.set("blue", "preInitScript", json!(null)),
        ..RESTARTED
    },
    Row {
        name: "unitOverrides.setup",
        before: |fleet| fleet.set("blue", "preInitScript", "true"),
        change: |fleet| fleet.set("blue", "unitOverrides.setup.TimeoutStartSec", 300),
        ..NOTHING
    },
    Row {
        name: "unitOverrides.net",
        change: |fleet| fleet.set("blue", "unitOverrides.net.TimeoutStartSec", 60),
        decides: "restart blue net@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue +net@blue +dns@blue.socket +dns@blue +events@blue +blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row { name: "a drop-in of the operator's", change: drop_in, ..RESTARTED },
    Row {
        name: "a drop-in of the operator's that changes",
        before: drop_in,
        change: |fleet| fleet.edits[0].2 = "[Service]\nMemoryMax=8G\n",
        ..RESTARTED
    },
    Row {
        name: "an update of nixpkgs",
        change: Fleet::update,
        both: true,
        decides: "restart blue dns@blue dns@green events@blue events@green green host@addresses host@turns \
                  net@blue net@green",
        happens: "-blue -dns@blue -dns@green -events@blue -events@green -green -host@addresses -host@turns \
                  -dns@blue.socket -net@blue -dns@green.socket -net@green +host@addresses \
                  +net@blue +dns@blue.socket +dns@blue +events@blue +blue +net@green \
                  +dns@green.socket +events@green +dns@green +green +host@turns",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        name: "an update of nixpkgs, with clients",
        meanwhile: CLIENTS,
        change: Fleet::update,
        both: true,
        decides: "stop listen@blue.service listen@blue.socket listen@green.service \
                  listen@green.socket; restart blue dns@blue dns@green events@blue events@green \
                  green host@addresses host@turns net@blue net@green; start listen@blue.socket \
                  listen@green.socket",
        happens: "-listen@blue.service -listen@blue.socket -listen@green.service \
                  -listen@green.socket -blue -dns@blue -dns@green -events@blue -events@green \
                  -green -host@addresses -host@turns -dns@blue.socket -net@blue -dns@green.socket -net@green \
                  +host@addresses +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue +net@green +dns@green.socket +events@green +dns@green +green \
                  +host@turns +listen@blue.socket +listen@green.socket",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        name: "without restarts: an update of nixpkgs",
        before: stays,
        change: Fleet::update,
        both: true,
        decides: "skip blue; reload net@blue; restart dns@blue dns@green events@blue events@green \
                  green host@addresses host@turns net@green",
        happens: "~net@blue -dns@blue -dns@green -events@blue -events@green -green -host@addresses -host@turns \
                  -dns@green.socket -net@green +dns@blue +host@addresses +net@green \
                  +dns@green.socket +events@green +dns@green +events@blue +green +host@turns",
        ..NOTHING
    },
    Row {
        name: "without restarts: an update of nixpkgs, with clients",
        before: stays,
        meanwhile: CLIENTS,
        change: Fleet::update,
        both: true,
        decides: "stop listen@blue.service listen@blue.socket listen@green.service \
                  listen@green.socket; skip blue; reload net@blue; restart dns@blue dns@green \
                  events@blue events@green green host@addresses host@turns net@green; start \
                  listen@blue.socket listen@green.socket",
        happens: "-listen@blue.service -listen@blue.socket -listen@green.service \
                  -listen@green.socket ~net@blue -dns@blue -dns@green -events@blue -events@green \
                  -green -host@addresses -host@turns -dns@green.socket -net@green +dns@blue +host@addresses \
                  +net@green +dns@green.socket +events@green +dns@green +events@blue \
                  +green +host@turns +listen@blue.socket +listen@green.socket",
        ..NOTHING
    },
    Row {
        name: "without restarts: logLevel",
        before: stays,
        change: log_level,
        decides: "skip blue",
        ..NOTHING
    },
    Row { name: "without restarts: listen.port", before: stays, change: port, ..MOVED },
    Row {
        name: "without restarts: listen.port, with clients",
        before: stays,
        meanwhile: CLIENTS,
        change: port,
        ..MOVED_WITH_PROXY
    },
    Row {
        name: "without restarts: the policy",
        before: stays,
        change: policy,
        decides: "reload net@blue",
        happens: "~net@blue",
        ..NOTHING
    },
    Row {
        name: "without restarts: the policy and extraGroups",
        before: stays,
        change: |fleet| {
            policy(fleet);
            groups(fleet);
        },
        decides: "skip blue; reload net@blue; restart identity@blue",
        happens: "~net@blue -blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue \
                  +blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        name: "without restarts: a password, and an address for the network",
        before: |fleet| {
            stays(fleet);
            fleet.set("blue", "auth.enable", false);
        },
        change: |fleet| {
            fleet.set("blue", "auth.enable", true);
            fleet.set("blue", "listen.address", "0.0.0.0");
        },
        decides: "stop endpoint@blue; skip blue; reload net@blue; restart identity@blue; \
                  start endpoint@blue",
        happens: "-listen@blue.socket -endpoint@blue ~net@blue -blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue \
                  +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +blue +listen@blue.socket +endpoint@blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        name: "without restarts: directory",
        before: stays,
        change: |fleet| fleet.set("blue", "directory", "/srv/other"),
        decides: "skip blue; restart identity@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        // A connection would outlive the sight of its socket.
        name: "another socket, of a server that stays",
        before: |fleet| {
            stays(fleet);
            fleet.set("blue", "sandbox.unixSockets", json!(["/run/a/s"]));
        },
        change: |fleet| fleet.set("blue", "sandbox.unixSockets", json!(["/run/a/t"])),
        decides: "restart identity@blue sockets@blue",
        happens: "-blue -dns@blue -dns@blue.socket -events@blue -sockets@blue -net@blue -identity@blue +identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +sockets@blue +setup@blue +blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        name: "restartOnSwitch off",
        change: stays,
        decides: "skip blue; reload net@blue",
        happens: "~net@blue",
        ..NOTHING
    },
    Row {
        name: "another secret, watched",
        before: watched,
        change: another_secret,
        decides: "restart blue secrets@blue",
        happens: "-secrets@blue -blue +judge@blue +secrets@blue +blue",
        agent: Some(Became::Again),
        ..NOTHING
    },
    Row {
        // A stop would have it forget what the server that goes on was started with.
        name: "another secret, watched, of a server that stays",
        before: |fleet| {
            watched(fleet);
            stays(fleet);
        },
        change: another_secret,
        decides: "skip blue; restart secrets@blue",
        happens: "-secrets@blue +secrets@blue",
        ..NOTHING
    },
    Row {
        name: "restartOnSwitch on again",
        before: stays,
        change: |fleet| fleet.set("blue", "restartOnSwitch", true),
        ..RESTARTED_WITH_NET
    },
    Row {
        name: "autoStart on",
        before: by_hand,
        change: |fleet| fleet.set("blue", "autoStart", true),
        agent: Some(Became::New),
        happens: "+identity@blue +net@blue +dns@blue.socket +dns@blue +events@blue +blue +endpoint@blue \
                  +listen@blue.socket",
        ..NOTHING
    },
    Row { name: "autoStart off", change: by_hand, ..NOTHING },
    Row {
        name: "logLevel of an instance that nobody started",
        before: by_hand,
        change: log_level,
        agent: None,
        ..NOTHING
    },
    Row {
        name: "listen.port of an instance that was started by hand",
        before: by_hand,
        meanwhile: &[
            Step::Start("opencode-blue.service"),
            Step::Start("opencode-listen@blue.socket"),
        ],
        change: port,
        ..MOVED
    },
    Row { name: "nothing, and an instance was stopped by hand", meanwhile: STOPPED, ..CAME_BACK },
    Row {
        name: "logLevel of an instance that was stopped by hand",
        meanwhile: STOPPED,
        change: log_level,
        ..CAME_BACK
    },
];

const CLIENTS: &[Step] = &[Step::Connect];
/// As `opencode-instances stop` does it.
const STOPPED: &[Step] = &[
    Step::Stop("opencode-listen@blue.socket"),
    Step::Stop("opencode-blue.service"),
    Step::Stop("opencode-net@blue.service"),
];

fn without_any(fleet: &mut Fleet) {
    fleet.instances.clear();
}

fn take_over(fleet: &mut Fleet) {
    without_blue(fleet);
    fleet.set("green", "listen.port", 4101);
}

fn log_level(fleet: &mut Fleet) {
    fleet.set("blue", "logLevel", "WARN");
}

fn port(fleet: &mut Fleet) {
    fleet.set("blue", "listen.port", 4201);
}

fn groups(fleet: &mut Fleet) {
    fleet.set("blue", "extraGroups", json!(["zoo"]));
}

fn without_blue(fleet: &mut Fleet) {
    fleet.instances.remove("blue");
}

fn swap(fleet: &mut Fleet) {
    fleet.set("blue", "listen.port", 4102);
    fleet.set("green", "listen.port", 4101);
}

fn policy(fleet: &mut Fleet) {
    fleet.edits.push(("opencode-net@blue.service", "X-Reload-Triggers=", "X-Reload-Triggers=0"));
}

fn one_more(fleet: &mut Fleet) {
    fleet.set("blue", "network.outbound.allowCidrs", json!(["192.168.1.20/32"]));
}

fn no_link(fleet: &mut Fleet) {
    fleet.set("blue", "network.outbound.policy", "none");
}

fn with_link(fleet: &mut Fleet) {
    fleet.set("blue", "network.outbound.policy", "internet");
}

fn host_port(fleet: &mut Fleet) {
    fleet.set("blue", "network.hostPorts", json!([11434]));
}

fn sandbox_etc(fleet: &mut Fleet) {
    fleet.edits.push(("opencode-blue.service", "--generation ", "--generation 0"));
}

fn package(fleet: &mut Fleet) {
    fleet.set("blue", "package", "/nix/store/ccc-opencode-1.19.0/bin/opencode");
    "/nix/store/ccc-opencode-1.19.0".clone_into(&mut fleet.agents.get_mut("blue").unwrap()[2]);
}

fn path(fleet: &mut Fleet) {
    fleet.set("blue", "path", json!(["/nix/store/ccc-nodejs-22"]));
    fleet.agents.get_mut("blue").unwrap().push("/nix/store/ccc-nodejs-22".to_owned());
}

fn stays(fleet: &mut Fleet) {
    fleet.set("blue", "restartOnSwitch", false);
}

fn watched(fleet: &mut Fleet) {
    fleet.set("blue", "environmentFile", "/run/secrets/blue.env");
    fleet.set("blue", "restartOnSecretChange", true);
}

fn another_secret(fleet: &mut Fleet) {
    fleet.set("blue", "environmentFile", "/run/secrets/other.env");
}

fn by_hand(fleet: &mut Fleet) {
    fleet.set("blue", "autoStart", false);
}

fn drop_in(fleet: &mut Fleet) {
    fleet.edits.push(("opencode-blue.service.d/overrides.conf", "", "[Service]\nMemoryMax=4G\n"));
}

impl Step {
    pub(crate) fn take(self, host: &mut Host) {
        match self {
            Self::Connect => host.clients_connect(),
            Self::Start(unit) => host.start(unit),
            Self::Stop(unit) => host.stop(unit),
        }
    }
}

impl Row {
    /// The generations before and after it.
    pub(crate) fn generations(&self) -> [Generation; 2] {
        let mut fleet = Fleet::default();
        (self.before)(&mut fleet);
        let old = fleet.generation();
        (self.change)(&mut fleet);
        [old, fleet.generation()]
    }

    /// A host just before the switch.
    pub(crate) fn host(&self, old: &Generation) -> Host {
        let mut host = Host::booted(old.units.clone());
        self.meanwhile.iter().for_each(|step| step.take(&mut host));
        host.forget();
        host
    }
}

/// A unit's name without what all names have.
pub(crate) fn short(unit: &str) -> &str {
    let unit = unit.strip_prefix("opencode-").unwrap_or(unit);
    if unit.starts_with("listen@") { unit } else { unit.strip_suffix(".service").unwrap_or(unit) }
}

/// What the program says, in the order in which it says it.
pub(crate) fn decided(actions: &Actions) -> String {
    let steps = [
        ("stop", &actions.stop),
        ("skip", &actions.skip),
        ("reload", &actions.reload),
        ("restart", &actions.restart),
        ("start", &actions.start),
    ];
    let steps = steps.iter().filter(|(_, units)| !units.is_empty()).map(|(step, units)| {
        let units: Vec<_> = units.iter().map(|unit| short(unit)).collect();
        format!("{step} {}", units.join(" "))
    });
    steps.collect::<Vec<_>>().join("; ")
}

/// What has happened, in order.
pub(crate) fn happened(events: &[Event]) -> String {
    let events = events.iter().map(|event| match event {
        Event::Started(unit) => format!("+{}", short(unit)),
        Event::Stopped(unit) => format!("-{}", short(unit)),
        Event::Reloaded(unit) => format!("~{}", short(unit)),
        Event::Failed(unit) => format!("!{}", short(unit)),
    });
    events.collect::<Vec<_>>().join(" ")
}
