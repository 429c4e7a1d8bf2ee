//! `opencode-places@NAME.service`: shows a long list of the host's places in the server's sandbox, read-only.
//!
//! systemd reads the list of all mounts again for each place that it makes read-only, its own among them, so
//! that each mount more makes every other one dearer. This unit mounts a long list when systemd is done:
//! into the sandbox of a supervisor that has started nothing yet. The supervisor waits for the last one, an
//! empty directory that stands for the end.
//!
//! The main unit keeps the lines, under a name that systemd passes over: a changed list changes the
//! unit, and an audit finds what was declared.

use crate::audit::mounts::parts;
use crate::bound::is_below;
use crate::facts::HostFacts;
use crate::overrides;
use crate::plan::short_digest;
use crate::spec::{AbsPath, Instance};
use crate::unit::escape::{Bind, Word};
use crate::unit::{Entry, Section, Unit, Value};
use crate::units::{HELPER_START, Names, description, judge, sandbox, setup, switch};

/// In the main unit: a place that this unit shows.
pub(crate) const SHOWN: &str = "X-BindReadOnlyPaths";
/// Where an empty directory is mounted when all places are, by the name of the list: a unit that was started
/// for another list is none that the supervisor waits for.
pub const DONE: &str = "/.places";
/// The length of a list from which on this unit is worth its start.
const MANY: usize = 16;
/// The longest command line, in bytes: the kernel takes no list of any length.
const LONGEST: usize = 256 << 10;
/// Where systemd mounts something of its own, or the agent writes.
const TAKEN: &[&str] =
    &["/dev", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var/tmp", DONE];

/// The same main unit, which leaves a long list to this one.
pub(super) fn leave(mut main: Unit, instance: &Instance, facts: &HostFacts) -> Unit {
    let [unit, service] = main.sections.as_mut_slice() else { return main };
    // The operator's own text may be about any place, or have the unit run in another group.
    let orders = |name: &str| name == "WantsMountsFor";
    if instance
        .unit_overrides
        .main
        .names()
        .any(|name| orders(name) || !overrides::is_harmless(name))
    {
        return main;
    }
    let entries = &mut service.entries;
    let listed = apart(entries, |bind| is_listed(instance, facts, bind));
    let length = |at: &usize| entries.get(*at).and_then(bind).map_or(0, |bind| said(bind).len());
    if listed.len() < MANY || listed.iter().map(length).sum::<usize>() > LONGEST {
        return main;
    }
    let names = Names(&instance.name);
    let list: Vec<String> =
        listed.iter().filter_map(|at| entries.get(*at).and_then(bind)).map(said).collect();
    let name = short_digest(&list.join("\n"));
    let mut first = true;
    for (at, entry) in entries.iter_mut().enumerate() {
        if listed.contains(&at) {
            entry.directive = SHOWN.into();
            if std::mem::take(&mut first) {
                entry.why = Some("a long list, which the unit of the places mounts");
            }
        } else if let ("ExecStart", Value::Command(command)) = (&*entry.directive, &mut entry.value)
            && let Some(at) = command.argv.iter().position(|word| *word == Word::from("--port"))
        {
            command.argv.splice(at..at, ["--places".into(), name.as_str().into()]);
        }
    }
    let why = "the last of the places: the supervisor waits for it";
    entries.push(
        Entry::new(SHOWN, Value::bind_to(&names.shown(), &format!("{DONE}/{name}"))).because(why),
    );
    let line = |directive| Entry::new(directive, Value::words([names.places()]));
    let at = unit.entries.iter().rposition(|entry| entry.directive == "Requires");
    let at = at.map_or(unit.entries.len(), |at| at + 1);
    let why = "it mounts the places, and fails where one is missing that may not be";
    unit.entries.splice(at..at, [line("Requires").because(why), line("After")]);
    main
}

/// Whether the operator lists the place, or the host's configuration does.
fn is_listed(instance: &Instance, facts: &HostFacts, bind: &Bind) -> bool {
    let of_store = facts.nixos.as_ref().is_some_and(|nixos| {
        let among = |paths: &[AbsPath]| paths.iter().any(|path| path.as_str() == bind.source);
        // What the supervisor itself needs is there before it can wait for anything.
        let more = facts.knows_engine() && !among(&nixos.proxy);
        bind.target.is_none() && more && among(&nixos.agent)
    });
    of_store || instance.read_only_paths.iter().any(|path| Bind::of(path) == *bind)
}

fn bind(entry: &Entry) -> Option<&Bind> {
    match (&*entry.directive, &entry.value) {
        ("BindReadOnlyPaths", Value::Bind(bind)) => Some(bind),
        _ => None,
    }
}

fn target(bind: &Bind) -> &str {
    bind.target.as_deref().unwrap_or(&bind.source)
}

/// As the command line says it.
fn said(bind: &Bind) -> String {
    let optional = if bind.optional { "-" } else { "" };
    match &bind.target {
        None => format!("{optional}{}", bind.source),
        Some(target) => format!("{optional}{}:{target}", bind.source),
    }
}

/// The lines for places that have nothing to do with any other line's: these neither lie in another
/// place nor hold one, so that it is all the same when they are mounted.
fn apart(entries: &[Entry], listed: impl Fn(&Bind) -> bool) -> Vec<usize> {
    let mut places: Vec<(String, Option<usize>)> = Vec::with_capacity(entries.len());
    places.extend(TAKEN.iter().map(|place| ((*place).to_owned(), None)));
    for (at, entry) in entries.iter().enumerate() {
        match (&*entry.directive, &entry.value) {
            (_, Value::Bind(one)) => {
                let may = bind(entry).is_some_and(&listed).then_some(at);
                places.push((target(one).to_owned(), may));
            }
            ("StateDirectory", value) => {
                places.push((format!("/var/lib/{}", value.escaped()), None));
            }
            ("TemporaryFileSystem", value) => {
                places.push((parts(&value.escaped()).swap_remove(0), None));
            }
            _ => {}
        }
    }
    // Sorted by their parts, what lies in a place follows it at once, and so does its double.
    let key = |place: &str| place.split('/').map(str::to_owned).collect::<Vec<_>>();
    places.sort_by_cached_key(|(place, _)| key(place));
    let mut alone = vec![true; places.len()];
    let mut outer = 0;
    for at in 1..places.len() {
        let inside = match (places.get(outer), places.get(at)) {
            (Some((outer, _)), Some((place, _))) => is_below(place, outer),
            _ => false,
        };
        if inside {
            for one in [outer, at] {
                if let Some(alone) = alone.get_mut(one) {
                    *alone = false;
                }
            }
        } else {
            outer = at;
        }
    }
    places
        .into_iter()
        .zip(alone)
        .filter(|(_, alone)| *alone)
        .filter_map(|((_, at), _)| at)
        .collect()
}

/// The unit, where the main unit leaves something to it.
pub(super) fn unit(instance: &Instance, facts: &HostFacts, main: &Unit) -> Option<Unit> {
    let names = Names(&instance.name);
    let entries = || main.sections.iter().flat_map(|section| &section.entries);
    let shown = entries().filter(|entry| entry.directive == SHOWN);
    let binds = shown.filter_map(|entry| match &entry.value {
        Value::Bind(bind) => Some(bind),
        _ => None,
    });
    let listed: Vec<&Bind> = binds.collect();
    if listed.is_empty() {
        return None;
    }
    let (engine, systemctl) = (facts.engine.as_str(), facts.systemctl.as_str());
    let mut argv: Vec<Word> =
        [engine, "places", instance.name.as_str(), "--systemctl", systemctl, "--"]
            .map(Word::from)
            .to_vec();
    argv.extend(listed.into_iter().map(|bind| Word::from(said(bind))));
    let unit = Section::new("Unit")
        .set("Description", description("Places of the host", &instance.name))
        .set_why(
            "Requires",
            Value::words([names.net()]),
            "that one makes the root of the sandbox, which the mount points are in",
        )
        .extend(before(instance))
        .set_why(
            "PartOf",
            Value::words([names.main()]),
            "one that still waits begins anew with the server, and with a changed list",
        )
        .extend(sandbox::mounts(instance))
        .set_why("StopWhenUnneeded", Value::Yes, "it waits for a server that is being started")
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it starts as often as the server, whose own limit is the one to tell of",
        );
    let service = Section::new("Service")
        .set("Type", Value::word("notify"))
        .set("NotifyAccess", Value::word("main"))
        .set("ExecStart", Value::command(argv))
        .set("TimeoutStartSec", Value::Number(HELPER_START))
        .set("SyslogIdentifier", Value::words([format!("opencode-places@{}", instance.name)]))
        .set_why(
            "CapabilityBoundingSet",
            Value::word("CAP_DAC_READ_SEARCH CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE"),
            "root, to take places of the host and to mount them in the sandbox of a supervisor without agent",
        )
        .set("NoNewPrivileges", Value::Yes)
        .set_why("RestrictNamespaces", Value::word("mnt"), "it enters that kind, and no other")
        .set_why("RestrictAddressFamilies", Value::word("AF_UNIX"), "readiness alone")
        .set("IPAddressDeny", Value::word("any"))
        .set("SystemCallArchitectures", Value::word("native"))
        .set_why(
            "SystemCallFilter",
            Value::word("@system-service open_tree mount_setattr move_mount setns"),
            "it copies mounts and attaches the copies, and every other call of that kind is refused",
        )
        .set("SystemCallFilter", Value::word("~@privileged @resources @keyring"))
        .extend(sandbox::without_mounts())
        .set_why("LimitNOFILE", Value::Number(65536), "each place is an open file until it is mounted")
        .set("MemoryMax", Value::word("64M"))
        .set("TasksMax", Value::Number(8))
        .set("LimitCORE", Value::Number(0))
        .set("UMask", Value::word("0022"))
        .extend(switch::belongs_to_server(facts));
    Some(Unit { name: names.places(), sections: vec![unit, service] })
}

