//! Setup on trees that an agent may have prepared, killed at every step.

use super::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

/// A HOME, a plan, and something outside that must stay as it is.
struct Stage {
    guard: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let stage = Self { guard };
        for name in ["home", "outside", "setup"] {
            fs::create_dir(stage.at(name)).unwrap();
        }
        fs::write(stage.at("outside/file"), "untouched").unwrap();
        stage.plan(&[]);
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.guard.path().join(name)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.at("home").join(name)
    }

    /// A plan with these links, each as place and target.
    fn plan(&self, links: &[(&str, &str)]) {
        let links: Vec<_> = links
            .iter()
            .map(|(place, target)| Link {
                place: (*place).to_owned(),
                target: (*target).to_owned(),
                replaces: *place == "opencode.json",
            })
            .collect();
        let plan = SetupPlan { version: SETUP_VERSION, links };
        fs::write(self.at("setup/plan.json"), serde_json::to_string(&plan).unwrap()).unwrap();
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.at("setup").join(name), text).unwrap();
    }

    fn run_with(&self, said: &dyn Fn(Event<'_>)) -> Result<(), Error> {
        let request = Request {
            home: &self.at("home"),
            plan: &self.at("setup/plan.json"),
            scripts: Some(Scripts { shell: Path::new("/bin/bash"), prefixes: Vec::new() }),
        };
        run(&request, said)
    }

    fn run(&self) -> Result<(), String> {
        self.run_with(&|_| {}).map_err(|error| error.to_string())
    }

    fn target(&self, place: &str) -> Option<String> {
        let target = fs::read_link(self.home(".config/opencode").join(place)).ok()?;
        Some(target.to_str().unwrap().to_owned())
    }
}

use instances_core::config::Link;

/// Every component that is made, parents before children.
fn components() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for parts in DIRECTORIES {
        all.extend((1..=parts.len()).map(|n| parts[..n].iter().collect::<PathBuf>()));
    }
    all.dedup();
    all
}

/// Path, kind, mode, target or content, and modification time of everything below `top`.
fn snapshot(top: &Path) -> BTreeMap<PathBuf, (u32, String, i64, i64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(top).unwrap().flatten() {
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        let mut content = String::new();
        if metadata.is_dir() {
            all.append(&mut snapshot(&entry.path()));
        } else if metadata.is_symlink() {
            content = fs::read_link(entry.path()).unwrap().display().to_string();
        } else if metadata.is_file() {
            content = fs::read_to_string(entry.path()).unwrap();
        }
        let seen = (metadata.mode(), content, metadata.mtime(), metadata.mtime_nsec());
        all.insert(entry.path(), seen);
    }
    all
}

/// The same without times, relative to `top`.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let all = snapshot(top).into_iter();
    all.map(|(path, (mode, content, ..))| (path.strip_prefix(top).unwrap().into(), (mode, content)))
        .collect()
}

