//! What must hold on the host before root hands anything over to units: programs and password files
//! that only root can replace, and state directories that nobody else uses.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use instances_core::bound::BoundPath;
use instances_core::devices::Device;
use instances_core::facts::HostFacts;
use instances_core::sockets;
use instances_core::spec::{AbsPath, Instance};

use crate::way::{Place, Way};
use crate::{shell, systemctl};

/// Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Units run it as root, or as every instance's user.
    #[error(
        "{program} cannot be trusted: {part} {what}; install it where only root can write, for \
         example in /usr/local/bin"
    )]
    Program {
        /// The program.
        program: PathBuf,
        /// The part of its path that is at fault.
        part: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Root works in it.
    #[error("{part}, on the way to {directory}, {what}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The part of its path that is at fault.
        part: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Units run it for an instance.
    #[error(
        "{option} {path} of `{instance}` leads into {directory}, the {claim}, where an agent can \
         write; install it where only root can write, for example below /opt"
    )]
    Writable {
        /// The option that names it.
        option: &'static str,
        /// Its value.
        path: String,
        /// Whose it is.
        instance: String,
        /// The directory that it leads into.
        directory: PathBuf,
        /// What that is, in words.
        claim: String,
    },
    /// Root reads it, and hands its content to an agent's server.
    #[error("{file}, which {option} names, cannot be trusted: {part} {what}; {remedy}")]
    Secret {
        /// The option that names it.
        option: String,
        /// The file.
        file: PathBuf,
        /// The part of its path that is at fault.
        part: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The smallest remedy.
        remedy: String,
    },
    /// The sandbox would show it.
    #[error("{option} {path} of `{instance}` {what}; {remedy}")]
    Bound {
        /// The option that lists it.
        option: &'static str,
        /// The path on the host.
        path: String,
        /// Whose sandbox it is.
        instance: String,
        /// What is wrong with it.
        what: String,
        /// The smallest remedy.
        remedy: String,
    },
    /// It would get another owner and mode 0700.
    #[error(
        "stateDir {path} of `{instance}` exists, and {what}; name a directory that does not exist, \
         or chown it to {user} if nothing else uses it"
    )]
    State {
        /// The directory.
        path: String,
        /// Whose it would become.
        instance: String,
        /// Its user.
        user: String,
        /// What is there.
        what: String,
    },
    /// It could not be looked at.
    #[error("cannot look at {0}")]
    Look(PathBuf, #[source] io::Error),
}

/// Requires that only root can replace what units run.
pub fn programs(facts: &HostFacts) -> Result<(), Error> {
    let always = [&facts.engine, &facts.nft, &facts.shell, &facts.getent];
    always.into_iter().try_for_each(|program| program_of_root(Path::new(program.as_str())))
}

/// Requires that only root can replace a program.
pub fn program_of_root(program: &Path) -> Result<(), Error> {
    of_root(program, |part, what| Error::Program {
        program: program.to_owned(),
        part: part.path.clone(),
        what,
    })
    .map(drop)
}

/// Requires that only root can replace what is in a directory.
pub fn directory_of_root(directory: &Path) -> Result<(), Error> {
    let place = of_root(directory, |part, what| Error::Directory {
        directory: directory.to_owned(),
        part: part.path.clone(),
        what,
    })?;
    match place {
        Some(place) if place.metadata.is_dir() => Ok(()),
        _ => Err(Error::Directory {
            directory: directory.to_owned(),
            part: directory.to_owned(),
            what: "is no directory".to_owned(),
        }),
    }
}

/// Goes the whole way to a file, refusing each place that somebody else than root could replace.
///
/// Once it has passed, nobody but root can change where the path leads: no race remains between this
/// look and the use of the file by name, which is why systemd may open it later.
fn of_root(path: &Path, refuse: impl Fn(&Place, String) -> Error) -> Result<Option<Place>, Error> {
    let mut last = None;
    for place in Way::to(path) {
        let place = place.map_err(|(part, error)| Error::Look(part, error))?;
        if let Some(what) = replaceable(&place.metadata) {
            return Err(refuse(&place, what));
        }
        last = Some(place);
    }
    Ok(last)
}

