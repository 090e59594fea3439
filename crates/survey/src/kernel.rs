//! What the kernel has for the router's sandbox, and its limits.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// The flag with which landlock_create_ruleset(2) only returns the version.
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;

/// The kernel's version of landlock; `None` if it has none, or if it is disabled.
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

/// Returns true if the kernel has syscall filters (seccomp(2)).
pub fn has_seccomp_filters() -> bool {
    fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|actions| actions.contains("kill_process"))
}

/// The hard limit of open descriptors of this process (getrlimit(2), RLIMIT_NOFILE).
pub fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard)
}

/// The longest queue of unaccepted connections that a listener may have (listen(2)), in the current network namespace.
pub fn longest_queue() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// The fill level of a kernel table, in entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Entries that it has.
    pub used: u64,
    /// Entries that it may have.
    pub most: u64,
}

/// The table of tracked connections; `None` if connection tracking isn't loaded.
pub fn tracked_connections() -> Option<Fill> {
    let number = |name: &str| read_number(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    Some(Fill { used: number("count")?, most: number("max")? })
}

/// The neighbour table of IPv4 (`gc_thresh3`). Only the initial network namespace can see it.
pub fn neighbours() -> Option<Fill> {
    let most = read_number("/proc/sys/net/ipv4/neigh/default/gc_thresh3")?;
    let lines = fs::read_to_string("/proc/thread-self/net/arp").ok()?.lines().skip(1).count();
    Some(Fill { used: u64::try_from(lines).ok()?, most })
}

/// The size of the neighbour table of IPv6 (`gc_thresh3`). Only the initial network namespace can see it.
pub fn most_neighbours_of_ipv6() -> Option<u64> {
    read_number("/proc/sys/net/ipv6/neigh/default/gc_thresh3")
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
