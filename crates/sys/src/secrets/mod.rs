//! The secrets of a running server, looked at until they have new content.
//!
//! A path unit of systemd's does not see it where secrets lie behind a link to a generation of them:
//! of a link that is replaced in the middle of a path, `PathChanged=` only learns where it leads now.

mod note;

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::notify::Notifier;
use crate::trust;
use note::{Digests, Note};

/// How often the files are looked at: for each of them one `stat`.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longer than any secret, in bytes.
const MAX: u64 = 1 << 20;

/// A secret file with the option that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The option.
    pub option: String,
    /// The file.
    pub file: PathBuf,
}

impl Secret {
    /// By what it is noted.
    fn name(&self) -> String {
        format!("{}:{}", self.option, self.file.display())
    }
}

/// What a watcher that starts knows of the time before it.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Where it keeps what the server was started with; nowhere, where a unit of version 0.1 has no
    /// such place.
    pub directory: Option<&'a Path>,
    /// The server's invocation, if it was started already.
    pub server: Option<String>,
}

/// What a look at the files says.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The server has what they hold, or they are being replaced.
    Nothing,
    /// They hold something else, and have not changed between two looks.
    New,
    /// One of them cannot be handed over.
    Refused(String),
}

/// Where a path leads, and since when it is as it is.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// What is known of the files, and what the server has of them.
#[derive(Debug)]
struct Watch {
    secrets: Vec<Secret>,
    stamps: Vec<Stamp>,
    note: Note,
    unsure: bool,
}

impl Watch {
    /// The server has what is noted of its start. Where nothing is, or it is still to be started, it
    /// has what the files hold now.
    fn begin(secrets: Vec<Secret>, memory: &Memory<'_>) -> io::Result<Self> {
        let server = memory.server.as_deref();
        let noted = memory.directory.zip(server).and_then(|(at, server)| Note::about(at, server));
        let Some(note) = noted else { return Self::anew(secrets, memory.server.clone()) };
        let mut watch = Self { secrets, stamps: Vec::new(), note, unsure: true };
        watch.stamps = watch.stamps();
        let now = watch.contents().unwrap_or_default();
        if let Some(given) = &mut watch.note.given {
            // What was declared since then the server will have when it restarts for another reason.
            for (name, digest) in now {
                given.entry(name).or_insert(digest);
            }
            let names: Vec<String> = watch.secrets.iter().map(Secret::name).collect();
            given.retain(|name, _| names.contains(name));
        }
        Ok(watch)
    }

    /// The server has what the files hold now.
    fn anew(secrets: Vec<Secret>, server: Option<String>) -> io::Result<Self> {
        let note = Note::new(server)?;
        let mut watch = Self { secrets, stamps: Vec::new(), note, unsure: false };
        watch.stamps = watch.stamps();
        match watch.contents() {
            Ok(contents) => watch.note.given = Some(contents),
            // The server may have had more luck; what comes is new.
            Err(_) => watch.unsure = true,
        }
        Ok(watch)
    }

    /// Secret managers replace several files one after the other: what two looks find is complete.
    fn look(&mut self) -> Seen {
        let stamps = self.stamps();
        if stamps != self.stamps {
            self.stamps = stamps;
            self.unsure = true;
            return Seen::Nothing;
        }
        if !self.unsure {
            return Seen::Nothing;
        }
        match self.contents() {
            Ok(contents) if Some(&contents) == self.note.given.as_ref() => {
                self.unsure = false;
                Seen::Nothing
            }
            Ok(_) => Seen::New,
            Err(words) => Seen::Refused(words),
        }
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |secret: &Secret| {
            let found = fs::metadata(&secret.file).ok()?;
            Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
        };
        self.secrets.iter().map(stamp).collect()
    }

    /// The digest of each file, if the server may have them all.
    fn contents(&self) -> Result<Digests, String> {
        let content = |secret: &Secret| {
            trust::secret(&secret.option, &secret.file).map_err(|error| error.to_string())?;
            let mut bytes = Vec::new();
            fs::File::open(&secret.file)
                .and_then(|file| file.take(MAX).read_to_end(&mut bytes))
                .map_err(|error| format!("cannot read {}: {error}", secret.file.display()))?;
            let name = secret.name();
            let digest = self.note.digest(&name, &bytes);
            Ok((name, digest))
        };
        self.secrets.iter().map(content).collect()
    }
}

