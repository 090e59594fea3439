//! Restrictions on files, TCP ports and other processes (landlock(7)).

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use thiserror::Error;

/// The newest version of landlock that this code was tried with (Linux 6.12). Older kernels restrict what they can.
const NEWEST: ABI = ABI::V6;

/// Why access to files is not restricted.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The kernel has no landlock, or was told not to use it.
    #[error("the kernel has none")]
    Missing,
    /// The kernel refuses the rules.
    #[error(transparent)]
    Refused(#[from] RulesetError),
}

/// From now on the process can open or create no file, and send no signals or connections to processes outside of the sandbox,
/// but it can still use TCP. Open files stay open. Returns the version of landlock that is in effect. Needs
/// [`super::set_no_new_privileges`], or CAP_SYS_ADMIN.
pub fn forbid() -> Result<u32, FilesError> {
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))?;
    effective(ruleset.create()?.restrict_self()?)
}

/// From now on the process can open or create no file, bind or connect no TCP port, and send no signals or connections to
/// processes outside of the sandbox. Open files stay open, and files beneath `removable` can be removed. Returns the version
/// of landlock that is in effect. Needs [`super::set_no_new_privileges`], or CAP_SYS_ADMIN.
pub fn restrict<'a>(removable: impl IntoIterator<Item = &'a Path>) -> Result<u32, FilesError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(removable, AccessFs::RemoveFile))?
        .restrict_self()?;
    effective(status)
}

/// The version of landlock that is in effect.
fn effective(status: RestrictionStatus) -> Result<u32, FilesError> {
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err(FilesError::Missing),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi.min(NEWEST) as u32),
        _ => Err(FilesError::Missing),
    }
}
