//! Capabilities (capabilities(7)).

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// Empties all five capability sets. The bounding set stays without CAP_SETPCAP, but only executed programs could use it,
/// and these can't after [`super::set_no_new_privileges`].
pub fn drop_all() -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    // This clears the effective set, too.
    caps::clear(None, CapSet::Permitted)
}

/// Keeps these capabilities and gives up all others, also for programs that the process could execute.
pub fn keep(wanted: &[Capability]) -> Result<(), CapsError> {
    let wanted: CapsHashSet = wanted.iter().copied().collect();
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    let kept = caps::read(None, CapSet::Permitted)?.intersection(&wanted).copied().collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// The names of the capabilities that the process can still use.
pub fn permitted() -> Vec<String> {
    let mut names: Vec<String> =
        caps::read(None, CapSet::Permitted).unwrap_or_default().iter().map(ToString::to_string).collect();
    names.sort();
    names
}