/// Requires that only root decides what a secret file holds, and that not everybody can read it.
///
/// systemd opens it as root and hands its content to the server, and so to the agent. Could an agent
/// change the way to it, it would put a link there to the secret of another, or to any other file of
/// root's.
pub fn secret(option: &str, file: &Path) -> Result<(), Error> {
    let refuse = refusal(option, file);
    let found = on_the_way(option, file, "write the secret to it, and let only root read it")?;
    let Some(Place { path, metadata }) = found else { return Ok(()) };
    if !metadata.is_file() {
        let remedy = "name a file that holds nothing but the secret".to_owned();
        return Err(refuse(&path, "is not a regular file".to_owned(), remedy));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o004 != 0 {
        let what = format!("can be read by everybody (mode {mode:04o})");
        return Err(refuse(&path, what, format!("chmod o= {}", shell::word(&path))));
    }
    Ok(())
}

/// Requires that only root decides what a file or directory of the operator's holds, which systemd
/// shows in a sandbox: a link in its place would show any other.
pub fn shown(option: &str, file: &Path) -> Result<(), Error> {
    let refuse = refusal(option, file);
    let found = on_the_way(option, file, "make it, or remove the option")?;
    let Some(Place { path, metadata }) = found else { return Ok(()) };
    if !metadata.is_file() && !metadata.is_dir() {
        let remedy = "name a regular file or a directory".to_owned();
        return Err(refuse(&path, "is neither".to_owned(), remedy));
    }
    Ok(())
}

fn refusal<'a>(
    option: &'a str,
    file: &'a Path,
) -> impl Fn(&Path, String, String) -> Error + use<'a> {
    move |part: &Path, what: String, remedy: String| Error::Secret {
        option: option.to_owned(),
        file: file.to_owned(),
        part: part.to_owned(),
        what,
        remedy,
    }
}

