//! The secrets of a running server, looked at until they have new content.
//!
//! A path unit of systemd's does not see it where secrets lie behind a link to a generation of them:
//! of a link that is replaced in the middle of a path, `PathChanged=` only learns where it leads now.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use instances_core::plan::digest;

use crate::notify::Notifier;
use crate::trust;

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

/// What is known of the files. The server has what they held at first.
#[derive(Debug)]
struct Watch {
    secrets: Vec<Secret>,
    stamps: Vec<Stamp>,
    given: Vec<String>,
    unsure: bool,
}

impl Watch {
    fn new(secrets: Vec<Secret>) -> Self {
        let mut watch = Self { secrets, stamps: Vec::new(), given: Vec::new(), unsure: false };
        watch.stamps = watch.stamps();
        match watch.contents() {
            Ok(contents) => watch.given = contents,
            // The server may have had more luck; what comes is new.
            Err(_) => watch.unsure = true,
        }
        watch
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
            Ok(contents) if contents == self.given => {
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
    fn contents(&self) -> Result<Vec<String>, String> {
        let content = |secret: &Secret| {
            trust::secret(&secret.option, &secret.file).map_err(|error| error.to_string())?;
            let mut bytes = Vec::new();
            fs::File::open(&secret.file)
                .and_then(|file| file.take(MAX).read_to_end(&mut bytes))
                .map_err(|error| format!("cannot read {}: {error}", secret.file.display()))?;
            Ok(digest(&bytes))
        };
        self.secrets.iter().map(content).collect()
    }
}

/// Looks at the secrets of a running server for ever, and calls `renew` when they have new content;
/// until it succeeds, again with every look. `say` takes what keeps the server from having them.
pub fn watch(
    secrets: Vec<Secret>,
    mut renew: impl FnMut() -> Result<(), String>,
    say: &dyn Fn(&str),
) -> ! {
    let mut notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), false);
    let mut watch = Watch::new(secrets);
    notifier.ready("looking at the secrets");
    let mut said = String::new();
    loop {
        std::thread::sleep(INTERVAL);
        let words = match watch.look() {
            Seen::Nothing => String::new(),
            Seen::Refused(words) => format!("the server goes on with the old secrets: {words}"),
            Seen::New => match renew() {
                Ok(()) => {
                    watch = Watch::new(watch.secrets);
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
    use std::path::Path;

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
        let mut watch = Watch::new(vec![Secret { option: "x".into(), file: file.clone() }]);
        assert_eq!(watch.look(), Seen::Nothing);
        // A link in the middle of the path leads elsewhere.
        generation("2", "two");
        assert_eq!(
            [watch.look(), watch.look(), watch.look()],
            [Seen::Nothing, Seen::New, Seen::New]
        );
        watch = Watch::new(watch.secrets);
        generation("3", "two");
        assert_eq!([watch.look(), watch.look(), watch.look()], [const { Seen::Nothing }; 3]);
        // Written anew between any two looks.
        put(&file, "three");
        assert_eq!(watch.look(), Seen::Nothing);
        put(&file, "four");
        assert_eq!([watch.look(), watch.look()], [Seen::Nothing, Seen::New]);
        watch = Watch::new(watch.secrets);
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
}
