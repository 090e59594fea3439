//! Capabilities (capabilities(7)).

use caps::errors::CapsError;
use caps::{CapSet, Capability};

/// Empties all five sets. The bounding set needs CAP_SETPCAP; without that it keeps what only an executed program could
/// make use of, and no program can once there are no new privileges.
pub fn drop_all() -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    // Takes the effective set along.
    caps::clear(None, CapSet::Permitted)
}

/// What the process could still use, by name.
pub fn permitted() -> Vec<String> {
    let mut names: Vec<String> =
        caps::read(None, CapSet::Permitted).unwrap_or_default().iter().map(ToString::to_string).collect();
    names.sort();
    names
}
