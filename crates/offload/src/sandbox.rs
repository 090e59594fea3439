//! What the process may ask of the kernel. It needs more than the router's process: interfaces in other namespaces take CAP_NET_ADMIN,
//! and entering these CAP_SYS_ADMIN (setns(2)). That one could do nearly everything, so that the system calls are the limit here: it may
//! enter network namespaces, make netlink sockets there, attach the programs that the master has loaded, and no more.

use caps::CapSet;
use syscalls::Sysno;
use tuntap_sys::sandbox::common::{
    CLOCKS, END, FILES, MEMORY, OWN, RANDOM, SOCKET_KIND, WAITING, is, is_c, masked, request,
};
use tuntap_sys::sandbox::{Capability, Conditions, SyscallPolicy};

use nix::libc;

/// The capabilities that the process keeps.
pub const CAPABILITIES: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];

/// Those of [`CAPABILITIES`] that the calling thread lacks. Who has CAP_SYS_ADMIN may make maps and load programs, too
/// (capabilities(7), CAP_BPF and CAP_PERFMON).
pub fn missing_capabilities() -> Vec<Capability> {
    let is_missing = |one: &Capability| !caps::has_cap(None, CapSet::Effective, *one).unwrap_or(false);
    CAPABILITIES.into_iter().filter(is_missing).collect()
}

/// Messages of the router's process, netlink, log lines.
const TRAFFIC: &[Sysno] = &[
    Sysno::read,
    Sysno::write,
    Sysno::writev,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::sendto,
    Sysno::sendmsg,
    Sysno::bind,
    Sysno::getsockname,
    Sysno::close,
];

/// The descriptors that are waited for, and what a descriptor of a device or a namespace is.
const DESCRIPTORS: &[Sysno] = &[
    Sysno::epoll_ctl,
    Sysno::epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    Sysno::epoll_wait,
    Sysno::fstat,
    #[cfg(target_arch = "x86_64")]
    Sysno::newfstatat,
    #[cfg(target_arch = "aarch64")]
    Sysno::fstatat,
    Sysno::getpid,
    Sysno::gettid,
];

/// TUNGETDEVNETNS of linux/if_tun.h and SIOCGSKNS of linux/sockios.h.
const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// Commands of bpf(2) (`enum bpf_cmd`): clearing maps, and attaching programs. Making and loading any is the master's.
const BPF_MAP_DELETE_ELEM: u32 = 3;
const BPF_MAP_GET_NEXT_KEY: u32 = 4;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_LINK_CREATE: u32 = 28;

const SOL_NETLINK: libc::c_int = 270;

/// Calls that are allowed only with certain arguments.
const CONDITIONAL: &[(Sysno, Conditions)] = &[
    (Sysno::setns, &[&[is_c(1, libc::CLONE_NEWNET)]]),
    (Sysno::socket, &[&[is_c(0, libc::AF_NETLINK), masked(1, SOCKET_KIND, libc::SOCK_DGRAM.cast_unsigned())]]),
    (
        Sysno::bpf,
        &[
            &[is(0, BPF_MAP_DELETE_ELEM)],
            &[is(0, BPF_MAP_GET_NEXT_KEY)],
            &[is(0, BPF_PROG_ATTACH)],
            &[is(0, BPF_LINK_CREATE)],
        ],
    ),
    // Which device a descriptor is of, its namespace, and that of a socket; a socket that doesn't block.
    (
        Sysno::ioctl,
        &[
            &[request(libc::TUNGETIFF)],
            &[request(libc::TUNGETVNETHDRSZ)],
            &[request(TUNGETDEVNETNS)],
            &[request(SIOCGSKNS)],
            &[request(libc::FIONBIO)],
        ],
    ),
    // What netlink sockets tell, and how much they hold.
    (Sysno::setsockopt, &[&[is_c(1, SOL_NETLINK)], &[is_c(1, libc::SOL_SOCKET)]]),
    (Sysno::fcntl, &[&[is_c(1, libc::F_GETFL)], &[is_c(1, libc::F_SETFL)], &[is_c(1, libc::F_GETFD)]]),
];

/// The system calls that the process may use once it has begun.
pub const SYSCALLS: SyscallPolicy = SyscallPolicy {
    allowed: &[TRAFFIC, DESCRIPTORS, WAITING, MEMORY, CLOCKS, RANDOM, END],
    conditional: &[CONDITIONAL, OWN],
    refused: FILES,
    unknown: &[],
};