/// Goes the whole way to a file of the operator's; `missing` says what to do where there is none.
fn on_the_way(option: &str, file: &Path, missing: &str) -> Result<Option<Place>, Error> {
    let refuse = refusal(option, file);
    let replaceable = |part: &Place, what| {
        let path = shell::word(&part.path);
        let remedy = if !part.metadata.is_file() {
            "move the file where only root can write, for example below /etc/opencode-secrets"
                .into()
        } else if part.metadata.uid() == 0 {
            format!("chmod go-w {path}")
        } else {
            format!("chown root {path}")
        };
        refuse(&part.path, what, remedy)
    };
    match of_root(file, replaceable) {
        Err(Error::Look(part, error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(refuse(&part, "does not exist".to_owned(), missing.to_owned()))
        }
        found => found,
    }
}

/// Requires both of everything that an instance names.
pub fn files_of(instance: &Instance) -> Result<(), Error> {
    let path = |path: &AbsPath| PathBuf::from(path.as_str());
    instance.secrets().into_iter().try_for_each(|(option, file)| secret(&option, &path(file)))?;
    instance.shown_files().into_iter().try_for_each(|(option, file)| shown(option, &path(file)))
}

/// Requires that no program of an instance is found through a place where an agent can write: what
/// the specification says was judged by its text, and symbolic links can lead elsewhere.
pub fn programs_of_instances(instances: &[Instance]) -> Result<(), Error> {
    let claims = claims_of(instances);
    // Most instances share theirs.
    let mut seen = HashSet::new();
    for instance in instances {
        let package = [("package", &instance.package)];
        let path = instance.path.iter().map(|prefix| ("path", prefix));
        for (option, path) in package.into_iter().chain(path) {
            if seen.insert(path)
                && let Some((directory, claim)) = claimed(Path::new(path.as_str()), &claims)
            {
                return Err(Error::Writable {
                    option,
                    path: path.to_string(),
                    instance: instance.name.to_string(),
                    directory,
                    claim,
                });
            }
        }
    }
    Ok(())
}

/// Requires that what the operator lists of the host is there, and that no symbolic link leads to what may
/// not be listed. Returns where links lead.
pub fn paths_of_instances(instances: &[Instance]) -> Result<Vec<String>, Error> {
    let claims = claims_of(instances);
    let mut links = Vec::new();
    for instance in instances {
        for (option, access, path) in instance.bound() {
            let refuse = |what: String, remedy: &str| Error::Bound {
                option,
                path: path.source.to_string(),
                instance: instance.name.to_string(),
                what,
                remedy: remedy.to_owned(),
            };
            let source = Path::new(path.source.as_str());
            let real = match fs::canonicalize(source) {
                Ok(real) => real,
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.optional => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let remedy = "make it, or write `-` in front where it may be missing";
                    return Err(refuse("does not exist".to_owned(), remedy));
                }
                Err(error) => return Err(Error::Look(source.to_owned(), error)),
            };
            if real == source {
                continue;
            }
            let leads = format!("leads to {}", real.display());
            let Some(text) = real.to_str() else {
                return Err(refuse(leads, "a path is text; rename what it leads to"));
            };
            if let Err(refusal) = BoundPath::may_be_shown(text, access) {
                return Err(refuse(format!("{leads}: {}", refusal.reason), &refusal.help));
            }
            if let Some((directory, claim)) = claimed(source, &claims) {
                let what = format!("{leads}, by way of {}, the {claim}", directory.display());
                return Err(refuse(what, "list a place where no agent can write"));
            }
            links.push(format!(
                "{option} {source} of `{}` {leads}",
                instance.name,
                source = path.source
            ));
        }
    }
    Ok(links)
}

/// Requires that the operator's devices are there, are no disks, and lead to nothing that may not be used.
pub fn devices_of_instances(instances: &[Instance]) -> Result<(), Error> {
    for instance in instances {
        for device in &instance.devices {
            device_of_host(device).map_err(|error| match error {
                Unusable::Look(error) => Error::Look(device.path.as_str().into(), error),
                Unusable::Refused(what, remedy) => Error::Bound {
                    option: "sandbox.devices",
                    path: device.path.to_string(),
                    instance: instance.name.to_string(),
                    what,
                    remedy,
                },
            })?;
        }
    }
    Ok(())
}

enum Unusable {
    Look(io::Error),
    Refused(String, String),
}

fn device_of_host(device: &Device) -> Result<(), Unusable> {
    let refuse = |what: String, remedy: &str| Err(Unusable::Refused(what, remedy.to_owned()));
    let path = Path::new(device.path.as_str());
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound && device.optional => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let remedy = "load its driver, or write `-` in front where it may be missing";
            return refuse("does not exist".to_owned(), remedy);
        }
        Err(error) => return Err(Unusable::Look(error)),
    };
    if let Err(refusal) = Device::may_be_used(&real.to_string_lossy()) {
        let what = format!("leads to {}: {}", real.display(), refusal.reason);
        return Err(Unusable::Refused(what, refusal.help));
    }
    let metadata = fs::metadata(&real).map_err(Unusable::Look)?;
    let kind = metadata.file_type();
    if device.of_directory().is_some() {
        let what = "is not the directory of devices that it should be".to_owned();
        return if kind.is_dir() { Ok(()) } else { refuse(what, "name the device itself") };
    }
    if kind.is_block_device() {
        return refuse("is a disk".to_owned(), "remove it");
    }
    if !kind.is_char_device() {
        return refuse("is no device".to_owned(), "name a character device");
    }
    let number = metadata.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Device::number_may_be_used(major, minor)
        .map_err(|refusal| Unusable::Refused(refusal.reason, refusal.help))
}

