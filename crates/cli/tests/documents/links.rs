//! Every link leads to something that is there, and to a place in it that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use instances_lab::place;

use crate::blocks::{Document, documents};

/// What is linked in a document, without what is in code.
fn links(document: &Document) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in document.lines_outside() {
        for after in without_code(line).split("](").skip(1) {
            found.push((number, after.split(')').next().unwrap().to_owned()));
        }
    }
    found
}

/// Code between backticks is no link, but may be the text of one.
fn without_code(line: &str) -> String {
    line.split('`').enumerate().filter(|(part, _)| part % 2 == 0).map(|(_, text)| text).collect()
}

/// The names of all places in a document, as GitHub makes them of headings.
fn anchors(document: &Document) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut all = BTreeSet::new();
    for (_, line) in document.lines_outside() {
        for after in line.split("<a id=\"").skip(1) {
            all.insert(after.split('"').next().unwrap().to_owned());
        }
        let level = line.chars().take_while(|c| *c == '#').count();
        let Some(heading) = line.get(level..).filter(|rest| level > 0 && rest.starts_with(' '))
        else {
            continue;
        };
        let name: String = plain(heading.trim())
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        let count = seen.entry(name.clone()).or_default();
        all.insert(if *count == 0 { name } else { format!("{name}-{count}") });
        *count += 1;
    }
    all
}

/// A heading without the tags in it, and without the addresses of its links.
fn plain(heading: &str) -> String {
    let mut text = String::new();
    let mut tag = false;
    for c in heading.chars() {
        match c {
            '<' => tag = true,
            '>' if tag => tag = false,
            c if !tag => text.push(c),
            _ => {}
        }
    }
    while let Some((before, rest)) = text.split_once("](") {
        let after = rest.split_once(')').map_or("", |(_, after)| after);
        text = format!("{before}{after}");
    }
    text
}

/// The path from the root of the workspace, with every `..` gone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(normal.pop(), "{} leaves the tree", path.display()),
            other => normal.push(other),
        }
    }
    normal
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let places: BTreeMap<&str, BTreeSet<String>> =
        documents.iter().map(|one| (one.path.as_str(), anchors(one))).collect();
    let mut broken = Vec::new();
    for document in &documents {
        let directory = Path::new(&document.path).parent().unwrap();
        for (line, target) in links(document) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match file {
                "" => document.path.clone(),
                file => normal(&directory.join(file)).display().to_string(),
            };
            let is_there = place::workspace().join(&file).exists();
            let has_anchor = anchor.is_empty()
                || places.get(file.as_str()).is_none_or(|anchors| anchors.contains(anchor));
            if !is_there || !has_anchor {
                broken.push(format!("{}:{line}: {target}", document.path));
            }
        }
    }
    assert!(broken.is_empty(), "lead nowhere:\n{}", broken.join("\n"));
}

/// The index names every page, once.
#[test]
fn the_index_has_every_page() {
    let documents = documents();
    let index = documents.iter().find(|one| one.path == "docs/README.md").unwrap();
    let mut linked: Vec<String> = links(index)
        .into_iter()
        .filter_map(|(_, target)| target.strip_suffix(".md").map(|name| format!("docs/{name}.md")))
        .filter(|path| !path.contains(".."))
        .collect();
    linked.sort();
    let mut pages: Vec<String> = documents
        .iter()
        .map(|one| one.path.clone())
        .filter(|path| path.starts_with("docs/") && path != "docs/README.md")
        .collect();
    pages.sort();
    assert_eq!(linked, pages);
}

/// A page that was moved is named by its new place in the code, the samples and the templates too.
#[test]
fn pages_that_the_code_names_exist() {
    let mut directories: Vec<PathBuf> =
        ["crates", "xtask", "nix", "schema", "examples", "templates"]
            .map(|one| place::workspace().join(one))
            .to_vec();
    let mut count = 0;
    let mut missing = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for page in named_pages(&text) {
                count += 1;
                if !place::workspace().join(&page).exists() {
                    missing.insert(format!("{}: {page}", path.display()));
                }
            }
        }
    }
    assert!(count > 20, "{count}");
    assert!(missing.is_empty(), "do not exist: {missing:#?}");
}

/// What begins with `docs/`, in one of the folders there, and ends in `.md`.
fn named_pages(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in text.split("docs/").skip(1) {
        let path: String = after
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || matches!(c, '-' | '/' | '.'))
            .collect();
        // In samples a project has pages of its own.
        if let Some(name) = path.strip_suffix(".md").or_else(|| path.strip_suffix(".md."))
            && !["one", "two", "NAME"].contains(&name)
        {
            found.push(format!("docs/{name}.md"));
        }
    }
    found
}

#[test]
fn headings_become_anchors() {
    let text = "# One `two` (three)\n## A [link](b.md#c), and more\n## Same\n## Same\n\
                ## <a id=\"e1\"></a>E1: x\n```sh\n# no heading\n```\n";
    let document = Document { path: String::new(), text: text.to_owned() };
    let expected = ["a-link-and-more", "e1", "e1-x", "one-two-three", "same", "same-1"];
    assert_eq!(anchors(&document).into_iter().collect::<Vec<_>>(), expected);
}