/// What it begins after, as the server does, so that it waits for that one alone.
fn before(instance: &Instance) -> Vec<Entry> {
    let setup = setup::unit_of(instance);
    let required = setup.as_ref().map(|unit| {
        Entry::new("Requires", Value::words([unit]))
            .because("when that is done the server starts at once, or not at all")
    });
    let judged = setup.is_none().then(|| judge::required(instance)).into_iter().flatten();
    let units = std::iter::once(Names(&instance.name).net()).chain(setup.clone());
    let after = Entry::new("After", Value::words(units));
    required.into_iter().chain([after]).chain(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::read;
    use crate::node::Format;
    use crate::units::of_instance;

    /// The instance's units, with so many places besides what else is said.
    fn units(count: usize, more: &str, options: &str) -> Vec<Unit> {
        let places: String = (0..count).map(|number| format!("\"/data/{number}\", ")).collect();
        let text = format!(
            "[instances.a]\ndirectory = \"/srv/a\"\nsandbox.readOnlyPaths = [{places}{more}]\n{options}\n"
        );
        let (spec, _) = read(&text, Format::Toml).unwrap();
        of_instance(&spec.instances[0], &HostFacts::default(), "", "")
    }

    fn find<'a>(units: &'a [Unit], name: &str) -> Option<&'a Unit> {
        units.iter().find(|unit| unit.name == name)
    }

    fn left(units: &[Unit]) -> Vec<String> {
        let main = find(units, "opencode-a.service").unwrap();
        let entries = main.sections.iter().flat_map(|section| &section.entries);
        let left = entries.filter(|entry| entry.directive == SHOWN);
        left.map(|entry| entry.value.escaped()).collect()
    }

    #[test]
    fn a_short_list_is_systemds() {
        let units = units(MANY - 1, "", "");
        assert!(find(&units, "opencode-places@a.service").is_none());
        assert_eq!(left(&units), [""; 0]);
    }

    #[test]
    fn a_long_list_is_mounted_by_a_unit_of_its_own_and_the_end_last() {
        let units = units(MANY, "\"-/opt/b:/b c\"", "");
        assert_eq!(left(&units).len(), MANY + 2);
        let text = find(&units, "opencode-places@a.service").unwrap().render(257).0;
        let line = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let begin = " places a --systemctl /usr/bin/systemctl -- /data/0 /data/1 ";
        assert!(line.contains(begin), "{line}");
        let (list, done) = line.rsplit_once(':').unwrap();
        let end = " -\"/opt/b:/b c\" /run/opencode-instances/a/places";
        assert!(list.ends_with(end), "{line}");
        let name = done.strip_prefix("/.places/").unwrap();
        assert_eq!(name.len(), 16, "{line}");
        let text = find(&units, "opencode-a.service").unwrap().render(257).0;
        assert!(
            text.contains(
                "\nRequires=opencode-places@a.service\nAfter=opencode-places@a.service\n"
            )
        );
        assert!(text.contains(&format!(" --places {name} --port 4096 ")), "{text}");
        let others = self::units(MANY, "\"-/opt/b:/b d\"", "");
        let text = find(&others, "opencode-a.service").unwrap().render(257).0;
        assert!(!text.contains(name), "{text}");
    }

    #[test]
    fn of_a_closure_systemd_mounts_what_the_supervisor_needs() {
        let (spec, _) = read("[instances.a]\ndirectory = \"/srv/a\"\n", Format::Toml).unwrap();
        let path = |name: &str| AbsPath::new(&format!("/nix/store/{name}")).unwrap();
        let agent = (0..20).map(|number| path(&format!("{number}-tool")));
        let agent: Vec<_> = agent.chain([path("e-engine"), path("g-glibc")]).collect();
        let proxy = vec![path("e-engine"), path("g-glibc")];
        let mut facts = HostFacts {
            engine: path("e-engine/bin/engine"),
            nixos: Some(crate::facts::NixOs { agent, proxy, ..Default::default() }),
            ..HostFacts::default()
        };
        let lines = |facts: &HostFacts, unit: &str, directive: &str| {
            let units = of_instance(&spec.instances[0], facts, "", "");
            let text = find(&units, unit).unwrap().render(257).0;
            let begin = format!("{directive}=/nix/store/");
            text.lines()
                .filter_map(|line| line.strip_prefix(&begin))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let main = "opencode-a.service";
        assert_eq!(lines(&facts, main, "BindReadOnlyPaths"), ["e-engine", "g-glibc"]);
        assert_eq!(lines(&facts, main, SHOWN).len(), 20);
        // Where nobody says what it needs, it gets everything.
        if let Some(nixos) = &mut facts.nixos {
            nixos.proxy.clear();
        }
        assert_eq!(lines(&facts, main, "BindReadOnlyPaths").len(), 22);
    }

    #[test]
    fn places_in_places_stay_systemds() {
        let nested = "\"/data/1/below\", \"/opt/x:/data/2x\", \"/opt/y:/home/y\", \"/opt/z:/z\", \"/opt/s:/z/s\"";
        let written = "sandbox.readWritePaths = [\"/data/3/cache\", \"/data/4-x\"]";
        let units = units(MANY + 4, nested, written);
        let left = left(&units);
        for stays in
            ["/data/1", "/data/1/below", "/data/3", "/opt/y:/home/y", "/opt/z:/z", "/opt/s:/z/s"]
        {
            assert!(!left.iter().any(|line| line == stays), "{stays}: {left:?}");
        }
        for goes in ["/data/0", "/data/2", "/opt/x:/data/2x", "/data/4", "/data/19"] {
            assert!(left.iter().any(|line| line == goes), "{goes}: {left:?}");
        }
    }

    #[test]
    fn lines_of_the_operators_own_leave_everything_to_systemd() {
        for (line, leaves) in [
            ("BindPaths = [\"/data/0/x\", \"/srv/a\"]", false),
            ("TemporaryFileSystem = \"/x /data\"", false),
            ("InaccessiblePaths = \"/data/0/x\"", false),
            ("NoExecPaths = \"/data\"", false),
            ("Slice = \"mine.slice\"", false),
            ("Delegate = true", false),
            ("WantsMountsFor = \"/data\"", false),
            ("MemoryMax = \"1G\"", true),
        ] {
            let units = units(MANY, "", &format!("unitOverrides.main.{line}"));
            assert_eq!(!left(&units).is_empty(), leaves, "{line}");
            let unit = find(&units, "opencode-places@a.service");
            assert_eq!(unit.is_some(), leaves, "{line}");
        }
    }
}
