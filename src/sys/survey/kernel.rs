//! What the kernel offers for the router's sandbox, and its limits.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// Flag of landlock_create_ruleset(2): tell the version, make nothing.
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;

/// The kernel's version of landlock; `None` if it has none, or was told not to use it.
pub fn landlock_version() -> Option<u32> {
    // SAFETY: with this flag, the call takes no structure and makes nothing (landlock_create_ruleset(2)).
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Whether the kernel has filters for system calls (seccomp(2)).
pub fn has_seccomp_filters() -> bool {
    fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|actions| actions.contains("kill_process"))
}

/// Most descriptors that this process may ever open (getrlimit(2), the hard limit of RLIMIT_NOFILE).
pub fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard)
}

/// Longest queue of connections that nobody has accepted yet (listen(2)), in the current network namespace.
pub fn longest_queue() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}