/// Requires that no agent decides which socket of the host it gets. Returns where links on the way lead.
pub fn sockets_of_instances(instances: &[Instance]) -> Result<Vec<String>, Error> {
    let mut claims = claims_of(instances);
    for instance in instances {
        for path in &instance.read_write_paths {
            let words = || format!("`sandbox.readWritePaths` of `{}`", instance.name);
            claims.entry(end(Path::new(path.source.as_str()))).or_insert_with(words);
        }
    }
    let mut links = Vec::new();
    for instance in instances {
        for socket in &instance.unix_sockets {
            let source = Path::new(socket.source.as_str());
            let refuse = |what: String, remedy: String| Error::Bound {
                option: sockets::OPTION,
                path: socket.source.to_string(),
                instance: instance.name.to_string(),
                what,
                remedy,
            };
            if let Some((directory, claim)) = claimed(source, &claims) {
                let what = format!("leads into {}, the {claim}", directory.display());
                return Err(refuse(what, "list a place where no agent can write".to_owned()));
            }
            let judged = crate::sockets::judge(source);
            judged.map_err(|(what, remedy)| refuse(format!("is refused: {what}"), remedy))?;
            let real = end(source);
            if real != source {
                let (option, name) = (sockets::OPTION, &instance.name);
                let gives = real.to_str().and_then(sockets::gives_away);
                let gives = gives.map(|gives| format!(": {gives}")).unwrap_or_default();
                let (source, real) = (&socket.source, real.display());
                links.push(format!("{option} {source} of `{name}` leads to {real}{gives}"));
            }
        }
    }
    Ok(links)
}

/// The places where agents write, by where they are.
fn claims_of(instances: &[Instance]) -> HashMap<PathBuf, String> {
    let mut claims: HashMap<PathBuf, String> = HashMap::new();
    for instance in instances {
        let claimed = [("project", &instance.directory), ("state directory", &instance.state_dir)];
        for (kind, path) in claimed {
            let words = || format!("{kind} of `{}`", instance.name);
            claims.entry(end(Path::new(path.as_str()))).or_insert_with(words);
        }
    }
    claims
}

/// Where a path leads, as far as it exists.
fn end(path: &Path) -> PathBuf {
    let mut way = Way::to(path);
    // What cannot be looked at is found by whoever uses it.
    while let Some(Ok(_)) = way.next() {}
    way.end()
}

/// The first claimed directory that the way to a path leads into.
fn claimed(path: &Path, claims: &HashMap<PathBuf, String>) -> Option<(PathBuf, String)> {
    let mut way = Way::to(path);
    let mut places: Vec<PathBuf> =
        way.by_ref().map_while(Result::ok).map(|place| place.path).collect();
    places.push(way.end());
    places.iter().flat_map(|place| place.ancestors()).find_map(|part| {
        let claim = claims.get(part)?;
        Some((part.to_owned(), claim.clone()))
    })
}

/// Why somebody else than root can replace it, if so.
fn replaceable(metadata: &Metadata) -> Option<String> {
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != 0 {
        return Some(format!("belongs to user {}", metadata.uid()));
    }
    // The mode of a symbolic link means nothing.
    (!metadata.is_symlink() && mode & 0o022 != 0)
        .then(|| format!("can be written by others (mode {mode:04o})"))
}

