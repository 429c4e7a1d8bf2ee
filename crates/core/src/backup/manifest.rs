//! The first member of an archive: what the others are.
//!
//! Whoever can write a backup can write its manifest too. So what it says is judged as a whole before
//! anything is made of it: a tree whose directories come before what is in them, each path once.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::path::{Bytes, TreePath};
use super::{DEPTH, ENTRIES};
use crate::text::InstanceName;

/// The format's version.
pub const VERSION: u32 = 1;
/// How many of the things that were left out are named.
pub const NAMED: usize = 1000;
/// The longest target of a link that the kernel takes.
const TARGET_LENGTH: usize = 4095;

/// What an archive holds, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The format's version.
    pub version: u32,
    /// Whose state it is.
    pub instance: InstanceName,
    /// The version of the program that wrote it.
    pub engine: String,
    /// The version of opencode that ran, where that was known.
    pub opencode: Option<String>,
    /// When, in UTC.
    pub time: String,
    /// Whether caches and logs are in it.
    pub all: bool,
    /// Whether the server ran, and stood still for it.
    pub frozen: bool,
    /// How many bytes all files have.
    pub bytes: u64,
    /// What was left out beside the caches and logs; the first of it by name.
    pub left_out: LeftOut,
    /// All directories, files and links below HOME.
    pub entries: Vec<Entry>,
}

/// What is not in a backup although nobody chose that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// At most [`NAMED`] of them.
    pub named: Vec<Omission>,
}

impl LeftOut {
    /// The same with at most so many names.
    #[must_use]
    pub fn naming(mut self, most: usize) -> Self {
        self.named.truncate(most);
        self
    }

    /// Counts one, and names it where there is room.
    pub fn add(&mut self, path: Bytes, why: Why) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(Omission { path, why });
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Omission {
    /// Where.
    pub path: Bytes,
    /// Why.
    pub why: Why,
}

/// Why something is not in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A device.
    Device,
    /// Another user's.
    Owner,
    /// On another file system.
    Mount,
    /// Its mode lets its own user not read it.
    Unreadable,
    /// Below more directories than [`DEPTH`], or with a longer path than the kernel takes.
    Deep,
    /// With more holes than [`super::HOLES`] together with the others.
    Sparse,
    /// It came, went or changed while it was looked at.
    Changing,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Owner => "it belongs to another user",
            Self::Mount => "it is on another file system",
            Self::Unreadable => "its mode does not let its user read it",
            Self::Deep => "it is too deep in the tree",
            Self::Sparse => "it has more than 1 GiB of holes, with the files before it",
            Self::Changing => "it changed while it was looked at",
        })
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// A directory, a file or a symbolic link below HOME.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where.
    pub path: TreePath,
    /// What.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The bytes of a file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Who may do what, without the bits that give rights.
    #[serde(serialize_with = "octal", deserialize_with = "from_octal")]
    pub mode: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: u64,
    /// The digest of a file's bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Bytes>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn octal<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}

