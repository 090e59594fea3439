//! What the process may ask of the kernel once it has its key: dial, accept, carry bytes, and start threads for that. Strangers
//! talk to it, so that it should be able to do nothing else if one of them takes it over.

use nix::libc;
use syscalls::Sysno;
use tuntap_sys::sandbox::SyscallPolicy;
use tuntap_sys::sandbox::common::{
    CLOCKS, END, FILES, MEMORY, OWN, RANDOM, SOCKET_KIND, WAITING, is_c, masked, request,
};
use tuntap_sys::sandbox::{Condition, Conditions};

/// Records, frames, descriptors for the router, log lines.
const TRAFFIC: &[Sysno] =
    &[Sysno::read, Sysno::write, Sysno::writev, Sysno::recvfrom, Sysno::recvmsg, Sysno::sendto, Sysno::sendmsg];

/// Connections that come and go. [`CONDITIONAL`] restricts the kinds of sockets; its listeners are bound before.
const SOCKETS: &[Sysno] =
    &[Sysno::accept4, Sysno::connect, Sysno::shutdown, Sysno::close, Sysno::getpeername, Sysno::getsockname];

/// A thread for each connection. [`CONDITIONAL`] has the call that starts it.
const THREADS: &[Sysno] = &[
    Sysno::set_robust_list,
    Sysno::rseq,
    Sysno::sigaltstack,
    Sysno::sched_getaffinity,
    Sysno::getpid,
    Sysno::gettid,
    Sysno::exit,
];

const STREAM: Condition = &[is_c(0, libc::AF_INET), masked(1, SOCKET_KIND, libc::SOCK_STREAM.cast_unsigned())];
const STREAM_6: Condition = &[is_c(0, libc::AF_INET6), masked(1, SOCKET_KIND, libc::SOCK_STREAM.cast_unsigned())];

/// What is set on connections.
const SOCKET_OPTIONS: Conditions = &[
    &[is_c(1, libc::SOL_SOCKET), is_c(2, libc::SO_KEEPALIVE)],
    &[is_c(1, libc::SOL_SOCKET), is_c(2, libc::SO_SNDBUF)],
    &[is_c(1, libc::SOL_SOCKET), is_c(2, libc::SO_SNDBUFFORCE)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_NODELAY)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_USER_TIMEOUT)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_KEEPIDLE)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_KEEPINTVL)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_KEEPCNT)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_NOTSENT_LOWAT)],
    &[is_c(1, libc::IPPROTO_TCP), is_c(2, libc::TCP_CONGESTION)],
];

/// Calls that are allowed only with certain arguments.
const CONDITIONAL: &[(Sysno, Conditions)] = &[
    (Sysno::socket, &[STREAM, STREAM_6]),
    // For the router, which gets one end of each, and for the end of this process's threads.
    (Sysno::socketpair, &[&[is_c(0, libc::AF_UNIX)]]),
    (Sysno::setsockopt, SOCKET_OPTIONS),
    // Whether a connection could be made.
    (Sysno::getsockopt, &[&[is_c(1, libc::SOL_SOCKET), is_c(2, libc::SO_ERROR)]]),
    // Non-blocking sockets, and whether a descriptor that is to be closed is open.
    (Sysno::ioctl, &[&[request(libc::FIONBIO)]]),
    (Sysno::fcntl, &[&[is_c(1, libc::F_GETFL)], &[is_c(1, libc::F_SETFL)], &[is_c(1, libc::F_GETFD)]]),
    // Threads, and no processes. The flags of clone(2) are its first argument.
    (Sysno::clone, &[&[masked(0, libc::CLONE_THREAD.cast_unsigned(), libc::CLONE_THREAD.cast_unsigned())]]),
    // Their names.
    (Sysno::prctl, &[&[is_c(0, libc::PR_SET_NAME)]]),
];

/// The C library starts threads by clone(2) where the kernel doesn't have this one, whose flags no filter sees.
const UNKNOWN: &[Sysno] = &[Sysno::clone3];

/// The system calls that the process may use once it has its key and its listeners.
pub const SYSCALLS: SyscallPolicy = SyscallPolicy {
    allowed: &[TRAFFIC, SOCKETS, THREADS, WAITING, MEMORY, CLOCKS, RANDOM, END],
    conditional: &[CONDITIONAL, OWN],
    refused: FILES,
    unknown: UNKNOWN,
};