/// Requires that a state directory which systemd-tmpfiles would give to the instance is free: not
/// there, empty and root's, or the instance's already.
pub fn state_directory(instance: &Instance) -> Result<(), Error> {
    if instance.state_leaf().is_some() {
        return Ok(());
    }
    let path = Path::new(instance.state_dir.as_str());
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Look(path.to_owned(), error)),
    };
    let refuse = |what: String| Error::State {
        path: instance.state_dir.to_string(),
        instance: instance.name.to_string(),
        user: instance.user.to_string(),
        what,
    };
    if !metadata.is_dir() {
        return Err(refuse("it is no directory".to_owned()));
    }
    if Some(metadata.uid()) == user_id(instance.user.as_str()) {
        return Ok(());
    }
    let empty =
        fs::read_dir(path).map_err(|error| Error::Look(path.to_owned(), error))?.next().is_none();
    if metadata.uid() == 0 && empty {
        return Ok(());
    }
    let content = if empty { "" } else { " and is not empty" };
    Err(refuse(format!("belongs to user {}{content}", metadata.uid())))
}

/// The number of a user; `None` when there is no such user yet.
fn user_id(user: &str) -> Option<u32> {
    let line = systemctl::run("getent", &["passwd", user]).ok()?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use instances_core::lower;
    use instances_core::node::Format;
    use instances_core::spec::AbsPath;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn refusal(path: &Path) -> String {
        program_of_root(path).map_or_else(|error| error.to_string(), |()| "trusted".to_owned())
    }

    #[test]
    fn a_program_that_others_can_replace_is_refused() {
        assert_eq!(refusal(Path::new("/usr/bin/env")), "trusted");
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "").unwrap();
        // Below a directory that everybody can write, whatever its own owner.
        assert!(refusal(&program).contains("/var/tmp can be written by others"));
        assert!(refusal(Path::new("/nonexistent/x")).contains("cannot look at"));
    }

    #[test]
    fn a_listed_path_is_there_and_leads_nowhere_else() {
        let directory = tempfile::tempdir_in("/srv").unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        fs::create_dir(at("data")).unwrap();
        symlink(at("data"), at("link")).unwrap();
        symlink("/run", at("run")).unwrap();
        symlink("/srv/a/x", at("project")).unwrap();
        let look = |listed: &str| {
            let text = format!(
                "[instances.a]\ndirectory = \"{}\"\nsandbox.readOnlyPaths = [\"{listed}\"]\n",
                at("a")
            );
            let (spec, _) = lower::read(&text, Format::Toml).unwrap();
            paths_of_instances(&spec.instances).map_err(|error| error.to_string())
        };
        assert_eq!(look(&at("data")), Ok(vec![]));
        assert!(look(&at("link")).unwrap()[0].ends_with(&format!("leads to {}", at("data"))));
        assert!(look(&at("run")).unwrap_err().contains("leads to /run: this is /run"));
        assert!(look(&at("none")).unwrap_err().contains("write `-` in front"));
        assert_eq!(look(&format!("-{}", at("none"))), Ok(vec![]));
        fs::create_dir_all(at("a/inner")).unwrap();
        symlink(at("a/inner"), at("inside")).unwrap();
        assert!(look(&at("inside")).unwrap_err().contains("the project of `a`"));
    }

    #[test]
    fn every_part_counts_and_links_are_followed() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let (program, link) = (directory.path().join("program"), directory.path().join("link"));
        fs::write(&program, "").unwrap();
        symlink(&program, &link).unwrap();
        assert_eq!((refusal(&program), refusal(&link)), ("trusted".into(), "trusted".into()));
        chown(&program, Some(1), None).unwrap();
        assert!(refusal(&link).contains("belongs to user 1"));
        chown(&program, Some(0), None).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(refusal(&program).contains("mode 0775"));
    }

    fn secret(file: &Path) -> Result<(), String> {
        super::secret("auth.passwordFile", file).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(file: &Path, words: &[&str]) {
        let said = secret(file).unwrap_err();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }

    #[test]
    fn only_root_says_what_a_password_file_holds() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/usr/lib").unwrap();
        let base = directory.path();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        // As secrets are laid out that a generation of NixOS decrypts.
        fs::create_dir_all(base.join("secrets.d/1")).unwrap();
        let file = base.join("secrets.d/1/pw");
        fs::write(&file, "secret").unwrap();
        mode(&file, 0o400);
        mode(&base.join("secrets.d/1"), 0o751);
        symlink(base.join("secrets.d/1"), base.join("secrets")).unwrap();
        let given = base.join("secrets/pw");
        assert_eq!(secret(&given), Ok(()));

        // A directory of an agent's in the middle of the chain, which neither end shows.
        fs::create_dir(base.join("project")).unwrap();
        symlink(&file, base.join("project/hop")).unwrap();
        symlink(base.join("project/hop"), base.join("link")).unwrap();
        assert_eq!(secret(&base.join("link")), Ok(()), "root's so far");
        chown(base.join("project"), Some(1), None).unwrap();
        refused(&base.join("link"), &["/project belongs to user 1; move the file where only root"]);
        chown(base.join("project"), Some(0), None).unwrap();
        mode(&base.join("project"), 0o770);
        refused(&base.join("link"), &["/project can be written by others (mode 0770); move"]);

        // The command in a message is one for a shell.
        let spaced = base.join("my secret");
        fs::write(&spaced, "secret").unwrap();
        mode(&spaced, 0o444);
        refused(&spaced, &["chmod o= '/usr/lib/", "/my secret'"]);

        mode(&file, 0o444);
        let words = "secrets.d/1/pw can be read by everybody (mode 0444); chmod o= /";
        refused(&given, &[words]);
        mode(&file, 0o460);
        refused(&given, &["can be written by others (mode 0460); chmod go-w /"]);
        chown(&file, Some(1), None).unwrap();
        refused(&given, &["belongs to user 1; chown root /"]);
        fs::remove_file(&file).unwrap();
        refused(&given, &["secrets.d/1/pw does not exist; write the secret"]);
        fs::create_dir(&file).unwrap();
        refused(&given, &["is not a regular file; name a file"]);
        refused(Path::new("/dev/null"), &["/dev/null can be written by others"]);
    }

    #[test]
    fn no_program_is_found_through_what_an_agent_writes() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let at = |name: &str| base.join(name);
        for name in ["a", "opt/tools", "opt/opencode"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        symlink(at("a"), at("given")).unwrap();
        symlink(at("a/tools"), at("in")).unwrap();
        symlink(at("opt/tools"), at("a/hop")).unwrap();
        symlink(at("a/hop"), at("through")).unwrap();
        symlink(at("opt/tools"), at("beside")).unwrap();
        // The project is named by a link, and the program by another.
        let path_to = |name: &str| AbsPath::new(at(name).to_str().unwrap()).unwrap();
        let judge = |package: &str, path: &str| {
            let spec = "[instances.a]\ndirectory = '/srv/a'\n\
                        [instances.b]\ndirectory = '/srv/b'\nlisten.port = 4097\n";
            let (spec, _) = lower::read(spec, Format::Toml).unwrap();
            let mut instances: Vec<Instance> = spec.enabled().cloned().collect();
            let [a, b] = instances.as_mut_slice() else { unreachable!() };
            (a.directory, a.state_dir) = (path_to("given"), path_to("gone/a"));
            (b.package, b.path) = (path_to(package), vec![path_to(path)]);
            programs_of_instances(&instances).map_err(|error| error.to_string())
        };
        assert_eq!(judge("opt/opencode", "beside"), Ok(()));
        for (package, path, words) in [
            ("in", "beside", "package /"),
            ("opt/opencode", "in", "/a, the project of `a`, where an agent can write"),
            ("opt/opencode", "through", "/a, the project of `a`"),
        ] {
            let said = judge(package, path).unwrap_err();
            assert!(said.contains(words) && said.contains("of `b` leads into"), "{said}");
        }
        symlink(at("gone/a/bin"), at("later")).unwrap();
        let said = judge("later", "beside").unwrap_err();
        assert!(said.contains("/gone/a, the state directory of `a`"), "{said}");
    }
}
