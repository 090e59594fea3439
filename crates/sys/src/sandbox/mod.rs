//! What a process gives up for good: capabilities, privileges of what it could execute, files, syscalls. Everything here
//! is for the calling thread, and for what that starts later.

mod capabilities;
mod files;
mod syscalls;

pub use capabilities::{drop_all as drop_capabilities, permitted as permitted_capabilities};
pub use files::restrict as restrict_files;
pub use syscalls::{Argument, Condition, Conditions, Policy as SyscallPolicy, Test, restrict as restrict_syscalls};

use nix::sys::prctl;

/// No set-user-ID bit and no file capability will ever raise what the process may do (prctl(2), PR_SET_NO_NEW_PRIVS).
pub fn set_no_new_privileges() -> nix::Result<()> {
    prctl::set_no_new_privs()
}

/// Returns true if [`set_no_new_privileges`] was called, by whomever.
pub fn has_no_new_privileges() -> bool {
    prctl::get_no_new_privs() == Ok(true)
}