#[test]
fn an_empty_home_is_initialised_once_and_private() {
    let stage = Stage::new();
    stage.run().unwrap();
    for path in components() {
        let mode = fs::metadata(stage.at("home").join(&path)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700, "{path:?}");
    }
    let note = stage.home(".local/share/opencode-instances/state.json");
    assert_eq!(fs::read_to_string(note).unwrap(), r#"{"version":1,"state":"initialised"}"#);
    let before = snapshot(&stage.at("home"));
    stage.run().unwrap();
    assert_eq!(snapshot(&stage.at("home")), before);
}

#[test]
fn scripts_run_once_around_the_modules_steps() {
    let stage = Stage::new();
    stage.plan(&[("opencode.json", "/etc/x")]);
    stage.script("preInitScript", "pwd > ran; test ! -e .config");
    stage.script("postInitScript", "test -L .config/opencode/opencode.json; echo post >> ran");
    stage.run().unwrap();
    let ran = || fs::read_to_string(stage.home("ran")).unwrap();
    let home = stage.at("home").canonicalize().unwrap();
    assert!(
        ran().starts_with(&home.display().to_string()) && ran().ends_with("\npost\n"),
        "{}",
        ran()
    );
    let before = snapshot(&stage.at("home"));
    stage.script("preInitScript", "exit 7");
    stage.run().unwrap();
    assert_eq!(snapshot(&stage.at("home")), before);
}

#[test]
fn a_script_that_fails_is_named_and_everything_starts_over() {
    for name in SCRIPTS {
        let stage = Stage::new();
        for (text, how) in [
            ("echo x >> tries; exit 3", "failed with status 3"),
            ("echo x >> tries; false; true", "failed with status 1"),
            ("echo x >> tries; echo $UNSET_ANYWHERE", "failed with status"),
            ("echo x >> tries; kill -9 $$", "was killed by signal 9"),
        ] {
            stage.script(name, text);
            let said = stage.run().unwrap_err();
            assert!(said.starts_with(&format!("{name} {how}")), "{said}");
        }
        stage.script(name, "echo done >> tries");
        stage.run().unwrap();
        assert_eq!(fs::read_to_string(stage.home("tries")).unwrap(), "x\nx\nx\nx\ndone\n");
    }
}

#[test]
fn a_home_that_a_server_has_used_is_not_initialised() {
    for left in ["opencode.db", "opencode-dev.db", "storage/session/x.json"] {
        let stage = Stage::new();
        let left = stage.home(".local/share/opencode").join(left);
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(left, "sessions").unwrap();
        stage.script("preInitScript", "exit 7");
        stage.plan(&[("agents/a.md", "/etc/x")]);
        stage.run().unwrap();
        assert_eq!(stage.target("agents/a.md").as_deref(), Some("/etc/x"));
        assert!(!stage.home(".cache").exists());
    }
}

#[test]
fn what_is_no_session_does_not_make_a_home_used() {
    let stage = Stage::new();
    let data = stage.home(".local/share/opencode");
    fs::create_dir_all(data.join("log")).unwrap();
    for name in ["auth.json", "opencode.db-wal", "my.db", "storage"] {
        fs::write(data.join(name), "").unwrap();
    }
    stage.script("preInitScript", "touch initialised");
    stage.run().unwrap();
    assert!(stage.home("initialised").exists());
}

#[test]
fn a_database_that_a_script_left_is_no_used_home() {
    let stage = Stage::new();
    let text = "mkdir -p .local/share/opencode; touch .local/share/opencode/opencode.db; exit 1";
    stage.script("preInitScript", text);
    stage.run().unwrap_err();
    stage.script("preInitScript", "touch again");
    stage.run().unwrap();
    assert!(stage.home("again").exists());
}

#[test]
fn links_follow_the_plan_and_nothing_else_is_touched() {
    let stage = Stage::new();
    let all =
        [("opencode.json", "/etc/a"), ("agents/x.md", "/etc/b"), ("skills/s/SKILL.md", "/etc/c")];
    stage.plan(&all);
    stage.run().unwrap();
    for (place, target) in all {
        assert_eq!(stage.target(place).as_deref(), Some(target));
    }
    fs::write(stage.home(".config/opencode/agents/own.md"), "mine").unwrap();
    fs::write(stage.home(".config/opencode/.gitignore"), "node_modules").unwrap();
    let before = snapshot(&stage.at("home"));
    stage.run().unwrap();
    assert_eq!(snapshot(&stage.at("home")), before, "a second run changes nothing");
    stage.plan(&[("opencode.json", "/etc/other")]);
    stage.run().unwrap();
    assert_eq!(stage.target("opencode.json").as_deref(), Some("/etc/other"));
    assert_eq!((stage.target("agents/x.md"), stage.target("skills/s/SKILL.md")), (None, None));
    assert!(!stage.home(".config/opencode/skills/s").exists());
    assert_eq!(fs::read(stage.home(".config/opencode/agents/own.md")).unwrap(), b"mine");
    stage.plan(&[]);
    stage.run().unwrap();
    assert_eq!(stage.target("opencode.json"), None);
    assert!(stage.home(".config/opencode/.gitignore").exists());
}

#[test]
fn what_others_put_there_stays_theirs() {
    // Undeclared again, after somebody replaced it.
    let stage = Stage::new();
    stage.plan(&[("agents/x.md", "/etc/b")]);
    stage.run().unwrap();
    let place = stage.home(".config/opencode/agents/x.md");
    fs::remove_file(&place).unwrap();
    fs::write(&place, "theirs").unwrap();
    stage.plan(&[]);
    stage.run().unwrap();
    assert_eq!(fs::read(&place).unwrap(), b"theirs");
    // Declared, where somebody has something.
    stage.plan(&[("agents/x.md", "/etc/b")]);
    let said = stage.run().unwrap_err();
    assert!(
        said.contains("agents/x.md is a file where a link to what is declared must be"),
        "{said}"
    );
    assert_eq!(fs::read(&place).unwrap(), b"theirs");
    // The named command repairs it.
    let command = said.rsplit_once(": ").unwrap().1;
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
    stage.run().unwrap();
    assert_eq!(stage.target("agents/x.md").as_deref(), Some("/etc/b"));
}

#[test]
fn a_replaced_configuration_is_moved_aside() {
    type Plant = fn(&Path);
    let plants: [Plant; 4] = [
        |at| fs::write(at, "{}").unwrap(),
        |at| symlink("/elsewhere", at).unwrap(),
        |at| fs::create_dir(at).unwrap(),
        |at| {
            mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap();
        },
    ];
    let stage = Stage::new();
    stage.plan(&[("opencode.json", "/etc/a")]);
    stage.run().unwrap();
    let place = stage.home(".config/opencode/opencode.json");
    for (number, plant) in plants.into_iter().enumerate() {
        fs::remove_file(&place).unwrap();
        plant(&place);
        let moved = RefCell::new(Vec::new());
        let said = |event: Event<'_>| {
            if let Event::Moved { to, .. } = event {
                moved.borrow_mut().push(to.to_owned());
            }
        };
        stage.run_with(&said).unwrap();
        let end =
            if number == 0 { ".replaced".into() } else { format!(".replaced-{}", number + 1) };
        let moved = moved.into_inner();
        assert!(moved.len() == 1 && moved[0].display().to_string().ends_with(&end), "{moved:?}");
        assert!(fs::symlink_metadata(&moved[0]).is_ok());
        assert_eq!(stage.target("opencode.json").as_deref(), Some("/etc/a"));
    }
}

