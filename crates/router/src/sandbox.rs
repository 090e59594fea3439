//! The router's own cage: what its process gives up between set-up and the first packet. Vassals are customers' code,
//! and whoever takes a router over with what they send shall find nothing to go on with.

use std::fmt::Display;
use std::path::Path;

use syscalls::Sysno;

use super::event_loop::EventLoop;
use super::{CredentialsCheck, Setup};
use tuntap_api::Confinement;
use tuntap_config::Sandbox;
use tuntap_sys::process::pin_time_zone;
use tuntap_sys::sandbox::{self, Argument, Condition, SyscallPolicy, Test};
use tuntap_sys::socket::IPV6_2292PKTOPTIONS;
use tuntap_sys::tun::KCMP_FILE;

/// Packets, frames, datagrams, statistics and log lines.
const TRAFFIC: &[Sysno] = &[
    Sysno::read,
    Sysno::preadv2,
    Sysno::write,
    Sysno::writev,
    Sysno::pwritev2,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::sendto,
    Sysno::sendmsg,
];

/// Connections that come and go. Without a socket of another kind than [`CONDITIONAL`] allows, `bind` and `connect` are
/// for the socket that asks how long the way to another router is.
const SOCKETS: &[Sysno] = &[Sysno::accept4, Sysno::bind, Sysno::connect, Sysno::shutdown, Sysno::close];

/// Waiting: the event loop, the pause before the end, locks, and whether a peer has hung up.
const WAITING: &[Sysno] = &[
    Sysno::epoll_ctl,
    Sysno::epoll_pwait,
    Sysno::ppoll,
    Sysno::clock_nanosleep,
    Sysno::futex,
    Sysno::sched_yield,
    Sysno::restart_syscall,
    #[cfg(target_arch = "x86_64")]
    Sysno::epoll_wait,
    #[cfg(target_arch = "x86_64")]
    Sysno::poll,
];

/// The memory allocator. What makes memory executable is in [`CONDITIONAL`].
const MEMORY: &[Sysno] = &[Sysno::brk, Sysno::mremap, Sysno::munmap, Sysno::madvise];

/// Clocks, on machines where the kernel doesn't serve them without a call.
const CLOCKS: &[Sysno] = &[
    Sysno::clock_gettime,
    Sysno::gettimeofday,
    #[cfg(target_arch = "x86_64")]
    Sysno::time,
];

/// What the statistics tell, and to whom, and which device a vassal's descriptor is of.
const IDENTITY: &[Sysno] = &[
    Sysno::getpid,
    Sysno::gettid,
    Sysno::getuid,
    Sysno::getgid,
    Sysno::getpeername,
    Sysno::getcwd,
    Sysno::fstat,
    #[cfg(target_arch = "x86_64")]
    Sysno::newfstatat,
    #[cfg(target_arch = "aarch64")]
    Sysno::fstatat,
];

/// Seeds of hash tables.
const RANDOM: &[Sysno] = &[Sysno::getrandom];

/// Its sockets' files, which it may remove once it has seen that they are still its own. Landlock says in which folders.
const REMOVAL: &[Sysno] = &[
    Sysno::statx,
    Sysno::unlinkat,
    #[cfg(target_arch = "x86_64")]
    Sysno::unlink,
];

/// The end: signals, a panic, an abort, uWSGI's handler of crashes. To whom a signal may go is in [`CONDITIONAL`].
const END: &[Sysno] = &[Sysno::rt_sigaction, Sysno::rt_sigprocmask, Sysno::rt_sigreturn, Sysno::exit_group];

/// What depends on its arguments.
const CONDITIONAL: &[(Sysno, &[Condition])] = &[
    // Attaching, detaching and checking a vassal's device, the MTU that its vassal is told, and by which interface a datagram
    // came. Nothing that would make, rename or give away one.
    (
        Sysno::ioctl,
        &[
            &[request(libc::TUNGETIFF)],
            &[request(libc::TUNGETVNETHDRSZ)],
            &[request(libc::TUNSETOFFLOAD)],
            &[request(libc::SIOCGIFMTU)],
            &[request(libc::SIOCGIFNAME)],
        ],
    ),
    // The probe for the length of packets to another router.
    (
        Sysno::socket,
        &[
            &[is(0, libc::AF_INET.cast_unsigned()), masked(1, SOCKET_KIND, libc::SOCK_DGRAM.cast_unsigned())],
            &[is(0, libc::AF_INET6.cast_unsigned()), masked(1, SOCKET_KIND, libc::SOCK_DGRAM.cast_unsigned())],
        ],
    ),
    // A peer's credentials, the answer to that probe, and by which interface a statistics client came. No packet filters.
    (Sysno::setsockopt, &[&[is(1, libc::SOL_SOCKET.cast_unsigned())]]),
    (
        Sysno::getsockopt,
        &[
            &[is(1, libc::SOL_SOCKET.cast_unsigned())],
            &[is(1, libc::IPPROTO_IP.cast_unsigned())],
            &[is(1, libc::IPPROTO_IPV6.cast_unsigned()), is(2, libc::IPV6_MTU.cast_unsigned())],
            &[is(1, libc::IPPROTO_IPV6.cast_unsigned()), is(2, IPV6_2292PKTOPTIONS.cast_unsigned())],
        ],
    ),
    // Whether a descriptor blocks, and whether it outlives an exec.
    (
        Sysno::fcntl,
        &[
            &[is(1, libc::F_GETFL.cast_unsigned())],
            &[is(1, libc::F_SETFL.cast_unsigned())],
            &[is(1, libc::F_GETFD.cast_unsigned())],
            &[is(1, libc::F_SETFD.cast_unsigned())],
            &[is(1, libc::F_DUPFD_CLOEXEC.cast_unsigned())],
        ],
    ),
    // The memory allocator, for memory that isn't executable.
    (Sysno::mmap, &[&[NOT_EXECUTABLE]]),
    (Sysno::mprotect, &[&[NOT_EXECUTABLE]]),
    // Whether the thread had to wait in a long write.
    (Sysno::getrusage, &[&[is(0, libc::RUSAGE_THREAD.cast_unsigned())]]),
    // Whether a vassal's device is the router's own.
    (Sysno::kcmp, &[&[own_process(0), own_process(1), is(2, KCMP_FILE)]]),
    // The end by an own signal: abort(3), uWSGI's handler of crashes.
    (Sysno::tgkill, &[&[own_process(0)]]),
    (Sysno::kill, &[&[own_process(0)]]),
];