/// Looks at the secrets of a running server for ever, and calls `renew` when they have other content
/// than at its start; until it succeeds, again with every look. `say` takes what keeps the server from
/// having them. What is returned is why no look could begin.
pub fn watch(
    secrets: Vec<Secret>,
    memory: &Memory<'_>,
    mut renew: impl FnMut() -> Result<(), String>,
    say: &dyn Fn(&str),
) -> io::Error {
    let keep = |watch: &Watch| {
        let kept = memory.directory.map(|directory| (directory, watch.note.keep(directory)));
        if let Some((directory, Err(error))) = kept {
            say(&format!(
                "cannot keep in {} what the server has, and after a crash of this service a change \
                 may be missed: {error}; check that the file system has room",
                directory.display()
            ));
        }
    };
    let mut watch = match Watch::begin(secrets, memory) {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    keep(&watch);
    let mut notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), None);
    notifier.ready("looking at the secrets");
    let mut said = String::new();
    loop {
        std::thread::sleep(INTERVAL);
        let words = match watch.look() {
            Seen::Nothing => String::new(),
            Seen::Refused(words) => format!("the server goes on with the old secrets: {words}"),
            Seen::New => match renew() {
                Ok(()) => {
                    // The next server, whether or not that is started now.
                    watch = match Watch::anew(watch.secrets, None) {
                        Ok(watch) => watch,
                        Err(error) => return error,
                    };
                    keep(&watch);
                    String::new()
                }
                Err(words) => words,
            },
        };
        if !words.is_empty() && words != said {
            say(&words);
        }
        said = words;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn put(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o400)).unwrap();
        fs::rename(&new, path).unwrap();
    }

    #[test]
    fn only_what_is_new_and_complete_is_told() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        // Everything on the way must be root's alone.
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let base = directory.path();
        let generation = |number: &str, text: &str| {
            fs::create_dir(base.join(number)).unwrap();
            put(&base.join(number).join("key"), text);
            symlink(base.join(number), base.join("link")).unwrap();
            fs::rename(base.join("link"), base.join("secrets")).unwrap();
        };
        generation("1", "one");
        let file = base.join("secrets/key");
        let secrets = vec![Secret { option: "x".into(), file: file.clone() }];
        let mut watch = Watch::anew(secrets, None).unwrap();
        assert_eq!(watch.look(), Seen::Nothing);
        // A link in the middle of the path leads elsewhere.
        generation("2", "two");
        assert_eq!(
            [watch.look(), watch.look(), watch.look()],
            [Seen::Nothing, Seen::New, Seen::New]
        );
        watch = Watch::anew(watch.secrets, None).unwrap();
        generation("3", "two");
        assert_eq!([watch.look(), watch.look(), watch.look()], [const { Seen::Nothing }; 3]);
        // Written anew between any two looks.
        put(&file, "three");
        assert_eq!(watch.look(), Seen::Nothing);
        put(&file, "four");
        assert_eq!([watch.look(), watch.look()], [Seen::Nothing, Seen::New]);
        watch = Watch::anew(watch.secrets, None).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(watch.look(), Seen::Nothing);
        assert!(matches!(watch.look(), Seen::Refused(words) if words.contains("does not exist")));
        put(&file, "five");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(watch.look(), Seen::Nothing);
        assert!(matches!(watch.look(), Seen::Refused(words) if words.contains("mode 0444")));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!([watch.look(), watch.look()], [Seen::Nothing, Seen::New]);
    }

    /// A watcher that starts with these files, beside a server of that number.
    fn starts(directory: &Path, files: &[&str], server: Option<&str>) -> Watch {
        let secret = |name: &&str| Secret { option: "x".into(), file: directory.join(name) };
        let at = directory.join("kept");
        let memory = Memory { directory: Some(&at), server: server.map(str::to_owned) };
        let watch = Watch::begin(files.iter().map(secret).collect(), &memory).unwrap();
        watch.note.keep(&at).unwrap();
        watch
    }

    #[test]
    fn what_changed_while_nobody_looked_is_told() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let base = directory.path();
        fs::create_dir(base.join("kept")).unwrap();
        let put = |name: &str, text: &str| put(&base.join(name), text);
        let seen = |files: &[&str], server: Option<&str>| starts(base, files, server).look();
        put("a", "one");
        put("b", "one");
        // Before the server, and then alone.
        assert_eq!(seen(&["a"], None), Seen::Nothing);
        assert_eq!(seen(&["a"], Some("first")), Seen::Nothing);
        put("a", "two");
        assert_eq!(seen(&["a"], Some("first")), Seen::New);
        assert_eq!(seen(&["a"], Some("first")), Seen::New, "until it restarts");
        put("a", "one");
        assert_eq!(seen(&["a"], Some("first")), Seen::Nothing, "what the server has");
        // What is declared of the next server alone.
        assert_eq!(seen(&["a", "b"], Some("first")), Seen::Nothing);
        put("b", "two");
        assert_eq!(seen(&["a", "b"], Some("first")), Seen::New);
        assert_eq!(seen(&["a"], Some("first")), Seen::Nothing);
        // Another server, of whose start nothing is known.
        put("a", "three");
        assert_eq!(seen(&["a"], Some("second")), Seen::Nothing);
        put("a", "four");
        assert_eq!(seen(&["a"], None), Seen::Nothing, "one that is still to come reads it");
        assert_eq!(seen(&["a"], Some("third")), Seen::Nothing);
        // Missing at the start, so that nobody knows what the server has.
        fs::remove_file(base.join("a")).unwrap();
        assert!(matches!(seen(&["a"], None), Seen::Refused(_)));
        put("a", "four");
        assert_eq!(seen(&["a"], Some("fourth")), Seen::New);
        // A note that cannot be understood is none.
        fs::write(base.join("kept/given.json"), "{").unwrap();
        assert_eq!(seen(&["a"], Some("fourth")), Seen::Nothing);
    }

    #[test]
    fn a_note_is_for_root_alone_and_tells_no_secret() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let base = directory.path();
        fs::create_dir(base.join("kept")).unwrap();
        put(&base.join("a"), "hunter2");
        put(&base.join("b"), "hunter2");
        let note = base.join("kept/given.json");
        let kept = || {
            starts(base, &["a", "b"], None);
            fs::read_to_string(&note).unwrap()
        };
        let (first, second) = (kept(), kept());
        assert_eq!(fs::metadata(&note).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(base.join("kept")).unwrap().count(), 1);
        let given = starts(base, &["a", "b"], None).note.given.unwrap();
        let [a, b] = given.values().collect::<Vec<_>>()[..] else { panic!("{given:?}") };
        assert_ne!(a, b);
        let plain = instances_core::plan::digest(b"hunter2");
        for text in [&first, &second] {
            assert!(!text.contains("hunter2") && !text.contains(&plain), "{text}");
        }
        assert_ne!(first, second, "each has a key of its own");
    }
}