type Plant = fn(&Path, &Path);

fn hostile() -> [(&'static str, Plant); 9] {
    [
        ("a symbolic link", |at, outside| symlink(outside, at).unwrap()),
        ("a symbolic link", |at, outside| symlink(outside.join("gone"), at).unwrap()),
        ("a symbolic link", |at, _| symlink(".", at).unwrap()),
        ("a symbolic link", |at, _| symlink("/proc/self/cwd", at).unwrap()),
        ("a file", |at, _| fs::write(at, "x").unwrap()),
        ("a socket", |at, _| drop(UnixListener::bind(at).unwrap())),
        ("a FIFO", |at, _| {
            mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }),
        ("no full access", |at, _| {
            fs::create_dir(at).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(0o500)).unwrap();
        }),
        ("no full access", |at, _| {
            fs::create_dir(at).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(0o000)).unwrap();
        }),
    ]
}

#[test]
fn every_hostile_object_at_every_directory_is_named_and_left_alone() {
    let links = [("agents/x.md", "/etc/b"), ("skills/s/SKILL.md", "/etc/c")];
    let of_links = ["agents", "skills", "skills/s"].map(|name| format!(".config/opencode/{name}"));
    let notes = ".local/share/opencode-instances".to_owned();
    let places = components().into_iter().map(|path| path.display().to_string());
    let places: Vec<String> = places.chain(of_links).chain([notes]).collect();
    // In an empty HOME, and in one that was initialised before.
    for (first, (expected, plant)) in
        [false, true].into_iter().flat_map(|first| hostile().map(|hostile| (first, hostile)))
    {
        for component in &places {
            let stage = Stage::new();
            stage.plan(&links);
            let at = stage.home(component);
            if first {
                stage.run().unwrap();
                fs::rename(&at, stage.at("before")).unwrap();
            }
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            plant(&at, &stage.at("outside"));
            let before = (snapshot(&stage.at("outside")), fs::symlink_metadata(&at).unwrap().ino());
            let message = stage.run().unwrap_err();
            let named = message.contains(expected) && message.contains(&at.display().to_string());
            assert!(named, "{component:?}: {message}");
            assert!(message.contains("mv /") || message.contains("chmod u+rwx /"), "{message}");
            let after = (snapshot(&stage.at("outside")), fs::symlink_metadata(&at).unwrap().ino());
            assert_eq!(before, after, "{component:?}");
            // The named command repairs it.
            let command = message.rsplit_once(": ").unwrap().1;
            let status = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
            assert!(status.success(), "{command}");
            stage.run().unwrap();
        }
    }
}

