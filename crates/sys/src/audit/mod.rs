//! Whether what was declared is what is: the unit, the kernel, the rules, and a catalogue of attempts
//! that are made from inside.

mod bait;
mod host;
mod observe;
mod probe;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use instances_core::audit::catalogue::{self, Party, Scene};
use instances_core::audit::controls;
use instances_core::audit::mounts;
use instances_core::audit::report::{Report, Row};
use instances_core::audit::unit::Loaded;
use instances_core::facts::HostFacts;
use instances_core::network::Network;
use instances_core::units::{ADDRESSES, Names, SLICE};

pub use self::bait::Bait;
pub use self::probe::{Error as ProbeError, Order, obey};
use crate::files::Root;
use crate::installed::{self, Record};
use crate::net;
use crate::systemctl;

/// Why an instance could not be audited.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// systemd did not answer.
    #[error(transparent)]
    Systemd(#[from] systemctl::Error),
    /// A record is not what it should be.
    #[error(transparent)]
    Installed(#[from] installed::Error),
    /// The rules could not be compared.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// Nothing could be tried.
    #[error(transparent)]
    Probe(#[from] probe::Error),
    /// A file of the kernel's or of systemd's.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// What is laid out for attempts.
    #[error("cannot lay out what attempts are after")]
    Bait(#[source] io::Error),
    /// The catalogue is not what this program reads.
    #[error(transparent)]
    Catalogue(#[from] catalogue::Malformed),
    /// What was looked at is not one server.
    #[error("{0} was started anew meanwhile; run the audit again")]
    Restarted(String),
    /// A unit's file system or network is not the host's: nothing that is laid out would be the host's.
    #[error(
        "the audit runs in another mount or network namespace than process 1; run it on the host itself"
    )]
    Elsewhere,
    /// What was installed by an older program says too little.
    #[error(
        "{0} is missing; `opencode-instances apply` writes it, on NixOS `nixos-rebuild switch`"
    )]
    NoNetwork(String),
}

/// An instance and what of it is running.
#[derive(Debug)]
pub struct Audit<'a> {
    /// What is installed.
    pub record: &'a Record,
    /// Every installed instance, this one among them.
    pub all: &'a [Record],
    /// What is known of the host.
    pub facts: &'a HostFacts,
    /// What is laid out for attempts.
    pub bait: &'a Bait,
}

impl Audit<'_> {
    /// Looks and tries; `None` where the server does not run.
    ///
    /// # Errors
    ///
    /// When something could not be looked at, or nothing could be tried: then nothing is known.
    pub fn run(&self) -> Result<Option<Report>, Error> {
        let (record, names) = (self.record, Names(&self.record.name));
        let root = Root::new("/".as_ref());
        let network = record.network(&root)?.ok_or_else(|| Error::NoNetwork(names.network()))?;
        let helpers = record.helpers(&root)?;
        let usual = [&names.all()[..], &helpers, &[ADDRESSES, SLICE].map(str::to_owned)].concat();
        let sometimes = [&names.sometimes()[..], &[names.refusal()]].concat();
        let mut units = observe::units(&[&usual[..], &sometimes].concat())?;
        let is_there = |unit: &Loaded| unit.property("LoadState") != Some("not-found");
        units.retain(|unit| is_there(unit) || !sometimes.contains(&unit.name));
        let found = |name: &str| units.iter().find(|unit| unit.name == name);
        let (Some(main), Some(socket)) = (found(&names.main()), found(&names.socket())) else {
            return Ok(None);
        };
        let pid = main.property("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
        let Some(pid) = pid.filter(|_| main.property("ActiveState") == Some("active")) else {
            return Ok(None);
        };
        let started = observe::started(pid);
        let user = main.property("UID").and_then(|uid| uid.parse().ok());
        let group = observe::group(main.property("ControlGroup").unwrap_or_default());
        let kernel = observe::kernel(record.name.as_str(), pid, &group, user)?;
        let restart = format!("opencode-instances restart {}", record.name);
        let mut rows =
            controls::judge(main, &kernel, &record.sandbox, self.facts.systemd, &restart);
        rows.push(mounts(main, pid, &restart)?);
        rows.push(host::policy(record, &network, self.facts, found(ADDRESSES))?);
        rows.push(host::listener(record, socket, &kernel));
        rows.push(host::sockets(record, found(&names.sockets()), pid));
        rows.push(host::state(record, user));
        rows.push(host::secrets(record));
        rows.push(host::limits(main, found(SLICE), &group, record));
        rows.push(host::units(&units, record, pid));
        let mut report = Report { name: record.name.to_string(), rows };
        self.attempts(&mut report, main, pid, &group, network)?;
        if observe::started(pid) != started {
            return Err(Error::Restarted(record.name.to_string()));
        }
        Ok(Some(report))
    }

    /// Makes the attempts from inside and adds each to the row of its control.
    fn attempts(
        &self,
        report: &mut Report,
        main: &Loaded,
        pid: i32,
        group: &Path,
        network: Network,
    ) -> Result<(), Error> {
        let record = self.record;
        let party = |record: &Record| Party {
            name: record.name.to_string(),
            directory: record.directory.clone(),
            state: record.state_dir.clone(),
            listen: record.listen,
        };
        // A directory that shows sockets shows these alone.
        let sockets = || record.sandbox.unix_sockets.iter().map(|socket| socket.target.as_str());
        let of_sockets = |place: &String| {
            sockets().any(|socket| Path::new(socket).parent() == Some(Path::new(place)))
        };
        let shown = mounts::declared(main).into_iter().map(|(place, _)| place);
        let shown = shown.filter(|place| !of_sockets(place)).chain(sockets().map(str::to_owned));
        let scene = Scene {
            own: party(record),
            others: self.all.iter().filter(|one| one.name != record.name).map(party).collect(),
            addresses: net::held()?,
            shown: shown.collect(),
            network,
            supervisor: observe::number_inside(pid),
        };
        let like = probe::Like::new(pid, group.display().to_string(), record.directory.clone());
        let order = Order {
            like: Some(like),
            attempts: scene.attempts(&catalogue::all()?),
            laid: self.bait.laid().clone(),
            devices: record.sandbox.devices.clone(),
        };
        let remedy = format!(
            "see the findings of this control; then opencode-instances restart {}",
            record.name
        );
        for tried in probe::run(order)? {
            if let Some(row) = report.row(&tried.attempt.control.clone()) {
                row.tried(tried, &remedy);
            }
        }
        Ok(())
    }
}

fn mounts(main: &Loaded, pid: i32, restart: &str) -> Result<Row, Error> {
    let found = mounts::read(&observe::read(format!("/proc/{pid}/mountinfo"))?);
    let declared = mounts::declared(main);
    let writable = declared.iter().filter(|(_, writable)| *writable).count();
    let said = format!("{} places, {writable} writable", declared.len());
    let mut row = Row::new("mounts", said, String::new());
    mounts::judge(&mut row, main, &found, restart);
    for mounts::Bound { source, target, .. } in mounts::bound(main) {
        let identity = |path: &str| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir);
        // A file may have been replaced since, as packages and `apply` do; a directory is itself.
        let (host, inside) = (identity(&source), identity(&format!("/proc/{pid}/root{target}")));
        if let (Some(host), Some(inside)) = (host, inside)
            && (host.dev(), host.ino()) != (inside.dev(), inside.ino())
        {
            row.find(format!("{target} in the sandbox is not {source} of the host"), restart);
        }
    }
    Ok(row)
}
