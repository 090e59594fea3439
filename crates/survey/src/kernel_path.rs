//! What the kernel and this process have for flows to pass in the kernel (`tuntap-router-offload`).

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::utsname::uname;
use tuntap_sys::bpf::{Map, MapKind, can_wait_for_programs};
use tuntap_sys::netlink::{Netlink, Queueing};

/// The kernel's description of its own types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What limits BPF on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BpfFacts {
    /// Version and patch level of the kernel, 6.18 as (6, 18). `None` if it isn't known.
    pub version: Option<(u32, u32)>,
    /// True if [`BTF`] is there.
    pub has_btf: bool,
    /// True if the kernel is locked down to `confidentiality` (kernel_lockdown(7)).
    pub is_locked: bool,
    /// True if a process without capabilities can wait until no BPF program of before runs any more (membarrier(2)).
    pub has_barrier: bool,
    /// `kernel.unprivileged_bpf_disabled`; `None` if the kernel has no bpf(2).
    pub unprivileged_disabled: Option<u8>,
    /// How the kernel refuses a map to this process. `None` if it makes one.
    pub refusal: Option<Errno>,
}

/// Looks at the machine.
pub fn bpf() -> BpfFacts {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let disabled = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").ok();
    BpfFacts {
        version: uname().ok().and_then(|name| version(&name.release().to_string_lossy())),
        has_btf: Path::new(BTF).exists(),
        has_barrier: can_wait_for_programs(),
        is_locked: lockdown.contains("[confidentiality]"),
        unprivileged_disabled: disabled.and_then(|text| text.trim().parse().ok()),
        refusal: Map::new(c"tuntap_doctor", MapKind::Words, size_of::<u32>(), size_of::<u64>(), 1).err(),
    }
}

/// Returns what is at a device that packets in the kernel would pass by. `None` if there is nothing, or no such device.
pub fn queueing(device: &str) -> Option<Queueing> {
    let mut netlink = Netlink::open().ok()?;
    let link = netlink.link(device).ok()?;
    Queueing::of(&mut netlink, &link).ok().flatten()
}

/// Reads the first two numbers of a release such as `6.12.43+deb13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("6.12.43+deb13-amd64"), Some((6, 12)));
        assert_eq!(version("5.10.0-35-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        for other in ["", "linux", "6", "6.x", "99999999999.1"] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn this_machine_has_a_version() {
        assert!(bpf().version.is_some_and(|version| version >= (4, 0)));
    }
}
