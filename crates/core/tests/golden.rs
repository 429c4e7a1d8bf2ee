//! `cases/NN-name/spec.toml` renders to exactly `cases/NN-name/expected/`, file by file.
//!
//! `UPDATE_EXPECT=1 cargo test -p instances-core --test golden` rewrites the expected trees; the
//! difference is then reviewed like any other change.

#![expect(clippy::unwrap_used, reason = "a broken fixture fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use instances_core::desired::{Content, Desired, desire};
use instances_core::facts::HostFacts;
use instances_core::lower::read;
use instances_core::node::Format;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn render(case: &Path) -> Desired {
    let text = fs::read_to_string(case.join("spec.toml")).unwrap();
    let facts = fs::read_to_string(case.join("facts.json"))
        .map_or_else(|_| HostFacts::default(), |text| serde_json::from_str(&text).unwrap());
    let (spec, _) = read(&text, Format::Toml).unwrap();
    desire(&spec, &facts)
}

fn tree(root: &Path, below: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(below).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree(root, &path, into);
        } else {
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            into.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn cases_render_as_expected() {
    for case in cases() {
        let mut rendered: BTreeMap<String, String> = BTreeMap::new();
        for (path, file) in render(&case).files {
            let text = match file.content {
                Content::Text(text) => text,
                Content::Link(target) => format!("-> {target}\n"),
            };
            rendered.insert(path, text);
        }
        let expected = case.join("expected");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let _ = fs::remove_dir_all(&expected);
            for (path, text) in &rendered {
                let file = expected.join(path.trim_start_matches('/'));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
        }
        let mut found = BTreeMap::new();
        tree(&expected, &expected, &mut found);
        let paths = |tree: &BTreeMap<String, String>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&rendered), paths(&found), "{}", case.display());
        for (path, text) in &rendered {
            assert_eq!(Some(text), found.get(path), "{}{path}", case.display());
        }
    }
}

/// An instance's files do not depend on its neighbours, so that changing one restarts only that one.
#[test]
fn an_instance_renders_the_same_alone() {
    let alone = "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n";
    let (spec, _) = read(alone, Format::Toml).unwrap();
    let alone = desire(&spec, &HostFacts::default());
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/02-two-projects");
    let both = render(&case);
    let own = |path: &&String| path.contains("website");
    assert!(alone.files.keys().filter(own).count() > 8);
    for path in alone.files.keys().filter(own) {
        assert_eq!(alone.files.get(path), both.files.get(path), "{path}");
    }
}