fn from_octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    u32::from_str_radix(&text, 8).map_err(|_| de::Error::custom("a mode is octal"))
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What is wrong with it is said by its place: its words are somebody else's.
    #[error(
        "the manifest is not one that `backup` wrote: it is wrong at line {line}, column {column}"
    )]
    Json {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// Of another program.
    #[error(
        "the archive has format version {0}, this program knows {VERSION}; use the program that wrote it"
    )]
    Version(u32),
    /// Another instance's.
    #[error(
        "the archive is of `{found}`, not of `{wanted}`; say --from-other {found} if you mean that"
    )]
    Instance {
        /// Whose it is.
        found: InstanceName,
        /// Whose it should be.
        wanted: InstanceName,
    },
    /// Too many.
    #[error("the manifest lists {0} entries, and {ENTRIES} at most are restored")]
    Many(usize),
    /// An entry that no backup has.
    #[error("the manifest is not one that `backup` wrote: {path}: {what}")]
    Entry {
        /// Which.
        path: TreePath,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A sum that is none.
    #[error("the manifest says that all files have {said} bytes, and they have {found}")]
    Bytes {
        /// As said.
        said: u64,
        /// As added up.
        found: u64,
    },
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a manifest, and judges all of it.
///
/// # Errors
///
/// What of it is not as [`Manifest`] says.
pub fn read(bytes: &[u8], wanted: &InstanceName) -> Result<Manifest, Refusal> {
    let json =
        |error: serde_json::Error| Refusal::Json { line: error.line(), column: error.column() };
    let Version { version } = serde_json::from_slice(bytes).map_err(json)?;
    if version != VERSION {
        return Err(Refusal::Version(version));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
    if manifest.instance != *wanted {
        return Err(Refusal::Instance { found: manifest.instance, wanted: wanted.clone() });
    }
    judge(&manifest)?;
    Ok(manifest)
}

fn judge(manifest: &Manifest) -> Result<(), Refusal> {
    if manifest.entries.len() > ENTRIES {
        return Err(Refusal::Many(manifest.entries.len()));
    }
    let named = manifest.left_out.named.len();
    if named > NAMED {
        return Err(Refusal::Many(named));
    }
    let mut open: Vec<&TreePath> = Vec::new();
    let mut before: Option<&TreePath> = None;
    let mut found = 0_u64;
    for entry in &manifest.entries {
        let path = &entry.path;
        let refuse = |what| Err(Refusal::Entry { path: path.clone(), what });
        if let Err(what) = alone(entry) {
            return refuse(what);
        }
        if before.is_some_and(|before| before >= path) {
            return refuse("it is there twice, or out of order");
        }
        while open.last().is_some_and(|directory| Some(directory.as_bytes()) != path.above()) {
            open.pop();
        }
        if open.last().map(|directory| directory.as_bytes()) != path.above() {
            return refuse("what is above it is no directory of the archive");
        }
        if open.len() >= DEPTH {
            return refuse("it is below too many directories");
        }
        if entry.kind == Kind::Directory {
            open.push(path);
        }
        let Some(sum) = found.checked_add(entry.size) else { return refuse("it is too large") };
        found = sum;
        before = Some(path);
    }
    if found != manifest.bytes {
        return Err(Refusal::Bytes { said: manifest.bytes, found });
    }
    Ok(())
}

/// What is wrong with an entry by itself.
fn alone(entry: &Entry) -> Result<(), &'static str> {
    let is_digest = |text: &str| {
        text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_file = entry.kind == Kind::File;
    if entry.mode & !0o777 != 0 {
        return Err("its mode has bits that give rights, or that no mode has");
    }
    if entry.mtime > super::member::LATEST {
        return Err("its time is out of range");
    }
    if is_file != is_digest(&entry.sha256) || (!is_file && !entry.sha256.is_empty()) {
        return Err("a file has a digest, and nothing else has one");
    }
    if !is_file && entry.size != 0 {
        return Err("only a file has a size");
    }
    match (&entry.target, entry.kind) {
        (None, Kind::Directory | Kind::File) => Ok(()),
        (Some(target), Kind::Link) => {
            let target = target.as_bytes();
            let long = target.is_empty() || target.len() > TARGET_LENGTH || target.contains(&0);
            if long { Err("a link has a target that the kernel takes") } else { Ok(()) }
        }
        _ => Err("a link has a target, and nothing else has one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn web() -> InstanceName {
        InstanceName::new("web").unwrap()
    }

    fn sample() -> Value {
        let sha = "0".repeat(64);
        json!({
            "version": 1, "instance": "web", "engine": "0.1.0", "opencode": null, "frozen": true,
            "time": "2026-01-31T12:00:00Z", "all": false, "bytes": 3,
            "leftOut": { "count": 1, "named": [{ "path": "pipe", "why": "fifo" }] },
            "entries": [
                { "path": "a", "type": "directory", "mode": "0700", "mtime": 1 },
                { "path": "a/b", "type": "file", "size": 3, "mode": "0600", "mtime": 1, "sha256": sha },
                { "path": "a/c", "type": "link", "mode": "0777", "mtime": 1, "target": "/etc/shadow" },
                { "path": "b", "type": "directory", "mode": "0700", "mtime": 1 },
            ],
        })
    }

    fn judged(value: &Value) -> Result<Manifest, Refusal> {
        read(value.to_string().as_bytes(), &web())
    }

    fn refused(change: impl Fn(&mut Value)) -> String {
        let mut value = sample();
        change(&mut value);
        judged(&value).unwrap_err().to_string()
    }

    #[test]
    fn one_that_is_right_comes_back() {
        let manifest = judged(&sample()).unwrap();
        let again = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(read(&again, &web()).unwrap(), manifest);
    }

    #[test]
    fn each_lie_has_its_words() {
        let set = |at: &'static str, to: Value| {
            refused(move |value| *value.pointer_mut(at).unwrap() = to.clone())
        };
        assert!(set("/version", json!(2)).contains("format version 2"));
        assert!(set("/instance", json!("other")).contains("--from-other other"));
        assert!(set("/bytes", json!(4)).contains("4 bytes, and they have 3"));
        for path in ["/etc/x", "../x", "a/../../x", "a//b", ""] {
            assert!(set("/entries/1/path", json!(path)).contains("line 1, column"), "{path}");
        }
        assert!(set("/entries/1/path", json!("a")).contains("twice"));
        assert!(set("/entries/3/path", json!("a/a")).contains("out of order"));
        assert!(set("/entries/3/path", json!("a/c/x")).contains("no directory of the archive"));
        assert!(set("/entries/1/mode", json!("4755")).contains("bits that give rights"));
        assert!(set("/entries/1/type", json!("device")).contains("line 1, column"));
        assert!(set("/entries/1/sha256", json!("0")).contains("a file has a digest"));
        assert!(
            set("/entries/1/size", json!(u64::MAX)).contains("and they have 18446744073709551615")
        );
        assert!(set("/entries/2/target", json!("")).contains("a target that the kernel takes"));
        assert!(set("/entries/1/mtime", json!(u64::MAX)).contains("out of range"));
        let extra = refused(|value| value["entries"][0]["owner"] = json!("root"));
        assert!(extra.contains("line 1, column"), "{extra}");
        let words = refused(|value| value["\u{1b}[2J"] = json!(1));
        assert!(!words.contains('\u{1b}'), "{words:?}");
        let sizes = refused(|value| {
            value["entries"][1]["size"] = json!(u64::MAX);
            let mut next = value["entries"][1].clone();
            next["path"] = json!("z");
            value["entries"].as_array_mut().unwrap().push(next);
        });
        assert!(sizes.contains("z: it is too large"), "{sizes}");
    }

    #[test]
    fn no_tree_is_deeper_than_it_may_be() {
        let deep = |levels: usize| {
            let mut value = sample();
            let path = |level: usize| vec!["d"; level].join("/");
            let entry =
                |path| json!({ "path": path, "type": "directory", "mode": "0700", "mtime": 1 });
            value["entries"] = (1..=levels).map(|level| entry(path(level))).collect();
            value["bytes"] = json!(0);
            judged(&value)
        };
        assert!(deep(DEPTH).is_ok());
        assert!(deep(DEPTH + 1).unwrap_err().to_string().contains("too many directories"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn whatever_is_changed_is_accepted_as_a_tree_or_refused(
            at in 0_usize..900, with in any::<u8>(), cut in 0_usize..1200
        ) {
            let mut bytes = sample().to_string().into_bytes();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            bytes.truncate(cut.max(1));
            match read(&bytes, &web()) {
                Ok(manifest) => prop_assert!(judge(&manifest).is_ok()),
                Err(refusal) => prop_assert!(!refusal.to_string().chars().any(char::is_control)),
            }
        }
    }
}
