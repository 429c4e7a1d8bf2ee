//! What this process may do, which after its start is nothing.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set,
    capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Whether this process may ask for the log.
pub(super) fn may_ask() -> io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Gives every capability away for good, and looks that they are gone.
///
/// The bounding set can only be emptied with `CAP_SETPCAP`. Without it what is left there grants
/// nothing: with `no_new_privs` no program that is executed gains anything.
pub(super) fn drop_all() -> io::Result<()> {
    set_no_new_privs(true)?;
    for capability in every() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel knows no such capability, or this process may not.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(None, NONE)?;
    if capabilities(None)? != NONE || every().any(is_ambient) {
        return Err(io::Error::other("capabilities were dropped and are still there"));
    }
    Ok(())
}

fn every() -> impl Iterator<Item = CapabilitySet> {
    // Not `all()`: a newer kernel may have some that have no name here.
    (0..u64::BITS)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .filter(|one| capability_is_in_bounding_set(*one).is_ok())
}

fn is_ambient(capability: CapabilitySet) -> bool {
    capability_is_in_ambient_set(capability).unwrap_or(true)
}