/// Files that libraries look at if they can: the debug information of a panic's backtrace, time zones.
const REFUSED: &[Sysno] = &[
    Sysno::openat,
    Sysno::readlinkat,
    #[cfg(target_arch = "x86_64")]
    Sysno::open,
    #[cfg(target_arch = "x86_64")]
    Sysno::readlink,
];

const POLICY: SyscallPolicy = SyscallPolicy {
    allowed: &[TRAFFIC, SOCKETS, WAITING, MEMORY, CLOCKS, IDENTITY, RANDOM, REMOVAL, END],
    conditional: CONDITIONAL,
    refused: REFUSED,
};

/// The bits of a socket's type that are no flags (net.h, `SOCK_TYPE_MASK`).
const SOCKET_KIND: u32 = 0xf;

const NOT_EXECUTABLE: Argument = masked(2, libc::PROT_EXEC.cast_unsigned(), 0);

const fn is(index: u8, value: u32) -> Argument {
    Argument { index, test: Test::Is(value) }
}

const fn own_process(index: u8) -> Argument {
    Argument { index, test: Test::IsOwnProcess }
}

const fn masked(index: u8, mask: u32, value: u32) -> Argument {
    Argument { index, test: Test::Masked { mask, value } }
}

/// The kernel takes the lower 32 bits of a request's number; none has more (ioctl(2)).
#[allow(clippy::cast_possible_truncation)]
const fn request(number: libc::Ioctl) -> Argument {
    is(1, number as u32)
}

/// What the process has and lacks without anything installed here.
pub fn found() -> Confinement {
    Confinement {
        capabilities: sandbox::permitted_capabilities(),
        no_new_privs: sandbox::has_no_new_privileges(),
        seccomp: false,
        landlock: None,
    }
}

impl EventLoop<'_> {
    /// Gives up what forwarding doesn't need. Where the kernel lacks a part, the log says which, and the others hold.
    pub fn confine(&mut self) {
        let (setup, closer) = (self.setup, &mut self.closer);
        self.confinement = confine(setup, || {
            if let Err(error) = closer.start() {
                setup.logger.line(format_args!("[tuntap-router] {}: can't start a thread: {error}", setup.tun.name()));
            }
        });
    }
}

/// `start_threads` is called where threads inherit what was given up so far, and can still be started.
fn confine(setup: &Setup, start_threads: impl FnOnce()) -> Confinement {
    let line = |text: &dyn Display| {
        setup.logger.line(format_args!("[tuntap-router] {}: sandbox: {text}", setup.tun.name()));
    };
    if setup.sandbox == Sandbox::Off {
        line(&"off");
        start_threads();
        return found();
    }
    pin_time_zone();
    if let Err(errno) = sandbox::set_no_new_privileges() {
        line(&format_args!("without no_new_privs: {errno}"));
    }
    if let Err(error) = sandbox::drop_capabilities() {
        line(&format_args!("with capabilities: {error}"));
    }
    let found = found();
    if matches!(setup.credentials, CredentialsCheck::Hook(_)) && setup.sandbox != Sandbox::Strict {
        line(&"without landlock and seccomp for the function of tuntap-use-credentials; \"strict\" puts it inside");
        start_threads();
        return found;
    }
    let landlock = sandbox::restrict_files(setup.socket_files.iter().map(|file| folder(file.path())))
        .inspect_err(|error| line(&format_args!("without landlock: {error}")))
        .ok();
    start_threads();
    let seccomp = sandbox::restrict_syscalls(&POLICY, format!("[tuntap-router] {}", setup.tun.name()))
        .inspect_err(|error| line(&format_args!("without seccomp: {error}")))
        .is_ok();
    Confinement { seccomp, landlock, ..found }
}

/// The folder that a file is removed from.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_syscall_is_listed_twice() {
        let allowed = POLICY.allowed.iter().copied().flatten().copied();
        let mut all: Vec<Sysno> = allowed
            .chain(POLICY.conditional.iter().map(|(call, _)| *call))
            .chain(POLICY.refused.iter().copied())
            .collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn file_is_removed_from_its_folder() {
        assert_eq!(folder(Path::new("/run/router.sock")), Path::new("/run"));
        assert_eq!(folder(Path::new("router.sock")), Path::new("."));
    }
}
