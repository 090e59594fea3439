//! The sandbox: what a process gives up for good, which is capabilities, privileges of programs that it executes, files, and
//! syscalls. Everything here applies to the calling thread, and to threads and processes that it starts later.

mod capabilities;
pub mod common;
mod files;
mod syscalls;

pub use capabilities::{drop_all as drop_capabilities, keep as keep_capabilities, permitted as permitted_capabilities};
pub use caps::Capability;
pub use files::{forbid as forbid_files, restrict as restrict_files};
pub use syscalls::{Argument, Condition, Conditions, Policy as SyscallPolicy, Test, restrict as restrict_syscalls};

use nix::sys::prctl;

/// Makes set-user-ID bits and file capabilities of executed programs ineffective (prctl(2), PR_SET_NO_NEW_PRIVS).
pub fn set_no_new_privileges() -> nix::Result<()> {
    prctl::set_no_new_privs()
}

/// Returns true if the process can gain no privileges, by [`set_no_new_privileges`] or otherwise.
pub fn has_no_new_privileges() -> bool {
    prctl::get_no_new_privs() == Ok(true)
}
