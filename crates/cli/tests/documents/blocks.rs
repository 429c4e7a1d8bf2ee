//! The documents and the fenced blocks in them.

use std::fs;
use std::path::PathBuf;

use instances_lab::place;

/// A document, by its path from the root of the workspace.
pub(crate) struct Document {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A fenced block.
pub(crate) struct Block {
    /// The words after the fence, as in `toml refused`.
    pub(crate) info: String,
    pub(crate) text: String,
    /// Where it begins, for messages.
    pub(crate) place: String,
}

/// Every hand-written or generated document.
pub(crate) fn documents() -> Vec<Document> {
    let mut paths =
        vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned(), "CHANGELOG.md".into()];
    for directory in ["docs", "examples"] {
        pages(directory, &mut paths);
    }
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(place::workspace().join(&path)).unwrap();
            Document { path, text }
        })
        .collect()
}

/// Adds all pages below a directory.
fn pages(directory: &str, paths: &mut Vec<String>) {
    for path in files(directory) {
        let inside = format!("{directory}/{}", path.file_name().unwrap().display());
        if path.is_dir() {
            pages(&inside, paths);
        } else if path.extension().is_some_and(|end| end == "md") {
            paths.push(inside);
        }
    }
}

/// One document.
pub(crate) fn document(path: &str) -> Document {
    documents().into_iter().find(|document| document.path == path).unwrap()
}

/// The files of a directory of the workspace, sorted.
pub(crate) fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place::workspace().join(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

impl Document {
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{line}\n"),
                (None, Some(info)) => {
                    open = Some(Block {
                        info: info.to_owned(),
                        text: String::new(),
                        place: format!("{}:{}", self.path, number + 1),
                    });
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{} has a block without an end", self.path);
        blocks
    }

    /// The lines outside of its blocks, with their numbers.
    pub(crate) fn lines_outside(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut inside = false;
        self.text.lines().enumerate().filter_map(move |(number, line)| {
            let fence = line.starts_with("```");
            inside ^= fence;
            (!inside && !fence).then_some((number + 1, line))
        })
    }
}