#[test]
fn hostile_notes_are_refused_with_what_repairs_them() {
    for name in ["state.json", "links.json"] {
        let mut plants: Vec<(&str, Plant)> = hostile().to_vec();
        plants.push(("", |at, _| fs::write(at, "x".repeat(2 << 20)).unwrap()));
        plants.push(("", |at, _| fs::write(at, "").unwrap()));
        plants.push(("", |at, _| fs::write(at, r#"{"version":1,"state":5,"links":5}"#).unwrap()));
        plants.push(("", |at, _| fs::write(at, format!("{}1", "[".repeat(100_000))).unwrap()));
        plants.push(("", |at, outside| symlink(outside.join("file"), at).unwrap()));
        for (_, plant) in plants {
            let stage = Stage::new();
            stage.plan(&[("agents/x.md", "/etc/b")]);
            stage.run().unwrap();
            let at = stage.home(".local/share/opencode-instances").join(name);
            fs::remove_file(&at).unwrap();
            plant(&at, &stage.at("outside"));
            let before = snapshot(&stage.at("outside"));
            let message = stage.run().unwrap_err();
            assert_eq!(snapshot(&stage.at("outside")), before);
            let command = message.rsplit_once(": ").unwrap().1;
            assert!(command.starts_with("rm -r /") && command.ends_with(name), "{message}");
            let status = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
            assert!(status.success(), "{command}");
            stage.run().unwrap();
        }
    }
    let stage = Stage::new();
    stage.run().unwrap();
    let at = stage.home(".local/share/opencode-instances/state.json");
    fs::write(&at, r#"{"version":2,"state":"initialised","more":1}"#).unwrap();
    let message = stage.run().unwrap_err();
    assert!(message.contains("format version 2") && !message.contains("rm "), "{message}");
}

#[test]
fn what_the_agent_notes_leads_nowhere_else() {
    let stage = Stage::new();
    stage.run().unwrap();
    symlink("/etc/x", stage.at("outside/link")).unwrap();
    symlink("/etc/x", stage.home("link")).unwrap();
    let before = snapshot(&stage.at("outside"));
    let outside = stage.at("outside/link").display().to_string();
    for place in [
        "../../link",
        "../../../outside/link",
        outside.as_str(),
        "a/../../../link",
        "",
        "/",
        ".",
        "..",
    ] {
        let note = format!(r#"{{"version":1,"links":{{{place:?}:["/etc/x"]}}}}"#);
        fs::write(stage.home(".local/share/opencode-instances/links.json"), note).unwrap();
        stage.run().unwrap();
        assert_eq!(snapshot(&stage.at("outside")), before, "{place}");
        assert!(fs::symlink_metadata(stage.home("link")).is_ok(), "{place}");
    }
}

/// Runs setup until its `n`th step and ends it there, by a panic: what the code would still have done is not done.
fn ended_at(stage: &Stage, n: usize) -> bool {
    let count = RefCell::new(0);
    let said = |event: Event<'_>| {
        if matches!(event, Event::Step(_)) {
            *count.borrow_mut() += 1;
            assert!(*count.borrow() <= n, "ended");
        }
    };
    let run = std::panic::AssertUnwindSafe(|| stage.run_with(&said).unwrap());
    std::panic::catch_unwind(run).is_err()
}

#[test]
fn a_run_that_ends_at_any_step_is_finished_by_the_next() {
    let links =
        [("agents/x.md", "/etc/b"), ("opencode.json", "/etc/a"), ("skills/s/SKILL.md", "/etc/c")];
    let prepare = |stage: &Stage| {
        stage.plan(&links);
        stage.script("preInitScript", "echo pre > pre");
        stage.script("postInitScript", "echo post > post");
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let whole = Stage::new();
    prepare(&whole);
    whole.run().unwrap();
    let expected = tree(&whole.at("home"));
    let mut steps = 0;
    for n in 0.. {
        let stage = Stage::new();
        prepare(&stage);
        let ended = ended_at(&stage, n);
        // Once more at the next step of the second run, and then to the end.
        ended_at(&stage, n + 1);
        stage.run().unwrap();
        assert_eq!(tree(&stage.at("home")), expected, "ended at step {n}");
        if !ended {
            steps = n;
            break;
        }
    }
    assert!(steps >= 10, "{steps}");
    // The same for links that change and go.
    let changed = [("agents/y.md", "/etc/b"), ("opencode.json", "/etc/other")];
    whole.plan(&changed);
    whole.run().unwrap();
    let expected = tree(&whole.at("home"));
    for n in 0.. {
        let stage = Stage::new();
        prepare(&stage);
        stage.run().unwrap();
        stage.plan(&changed);
        let ended = ended_at(&stage, n);
        stage.run().unwrap();
        assert_eq!(tree(&stage.at("home")), expected, "ended at step {n}");
        if !ended {
            break;
        }
    }
    std::panic::set_hook(hook);
}

#[test]
fn a_home_that_is_none_is_refused() {
    let stage = Stage::new();
    let run = |home: &Path| {
        let plan = stage.at("setup/plan.json");
        let request = Request { home, plan: &plan, scripts: None };
        run(&request, &|_| {}).map_err(|error| error.to_string())
    };
    assert!(run(&stage.at("gone")).is_err());
    symlink(stage.at("home"), stage.at("link")).unwrap();
    assert!(run(&stage.at("link")).unwrap_err().contains("must bind the state directory"));
    assert!(run(&stage.at("outside/file")).is_err());
    assert!(fs::read_dir(stage.at("home")).unwrap().next().is_none());
}

#[test]
fn a_plan_of_another_program_is_refused() {
    let stage = Stage::new();
    for text in ["", "{}", r#"{"version":2,"links":[]}"#, r#"{"version":1,"links":[],"more":1}"#] {
        fs::write(stage.at("setup/plan.json"), text).unwrap();
        let said = stage.run().unwrap_err();
        assert!(said.contains("cannot read the plan") && said.contains("apply"), "{said}");
    }
    assert!(fs::read_dir(stage.at("home")).unwrap().next().is_none());
}
