//! What `apply` (or NixOS) installed: the manifest of owned files and the record of each instance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use instances_core::audit::declared::Declared;
use instances_core::desired::{Content, Effect};
use instances_core::format::{self, Unreadable};
use instances_core::layout::{CONFIG_DIR, DEFAULT_USERNAME};
use instances_core::network::Network;
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{self, Root, at};

/// What lies in the way of knowing what is installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A file of ours that does not parse: continuing could forget what is installed.
    #[error("cannot understand {path}; restore it, or remove it after removing what it lists")]
    Corrupt {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a newer version: continuing could forget what it means.
    #[error(
        "{path} has format version {found}, this program knows {known}; use the program that wrote it, or a newer \
         one"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// No instance of that name.
    #[error("no instance named `{name}` is installed{hint}")]
    Unknown {
        /// The name.
        name: String,
        /// The nearest, or how to see them all.
        hint: String,
    },
    /// An older program wrote the record, and did not say what it started.
    #[error(
        "{path} names no `package`; write it anew with `opencode-instances apply`, or on NixOS with \
         `nixos-rebuild switch`"
    )]
    NoPackage {
        /// The record.
        path: String,
    },
}

/// The version of these formats.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    #[serde(default = "format::first")]
    version: u32,
    files: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Pending {
    #[serde(default = "format::first")]
    version: u32,
    effects: BTreeSet<Effect>,
}

/// The record that is installed with each instance.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the record")]
pub struct Record {
    /// The format's version.
    #[serde(default = "format::first")]
    pub version: u32,
    /// The instance's name.
    pub name: InstanceName,
    /// The project.
    pub directory: String,
    /// HOME.
    pub state_dir: String,
    /// The user.
    pub user: String,
    /// Where clients connect.
    pub listen: std::net::SocketAddr,
    /// Whether it starts at boot.
    pub auto_start: bool,
    /// Whether its server starts with a client, and ends when nobody uses it.
    #[serde(default)]
    pub on_demand: bool,
    /// Whether the server asks for a password.
    pub auth_enable: bool,
    /// The operator's own password file.
    #[serde(default)]
    pub auth_password_file: Option<PathBuf>,
    /// Whom the server asks for.
    #[serde(default = "username")]
    pub auth_username: String,
    /// The operator's files of variables.
    #[serde(default)]
    pub environment_file: Vec<PathBuf>,
    /// The operator's secrets.
    #[serde(default)]
    pub credentials: Vec<Credential>,
    /// The opencode binary or its prefix; empty where a record of an older program has none.
    #[serde(default)]
    package: PathBuf,
    /// The first number of opencode's version.
    #[serde(default = "first")]
    pub opencode: u32,
    /// Whether the project configures the server.
    #[serde(default = "yes")]
    pub trust_project: bool,
    /// The generation of the main unit, which the running server was told as well.
    #[serde(default)]
    pub generation: String,
    /// What was given up of the sandbox, or added to it.
    #[serde(default)]
    pub sandbox: Declared,
    /// The digest of each unit's text; of none where an older program wrote the record.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
}

/// A secret of an installed instance.
#[derive(Clone, Debug, Deserialize)]
pub struct Credential {
    /// Its name.
    pub name: String,
    /// Where systemd reads it.
    pub file: PathBuf,
}

fn username() -> String {
    DEFAULT_USERNAME.to_owned()
}

fn first() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Record {
    /// The opencode binary, or its prefix.
    ///
    /// # Errors
    ///
    /// When the record has none: what would be run then is whatever has no name.
    pub fn package(&self) -> Result<&Path, Error> {
        if self.package.as_os_str().is_empty() {
            let path = format!("{CONFIG_DIR}/{}/instance.json", self.name);
            return Err(Error::NoPackage { path });
        }
        Ok(&self.package)
    }

    /// The network that was declared; none where a record of an older program has none beside it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or understood.
    pub fn network(&self, root: &Root) -> Result<Option<Network>, Error> {
        let path = Names(&self.name).network();
        let Some(text) = root.read(&path)? else { return Ok(None) };
        Network::parse(text.as_bytes()).map(Some).map_err(unreadable(&path))
    }

    /// The units that work beside the server for the declared network.
    ///
    /// # Errors
    ///
    /// As [`Self::network`].
    pub fn helpers(&self, root: &Root) -> Result<Vec<String>, Error> {
        let network = self.network(root)?;
        Ok(network.map(|network| Names(&self.name).helpers(&network)).unwrap_or_default())
    }

    /// The operator's secret files, each with the option that names it.
    pub fn secrets(&self) -> Vec<(String, &Path)> {
        let password = self.auth_password_file.iter().filter(|_| self.auth_enable);
        let password = password.map(|file| ("auth.passwordFile".to_owned(), file.as_path()));
        let files = self.environment_file.iter();
        let files = files.map(|file| ("environmentFile".to_owned(), file.as_path()));
        let credentials = self.credentials.iter();
        let credentials =
            credentials.map(|one| (format!("credentials.{}", one.name), one.file.as_path()));
        password.chain(files).chain(credentials).collect()
    }
}

fn manifest_path() -> String {
    format!("{CONFIG_DIR}/manifest.json")
}

fn pending_path() -> String {
    format!("{CONFIG_DIR}/pending.json")
}

fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, Error> {
    format::parse(text.as_bytes(), VERSION).map_err(unreadable(path))
}

fn unreadable(path: &str) -> impl FnOnce(Unreadable) -> Error {
    let path = path.to_owned();
    move |why| match why {
        Unreadable::Newer { found, known } => Error::Version { path, found, known },
        Unreadable::Json(source) => Error::Corrupt { path, source },
    }
}

