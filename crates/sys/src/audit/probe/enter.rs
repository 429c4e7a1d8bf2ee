//! From root on the host to what a process of an instance is.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use instances_core::audit::controls::status;
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Gid, Signal, Uid, set_dumpable_behavior, set_parent_process_death_signal,
    umask,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{Error, Like, call, step};

/// Everything but the processes, which this process has been started among, and the users, which come
/// last: until then root of the host enters whatever it likes.
const SPACES: &[&str] = &["ipc", "uts", "net", "cgroup", "mnt", "user"];

/// Rather ended than anything of the agent's.
const OUT_OF_MEMORY: &str = "500";

/// Becomes what the process is: control group, limits, namespaces, user, capabilities, filters.
pub(super) fn become_like(like: &Like) -> Result<(), Error> {
    let of = format!("/proc/{}", like.pid);
    let known =
        fs::read_to_string(format!("{of}/status")).map_err(step(format!("read {of}/status")))?;
    let known = status(&known);
    let text = |name: &str| known.get(name).map(String::as_str).unwrap_or_default();
    let numbers = |name: &str| -> Vec<u32> {
        text(name).split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let capabilities = |name: &str| {
        let bits = u64::from_str_radix(text(name), 16).unwrap_or_default();
        CapabilitySet::from_bits_retain(bits)
    };
    // What a thread of this process still had to do would be left undone with it.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("follow the audit's end"))?;
    fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY).map_err(step("offer itself first"))?;
    let group = Path::new(&like.control_group).join("cgroup.procs");
    fs::write(&group, "0").map_err(step(format!("join {}", group.display())))?;
    call::take_limits(&like.limits).map_err(step("take its limits"))?;
    call::own_keyring();
    umask(Mode::from_bits_truncate(u32::from_str_radix(text("Umask"), 8).unwrap_or(0o077)));
    let spaces = SPACES.iter().map(|kind| {
        let path = format!("{of}/ns/{kind}");
        File::open(&path).map(|file| (*kind, file)).map_err(step(format!("open {path}")))
    });
    let spaces: Vec<(&str, File)> = spaces.collect::<Result<_, _>>()?;
    // In a namespace of users the groups that are not mapped cannot be named.
    let groups: Vec<Gid> = numbers("Groups").into_iter().map(Gid::from_raw).collect();
    set_thread_groups(&groups).map_err(failed("take its groups"))?;
    for (kind, space) in &spaces {
        // One's own namespace of users cannot be entered again.
        if !is_own(kind, space) {
            call::enter(space.as_fd()).map_err(step(format!("enter its {kind} namespace")))?;
        }
    }
    drop(spaces);
    std::env::set_current_dir(&like.directory)
        .or_else(|_| std::env::set_current_dir("/"))
        .map_err(step("enter its directory"))?;
    let bound = capabilities("CapBnd");
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !bound.contains(one) {
            // The kernel knows fewer than there are bits.
            let _ = remove_capability_from_bounding_set(one);
        }
    }
    let (uid, gid) = (numbers("Uid"), numbers("Gid"));
    let (Some(uid), Some(gid)) = (uid.get(1).copied(), gid.get(1).copied()) else {
        return Err(Error::Words(format!("{of}/status names no user")));
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid).map_err(failed("take its group"))?;
    set_keep_capabilities(true).map_err(failed("keep its capabilities"))?;
    set_thread_res_uid(uid, uid, uid).map_err(failed("take its user"))?;
    let sets = CapabilitySets {
        effective: capabilities("CapEff"),
        permitted: capabilities("CapPrm"),
        inheritable: capabilities("CapInh"),
    };
    // The kernel has forgotten it with the change of the user.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("follow the audit's end"))?;
    // It is anyway, where the host does not say otherwise of what changes its user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("close its memory"))?;
    set_capabilities(None, sets).map_err(failed("take its capabilities"))?;
    for one in capabilities("CapAmb").iter() {
        configure_capability_in_ambient_set(one, true).map_err(failed("take its capabilities"))?;
    }
    // Without it a filter can only be put on by who has rights; a server without it is found elsewhere.
    set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    for filter in like.filters.iter().rev() {
        call::put_on(filter).map_err(step("put on its filter of system calls"))?;
    }
    Ok(())
}

fn failed(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |errno| step(what)(io::Error::from(errno))
}

/// Whether this process is in the namespace already.
fn is_own(kind: &str, space: &File) -> bool {
    let own = fs::metadata(format!("/proc/self/ns/{kind}"));
    let of = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((own, space.metadata()), (Ok(own), Ok(other)) if of(&own) == of(&other))
}
