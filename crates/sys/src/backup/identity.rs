//! From root to the instance's user, for good: before a byte of the agent's is read.

use std::path::Path;

use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::Error;
use crate::installed::Record;
use crate::systemctl;

/// The user and the group of those who have no files and no instance.
pub(super) const NOBODY: u32 = 65534;

/// An instance's user and group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Identity {
    /// Asks the host's name services. Never root, and never nobody.
    pub(super) fn of(record: &Record) -> Result<Self, Error> {
        let missing = || Error::User { name: record.name.to_string(), user: record.user.clone() };
        let entry = systemctl::run("getent", &["passwd", &record.user]).map_err(|_| missing())?;
        let fields: Vec<&str> = entry.trim().split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { return Err(missing()) };
        let number = |text: &str| text.parse().ok().filter(|id| !matches!(*id, 0 | NOBODY));
        match (number(uid), number(gid)) {
            (Some(uid), Some(gid)) if *name == record.user => Ok(Self { uid, gid }),
            _ => Err(missing()),
        }
    }

    /// Becomes that user, without groups, capabilities and ways to get any. Nobody but root can look into
    /// the process from then on, not even the agent, whose user it has: no program is executed any more. Nor
    /// can the agent stop it with a signal, for its real and saved users, which are asked then, are nobody.
    pub(super) fn take(self) -> Result<(), Error> {
        let failed = |action| Error::io(action, Path::new("of the instance"));
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let nobody = Uid::from_raw(NOBODY);
        if geteuid().is_root() {
            set_thread_groups(&[]).map_err(failed("leave the groups of root for those"))?;
            set_thread_res_gid(gid, gid, gid).map_err(failed("take the group"))?;
            set_thread_res_uid(nobody, uid, nobody).map_err(failed("take the user"))?;
        }
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).map_err(failed("give up capabilities for those"))?;
        set_no_new_privs(true).map_err(failed("give up new privileges for those"))?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(failed("close the memory of a process"))
    }
}