/// The paths that are ours.
pub fn owned(root: &Root) -> Result<BTreeSet<String>, Error> {
    let path = manifest_path();
    let Some(text) = root.read(&path)? else { return Ok(BTreeSet::new()) };
    parse::<Manifest>(&path, &text).map(|manifest| manifest.files)
}

/// Records the paths that are ours; none removes the manifest.
pub fn record_owned(root: &Root, files: BTreeSet<String>) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(root.remove(&manifest_path())?);
    }
    let text = json(&Manifest { version: VERSION, files });
    Ok(root.write(&manifest_path(), &Content::Text(text))?)
}

/// What a run that did not finish had still to do, kept over a reboot: it makes no accounts.
pub fn pending(root: &Root) -> Result<BTreeSet<Effect>, Error> {
    let path = pending_path();
    let Some(text) = root.read(&path)? else { return Ok(BTreeSet::new()) };
    parse::<Pending>(&path, &text).map(|pending| pending.effects)
}

/// Remembers what is still to do; nothing removes the note.
pub fn record_pending(root: &Root, effects: BTreeSet<Effect>) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(root.remove(&pending_path())?);
    }
    Ok(root.write(&pending_path(), &Content::Text(json(&Pending { version: VERSION, effects })))?)
}

fn json<T: Serialize>(value: &T) -> String {
    // Maps with string keys and plain enums always serialise.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Every installed instance, by name.
pub fn instances(root: &Root) -> Result<Vec<Record>, Error> {
    let directory = root.path(CONFIG_DIR);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("read", &directory)(error).into()),
    };
    let mut records = Vec::new();
    for entry in entries {
        let name = entry.map_err(at("read", &directory))?.file_name();
        let path = format!("{CONFIG_DIR}/{}/instance.json", name.display());
        if root.path(&path).is_file()
            && let Some(text) = root.read(&path)?
        {
            records.push(parse::<Record>(&path, &text)?);
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(records)
}

/// The installed instance of that name.
pub fn instance(root: &Root, name: &str) -> Result<Record, Error> {
    find(&instances(root)?, name)
}

/// The installed instances of those names, in their order.
pub fn named(root: &Root, names: &[String]) -> Result<Vec<Record>, Error> {
    let all = instances(root)?;
    names.iter().map(|name| find(&all, name)).collect()
}

fn find(all: &[Record], name: &str) -> Result<Record, Error> {
    if let Some(record) = all.iter().find(|record| record.name.as_str() == name) {
        return Ok(record.clone());
    }
    let names: Vec<&str> = all.iter().map(|record| record.name.as_str()).collect();
    let hint = match instances_core::raw::nearest(name, &names) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if names.is_empty() => "; `opencode-instances apply` installs them".to_owned(),
        None => format!("; there are: {}", names.join(", ")),
    };
    Err(Error::Unknown { name: name.to_owned(), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(package: &str) -> Record {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let text = format!(
            r#"{{"version":1,"name":"web","directory":"/srv/web","stateDir":"/var/lib/web",
            "user":"web","listen":"127.0.0.1:4096","autoStart":true,"authEnable":true{package}}}"#
        );
        let path = format!("{CONFIG_DIR}/web/instance.json");
        root.write(&path, &Content::Text(text)).unwrap();
        instance(&root, "web").unwrap()
    }

    /// What a newer program wrote is not forgotten: nothing is done before it is understood.
    #[test]
    fn what_a_newer_program_wrote_is_refused_and_what_an_older_one_wrote_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let put = |path: &str, text: &str| root.write(path, &Content::Text(text.into())).unwrap();
        let web = format!("{CONFIG_DIR}/web");
        for (path, text) in [
            (manifest_path(), r#"{"version":2,"files":{"/etc/x":"another format"}}"#),
            (pending_path(), r#"{"version":2,"effects":[]}"#),
            (format!("{web}/instance.json"), r#"{"version":2}"#),
            (format!("{web}/network.json"), r#"{"version":2,"dns":{}}"#),
        ] {
            put(&path, text);
            let said = match path.as_str() {
                path if path.ends_with("manifest.json") => owned(&root).unwrap_err(),
                path if path.ends_with("pending.json") => pending(&root).unwrap_err(),
                path if path.ends_with("instance.json") => instances(&root).unwrap_err(),
                _ => {
                    root.remove(&format!("{web}/instance.json")).unwrap();
                    put(&path, text);
                    record("").network(&root).unwrap_err()
                }
            };
            let said = said.to_string();
            let words =
                format!("{path} has format version 2, this program knows 1; use the program");
            assert!(said.starts_with(&words), "{said}");
        }
        put(&manifest_path(), r#"{"files":["/etc/x"]}"#);
        assert_eq!(owned(&root).unwrap(), ["/etc/x".to_owned()].into());
        put(&pending_path(), r#"{"effects":["manager"]}"#);
        assert_eq!(pending(&root).unwrap(), [Effect::Manager].into());
        // An effect that this program cannot have is none that it passes over.
        put(&pending_path(), r#"{"version":1,"effects":[{"polish":"a.service"}]}"#);
        let said = pending(&root).unwrap_err().to_string();
        assert!(said.contains("pending.json; restore it, or remove it"), "{said}");
    }

    #[test]
    fn a_record_without_a_package_names_no_program() {
        let named = record(r#","package":"/usr/bin/opencode""#);
        assert_eq!(named.package().unwrap(), Path::new("/usr/bin/opencode"));
        for package in ["", r#","package":"""#] {
            let said = record(package).package().unwrap_err().to_string();
            let place = "/etc/opencode-instances/web/instance.json names no `package`";
            assert!(said.contains(place) && said.contains("apply"), "{said}");
        }
    }
}
