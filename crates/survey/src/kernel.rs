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

/// Returns true if the kernel has filters for system calls (seccomp(2)).
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

/// How many entries a table of the kernel has, and how many it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Now.
    pub used: u64,
    /// At most.
    pub most: u64,
}

/// The table of tracked connections; `None` where nothing is tracked.
pub fn tracked_connections() -> Option<Fill> {
    let number = |name: &str| read_number(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    Some(Fill { used: number("count")?, most: number("max")? })
}

/// The table of neighbours of IPv4 (`gc_thresh3`), which only the first network namespace may see.
pub fn neighbours() -> Option<Fill> {
    let most = read_number("/proc/sys/net/ipv4/neigh/default/gc_thresh3")?;
    let lines = fs::read_to_string("/proc/thread-self/net/arp").ok()?.lines().skip(1).count();
    Some(Fill { used: u64::try_from(lines).ok()?, most })
}

/// Most neighbours of IPv6 (`gc_thresh3`), which only the first network namespace may see.
pub fn most_neighbours_of_ipv6() -> Option<u64> {
    read_number("/proc/sys/net/ipv6/neigh/default/gc_thresh3")
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
